"""The journal namespace: one command switches it on; a flood then fills that journal and not everybody's, and nothing is lost.

The commands are those of docs/journal.md.
"""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import booted_traffic, built
from tests.support.booted import CONTAINER_ADDRESS, PEER_ADDRESS, Booted
from tests.support.booted_events import traffic
from tests.support.booted_package import add_repository, install, on_each_distribution
from tests.support.booted_readers import booted_with_readers
from tests.support.message_ids import CONNECTION, LOSS

PAGE = built.TREE / "docs" / "journal.md"
RATE = 500
# Of both journals, so that each would lose its oldest entries to a flood of some 10,000 connections.
SMALL = "[Journal]\nSystemMaxUse=6M\nSystemMaxFileSize=1M\n"
# Every connection is an entry.
ONE_BY_ONE = "[Report]\nBurstLimit=0\nTotalLimit=0\n"
FOLLOWED = "/var/tmp/followed"
# A client of sshd's that has a port of its own, and goes away when sshd has said its name.
KNOCK = """
import socket, sys
with socket.create_connection((sys.argv[1], 22), source_address=("", int(sys.argv[2]))) as client:
    client.recv(4)
"""
FIRST_PORT = 40000
# OpenSSH 10 would turn a client away that has knocked too often; 9.2 does not, and has no such setting.
EVERY_KNOCK = {"trixie": "PerSourcePenalties no\n", "bookworm": ""}
# Not by its unit: journald may not know it of a child that has exited already.
SSHD = ("SYSLOG_IDENTIFIER=sshd", "SYSLOG_IDENTIFIER=sshd-session")
# For each uploader that is needed, its option.
UPLOADS = {"trixie": ["--namespace=+tcpnewconn"], "bookworm": ["", "--directory=/var/log/journal/%m.tcpnewconn"]}
ALL = "/var/log/journal/remote/all.journal"


@pytest.fixture(scope="module", params=on_each_distribution("namespace"))
def container(request: pytest.FixtureRequest) -> Iterator[Booted]:
    with booted_with_readers(request.param) as container:
        container.write("/etc/systemd/journald.conf.d/small.conf", SMALL)
        container.write("/etc/systemd/journald@tcpnewconn.conf.d/small.conf", SMALL)
        container.run("systemctl", "restart", "systemd-journald")
        container.write("/etc/ssh/sshd_config.d/knocks.conf", EVERY_KNOCK[request.param])
        container.run("systemctl", "restart", "ssh")
        container.write("/etc/tcpnewconn.conf.d/one-by-one.conf", ONE_BY_ONE)
        add_repository(container, built.deb())
        install(container)
        yield container


def commands(heading: str) -> str:
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return "\n".join(line.strip() for line in re.findall(r"(?m)^    .+$", section))


def entries(container: Booted, *matches: str) -> list[dict[str, Any]]:
    return container.journal("--namespace=tcpnewconn", *matches)


def oldest(container: Booted) -> str:
    """The cursor of the namespace's first entry: another one as soon as journald has removed a file for want of space."""
    first = "journalctl --quiet --namespace=tcpnewconn --output=json --output-fields=MESSAGE | head --lines=1"
    return str(json.loads(container.run("sh", "-c", first))["__CURSOR"])


def numbers(lines: list[str], port: int) -> list[int]:
    """Of the connections of a traffic, in the order of their entries."""
    found = [json.loads(line) for line in lines]
    return [
        booted_traffic.number_of(entry["DESTINATION_ADDRESS"])
        for entry in found
        if entry.get("DESTINATION_PORT") == str(port)
    ]


def logged_by_sshd(container: Booted) -> set[int]:
    """The ports of its clients."""
    said = container.run("journalctl", "--quiet", "--output=cat", *SSHD)
    return {int(port) for port in re.findall(r" port (\d+)", said)}


def test_one_command_gives_it_a_journal_of_its_own(container: Booted) -> None:
    ours = ("--unit=tcpnewconn", f"MESSAGE_ID={CONNECTION}")
    before = len(container.journal(*ours))
    (command,) = commands("Switch it on").splitlines()
    container.run("sh", "-ec", command)
    container.from_peer("curl", "-s", "-o", "/dev/null", f"http://{CONTAINER_ADDRESS}/")
    container.wait_for(lambda: entries(container, *ours, "DESTINATION_PORT=80"), "the connection in the namespace")
    assert len(container.journal(*ours)) == before
    # Both, in order: what systemd says of the unit is in the journal of all.
    both = container.journal("--namespace=+tcpnewconn", "--unit=tcpnewconn")
    assert {entry.get("_SYSTEMD_UNIT") for entry in both} >= {"init.scope", "tcpnewconn.service"}
    container.run("tcpnewconn", "status")
    assert ": New connection: " in container.run(
        "systemctl", "status", "--no-pager", "--full", "--lines=100", "tcpnewconn"
    )


