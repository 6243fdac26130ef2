"""A poll of the host shows one end of a connection whose other end, in another namespace, has closed, and is not notified yet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tcpnewconn.eventtypes import Connection
from tcpnewconn.model import (
    CLOSE,
    CLOSE_WAIT,
    EGRESS,
    ESTABLISHED,
    FIN_WAIT2,
    INGRESS,
    TIME_WAIT,
    Caller,
    FourTuple,
    Row,
    SocketInfo,
    endpoints,
    mirrored,
)
from tcpnewconn.namespaces.pairs import Pairs, Side
from tests.support.calls import four_tuple

NETNS = 4_026_532_500
AT_HOST = four_tuple("10.88.0.1:80", "10.88.0.5:41000")
THERE = mirrored(AT_HOST)
# Seconds for which a tracker expects a socket here.
WINDOW = 60.0
CALLER = Caller("connect", 1000, 77, 4711, "curl", 5.0)


class Observer:
    """One whose tables have these rows; it has reported none of them."""

    def __init__(self, address: bytes, rows: list[Row], notified: bool) -> None:
        by_four_tuple = {row.four_tuple: row for row in rows}
        self.expected: list[FourTuple] = []
        self.tables = SimpleNamespace(row=by_four_tuple.get, stands=by_four_tuple.__contains__)
        self.addresses = SimpleNamespace(has=address.__eq__)
        self.events = SimpleNamespace(closed=False)
        self.lookups = SimpleNamespace(socket=lambda _: None, opened_here=lambda _: None)
        self.tracker = SimpleNamespace(
            run=SimpleNamespace(notified=notified, window=lambda now: now - WINDOW),
            shown=lambda _: None,
            take_expected=lambda *_: False,
            expect=lambda one, *_, **__: self.expected.append(one),
        )


def observer(*arguments: Any) -> Any:
    return Observer(*arguments)


class Both:
    """The host, and a namespace that has this row when it is polled."""

    def __init__(self, row: Row, notified: bool = True) -> None:
        self.reported: list[Connection] = []
        host = observer(b"\x0a\x58\0\x01", [Row(AT_HOST, CLOSE_WAIT, 33, 9)], True)
        self.observer = observer(b"\x0a\x58\0\x05", [row], notified)
        self.host, self.there = Side(observer=host), Side(NETNS, self.observer)
        self.pairs = Pairs(self.host, self._report, lambda *_: True, lambda _: False)
        self.pairs.assign(self.there, frozenset([b"\x0a\x58\0\x05"]))

    def _report(self, event: object) -> None:
        assert isinstance(event, Connection)
        self.reported.append(event)

    def shown_at_host(self, state: int, now: float) -> None:
        server, client = endpoints(AT_HOST)
        event = Connection(client, server, INGRESS, "poll", "host-1", state, 33, 5)
        self.pairs.take(self.host, event, now)

    def notified_there(self, now: float) -> None:
        server, client = endpoints(AT_HOST)
        event = Connection(client, server, EGRESS, "notification", "there-2", CLOSE, None, 0, ("connect",), CALLER)
        self.pairs.take(self.there, event._replace(netns=NETNS), now)


@pytest.mark.parametrize("state", [FIN_WAIT2, TIME_WAIT])
def test_it_waits_for_the_notification_which_has_who_opened_it(state: int) -> None:
    both = Both(Row(THERE, state, 0, 0))
    both.shown_at_host(CLOSE_WAIT, 10.0)
    assert both.reported == []
    both.notified_there(10.01)
    [connection] = both.reported
    assert connection.caller == CALLER
    assert (connection.direction, connection.netns) == ("internal", NETNS)


def test_where_that_does_not_come_it_is_reported_alone_and_expected_there() -> None:
    both = Both(Row(THERE, FIN_WAIT2, 0, 0))
    both.shown_at_host(CLOSE_WAIT, 10.0)
    both.pairs.tick(10.0, last=True)
    assert [connection.id for connection in both.reported] == ["host-1"]
    assert both.observer.expected == [THERE]


def test_one_that_is_open_there_is_reported_at_once() -> None:
    both = Both(Row(THERE, ESTABLISHED, 1000, 12))
    both.shown_at_host(ESTABLISHED, 10.0)
    assert [connection.netns for connection in both.reported] == [NETNS]


def test_without_notifications_it_is_reported_at_once() -> None:
    both = Both(Row(THERE, FIN_WAIT2, 0, 0), notified=False)
    both.shown_at_host(CLOSE_WAIT, 10.0)
    assert len(both.reported) == 1


def test_the_host_matters_as_long_as_it_expects_a_socket_whether_a_namespace_is_left_or_not() -> None:
    both = Both(Row(THERE, ESTABLISHED, 1000, 12))
    assert not both.pairs.concern_host(10.0)
    host: Any = both.host.observer
    host.lookups = SimpleNamespace(
        socket=lambda _: SocketInfo(33, 5, 0, 0, CLOSE_WAIT, False), opened_here=lambda _: None
    )
    both.notified_there(10.0)
    assert [connection.direction for connection in both.reported] == ["internal"]
    assert both.pairs.concern_host(10.0 + WINDOW)
    assert not both.pairs.concern_host(10.1 + WINDOW)


def test_after_a_restart_the_host_matters_where_it_can_expect_a_socket() -> None:
    pairs = Both(Row(THERE, ESTABLISHED, 1000, 12)).pairs
    pairs.resume(10.0, expecting=False)
    assert not pairs.concern_host(10.0)
    pairs.resume(10.0, expecting=True)
    assert pairs.concern_host(10.0 + WINDOW)
    assert not pairs.concern_host(10.1 + WINDOW)


class Several:
    """Namespaces, each with its address and the 4-tuples that its first poll reports; `gone` are of sockets that no table has."""

    def __init__(self, having: dict[int, tuple[bytes, list[FourTuple]]], gone: int = 0) -> None:
        self._having = having
        self._sides = {
            netns: Side(
                netns,
                observer(address, [Row(each, ESTABLISHED, 0, 9) for each in shown if netns != gone], True),
            )
            for netns, (address, shown) in having.items()
        }
        self.reported: list[str] = []
        self._polled: set[int] = set()
        host = Side(observer=observer(b"", [], True))
        self._pairs = Pairs(host, self._report, self._poll, lambda _: False)
        for netns, side in self._sides.items():
            self._pairs.assign(side, frozenset([having[netns][0]]))

    def poll(self) -> None:
        for side in self._sides.values():
            self._poll(side)

    def every(self) -> list[str]:
        """The ids of all that are shown."""
        return sorted(_id(netns, each) for netns, (_, shown) in self._having.items() for each in shown)

    def _report(self, event: object) -> None:
        assert isinstance(event, Connection)
        self.reported.append(event.id)

    def _poll(self, side: Side, _: float = 0.0) -> bool:
        if side.netns not in self._polled:
            self._polled.add(side.netns)
            for each in self._having[side.netns][1]:
                local, remote = endpoints(each)
                event = Connection(local, remote, EGRESS, "startup", _id(side.netns, each), ESTABLISHED)
                self._pairs.take(side, event._replace(netns=side.netns), 10.0)
        return True


def _id(netns: int, four_tuple: FourTuple) -> str:
    return f"{netns} {four_tuple.hex()}"


ONE, OTHER = b"\x0a\x4f\0\x01", b"\x0a\x4f\0\x02"
HERE, ELSEWHERE = four_tuple("10.79.0.1:8080", "10.79.0.2:34448"), four_tuple("10.79.0.2:5000", "10.79.0.1:6000")


def test_namespaces_with_the_same_addresses_and_ports_are_polled_while_the_other_end_of_one_is_looked_for() -> None:
    """Each end is reported, once: whose other end it is cannot be known."""
    several = Several(
        {1: (ONE, [HERE]), 2: (OTHER, [ELSEWHERE, mirrored(HERE)]), 3: (ONE, [HERE]), 4: (OTHER, [mirrored(HERE)])}
    )
    several.poll()
    assert sorted(several.reported) == several.every()


def test_where_two_ends_come_for_one_and_one_of_them_stands_each_is_reported() -> None:
    several = Several({1: (ONE, [HERE]), 2: (OTHER, [mirrored(HERE)]), 3: (OTHER, [mirrored(HERE)])}, gone=3)
    several.poll()
    assert sorted(several.reported) == several.every()
