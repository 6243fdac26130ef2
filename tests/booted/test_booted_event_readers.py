"""Events as other programs read them: journalctl with jq, rsyslog, and Filebeat by the table of docs/events.md."""

import re
import shlex
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tcpnewconn.reporting.entries import KINDS
from tcpnewconn.reporting.fields import FIELDS, document
from tests.support import built, events, filebeat
from tests.support.booted import CONTAINER_ADDRESS, CONTAINER_ADDRESS6, PEER_ADDRESS, Booted
from tests.support.booted_package import add_repository, install, on_each_distribution
from tests.support.booted_readers import booted_with_readers
from tests.support.events import parsed
from tests.support.every_event import NOON, every_event, renderer, unit_in

CONTRACT = (built.TREE / "docs" / "events.md").read_text()
PAGE = (built.TREE / "man" / "tcpnewconn.fields.7.scd").read_text()
OURS = "_SYSTEMD_UNIT=tcpnewconn.service"
CONFIGURATION = "[Report]\nClosed=yes\nBurstLimit=5\nTotalLimit=20\nIgnore=:9 192.0.2.0/24\n"
FIRST_PORT, PORTS, BURST, SOURCES = 9001, 6, 60, 40
SERVER = f"""
import selectors, socket
selector = selectors.DefaultSelector()
for port in range({FIRST_PORT}, {FIRST_PORT + PORTS}):
    selector.register(socket.create_server(("0.0.0.0", port)), selectors.EVENT_READ)
while True:
    for key, _ in selector.select():
        key.fileobj.accept()[0].close()
"""
ACCEPT = f"import socket; s = socket.create_server(('{PEER_ADDRESS}', 8000)); c = s.accept()[0]; c.recv(1)"
# Many connections from one address, and from many addresses, within a second.
BURSTS = f"""
import socket
for source in [1] * {BURST} + list(range(2, {SOURCES + 2})) * 2:
    socket.create_connection(("127.0.0.1", {FIRST_PORT}), source_address=(f"127.0.1.{{source}}", 0)).close()
"""


@pytest.fixture(scope="module", params=on_each_distribution("event-readers"))
def container(request: pytest.FixtureRequest) -> Iterator[Booted]:
    """With every kind of event in its journal."""
    with booted_with_readers(request.param) as container:
        container.write("/etc/tcpnewconn.conf.d/test.conf", CONFIGURATION)
        add_repository(container, built.deb())
        install(container)
        container.start_unit("ports.service", "/usr/bin/python3", "-c", SERVER)
        for address in (CONTAINER_ADDRESS, f"[{CONTAINER_ADDRESS6}]"):
            container.from_peer("curl", "--silent", "--globoff", "--output", "/dev/null", f"http://{address}/")
        connect_to_peer(container)
        wait_for(container, "listener-opened", f"DESTINATION_PORT={FIRST_PORT + PORTS - 1}")
        for port in range(FIRST_PORT, FIRST_PORT + PORTS):
            container.from_peer("curl", "--silent", "-m", "60", f"telnet://{CONTAINER_ADDRESS}:{port}")
        wait_for(container, "port-scan-detected")
        container.run("/usr/bin/python3", "-c", BURSTS)
        wait_for(container, "connections-summarized", "TCPNEWCONN_SOURCES_EXACT=yes")
        wait_for(container, "events-lost")
        container.run("systemctl", "stop", "tcpnewconn.service")
        container.run("journalctl", "--sync")
        add_every_event(container)
        yield container


def add_every_event(container: Booted) -> None:
    """Also events that a healthy host does not have: in a journal file of their own, as if the service had written them."""
    cgroups = container.path("/srv/cgroups")
    cgroups.mkdir()
    unit = unit_in(cgroups)
    render = renderer(cgroups, command_lines=True, netns="4026532290")
    by_journald = {"_SYSTEMD_UNIT": "tcpnewconn.service", "_HOSTNAME": container.run("hostname").strip()}
    export = []
    for number, event in enumerate(every_event(unit)):
        fields = {"__REALTIME_TIMESTAMP": str(int(NOON * 1e6) + number), "__MONOTONIC_TIMESTAMP": str(1 + number)}
        fields |= {**render(event), "SYSLOG_IDENTIFIER": "tcpnewconn", **by_journald, "_BOOT_ID": "0" * 31 + "1"}
        export.append("".join(f"{name}={value}\n" for name, value in fields.items()))
    container.write("/srv/export", "\n".join(export))
    journal = f"/var/log/journal/{container.run('cat', '/etc/machine-id').strip()}/every-event.journal"
    container.run("/usr/lib/systemd/systemd-journal-remote", f"--output={journal}", "/srv/export")


def connect_to_peer(container: Booted) -> None:
    """A unit of the container holds a connection until it is logged."""
    server = container.start_from_peer(sys.executable, "-c", ACCEPT)
    client = ("curl", "-s", "--retry", "9", "--retry-connrefused", f"telnet://{PEER_ADDRESS}:8000")
    container.start_unit("caller.service", *client)
    try:
        wait_for(container, "connection-opened", "DESTINATION_PORT=8000")
    finally:
        container.run("systemctl", "stop", "caller.service", check=False)
        server.kill()
        server.wait()


def wait_for(container: Booted, action: str, *matches: str) -> None:
    container.wait_for(lambda: container.journal(OURS, f"EVENT_ACTION={action}", *matches), f"{action} in the journal")


def entries(container: Booted) -> list[dict[str, Any]]:
    """Those of events; the service also writes messages for people on stderr."""
    return [entry for entry in container.journal(OURS) if "EVENT_ACTION" in entry]


