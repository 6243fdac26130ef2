"""Restarts, kills, upgrades, a hanging service: nothing twice, and nothing missed of what came meanwhile."""

import ipaddress
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support import booted_events, booted_traffic, built, message_ids
from tests.support.booted import CONTAINER_ADDRESS, PEER_ADDRESS, Booted
from tests.support.booted_events import Traffic, traffic, wait_for_all
from tests.support.booted_package import (
    HIGHER_VERSION,
    add_repository,
    booted_with_package,
    drop_in,
    install,
    main_pid,
    on_each_distribution,
)
from tests.support.booted_traffic import HOLD

TIMES = 50
SEED = 20210809


@pytest.fixture(scope="module", params=on_each_distribution("restart"))
def container(request: pytest.FixtureRequest) -> Iterator[Booted]:
    with booted_with_package(request.param, each=True) as container:
        yield container


def kill(container: Booted) -> None:
    container.run("systemctl", "kill", "--signal=KILL", "tcpnewconn.service")


def restart(container: Booted) -> None:
    container.run("systemctl", "restart", "tcpnewconn.service")


def upgrade(container: Booted) -> None:
    add_repository(container, built.deb_of_version(HIGHER_VERSION))
    log = install(container)
    assert f"Unpacking tcpnewconn ({HIGHER_VERSION}-1) over" in log
    assert HIGHER_VERSION in container.run("tcpnewconn", "--version")


def wait_for_another_process(container: Booted, before: int) -> None:
    def back() -> bool:
        shown = container.run("systemctl", "show", "--property=ActiveState,MainPID", "tcpnewconn.service")
        state = dict(line.split("=") for line in shown.splitlines())
        return state["ActiveState"] == "active" and int(state["MainPID"]) not in (0, before)

    container.wait_for(back, "the service to be back")


@pytest.mark.parametrize("interruption", [restart, kill, upgrade])
def test_nothing_is_reported_twice_and_what_opened_meanwhile_is(container: Booted, interruption: object) -> None:
    assert callable(interruption)
    before = main_pid(container)
    with traffic(container, 50) as made:
        # So that there are connections that were reported and are still open.
        made.wait_for_some(container)
        interruption(container)
        wait_for_another_process(container, before)
    wait_for_all(container, made)
    assert made.missing() == []
    assert made.never_made() == []
    assert made.under_two_ids() == []
    if interruption is kill:
        assert_repeated_as_after_sigkill(container, made, before)
    else:
        assert made.repeated() == []


def assert_repeated_as_after_sigkill(container: Booted, made: Traffic, killed: int) -> None:
    """Between sending entries and noting that they were sent: those again, and no others. `killed` is that process."""
    repeated = made.repeated()
    last = made.of_process(container, killed)[-len(repeated) or None :]
    assert repeated == [] or sorted(repeated) == sorted(number for number, _ in last)
    # A notification is processed by itself, the entries of a poll together.
    assert len(repeated) <= 1 or {detected_by for _, detected_by in last} == {"poll"}


def test_fifty_kills_and_fifty_restarts_under_200_connections_per_second_miss_nothing(container: Booted) -> None:
    chance = random.Random(SEED)
    with traffic(container, 200) as made:
        for interruption in [kill, restart] * TIMES:
            before = main_pid(container)
            interruption(container)
            wait_for_another_process(container, before)
            # At any moment of its work, its first poll included; this is the experiment, not waiting for luck.
            time.sleep(chance.uniform(0, 0.3))
    assert made.made > 100 * TIMES, "this machine did not make the connections that the test is about"
    wait_for_all(container, made)
    # Reported + declared lost = made. With this buffer, nothing is lost.
    assert len(made.ids) + booted_events.lost(container) == made.made
    assert made.missing() == []
    assert made.never_made() == []
    # SIGKILL between report and save repeats an event, with the id it had.
    assert made.under_two_ids() == []


def test_the_watchdog_restarts_a_service_that_hangs(container: Booted) -> None:
    with traffic(container, 20) as made:
        made.wait_for_some(container)
        before = main_pid(container)
        container.run("systemctl", "kill", "--signal=STOP", "tcpnewconn.service")
        wait_for_another_process(container, before)
    assert container.journal("_PID=1", "UNIT=tcpnewconn.service", "UNIT_RESULT=watchdog")
    wait_for_all(container, made)
    assert made.missing() == []
    assert made.under_two_ids() == []
    # systemd kills it, by SIGABRT or SIGKILL, wherever it was stopped.
    assert_repeated_as_after_sigkill(container, made, before)


