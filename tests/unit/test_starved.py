"""Destroy notifications on a machine where each takes long.

The watchdog is notified, calls that were read are on record, and those that come meanwhile keep nothing waiting.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tcpnewconn.service import Service
from tcpnewconn.settings import config

WATCHDOG = 15.0


@dataclass
class Machine:
    """300 notifications wait, and each takes so many seconds, in which `coming` more come."""

    seconds: float
    waiting: int = 300
    coming: int = 0
    capacity: int = 300
    now: float = 1000.0
    ready: bool = True
    # What happened, and when.
    alive: list[float] = field(default_factory=list)
    longer: list[float] = field(default_factory=list)
    settled: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)
    polled: list[float] = field(default_factory=list)
    caught_up: list[float] = field(default_factory=list)

    def peek(self) -> object:
        return SimpleNamespace(cookie=self.waiting) if self.waiting else None

    def consume(self) -> None:
        self.waiting += self.coming - 1

    def queued(self) -> int:
        return self.waiting // 2

    def queued_at_most(self) -> int:
        return self.waiting * 2

    def destroyed(self, *_: object) -> None:
        self.now += self.seconds

    def service(self) -> Service:
        """Of a service that has just notified the watchdog."""
        nothing = lambda *_: None  # noqa: E731
        observer = SimpleNamespace(
            tracker=SimpleNamespace(
                cursor=SimpleNamespace(last=0, handled=nothing, lost=0, count=lambda *_: False),
                caught_up=self.caught_up.append,
            ),
            events=SimpleNamespace(),
            records=True,
            waiting=False,
            destroyed=self.destroyed,
            settle=lambda: self.settled.append(self.now),
            read_calls=lambda: self.read.append(self.now),
            poll=self.polled.append,
        )
        made = Service(
            settings=config.load("/dev/null"),
            observer=cast(Any, observer),
            outbox=cast(Any, SimpleNamespace(deliver=nothing, set=nothing, connections=0, interval_over=nothing)),
            observation=cast(Any, SimpleNamespace(observed=nothing)),
            log=None,
            notifications=cast(Any, self),
            notifier=cast(
                Any,
                SimpleNamespace(
                    watchdog=WATCHDOG,
                    alive=lambda: self.alive.append(self.now),
                    starting=lambda _: self.longer.append(self.now),
                ),
            ),
            reload=cast(Any, None),
        )
        if self.ready:
            made.watchdog.ready(0.0)
        made.watchdog.due = self.now + WATCHDOG
        return made


def longest(times: list[float], *, until: float) -> float:
    """The longest time between two of them."""
    return max(after - before for before, after in zip([1000.0, *times], [*times, until], strict=True))


def taken_on(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr("tcpnewconn.intake.time", SimpleNamespace(monotonic=lambda: machine.now))
    assert machine.service().intake.take(500) == 300
    return machine


def test_the_watchdog_is_notified_while_notifications_that_take_long_are_processed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = taken_on(Machine(0.2), monkeypatch)
    assert longest(machine.alive, until=machine.now) <= WATCHDOG + 0.2


def test_a_start_that_processes_a_backlog_has_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = taken_on(Machine(0.5, ready=False), monkeypatch)
    assert longest(machine.longer, until=machine.now) < 60.0
    assert machine.alive == []


def test_calls_are_on_record_soon_after_they_were_read(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = taken_on(Machine(0.2), monkeypatch)
    for read in machine.read:
        assert any(read < settled <= read + 1.0 for settled in machine.settled)


def test_where_that_is_soon_done_they_are_on_record_after_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = taken_on(Machine(0.00002), monkeypatch)
    assert len(machine.settled) == len(machine.read) + 1
    assert machine.alive == []


def test_a_poll_begins_when_what_waited_before_has_been_processed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came meanwhile is in the tables: it did not come after its row was read."""
    machine = Machine(0.2)
    clock = SimpleNamespace(monotonic=lambda: machine.now, perf_counter=lambda: machine.now, time=lambda: machine.now)
    monkeypatch.setattr("tcpnewconn.polls.time", clock)
    monkeypatch.setattr("tcpnewconn.intake.time", clock)
    machine.service().polls.poll(1000.0)
    assert machine.waiting == 0
    assert machine.polled == [machine.now]


def test_those_that_come_meanwhile_do_not_keep_a_poll_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a start: where they come as fast as they are processed, it would never be over."""
    machine = Machine(0.2, coming=1)
    clock = SimpleNamespace(monotonic=lambda: machine.now, perf_counter=lambda: machine.now, time=lambda: machine.now)
    monkeypatch.setattr("tcpnewconn.polls.time", clock)
    monkeypatch.setattr("tcpnewconn.intake.time", clock)
    machine.service().polls.poll(1000.0)
    assert 1000.0 + 300 * 0.2 <= machine.polled[0] <= 1000.0 + 2 * 300 * 0.2 + 1
    # What was there when it began has been processed.
    assert machine.caught_up == [1000.0]


def test_before_a_poll_it_is_seen_that_none_of_other_namespaces_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have ended are forgotten then, and what was in TIME_WAIT before a start is known as new."""
    looked: list[int] = []

    def take(most: int, *_: object) -> int:
        looked.append(most)
        return 0

    service = Machine(0.2).service()
    queue = SimpleNamespace(queued_at_most=0, redeliverable=False, take=take)
    others = cast(Any, SimpleNamespace(destroyed=queue, tick=lambda _: None))
    monkeypatch.setattr(service.intake, "_others", others)
    service.intake.take_waiting_of_others()
    assert looked == [1]