def own_document(entry: dict[str, Any]) -> dict[str, object]:
    """The line that --output json would have written, without its time."""
    fields = {field: entry[field] for field in FIELDS if field in entry}
    line = document(fields, "2026-11-25T12:00:00.000+00:00", entry["_HOSTNAME"])
    events.check(line)
    return without_time(line)


def without_time(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "@timestamp"}


def test_the_journal_has_entries_of_every_kind(container: Booted) -> None:
    kinds = {entry["EVENT_ACTION"] for entry in entries(container)}
    assert kinds == {kind.action for kind in KINDS.values()}
    for entry in entries(container):
        assert entry["SYSLOG_IDENTIFIER"] == "tcpnewconn"
        own_document(entry)


def test_by_the_table_filebeat_s_event_is_the_document_that_json_has(container: Booted) -> None:
    for entry in entries(container):
        line = filebeat.ecs_document(filebeat.event(entry)) | {"ecs.version": "8.17.0"}
        events.check(line)
        assert without_time(line) == own_document(entry)


def test_rsyslog_writes_the_document_that_json_has(container: Booted) -> None:
    section = CONTRACT.split("### rsyslog\n", 1)[1].split("\n### ", 1)[0]
    (file,) = re.findall(r"`(/etc/rsyslog\.d/\S+)`", section)
    (output,) = re.findall(r'file="([^"]+)"', section)
    container.write(file, "\n".join(re.findall(r"(?m)^    (.*)$", section)) + "\n")
    container.run("rsyslogd", "-N1")
    written = entries(container)
    container.run("systemctl", "--quiet", "enable", "--now", "rsyslog.service")

    def lines() -> list[str]:
        # The last line may not be complete yet.
        return container.run("cat", output, check=False).rpartition("\n")[0].splitlines()

    try:
        container.wait_for(lambda: len(lines()) >= len(written), "rsyslog to write every event")
    finally:
        container.run("systemctl", "disable", "--now", "rsyslog.service", check=False)
    documents = [parsed(re.sub(r'("@timestamp":"[^"]+\.\d{3})\d{3}', r"\1", line)) for line in lines()]
    assert [without_time(line) for line in documents] == [own_document(entry) for entry in written]
    for line, entry in zip(documents, written, strict=True):
        at = datetime.fromisoformat(line["@timestamp"]).timestamp()
        assert abs(at - int(entry["__REALTIME_TIMESTAMP"]) / 1e6) < 1


def shell(container: Booted, command: str) -> str:
    return container.run("bash", "-c", f"set -o pipefail; {command}")


def test_jq_answers_the_questions_of_the_document(container: Booted) -> None:
    section = CONTRACT.split("### journalctl and jq\n", 1)[1].split("\n### ", 1)[0]
    blocks = [
        "\n".join(re.findall(r"(?m)^    (.*)$", block)) for block in section.split("\n\n") if "    journalctl" in block
    ]
    most, where = (shell(container, block) for block in blocks)
    # One over IPv4, and the ports that were scanned.
    assert f"{1 + PORTS} {PEER_ADDRESS}" in most.splitlines()
    assert ["1", "caller.service", PEER_ADDRESS, "8000"] in [line.split() for line in where.splitlines()]


def test_every_example_of_the_man_page_is_one_that_works(container: Booted) -> None:
    fields = PAGE.split("# FIELDS\n", 1)[1]
    examples = re.findall(r"(?m)^\t?(journalctl .*)$", fields)
    assert len(examples) > 30
    for example in examples:
        said = container.run("bash", "-c", f"set -o pipefail; {example} >/dev/null")
        assert said == "", example
    # Of those that there is something to show of.
    for field in ("EVENT_DURATION", "TCPNEWCONN_RTT_USEC", "TCPNEWCONN_PORTS", "TCPNEWCONN_TOP_SOURCES"):
        (example,) = [one for one in examples if field in one and "jq -r" in one]
        assert re.search(r"\d", shell(container, example)), example


FORGERY = """
from systemd.journal import send
send("New connection: forged", SYSLOG_IDENTIFIER="tcpnewconn", SOURCE_ADDRESS="192.0.2.66",
     OBJECT_SYSTEMD_UNIT="tcpnewconn.service", _SYSTEMD_UNIT="tcpnewconn.service")
"""


def test_a_forged_entry_of_another_program_does_not_match_the_unit_of_the_service(container: Booted) -> None:
    forger = ("/usr/bin/python3", "-c", FORGERY)
    container.unit("forger.service", *forger, properties=("User=games",))
    container.run("journalctl", "--sync")
    assert len(container.journal("SYSLOG_IDENTIFIER=tcpnewconn", "SOURCE_ADDRESS=192.0.2.66")) == 1
    (match,) = re.findall(r"(?m)^    (journalctl _SYSTEMD_UNIT\S+) SOURCE_ADDRESS", CONTRACT)
    assert container.run(*shlex.split(match), "--quiet", "SOURCE_ADDRESS=192.0.2.66") == ""
    assert container.journal("--unit=tcpnewconn", "SOURCE_ADDRESS=192.0.2.66") == []


def test_the_unit_of_a_socket_is_found_by_its_field_and_not_as_the_unit_that_wrote_the_entry(container: Booted) -> None:
    (match,) = re.findall(r"(?m)^    (journalctl -u tcpnewconn OBJECT_SYSTEMD_UNIT=\S+)$", CONTRACT)
    assert f"-> {CONTAINER_ADDRESS}:80" in container.run(*shlex.split(match))
    assert "New connection" not in container.run("journalctl", "-u", "nginx")
