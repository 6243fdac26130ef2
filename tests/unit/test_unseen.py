"""Connections of network namespaces in which no process was ever seen: each is logged once."""

from __future__ import annotations

from pathlib import Path

from tcpnewconn.attribution.calls import Calls
from tcpnewconn.eventtypes import Connection
from tcpnewconn.kernel.instance import TraceMissing
from tcpnewconn.model import CLOSE, ESTABLISHED, NOT_KNOWN, TIME_WAIT, Endpoint
from tcpnewconn.namespaces.unseen import Unseen
from tcpnewconn.observing.recorded import Elsewhere
from tcpnewconn.observing.recorder import Recorder, Trace
from tcpnewconn.state.log import StateLog
from tests.support.calls import IN, NETNS, OUT, accept, connect

HERE, THERE = Endpoint(bytes([10, 0, 0, 5]), 41906), Endpoint(bytes([192, 0, 2, 7]), 443)
ONE = NETNS + 1


def elsewhere() -> Elsewhere:
    def none() -> Trace:
        raise TraceMissing("none here")

    return Recorder(Calls(NETNS, 0.0), none, lambda cgroup, names: None, clock=lambda: 0.0).elsewhere


def connection(detected_by: str, source: Endpoint = HERE, destination: Endpoint = THERE) -> Connection:
    return Connection(source, destination, "egress", detected_by, "id", CLOSE)


def test_what_was_recorded_in_a_namespace_that_has_ended_is_handed_over_once() -> None:
    made = elsewhere()
    unseen = Unseen(made, 120.0)
    made.waiting.add(ONE, [connect(1000.0, 7, OUT, ONE), accept(1001.0, 8, IN, ONE)])
    assert list(unseen.over(1120.0)) == []
    [(key, recorded)] = unseen.over(1122.0)
    assert key.number == NOT_KNOWN
    assert [call.origin.thread_id for call in recorded.calls] == [7, 8]
    assert list(unseen.over(1200.0)) == []


def test_its_key_is_the_same_after_sigkill_and_another_s_is_another() -> None:
    keys = []
    for netns, time in ((ONE, 1000.0), (ONE, 1000.0), (ONE + 1, 1000.0), (ONE, 2000.0)):
        made = elsewhere()
        made.waiting.add(netns, [connect(time, 7, netns=netns)])
        [(key, _)] = Unseen(made, 120.0).over(5000.0)
        keys.append(key)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_what_was_notified_is_not_logged_again_from_the_trace() -> None:
    unseen = Unseen(elsewhere(), 120.0)
    assert not unseen.is_known(connection("notification"), 1000.0, True)
    # Whichever of both ends the notification was taken for.
    assert unseen.is_known(connection("trace", THERE, HERE), 1100.0, True)
    assert not unseen.is_known(connection("trace"), 1100.0, True)


def test_where_the_namespace_is_found_later_its_row_in_time_wait_is_not_logged_again() -> None:
    unseen = Unseen(elsewhere(), 120.0)
    row = connection("poll")._replace(state=TIME_WAIT)
    assert not unseen.is_known(row, 999.0, False)
    assert not unseen.is_known(connection("notification"), 1000.0, True)
    # One that is open now is another one.
    assert not unseen.is_known(row._replace(state=ESTABLISHED), 1001.0, False)
    assert unseen.is_known(row, 1001.0, False)
    assert not unseen.is_known(row, 1002.0, False)


def test_what_was_notified_outlives_a_restart_and_sigkill(tmp_path: Path) -> None:
    def opened() -> tuple[StateLog, Unseen]:
        log = StateLog(str(tmp_path / "state"), "place")
        unseen = Unseen(elsewhere(), 120.0, log)
        log.load()
        return log, unseen

    log, unseen = opened()
    log.save()
    unseen.is_known(connection("notification"), 1000.0, True)
    unseen.is_known(connection("notification", THERE, Endpoint(None, None)), 1000.0, True)
    unseen.is_known(connection("trace", THERE, Endpoint(None, None)), 1000.0, True)
    log.flush()
    log, unseen = opened()
    log.save()
    log, unseen = opened()
    assert unseen.is_known(connection("trace"), 1001.0, True)
    assert not unseen.is_known(connection("trace", THERE, Endpoint(None, None)), 1001.0, True)


def test_what_was_dropped_is_counted() -> None:
    made = elsewhere()
    unseen = Unseen(made, 120.0)
    made.dropped = 5
    assert list(unseen.over(1000.0)) == []
    assert (unseen.take(), unseen.take()) == (5, 0)