def test_a_flood_fills_its_journal_and_not_one_entry_of_sshd_is_lost(container: Booted) -> None:
    fields = "--output-fields=DESTINATION_ADDRESS,DESTINATION_PORT"
    follow = f"exec journalctl --namespace=tcpnewconn --follow --output=json --no-tail {fields} >{FOLLOWED}"
    container.start_unit("follow", "/bin/sh", "-c", follow)
    before, knocks = oldest(container), 0
    with traffic(container, RATE) as made:

        def knocked_until_full() -> bool:
            nonlocal knocks
            container.from_peer(sys.executable, "-c", KNOCK, CONTAINER_ADDRESS, str(FIRST_PORT + knocks))
            knocks += 1
            return oldest(container) != before

        container.wait_for(knocked_until_full, "the namespace to be full", within=180)

    def followed() -> list[int]:
        return numbers(container.run("cat", FOLLOWED).splitlines(), made.port)

    container.wait_for(lambda: len(set(followed())) >= made.made, "every connection to be logged")
    container.run("systemctl", "stop", "follow")
    # Every one, once, whatever was vacuumed since; and what is kept is the end of that, whole.
    logged = followed()
    assert sorted(logged) == list(range(made.made))
    kept = numbers([json.dumps(entry) for entry in entries(container, f"DESTINATION_PORT={made.port}")], made.port)
    assert 0 < len(kept) < len(logged)
    assert kept == logged[-len(kept) :]
    assert entries(container, f"MESSAGE_ID={LOSS}") == []
    # sshd's, from the first to the last.
    assert knocks > 10
    knocked = set(range(FIRST_PORT, FIRST_PORT + knocks))
    container.wait_for(
        lambda: logged_by_sshd(container) >= knocked, "an entry of sshd's for each connection to it", within=10
    )


def test_systemd_journal_upload_sends_both_journals_or_two_of_them_do(container: Booted) -> None:
    receive = ("--listen-http=19532", "--split-mode=none", f"--output={ALL}")
    container.run("mkdir", "-p", ALL.rpartition("/")[0])
    container.start_unit("receiver", "/lib/systemd/systemd-journal-remote", *receive)
    container.wait_for(lambda: ":19532 " in container.run("ss", "-Htln"), "the receiver to listen")
    machine = container.run("cat", "/etc/machine-id").strip()
    for number, option in enumerate(UPLOADS[container.distribution]):
        assert option in PAGE.read_text()
        state = f"--save-state=/var/tmp/upload-{number}"
        upload = ("/lib/systemd/systemd-journal-upload", "--url=http://127.0.0.1:19532", state)
        container.start_unit(f"upload{number}", *upload, *option.replace("%m", machine).split())
    container.from_peer(sys.executable, "-c", KNOCK, CONTAINER_ADDRESS, "39999")

    def uploaded(*matches: str) -> list[dict[str, Any]]:
        return container.journal(f"--file={ALL}", *matches)

    container.wait_for(lambda: uploaded(f"SOURCE_ADDRESS={PEER_ADDRESS}", "SOURCE_PORT=39999"), "our entry")
    container.wait_for(
        lambda: [entry for entry in uploaded(*SSHD) if "39999" in entry["MESSAGE"]],
        "sshd's entry",
    )
    container.run("systemctl", "stop", "receiver", "upload*")


def test_switched_off_it_writes_to_the_journal_of_all_again(container: Booted) -> None:
    container.run("sh", "-ec", commands("Switch it off"))
    container.from_peer(sys.executable, "-c", KNOCK, CONTAINER_ADDRESS, "39998")
    ours = ("--unit=tcpnewconn", f"SOURCE_ADDRESS={PEER_ADDRESS}", "SOURCE_PORT=39998")
    container.wait_for(lambda: container.journal(*ours), "the connection in the journal of all")
    assert entries(container, *ours) == []


def test_a_purge_takes_the_namespace_with_it(container: Booted) -> None:
    container.run("sh", "-ec", commands("Switch it on"))
    container.run("apt-get", "purge", "--yes", "--quiet", "tcpnewconn")
    assert container.run("find", "/var/log/journal", "/etc/systemd", "-name", "*tcpnewconn*") == (
        # The tests' own.
        "/etc/systemd/journald@tcpnewconn.conf.d\n"
    )
    assert container.property("systemd-journald@tcpnewconn.service", "ActiveState") == "inactive"
