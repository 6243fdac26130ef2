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
from tests.support.booted_events import Traffic, traffic
from tests.support.booted_package import add_repository, install, on_each_distribution
from tests.support.booted_readers import booted_with_readers
from tests.support.message_ids import CONNECTION, LOSS

PAGE = built.TREE / "docs" / "journal.md"
RATE = 500
# Of both journals, so that each would lose its oldest entries to a flood of some 10,000 connections.
SMALL = "[Journal]\nSystemMaxUse=6M\nSystemMaxFileSize=1M\n"
# Every connection is an entry.
ONE_BY_ONE = "[Report]\nBurstLimit=0\nTotalLimit=0\n"
BOTH, OURS = "--namespace=+tcpnewconn", "--namespace=tcpnewconn"
FOLLOWED = "/var/tmp/followed"
# A client of sshd's that has a port of its own, and goes away when sshd has said its name.
KNOCK = """
import socket, sys
with socket.create_connection((sys.argv[1], 22), source_address=("", int(sys.argv[2]))) as client:
    client.recv(4)
"""
# Below those that the kernel gives.
FIRST_PORT = 20000
# OpenSSH 10 would turn a client away that has knocked too often; 9.2 does not, and has no such setting.
EVERY_KNOCK = {"trixie": "PerSourcePenalties no\n", "bookworm": ""}
# Not by its unit: journald may not know it of a child that has exited already.
SSHD = ("SYSLOG_IDENTIFIER=sshd", "SYSLOG_IDENTIFIER=sshd-session")
# Where the page says to write the unit of the second upload, and what it says about Debian 12.
UPLOAD_UNIT = "/etc/systemd/system/tcpnewconn-journal-upload.service"
UPLOAD_OPTION = {"trixie": "--namespace=tcpnewconn", "bookworm": "--directory=/var/log/journal/%m.tcpnewconn"}
RECEIVED = "/var/log/journal/remote/all.journal"


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
    return container.journal(OURS, *matches)


def knock(container: Booted, port: int) -> None:
    """A connection to sshd from this port of the peer; sshd logs that it ended without a name."""
    container.from_peer(sys.executable, "-c", KNOCK, CONTAINER_ADDRESS, str(port))


def first_number(container: Booted, port: int) -> int | None:
    """Of the connections of a traffic, the first that the journals still hold."""
    first = f"journalctl --quiet {BOTH} --output=json DESTINATION_PORT={port} MESSAGE_ID={CONNECTION} | head --lines=1"
    # Without what journalctl says where a file is deleted that it was about to read.
    numbers_found = numbers(container.run("sh", "-c", first, said=False).splitlines(), port)
    return numbers_found[0] if numbers_found else None


def flood_until_the_journal_is_full(container: Booted, first_knock: int) -> tuple[Traffic, set[int]]:
    """The flood, and the ports from which the peer knocked at sshd before and during it.

    It ends when journald has deleted the entries of its first connections: then the journal was full.
    """
    knocked = {first_knock}
    knock(container, first_knock)
    container.wait_for(lambda: first_knock in logged_by_sshd(container), "sshd's entry of the first knock")
    with traffic(container, RATE) as made:

        def entries_of_flood() -> list[int]:
            found = first_number(container, made.port)
            return [] if found is None else [found]

        [first] = container.wait_for(entries_of_flood, "an entry of the flood")

        def knocked_until_full() -> bool:
            knock(container, max(knocked) + 1)
            knocked.add(max(knocked) + 1)
            return len(knocked) > 10 and first_number(container, made.port) != first

        container.wait_for(knocked_until_full, "the journal to be full", within=180)
    return made, knocked


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
    # Both, in order: systemd's messages about the unit are in the default journal.
    both = container.journal(BOTH, "--unit=tcpnewconn")
    assert {entry.get("_SYSTEMD_UNIT") for entry in both} >= {"init.scope", "tcpnewconn.service"}
    container.run("tcpnewconn", "status")
    assert ": New connection: " in container.run(
        "systemctl", "status", "--no-pager", "--full", "--lines=100", "tcpnewconn"
    )