def states(container: Booted) -> list[str]:
    return container.run("systemctl", "is-active", "tcpnewconn.service", "tcpnewconn.socket", check=False).split()


def test_stop_under_traffic_stays_stopped(container: Booted) -> None:
    with traffic(container, 200):
        container.run("systemctl", "stop", "tcpnewconn.service")
        # The socket is stopped by a job of its own, which `systemctl stop` of the service does not wait for.
        container.wait_for(lambda: states(container)[1] == "inactive", "the socket to be stopped")
        # Long enough for a socket unit that still listened to start the service again: one connection would do.
        for _ in range(20):
            assert states(container) == ["inactive", "inactive"]
            time.sleep(0.1)
    container.run("systemctl", "start", "tcpnewconn.service")
    assert container.run("systemctl", "is-active", "tcpnewconn.socket").strip() == "active"


def test_a_connection_that_is_open_after_a_stop_is_reported_by_the_next_start(container: Booted) -> None:
    with traffic(container, 20) as before:
        before.wait_for_some(container)
    wait_for_all(container, before)
    container.run("systemctl", "stop", "tcpnewconn.service")
    container.start_unit("holder.service", "/usr/bin/python3", "-c", HOLD)
    container.wait_for(lambda: container.run("ss", "-Htn", "sport", "=", ":9000"), "the connection to be open")
    container.run("systemctl", "start", "tcpnewconn.service")
    container.wait_for(
        lambda: booted_events.events(container, message_ids.CONNECTION, "DESTINATION_PORT=9000"), "it to be reported"
    )
    container.run("systemctl", "stop", "holder.service")
    before.read(container)
    assert before.repeated() == []


def what_is_known_of(number: int, port: int, between: list[tuple[str, str]]) -> list[str]:
    """What the state at each stop and the kernel's rows after each start say of a connection.

    Of this one: other tests have connections to the same address, on ports of their own.
    """
    address = booted_traffic.address_of(number)
    packed = f"{ipaddress.ip_address(address).packed.hex()}{port:04x}"
    found = []
    for at, (state, rows) in enumerate(between):
        found += [f"{at}: {line}" for line in state.splitlines() if packed in line]
        found += [f"{at}: {row}" for row in rows.splitlines() if f"{address}:" in row or f"{address}]:" in row]
    return found


def test_ten_stops_under_traffic_miss_nothing_that_the_next_start_can_see(container: Booted) -> None:
    # A connection that opens and closes while the service is stopped is in TIME_WAIT for a minute.
    assert container.run("cat", "/proc/sys/net/ipv4/tcp_rfc1337").strip() == "1"
    between: list[tuple[str, str]] = []
    with traffic(container, 100) as made:
        for _ in range(10):
            container.run("systemctl", "stop", "tcpnewconn.service")
            container.wait_for(lambda: states(container) == ["inactive", "inactive"], "the socket to be stopped")
            state = container.run("cat", "/var/lib/tcpnewconn/snapshot")
            container.run("systemctl", "start", "tcpnewconn.service")
            between.append((state, container.run("ss", "-Htan", "sport", "=", f":{made.port}")))
    try:
        wait_for_all(container, made)
    except AssertionError as error:
        known = [what_is_known_of(number, made.port, between) for number in made.missing()[:5]]
        raise AssertionError(f"{known}\n{error}") from None
    assert made.missing() == []
    assert made.never_made() == []
    assert made.repeated() == []


def test_a_connection_opened_since_the_last_poll_is_reported_by_the_stop(container: Booted) -> None:
    with next_read_in_an_hour(container):
        container.start_unit("holder.service", "/usr/bin/python3", "-c", HOLD.replace("9000", "9002"))
        container.wait_for(lambda: container.run("ss", "-Htn", "sport", "=", ":9002"), "the connection to be open")
        assert held(container) == []
        container.run("systemctl", "stop", "tcpnewconn.service")
        container.wait_for(lambda: held(container), "it to be reported")
        # It is closed while the service is stopped. The next start is not the first, and does not report it again.
        container.run("systemctl", "stop", "holder.service")
        container.run("systemctl", "start", "tcpnewconn.service")
    with traffic(container, 20) as after:
        after.wait_for_some(container)
    wait_for_all(container, after)
    (reported,) = held(container)
    assert reported["TCPNEWCONN_DETECTED_BY"] == "poll"


def held(container: Booted) -> list[dict[str, Any]]:
    return booted_events.events(container, message_ids.CONNECTION, "DESTINATION_PORT=9002")


