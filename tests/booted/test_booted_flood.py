"""A flood and a scan, under the package's own unit: counts exact, memory and journal bounded, the watchdog content."""

import sys
import time
from collections.abc import Iterator

import pytest

from tests.support import booted_events
from tests.support.booted import CONTAINER_ADDRESS, PEER_ADDRESS, Booted
from tests.support.booted_events import events
from tests.support.booted_package import booted_with_package, drop_in, main_pid, metric, on_each_distribution
from tests.support.message_ids import CONNECTION, PORT_SCAN, SUMMARY

FLOOD_LASTS, JOURNALD_HANGS = 60, 30
SOURCES, PORTS_EACH, FIRST_PORT, PORTS = 500, 20, 20000, 1000
SERVER = f"""
import selectors, socket
selector = selectors.DefaultSelector()
for port in range({FIRST_PORT}, {FIRST_PORT + PORTS}):
    selector.register(socket.create_server(("0.0.0.0", port)), selectors.EVENT_READ)
while True:
    for key, _ in selector.select():
        key.fileobj.accept()[0].close()
"""
SCANNER = f"""
import socket
for source in range({SOURCES}):
    address = f"10.78.{{source // 250}}.{{source % 250 + 1}}"
    for one in range({PORTS_EACH}):
        port = {FIRST_PORT} + ({PORTS_EACH} * source + one) % {PORTS}
        socket.create_connection(("{CONTAINER_ADDRESS}", port), source_address=(address, 0)).close()
"""


@pytest.fixture(scope="module", params=on_each_distribution("flood"))
def container(request: pytest.FixtureRequest) -> Iterator[Booted]:
    with booted_with_package(request.param) as container:
        drop_in(container, "tcpnewconn.service", "[Service]\nMemoryMax=64M\n")
        container.run("systemctl", "restart", "tcpnewconn.service")
        yield container


def accepted(container: Booted) -> int:
    """How many connections the container's kernel has accepted: PassiveOpens."""
    names, values = (
        line.split() for line in container.run("cat", "/proc/net/snmp").splitlines() if line.startswith("Tcp:")
    )
    return int(dict(zip(names, values, strict=True))["PassiveOpens"])


def reported(container: Booted, *matches: str) -> int:
    single = len(events(container, CONNECTION, "--output-fields=MESSAGE_ID", *matches))
    return single + sum(int(event["TCPNEWCONN_COUNT"]) for event in events(container, SUMMARY, *matches))


def polls(container: Booted) -> float:
    return metric(container, 'tcpnewconn_polls_total{result="ok"}')


def peak_memory(container: Booted) -> int:
    """In KiB. Not MemoryPeak=: where the machine's memory controller is not in the unified tree, nobody counts that."""
    status = container.run("cat", f"/proc/{main_pid(container)}/status")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def test_a_flood_is_counted_exactly_while_journald_hangs_in_the_middle(container: Booted) -> None:
    pid, before, polls_before = main_pid(container), accepted(container), polls(container)
    wrk = container.start("wrk", "-t1", "-c100", f"-d{FLOOD_LASTS}s", "-H", "Connection: close", "http://127.0.0.1:80/")
    time.sleep((FLOOD_LASTS - JOURNALD_HANGS) / 2)
    container.run("systemctl", "kill", "--signal=STOP", "systemd-journald.service")
    try:
        # The length of the outage is the experiment.
        time.sleep(JOURNALD_HANGS)
    finally:
        container.run("systemctl", "kill", "--signal=CONT", "systemd-journald.service")
    said, _ = wrk.communicate(timeout=120)
    assert wrk.returncode == 0, said
    made = accepted(container) - before
    # With a full buffer, declared lost are notifications: one or two for a connection within this host.
    container.wait_for(
        lambda: reported(container, "DESTINATION_PORT=80") >= made - booted_events.lost(container),
        f"{made} connections to be reported or declared lost",
    )
    total, lost = reported(container, "DESTINATION_PORT=80"), booted_events.lost(container)
    print(f"{made} made, {total} reported, {lost} notifications lost, {peak_memory(container)} KiB")
    assert made - lost <= total <= made
    assert main_pid(container) == pid, "the watchdog did not fire"
    assert container.property("tcpnewconn.service", "NRestarts") == "0"
    assert peak_memory(container) < 64 * 1024
    # The journal is bounded: BurstLimit=100 of each group, of which there are a few, in each interval, which polls end.
    entries = len(events(container, CONNECTION, "--output-fields=MESSAGE_ID", "DESTINATION_PORT=80"))
    assert entries <= 300 * (polls(container) - polls_before + 2)
    assert made > 10 * entries, f"this machine made no flood: {made}"


def test_a_scan_from_many_addresses_is_noticed_once_for_each_and_counted(container: Booted) -> None:
    container.write("/opt/server.py", SERVER)
    # More than the usual 1,024 file descriptors.
    container.start_unit("server", "/usr/bin/python3", "/opt/server.py", properties=("LimitNOFILE=4096",))
    container.wait_for(
        lambda: f":{FIRST_PORT + PORTS - 1} " in container.run("ss", "-Htln"), "the server's last port to listen"
    )
    # Its first poll shows them: so many listeners and port scans in one interval would be more than TotalLimit=.
    container.run("systemctl", "restart", "tcpnewconn.service")
    container.run("ip", "route", "add", "10.78.0.0/16", "via", PEER_ADDRESS)
    for source in range(SOURCES):
        container.from_peer("ip", "address", "add", f"10.78.{source // 250}.{source % 250 + 1}/32", "dev", "peer0")
    pid = main_pid(container)
    container.from_peer(sys.executable, "-c", SCANNER)
    container.wait_for(lambda: len(events(container, PORT_SCAN)) >= SOURCES, "every source to be noticed")
    scans = events(container, PORT_SCAN)
    assert len({scan["SOURCE_ADDRESS"] for scan in scans}) == len(scans) == SOURCES
    for scan in scans:
        ports = [int(port) for port in scan["TCPNEWCONN_PORTS"].split(",")]
        assert len(ports) == 4
        assert ports == sorted(ports)
        assert scan["MESSAGE"] == (
            f"Port scan: {scan['SOURCE_ADDRESS']} -> {CONTAINER_ADDRESS} on ports {scan['TCPNEWCONN_PORTS']}"
        )
    matches = (f"DESTINATION_ADDRESS={CONTAINER_ADDRESS}", "NETWORK_DIRECTION=ingress")
    container.wait_for(
        lambda: reported(container, *matches) >= SOURCES * PORTS_EACH, "every connection of the scan to be counted"
    )
    assert reported(container, *matches) == SOURCES * PORTS_EACH
    assert main_pid(container) == pid
    assert peak_memory(container) < 64 * 1024
