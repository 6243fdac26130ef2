"""The first steps of an administrator: apt install, connections of real programs, status, help, the catalog."""

import base64
import hashlib
import ipaddress
import re
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import booted_events, message_ids
from tests.support.booted import CONTAINER_ADDRESS, CONTAINER_ADDRESS6, PEER_ADDRESS, PEER_ADDRESS6, Booted
from tests.support.booted_package import install, is_active, metric
from tests.support.events import parsed_lines

# A page that a slow reader keeps an nginx connection open for.
PAGE = "/var/www/html/page"
INTERVAL = 10.0
# A client that goes away as soon as sshd has said its name.
KNOCK = """
import socket, sys
with socket.create_connection((sys.argv[1], 22)) as client:
    print(client.recv(4).decode())
"""


@pytest.fixture(scope="module")
def container(whole_life: Booted) -> Iterator[Booted]:
    whole_life.write(PAGE, "x" * 300_000)
    yield whole_life
    whole_life.path(PAGE).unlink()


def community_id(source: str, source_port: int, destination: str, destination_port: int) -> str:
    """Community ID v1 with seed 0, written from its published specification."""
    ends = sorted(
        [
            (ipaddress.ip_address(source).packed, source_port),
            (ipaddress.ip_address(destination).packed, destination_port),
        ]
    )
    hashed = struct.pack("!H", 0) + ends[0][0] + ends[1][0] + struct.pack("!BBHH", 6, 0, ends[0][1], ends[1][1])
    return "1:" + base64.b64encode(hashlib.sha1(hashed).digest()).decode()


def wait_for_connection(container: Booted, *matches: str) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        return booted_events.events(container, message_ids.CONNECTION, *matches)

    (event,) = container.wait_for(found, f"a connection with {' '.join(matches)} in the journal")
    return event


def wait_for_a_poll(container: Booted) -> None:
    """The next one comes an interval later."""

    def last() -> float:
        return metric(container, "tcpnewconn_last_poll_timestamp_seconds")

    before = last()
    container.wait_for(lambda: last() != before, "a poll")


def own_fields(event: dict[str, Any]) -> dict[str, str]:
    """Without what journald and the connection to it add."""
    from_the_library = {"CODE_FILE", "CODE_LINE", "CODE_FUNC", "SYSLOG_PID"}
    return {name: value for name, value in event.items() if not name.startswith("_") and name not in from_the_library}


def test_apt_installs_the_local_file_and_the_service_runs(container: Booted) -> None:
    (deb,) = container.path("/srv/repository").glob("*.deb")
    log = install(container, f"/srv/repository/{deb.name}")
    assert "Setting up tcpnewconn" in log
    assert container.run("systemctl", "is-active", "tcpnewconn.service").strip() == "active"
    assert container.run("systemctl", "is-active", "tcpnewconn.socket").strip() == "active"
    assert container.run("systemctl", "is-enabled", "tcpnewconn.service").strip() == "enabled"


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_connection_to_nginx_is_reported_within_one_interval_with_every_field(container: Booted, family: str) -> None:
    server, client = (CONTAINER_ADDRESS, PEER_ADDRESS) if family == "ipv4" else (CONTAINER_ADDRESS6, PEER_ADDRESS6)
    written = {"ipv4": "{}:{}", "ipv6": "[{}]:{}"}[family].format
    wait_for_a_poll(container)
    opened = time.time()
    curl = container.start_from_peer(
        "curl", "-s", "--limit-rate", "2k", "-o", "/dev/null", written(server, 80) + "/page"
    )
    try:
        event = wait_for_connection(container, f"SOURCE_ADDRESS={client}", "DESTINATION_PORT=80")
    finally:
        curl.kill()
        curl.wait()

    port = int(event["SOURCE_PORT"])
    www_data = container.run("id", "-u", "www-data").strip()
    fields = own_fields(event)
    assert re.fullmatch(r"\S{8,}", fields.pop("TCPNEWCONN_CONNECTION_ID"))
    assert fields == {
        "MESSAGE": f"New connection: {written(client, port)} -> {written(server, 80)}",
        "MESSAGE_ID": message_ids.CONNECTION,
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "tcpnewconn",
        "EVENT_ACTION": "connection-opened",
        "EVENT_CATEGORY": "network",
        "EVENT_TYPE": "connection,start",
        "EVENT_OUTCOME": "success",
        "SOURCE_ADDRESS": client,
        "SOURCE_PORT": str(port),
        "DESTINATION_ADDRESS": server,
        "DESTINATION_PORT": "80",
        "NETWORK_TRANSPORT": "tcp",
        "NETWORK_TYPE": family,
        "NETWORK_DIRECTION": "ingress",
        "NETWORK_COMMUNITY_ID": community_id(client, port, server, 80),
        "USER_ID": www_data,
        "USER_NAME": "www-data",
        "OBJECT_SYSTEMD_UNIT": "nginx.service",
        "TCPNEWCONN_ATTRIBUTED_BY": "socket",
        "NETWORK_CONNECTION_STATE": "established",
        "TCPNEWCONN_DETECTED_BY": "poll",
    }
    # Half an interval more, for a machine that is busy with other tests.
    assert int(event["__REALTIME_TIMESTAMP"]) / 1e6 - opened < 1.5 * INTERVAL