@contextmanager
def next_read_in_an_hour(container: Booted) -> Iterator[None]:
    """The service has been started with this, and its first poll is done."""
    settings = "/etc/tcpnewconn.conf.d/seldom.conf"
    container.write(settings, "[Poll]\nInterval=1h\n")
    try:
        restart(container)
        yield
    finally:
        container.path(settings).unlink()
        restart(container)


HALF_CLOSED = """
import socket, time
listener = socket.create_server(("127.0.0.1", 9001))
client = socket.create_connection(("127.0.0.1", 9001))
listener.accept()[0].close()
time.sleep(600)
"""


def test_a_connection_closed_by_its_server_alone_is_not_reported_again(container: Booted) -> None:
    # The timewait socket of the server stays in FIN_WAIT2 for a minute, after its destroy notification.
    container.start_unit("half.service", "/usr/bin/python3", "-c", HALF_CLOSED)
    matches = ("DESTINATION_PORT=9001",)
    container.wait_for(lambda: booted_events.events(container, message_ids.CONNECTION, *matches), "it to be reported")
    before = main_pid(container)
    restart(container)
    wait_for_another_process(container, before)
    assert container.run("ss", "-Htan", "state", "fin-wait-2", "sport", "=", ":9001"), "the row should still be there"
    # One more connection, so that what was to be reported by then has been reported.
    with traffic(container, 20) as after:
        after.wait_for_some(container)
    wait_for_all(container, after)
    assert len(booted_events.events(container, message_ids.CONNECTION, *matches)) == 1
    container.run("systemctl", "stop", "half.service")


CONNECT_AND_CLOSE = """
import socket, sys
for port in range(int(sys.argv[2]), int(sys.argv[3])):
    socket.create_connection((sys.argv[1], 80), source_address=("", port)).close()
"""


@pytest.mark.parametrize(
    ("first", "then"), [(20001, ""), (21001, "kill --signal=KILL"), (22001, "restart"), (23001, "stop")]
)
def test_a_buffer_that_is_too_small_loses_exactly_what_is_declared(container: Booted, first: int, then: str) -> None:
    """The clients are in another network namespace, so that one connection is one socket here; they close first.

    How many connections a loss means is known some seconds later. Also where it is killed, restarted or stopped before.
    """
    number = 997
    drop_in(container, "tcpnewconn.socket", "[Socket]\nReceiveBuffer=32K\n")
    container.run("systemctl", "stop", "tcpnewconn.service")
    # Else the start could find the socket of before, with its larger buffer.
    container.wait_for(lambda: states(container) == ["inactive", "inactive"], "the socket to be stopped")
    container.run("systemctl", "start", "tcpnewconn.service")
    before = booted_events.lost(container)
    # Hanging while the connections come and go: no poll can see one of them, and only the buffer knows of them.
    container.run("systemctl", "kill", "--signal=STOP", "tcpnewconn.service")
    container.from_peer(sys.executable, "-c", CONNECT_AND_CLOSE, CONTAINER_ADDRESS, str(first), str(first + number))
    container.wait_for(
        lambda: not container.run("ss", "-Htn", "state", "connected", "sport = :80"), "them to be closed"
    )
    container.run("systemctl", "kill", "--signal=CONT", "tcpnewconn.service")
    if then:
        container.wait_for(
            lambda: "destroy notifications lost"
            in container.run("systemctl", "show", "-P", "StatusText", "tcpnewconn.service"),
            "it to notice the loss",
        )
        container.run("systemctl", *then.split(), "tcpnewconn.service")

    def reported() -> list[str]:
        matches = (f"SOURCE_ADDRESS={PEER_ADDRESS}", "DESTINATION_PORT=80", "--output-fields=SOURCE_PORT")
        events = booted_events.events(container, message_ids.CONNECTION, *matches)
        return [port for port in (event["SOURCE_PORT"] for event in events) if first <= int(port) < first + number]

    container.wait_for(lambda: booted_events.lost(container) > before, "the loss to be declared")
    declared = container.wait_for(
        lambda: (lost := booted_events.lost(container) - before) + len(reported()) >= number and lost,
        "every connection to be reported or declared lost",
    )
    ports = reported()
    assert len(set(ports)) == len(ports) > 0, "the buffer held some"
    assert len(ports) + declared == number
    *_, loss = booted_events.events(container, message_ids.LOSS, f"TCPNEWCONN_COUNT={declared}")
    assert loss["TCPNEWCONN_REASON"]
    assert loss["PRIORITY"] == "4"
    assert str(declared) in loss["MESSAGE"].replace(",", "")
