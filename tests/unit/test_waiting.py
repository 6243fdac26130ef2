"""Calls in network namespaces that nobody has found yet: they wait, and are on record meanwhile."""

from __future__ import annotations

from pathlib import Path

from tcpnewconn.attribution.waiting import Waiting
from tcpnewconn.state.log import StateLog
from tests.support.calls import IN, OUT, accept, connect, failed

ONE, OTHER = 251_532, 251_777


def test_what_waits_is_taken_once_in_the_order_it_came() -> None:
    waiting = Waiting(None, 10)
    waiting.add(ONE, [connect(1.0, 7), accept(2.0, 8)])
    waiting.add(ONE, [connect(3.0, 9)])
    waiting.add(OTHER, [connect(4.0, 1)])
    assert waiting.take(ONE).calls == [connect(1.0, 7), accept(2.0, 8), connect(3.0, 9)]
    assert ONE not in waiting
    assert waiting.take(ONE).calls == []
    assert OTHER in waiting


def test_an_attempt_that_failed_is_no_call_any_more_and_has_who_made_it() -> None:
    waiting = Waiting(None, 10)
    waiting.add(ONE, [connect(1.0, 7), connect(2.0, 8), accept(2.5, 9), failed(3.0)])
    strange = waiting.take(ONE)
    assert strange.calls == [connect(1.0, 7), accept(2.5, 9)]
    [(attempt, caller)] = strange.failed
    assert attempt == failed(3.0)
    assert caller is not None
    assert caller.thread_id == 8


def test_where_there_is_no_room_all_are_dropped_and_counted() -> None:
    waiting = Waiting(None, 3)
    assert waiting.add(ONE, [connect(1.0, 7), connect(2.0, 7)]) == 0
    assert waiting.add(OTHER, [connect(3.0, 7), connect(4.0, 7)]) == 4
    assert (ONE in waiting, OTHER in waiting) == (False, False)
    assert waiting.add(OTHER, [connect(5.0, 7)]) == 0


def test_a_namespace_is_over_when_nothing_was_recorded_there_for_long() -> None:
    waiting = Waiting(None, 10)
    waiting.add(ONE, [connect(1.0, 7)])
    waiting.add(OTHER, [connect(1.0, 7), failed(9.0)])
    assert waiting.over(5.0) == [ONE]
    assert waiting.over(10.0) == [ONE, OTHER]


def opened(path: Path) -> tuple[StateLog, Waiting]:
    log = StateLog(str(path), "place")
    waiting = Waiting(log, 100)
    log.load()
    return log, waiting


def test_it_outlives_a_restart_and_sigkill(tmp_path: Path) -> None:
    log, waiting = opened(tmp_path / "state")
    log.save()
    waiting.add(ONE, [connect(1.0, 7), connect(2.0, 8, IN), failed(3.0, IN)])
    waiting.add(OTHER, [connect(4.0, 9)])
    waiting.take(OTHER)
    log.flush()
    # As after SIGKILL: from the records that were appended; and from a snapshot.
    for save in (False, True):
        if save:
            log.save()
        log, waiting = opened(tmp_path / "state")
        assert OTHER not in waiting
        assert waiting.over(10.0) == [ONE]
        log.save()
    assert waiting.take(ONE).calls == [connect(1.0, 7, OUT)]


def test_the_calls_of_a_socket_are_taken_where_they_wait_in_one_namespace_alone(tmp_path: Path) -> None:
    log, waiting = opened(tmp_path / "state")
    log.save()
    waiting.add(ONE, [connect(1.0, 7), accept(2.0, 8)])
    waiting.add(OTHER, [accept(3.0, 9)])
    assert waiting.take_of(IN) == (0, [])
    assert waiting.take_of(OUT) == (ONE, [connect(1.0, 7)])
    assert waiting.take_of(OUT) == (0, [])
    log.flush()
    _, waiting = opened(tmp_path / "state")
    assert waiting.take(ONE).calls == [accept(2.0, 8)]
