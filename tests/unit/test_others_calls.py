"""Who opened the connections of another namespace, where its tables are read later than the interval began."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from tcpnewconn.attribution.calls import Calls
from tcpnewconn.eventtypes import Connection, Event, Loss, Reason
from tcpnewconn.kernel.instance import Position
from tcpnewconn.model import Call, FailedAttempt
from tcpnewconn.observing.recorder import Recorder
from tcpnewconn.state.log import StateLog
from tests.support.calls import NETNS, connect, four_tuple
from tests.unit.test_budget import Machine

# It is in the captured table.
SHOWN = four_tuple("127.0.0.1:40003", "127.0.0.1:5432")


class Rings:
    malformed = overwritten = 0
    lost_until = float("-inf")


class Trace:
    rings = Rings()
    descriptors: Sequence[int] = ()
    events = frozenset({"connect", "accept", "failed"})
    position = Position(1, 0)

    def __init__(self) -> None:
        self.recorded: list[Call | FailedAttempt] = []

    def read(self) -> list[Call | FailedAttempt]:
        recorded, self.recorded = self.recorded, []
        return recorded

    def stale(self) -> bool:
        return False


def test_a_connection_that_came_after_the_interval_began_and_before_the_tables_were_read(tmp_path: Path) -> None:
    trace = Trace()
    recorder = Recorder(Calls(1, 0.0), lambda: trace, lambda cgroup, names: None)
    machine = Machine(tmp_path, 1, elsewhere=recorder.elsewhere)
    interval_began = time.monotonic()
    # What was recorded before then was lost: maybe that of a connection that stood there.
    recorder.calls.lost(interval_began)
    machine.others.look(interval_began)
    trace.recorded.append(connect(time.monotonic(), 7, SHOWN, NETNS))
    machine.others.poll()
    [shown] = [event for event in machine.events if isinstance(event, Connection) and event.source.port == 40003]
    assert shown.caller is not None
    assert shown.caller.thread_name == "thread-7"


class Killed:
    """A program that was killed: what is on record, and a trace that was read so far."""

    def __init__(self, tmp_path: Path) -> None:
        self.path, self.trace, self.events = str(tmp_path / "state"), Trace(), list[Event]()

    def run(self, position: Position, included: bool = True) -> tuple[Recorder, StateLog]:
        self.trace.position = position
        log = StateLog(self.path, "here")
        recorder = Recorder(Calls(1, 0.0, log), lambda: self.trace, lambda cgroup, names: None, log=log)
        log.load()
        if log.resumed:
            recorder.calls.resume()
            recorder.resume()
        recorder.elsewhere.take(included)
        log.save()
        return recorder, log

    def losses(self, recorder: Recorder) -> list[tuple[int, Reason]]:
        recorder.report_losses(time.monotonic(), False, self.events.append)
        losses = [(event.count, event.reason) for event in self.events if isinstance(event, Loss)]
        self.events.clear()
        return losses


def test_records_that_were_read_and_not_on_record_when_the_service_was_killed_are_counted(tmp_path: Path) -> None:
    program = Killed(tmp_path)
    recorder, log = program.run(Position(1, 100))
    assert program.losses(recorder) == []
    recorder.settle()
    log.flush()
    # It reads 7 more, and is killed.
    recorder, log = program.run(Position(1, 107))
    # And again, before it has reported them.
    recorder.settle()
    log.flush()
    recorder, log = program.run(Position(1, 109))
    assert program.losses(recorder) == [(9, "namespaces")]
    assert program.losses(recorder) == []
    recorder.settle()
    log.flush()
    recorder, log = program.run(Position(1, 109))
    assert program.losses(recorder) == []


def test_of_another_instance_or_on_the_host_alone_no_record_is_missing(tmp_path: Path) -> None:
    program = Killed(tmp_path)
    recorder, log = program.run(Position(1, 100))
    recorder.settle()
    log.flush()
    recorder, log = program.run(Position(1, 107), included=False)
    assert program.losses(recorder) == []
    recorder.settle()
    log.flush()
    # The oneshot has defined the events again, and tried them.
    recorder, log = program.run(Position(2, 120))
    assert program.losses(recorder) == []


def test_what_was_read_while_the_host_alone_was_observed_is_not_missing_when_that_changes(tmp_path: Path) -> None:
    program = Killed(tmp_path)
    recorder, log = program.run(Position(1, 100))
    recorder.settle()
    log.flush()
    # It was killed, and Include=host is set now; then, by a reload, Include=all again.
    recorder, log = program.run(Position(1, 107), included=False)
    recorder.settle()
    recorder.elsewhere.take(True)
    assert program.losses(recorder) == []
    recorder.elsewhere.take(False)
    recorder.settle()
    log.flush()
    # Killed while the host alone was observed.
    recorder, log = program.run(Position(1, 150))
    assert program.losses(recorder) == []
