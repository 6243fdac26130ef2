"""Closed=yes against the real kernel: each closed connection once, with its bytes each way and its duration."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from tests.support.message_ids import CLOSED
from tests.support.namespace import Namespace, joined
from tests.support.program import CLOSED_CONFIGURATION, flow, of_kind, running
from tests.support.traffic import connect, listen

HERE, THERE = "10.74.0.1", "10.74.0.2"
HERE6, THERE6 = "2001:db8:74::1", "2001:db8:74::2"
# Bytes from the side that opened it, bytes to it; whether that side closes first.
EXCHANGES = [
    (there, back, first)
    for there, back in [(0, 0), (1, 0), (0, 1), (1000, 70_001), (1_000_003, 17)]
    for first in (True, False)
]


@pytest.fixture
def hosts() -> Iterator[tuple[Namespace, Namespace]]:
    with joined([f"{HERE}/24", f"{HERE6}/64"], [f"{THERE}/24", f"{THERE6}/64"]) as made:
        yield made


def carry(sender: socket.socket, receiver: socket.socket, count: int) -> None:
    sent = 0
    while sent < count:
        part = min(count - sent, 10_000)
        sender.sendall(b"x" * part)
        assert len(receiver.recv(part, socket.MSG_WAITALL)) == part
        sent += part


def close_in_order(first: socket.socket, second: socket.socket) -> None:
    """As programs do that have read everything to its end."""
    first.shutdown(socket.SHUT_WR)
    assert second.recv(1) == b""
    second.close()
    assert first.recv(1) == b""
    first.close()


@pytest.mark.parametrize("place", ["within", "within6", "opening", "accepting", "opening6"])
def test_the_bytes_each_way_are_reported_once(place: str, hosts: tuple[Namespace, Namespace]) -> None:
    here, there = hosts
    server, client, address, direction = {
        "within": (here, here, "127.0.0.1", "internal"),
        "within6": (here, here, HERE6, "internal"),
        "opening": (there, here, THERE, "egress"),
        "opening6": (there, here, THERE6, "egress"),
        "accepting": (here, there, HERE, "ingress"),
    }[place]
    expected = {}
    with running(here, "--config", CLOSED_CONFIGURATION) as program, listen(server, address, 8080) as listener:
        program.poll_again()
        # Those that a poll sees open, and those that end before the next one, or at once.
        for seen in (True, False):
            four_tuples = [(connect(client, address, 8080), listener.accept()[0]) for _ in EXCHANGES]
            if seen:
                program.wait_for_connections(len(EXCHANGES))
            for (opener, accepted), (sent, received, opener_first) in zip(four_tuples, EXCHANGES, strict=True):
                expected[(*opener.getsockname()[:2], *opener.getpeername()[:2])] = (sent, received, seen)
                carry(opener, accepted, sent)
                carry(accepted, opener, received)
                close_in_order(*((opener, accepted) if opener_first else (accepted, opener)))
        program.wait(lambda: len(of_kind(program.events, CLOSED)) >= len(expected), "closed events")
        program.poll_again()
    reported = {flow(event): event for event in program.connections}
    assert {flow(event): event["tcpnewconn.connection_id"] for event in of_kind(program.events, CLOSED)} == {
        each: event["tcpnewconn.connection_id"] for each, event in reported.items()
    }
    assert len(of_kind(program.events, CLOSED)) == len(program.connections) == len(expected)
    for event in of_kind(program.events, CLOSED):
        sent, answered, seen = expected[flow(event)]
        assert (event["source.bytes"], event["destination.bytes"]) == (sent, answered)
        assert event["network.direction"] == direction
        assert 0 < event["tcpnewconn.rtt_usec"] < 10_000_000
        # How long it lasted is reported where a poll saw it open.
        by_poll = reported[flow(event)]["tcpnewconn.detected_by"] == "poll"
        assert by_poll or not seen
        assert ("event.duration" in event) == by_poll
    # None, unless the kernel says that it has sent something again.
    assert sum(event["tcpnewconn.retransmits"] for event in of_kind(program.events, CLOSED)) <= here.tcp_counter(
        "RetransSegs"
    )


def test_its_duration_is_from_the_read_that_saw_it(hosts: tuple[Namespace, Namespace]) -> None:
    here, there = hosts
    with running(here, "--config", CLOSED_CONFIGURATION) as program, listen(there, THERE, 8080) as listener:
        began = time.monotonic()
        opener = connect(here, THERE, 8080)
        accepted = listener.accept()[0]
        program.wait_for_connections(1)
        seen = time.monotonic()
        program.poll_again(5)
        closing = time.monotonic()
        close_in_order(opener, accepted)
        program.wait(lambda: of_kind(program.events, CLOSED), "end")
        ended = time.monotonic()
        (event,) = of_kind(program.events, CLOSED)
        # The poll that saw it began between its opening and its report, or just before its opening.
        assert closing - seen <= event["event.duration"] / 1e9 <= ended - began + 0.1


def test_a_connection_that_was_there_at_the_start_has_no_duration(hosts: tuple[Namespace, Namespace]) -> None:
    here, there = hosts
    with listen(there, THERE, 8080) as listener:
        opener = connect(here, THERE, 8080)
        accepted = listener.accept()[0]
        with running(here, "--config", CLOSED_CONFIGURATION) as program:
            carry(opener, accepted, 500)
            close_in_order(opener, accepted)
            program.wait(lambda: of_kind(program.events, CLOSED), "end")
    (event,) = of_kind(program.events, CLOSED)
    assert event["source.bytes"] == 500
    assert "event.duration" not in event


def test_without_the_setting_nothing_is_reported_of_an_end(hosts: tuple[Namespace, Namespace]) -> None:
    here, _ = hosts
    with running(here) as program, listen(here, "127.0.0.1", 8080) as listener:
        for _ in range(5):
            opener = connect(here, "127.0.0.1", 8080)
            close_in_order(opener, listener.accept()[0])
        program.wait_for_connections(5)
        program.poll_again(2)
    assert of_kind(program.events, CLOSED) == []