def test_a_short_connection_to_sshd_is_reported_at_once_with_its_unit(container: Booted) -> None:
    wait_for_a_poll(container)
    opened = time.time()
    assert container.from_peer(sys.executable, "-c", KNOCK, CONTAINER_ADDRESS).strip() == "SSH-"
    event = wait_for_connection(container, "DESTINATION_PORT=22")
    assert event["TCPNEWCONN_DETECTED_BY"] == "notification"
    assert event["NETWORK_DIRECTION"] == "ingress"
    assert event["OBJECT_SYSTEMD_UNIT"] == "ssh.service"
    # There is no tracefs in a container.
    assert event["TCPNEWCONN_ATTRIBUTED_BY"] == "listener"
    assert "USER_ID" not in event, "the kernel no longer knows the user of a destroyed socket"
    # Long before the next poll.
    assert int(event["__REALTIME_TIMESTAMP"]) / 1e6 - opened < 0.7 * INTERVAL


def test_an_outgoing_connection_points_to_its_server_and_names_its_unit_and_user(
    container: Booted,
) -> None:
    accept = "import socket; s = socket.create_server(('10.77.0.1', 8000)); c = s.accept()[0]; c.recv(1)"
    server = container.start_from_peer(sys.executable, "-c", accept)
    client = f"telnet://{PEER_ADDRESS}:8000"
    container.start_unit(
        "caller.service", "curl", "-s", "--retry", "9", "--retry-connrefused", client, properties=("User=games",)
    )
    try:
        event = wait_for_connection(container, "DESTINATION_PORT=8000")
    finally:
        container.run("systemctl", "stop", "caller.service", check=False)
        server.kill()
        server.wait()
    assert event["SOURCE_ADDRESS"] == CONTAINER_ADDRESS
    assert event["DESTINATION_ADDRESS"] == PEER_ADDRESS
    assert event["NETWORK_DIRECTION"] == "egress"
    assert event["OBJECT_SYSTEMD_UNIT"] == "caller.service"
    assert event["USER_NAME"] == "games"


def test_a_match_on_two_fields_finds_exactly_one_connection(container: Booted) -> None:
    query = ["--unit=tcpnewconn", f"SOURCE_ADDRESS={PEER_ADDRESS}", "DESTINATION_PORT=80"]
    (line,) = container.run("journalctl", "--quiet", "--output=cat", *query).splitlines()
    assert re.fullmatch(rf"New connection: {re.escape(PEER_ADDRESS)}:\d+ -> {re.escape(CONTAINER_ADDRESS)}:80", line)


def test_listeners_are_reported_as_listeners(container: Booted) -> None:
    (listener,) = booted_events.events(container, message_ids.LISTENER, "MESSAGE=New listener: 0.0.0.0:22")
    assert listener["PRIORITY"] == "5"


def test_the_catalog_explains_every_event(container: Booted) -> None:
    explained = container.run("journalctl", "--quiet", "-x", "--unit=tcpnewconn", "DESTINATION_PORT=22")
    assert "-- Subject:" in explained.replace("░░", "--")
    for message_id in message_ids.ALL:
        entry = container.run("journalctl", "--dump-catalog", message_id)
        assert re.search(r"(?m)^Subject: \S", entry), message_id
        assert len(entry.split("\n\n", 1)[1].split()) >= 10, f"{message_id} is not explained:\n{entry}"


def test_systemctl_status_says_what_it_does(container: Booted) -> None:
    shown = r'Status: "[\d,]+ connections? open, [\d,]+ new in the last poll \([\d.]+ ms\)'
    assert re.search(shown, container.run("systemctl", "status", "tcpnewconn"))


def test_systemctl_help_shows_the_man_page(container: Booted) -> None:
    assert re.search(r"(?i)^tcpnewconn\(8\)", container.run("systemctl", "help", "tcpnewconn"))


def test_the_program_in_a_terminal_is_the_same(container: Booted) -> None:
    lines = container.run("tcpnewconn", "--once", "--output=json").splitlines()
    assert {event["message_id"] for event in parsed_lines(lines)} >= {message_ids.LISTENER}
    assert is_active(container)
