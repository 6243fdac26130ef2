"""Sockets that a program still holds after their peer has reset them: they have no row any more, and
their destroy notification comes only when the program closes them.

Needs root, for namespaces.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.message_ids import CLOSED
from tests.support.namespace import Namespace, joined
from tests.support.program import CLOSED_CONFIGURATION, Event, Program, of_kind, running
from tests.support.traffic import connect, listen, reset

HERE, THERE = "10.76.0.1", "10.76.0.2"
COUNT = 7


@pytest.fixture
def hosts() -> Iterator[tuple[Namespace, Namespace]]:
    with joined([f"{HERE}/24"], [f"{THERE}/24"]) as made:
        yield made


def ids(events: list[Event]) -> list[str]:
    return sorted(event["tcpnewconn.connection_id"] for event in events)


def wait_for_closed(program: Program, count: int) -> list[Event]:
    program.wait(lambda: len(of_kind(program.events, CLOSED)) >= count, f"{count} closed events")
    return of_kind(program.events, CLOSED)


@pytest.mark.parametrize("place", ["within", "opening"])
def test_it_is_not_reported_again_after_a_restart(
    place: str, hosts: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    here, there = hosts
    server, address = (here, "127.0.0.1") if place == "within" else (there, THERE)
    options = ("--state", str(tmp_path / "state"), "--config", CLOSED_CONFIGURATION)
    with listen(server, address) as listener:
        with running(here, *options) as first:
            held = [connect(here, *listener.getsockname()) for _ in range(COUNT)]
            accepted = [listener.accept()[0] for _ in held]
            first.wait_for_connections(COUNT)
            for each in accepted:
                reset(each)
            first.poll_again(3)
        with running(here, *options) as second:
            second.poll_again(3)
            for each in held:
                each.close()
            closed = wait_for_closed(second, COUNT)
            second.poll_again(1)
        assert second.connections == [], second.messages()
        assert ids(closed) == ids(first.connections)
        assert len(first.connections) == COUNT


def test_both_ends_of_one_within_the_host_are_one_however_long_a_program_holds_the_other(
    hosts: tuple[Namespace, Namespace],
) -> None:
    """No poll has seen them: the end that was reset has no addresses, the other, destroyed much later, has them."""
    here, _ = hosts
    with (
        running(here, "--config", CLOSED_CONFIGURATION, interval="1h") as program,
        listen(here, "127.0.0.1") as listener,
    ):
        held = [connect(here, *listener.getsockname()) for _ in range(COUNT)]
        for _ in held:
            reset(listener.accept()[0])
        # Longer than an end without addresses is waited for where its other end is elsewhere.
        time.sleep(3)
        sources = sorted(each.getsockname()[1] for each in held)
        for each in held:
            each.close()
        closed = wait_for_closed(program, COUNT)
    assert sorted(event["source.port"] for event in program.connections) == sources, program.messages()
    assert ids(closed) == ids(program.connections)


def test_it_is_not_reported_again_after_more_than_a_minute(hosts: tuple[Namespace, Namespace]) -> None:
    """Those that polls have seen, those that opened and were reset between two polls, with and without their addresses."""
    here, there = hosts
    with (
        running(here, "--config", CLOSED_CONFIGURATION) as program,
        listen(here, "127.0.0.1") as within,
        listen(there, THERE) as elsewhere,
    ):
        held = [connect(here, *where.getsockname()) for where in (within, elsewhere) for _ in range(COUNT)]
        accepted = [where.accept()[0] for where in (within, elsewhere) for _ in range(COUNT)]
        program.wait_for_connections(len(held))
        program.poll_again()
        for number in range(2 * COUNT):
            held.append(connect(here, *within.getsockname()))
            if number % 2:
                # Closing with unread bytes resets it too, and leaves its addresses.
                held[-1].sendall(b"unread")
                within.accept()[0].close()
            else:
                reset(within.accept()[0])
        for each in accepted:
            reset(each)
        program.poll_again(3)
        sources = sorted(each.getsockname()[1] for each in held)
        # The sockets of one connection come within a minute, as a rule (tracker.py).
        time.sleep(62)
        for each in held:
            each.close()
        program.wait(
            lambda: sum(event["source.port"] in sources for event in of_kind(program.events, CLOSED)) >= len(held),
            "closed events",
        )
        program.poll_again()
    assert sorted(event["source.port"] for event in program.connections) == sources, program.messages()


def test_a_connection_whose_round_trip_was_never_measured_is_reported(hosts: tuple[Namespace, Namespace]) -> None:
    """Accepted by SYN cookies without timestamps, and reset before any byte: a connect() that failed looks nearly the same."""
    here, there = hosts
    for host in hosts:
        host.sysctl("net.ipv4.tcp_timestamps", "0")
    here.sysctl("net.ipv4.tcp_syncookies", "2")
    with running(here, interval="1h") as program, listen(here, HERE) as listener:
        for _ in range(COUNT):
            opened = connect(there, *listener.getsockname())
            accepted = listener.accept()[0]
            reset(opened)
            with pytest.raises(ConnectionResetError):
                accepted.recv(1)
            accepted.close()
        program.wait_for_connections(COUNT)
