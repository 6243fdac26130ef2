"""Connections that wait for their other end: until it comes, for a moment, over a restart."""

from __future__ import annotations

import json

import pytest

from tcpnewconn.eventtypes import Closed, Connection
from tcpnewconn.model import CLOSE, ESTABLISHED, Caller, Endpoint, FourTuple, four_tuple_of
from tcpnewconn.namespaces.held import Held
from tcpnewconn.state.owner import Owner

HERE, THERE = bytes([10, 88, 0, 1]), bytes([10, 88, 0, 5])
NETNS = 4026532000
CALLER = Caller("connect", 1000, 77, 4242, "curl", 12.5)


class Log:
    """Keeps the records."""

    resumed = True

    def __init__(self) -> None:
        self.lines: list[str] = []

    def register(self, kinds: str, owner: Owner, everywhere: bool = False) -> None:
        assert kinds == "j"

    def append(self, record: str) -> None:
        self.lines.append(record)


def connection(port: int, name: str = "", netns: int = 0) -> Connection:
    ends = Endpoint(HERE, port), Endpoint(THERE, 80)
    return Connection(
        *ends, "egress", "notification", name or f"id-{port}", CLOSE, 1000, 77, ("connect",), CALLER, None, None, netns
    )


def closed(event: Connection) -> Closed:
    return Closed(
        *(event.source, event.destination, event.direction, event.id, 5, 7, 120, 1, 0.25),
        *(event.uid, event.cgroup, event.by, event.caller, event.accepted, event.netns),
    )


def other_end(port: int) -> FourTuple:
    return four_tuple_of(THERE, 80, HERE, port)


def again(lines: list[str]) -> Held:
    """After a restart with these records."""
    held = Held(None)
    for line in lines:
        held.load(json.loads(line))
    return held


def test_the_other_end_takes_it_from_another_namespace_alone() -> None:
    held = Held(None)
    held.hold(connection(20_000), other_end(20_000), 10.0)
    assert list(held.of(other_end(20_000), netns=0)) == []
    assert list(held.of(other_end(20_001), NETNS)) == []
    assert list(held.of(other_end(20_000), NETNS)) == [connection(20_000)]
    assert held.take(connection(20_000)) is None
    assert list(held.of(other_end(20_000), NETNS)) == []
    assert not held


def test_of_several_on_the_same_ports_the_first_is_first() -> None:
    held = Held(None)
    for name in ("first", "second"):
        held.hold(connection(20_000, name), other_end(20_000), 10.0)
    assert [event.id for event in held.of(other_end(20_000), NETNS)] == ["first", "second"]
    held.take(connection(20_000, "first"))
    assert [event.id for event in held.of(other_end(20_000), NETNS)] == ["second"]


def test_it_waits_a_moment() -> None:
    held = Held(None)
    held.hold(connection(20_000), other_end(20_000), 10.0)
    held.hold(connection(20_001), other_end(20_001), 11.0)
    assert list(held.overdue(11.0, last=False)) == []
    assert list(held.overdue(12.0, last=False)) == [(connection(20_000), None)]
    assert list(held.overdue(12.0, last=True)) == [(connection(20_001), None)]


def test_no_more_wait_than_there_is_memory_for() -> None:
    held = Held(None)
    for port in range(10_003):
        held.hold(connection(port), other_end(port), 10.0)
    assert [event.source.port for event, _ in held.overdue(10.0, last=False)] == [0, 1, 2]


def test_its_closed_event_waits_with_it() -> None:
    held = Held(None)
    event = connection(20_000)
    assert not held.close(closed(event))
    held.hold(event, other_end(20_000), 10.0)
    assert held.close(closed(event))
    assert held.take(event) == closed(event)


def test_after_a_restart_those_that_have_not_been_taken_wait_again() -> None:
    log = Log()
    held = Held(log)
    for port in range(20_000, 20_003):
        held.hold(connection(port, netns=NETNS), other_end(port), 10.0)
    held.close(closed(connection(20_001, netns=NETNS)))
    held.take(connection(20_000, netns=NETNS))
    left = [
        (connection(20_001, netns=NETNS), closed(connection(20_001, netns=NETNS))),
        (connection(20_002, netns=NETNS), None),
    ]
    for lines in (log.lines, list(held.records())):
        restarted = again(lines)
        restarted.resume(100.0)
        assert list(restarted.overdue(100.0, last=False)) == []
        assert list(restarted.overdue(102.0, last=False)) == left
    assert list(again(log.lines).of(other_end(20_002), netns=0)) == [left[1][0]]


def test_one_that_is_open_does_not_wait_again() -> None:
    log = Log()
    held = Held(log)
    held.hold(connection(20_000)._replace(state=ESTABLISHED, detected_by="poll"), other_end(20_000), 10.0)
    held.hold(connection(20_001), other_end(20_001), 10.0)
    restarted = again(log.lines)
    restarted.resume(12.0)
    assert [event.source.port for event, _ in restarted.overdue(12.0, last=False)] == [20_000]
    # The clock was ahead before.
    restarted = again(log.lines)
    restarted.resume(5.0)
    assert list(restarted.overdue(6.0, last=False)) == []
    assert len(list(restarted.overdue(7.0, last=False))) == 2


def test_the_other_end_of_one_that_was_reported_alone_is_known_for_a_while_over_a_restart_too() -> None:
    log = Log()
    held = Held(log)
    for port in (20_000, 20_001):
        held.reported_alone(connection(port), other_end(port), 10.0)
    assert not held.take_reported(other_end(20_000), 0, 11.0)
    assert held.take_reported(other_end(20_000), NETNS, 11.0)
    assert not held.take_reported(other_end(20_000), NETNS, 11.0)
    for lines in (log.lines, list(held.records())):
        restarted = again(lines)
        restarted.resume(100.0)
        assert not restarted.take_reported(other_end(20_000), NETNS, 100.0)
        assert restarted.take_reported(other_end(20_001), NETNS, 200.0)
    restarted = again(log.lines)
    restarted.resume(100.0)
    assert not restarted.take_reported(other_end(20_001), NETNS, 221.0)


@pytest.mark.parametrize(("netns", "matters"), [(NETNS, True), (0, False)])
def test_the_host_can_have_the_other_end_of_one_that_was_reported_alone_elsewhere(netns: int, matters: bool) -> None:
    log = Log()
    held = Held(log)
    assert not held.concern_host(10.0)
    held.hold(connection(20_000, netns=netns), other_end(20_000), 10.0)
    assert held.concern_host(10.0)
    [(event, _)] = held.overdue(10.0, last=True)
    assert not held.concern_host(10.0)
    held.reported_alone(event, other_end(20_000), 10.0)
    assert held.concern_host(130.0) == matters
    assert not held.concern_host(130.1)
    restarted = again(log.lines)
    restarted.resume(200.0)
    assert restarted.concern_host(320.0) == matters
    assert not restarted.concern_host(320.1)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record[:2],
        lambda record: [*record[:2], "00" * 11, *record[3:]],
        lambda record: [*record[:6], "sideways", *record[7:]],
        lambda record: record[:-1],
        lambda record: [*record[:2], 1, 2, 3, 4, 5],
    ],
)
def test_a_record_that_makes_no_sense_is_refused(change: object) -> None:
    log = Log()
    Held(log).hold(connection(20_000), other_end(20_000), 10.0)
    assert callable(change)
    with pytest.raises((ValueError, LookupError, TypeError)):
        again([json.dumps(change(json.loads(log.lines[0])))])
    held = again(log.lines)
    with pytest.raises(ValueError, match="id-20000"):
        held.load(json.loads(log.lines[0]))
