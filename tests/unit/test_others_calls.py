"""Who opened the connections of another namespace, where its tables are read later than the interval began."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from tcpnewconn.attribution.calls import Calls
from tcpnewconn.eventtypes import Connection
from tcpnewconn.model import Call, FailedAttempt
from tcpnewconn.observing.recorder import Recorder
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