def test_a_flood_fills_its_journal_and_not_one_entry_of_sshd_is_lost(container: Booted) -> None:
    fields = "--output-fields=DESTINATION_ADDRESS,DESTINATION_PORT"
    # Connections alone: a poll can have shown the listener of the traffic.
    follow = f"exec journalctl {OURS} --follow --output=json --no-tail {fields} MESSAGE_ID={CONNECTION} >{FOLLOWED}"
    container.start_unit("follow", "/bin/sh", "-c", follow)
    made, knocked = flood_until_the_journal_is_full(container, FIRST_PORT)
    # sshd's, from the first to the last.
    assert len(knocked) > 10
    container.wait_for(lambda: logged_by_sshd(container) >= knocked, "an entry of sshd's for each connection to it")

    def followed() -> list[int]:
        # Without the last line where it is not complete yet.
        return numbers(container.run("cat", FOLLOWED).rpartition("\n")[0].splitlines(), made.port)

    container.wait_for(lambda: len(set(followed())) >= made.made, "every connection to be logged")
    container.run("systemctl", "stop", "follow")
    # Every connection once, whatever was deleted since; and the journal keeps the last of them without a gap.
    logged = followed()
    assert sorted(logged) == list(range(made.made))
    of_traffic = entries(container, f"MESSAGE_ID={CONNECTION}", f"DESTINATION_PORT={made.port}")
    kept = numbers([json.dumps(entry) for entry in of_traffic], made.port)
    assert 0 < len(kept) < len(logged)
    assert kept == logged[-len(kept) :]
    assert entries(container, f"MESSAGE_ID={LOSS}") == []


def test_a_second_upload_sends_the_namespace_from_its_first_entry(container: Booted) -> None:
    receive = ("--listen-http=19532", "--split-mode=none", f"--output={RECEIVED}")
    container.run("mkdir", "-p", RECEIVED.rpartition("/")[0])
    container.start_unit("receiver", "/lib/systemd/systemd-journal-remote", *receive)
    container.wait_for(lambda: ":19532 " in container.run("ss", "-Htln"), "the receiver to listen")
    container.write("/etc/systemd/journal-upload.conf", "[Upload]\nURL=http://127.0.0.1:19532\n")

    def uploaded(*matches: str) -> list[dict[str, Any]]:
        return container.journal(f"--file={RECEIVED}", *matches)

    def uploaded_of_sshd(port: int) -> list[dict[str, Any]]:
        return [entry for entry in uploaded(*SSHD) if f" port {port}" in entry["MESSAGE"]]

    # The upload of the default journal is at its end before the other one starts: the one's position is not the other's.
    container.run("systemctl", "start", "systemd-journal-upload")
    knock(container, 19999)
    container.wait_for(lambda: uploaded_of_sshd(19999), "sshd's entry")
    assert uploaded(f"SOURCE_ADDRESS={PEER_ADDRESS}", "SOURCE_PORT=19999") == []
    assert UPLOAD_UNIT in PAGE.read_text()
    *unit, switch_on = commands("Send it to a log server").splitlines()
    of_trixie = "\n".join([*unit, ""])
    assert UPLOAD_OPTION["trixie"] in of_trixie
    assert UPLOAD_OPTION["bookworm"] in PAGE.read_text()
    container.write(UPLOAD_UNIT, of_trixie.replace(UPLOAD_OPTION["trixie"], UPLOAD_OPTION[container.distribution]))
    container.run("sh", "-ec", switch_on)
    kept = [entry["MESSAGE"] for entry in entries(container)]
    container.wait_for(lambda: len(uploaded("_NAMESPACE=tcpnewconn")) >= len(kept), "every entry of the namespace")
    sent = [entry["MESSAGE"] for entry in uploaded("_NAMESPACE=tcpnewconn")]
    # The oldest can have been deleted meanwhile.
    begin = sent.index(kept[0])
    assert sent[begin : begin + len(kept)] == kept
    # Both go on.
    knock(container, 19997)
    container.wait_for(lambda: uploaded(f"SOURCE_ADDRESS={PEER_ADDRESS}", "SOURCE_PORT=19997"), "our entry")
    container.wait_for(lambda: uploaded_of_sshd(19997), "sshd's entry")
    container.run("systemctl", "disable", "--now", "tcpnewconn-journal-upload")
    container.run("rm", UPLOAD_UNIT)
    container.run("systemctl", "stop", "systemd-journal-upload", "receiver")


def test_switched_off_it_writes_to_the_journal_of_all_again(container: Booted) -> None:
    container.run("sh", "-ec", commands("Switch it off"))
    knock(container, 19998)
    ours = ("--unit=tcpnewconn", f"SOURCE_ADDRESS={PEER_ADDRESS}", "SOURCE_PORT=19998")
    container.wait_for(lambda: container.journal(*ours), "the connection in the journal of all")
    assert entries(container, *ours) == []


def test_without_it_the_same_flood_deletes_entries_of_sshd(container: Booted) -> None:
    _, knocked = flood_until_the_journal_is_full(container, FIRST_PORT + 5000)
    assert not logged_by_sshd(container) >= knocked


def test_a_purge_takes_the_namespace_with_it(container: Booted) -> None:
    container.run("sh", "-ec", commands("Switch it on"))
    container.run("apt-get", "purge", "--yes", "--quiet", "tcpnewconn")
    assert container.run("find", "/var/log/journal", "/etc/systemd", "-name", "*tcpnewconn*") == (
        # The tests' own.
        "/etc/systemd/journald@tcpnewconn.conf.d\n"
    )
    assert container.property("systemd-journald@tcpnewconn.service", "ActiveState") == "inactive"
