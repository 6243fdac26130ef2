"""Connections of network namespaces in which no process was ever seen: each is logged once."""

from __future__ import annotations

from tcpnewconn.attribution.calls import Calls
from tcpnewconn.kernel.instance import TraceMissing
from tcpnewconn.model import CLOSE, NOT_KNOWN, Connection, Endpoint
from tcpnewconn.recorder import Recorder, Trace
from tcpnewconn.unseen import Unseen
from tests.support.calls import IN, NETNS, OUT, accept, connect

HERE, THERE = Endpoint(bytes([10, 0, 0, 5]), 41906), Endpoint(bytes([192, 0, 2, 7]), 443)
ONE = NETNS + 1


def recorder() -> Recorder:
    def none() -> Trace:
        raise TraceMissing("none here")

    return Recorder(Calls(NETNS, 0.0), none, lambda cgroup, names: None, clock=lambda: 0.0)


def connection(detected_by: str, source: Endpoint = HERE, destination: Endpoint = THERE) -> Connection:
    return Connection(source, destination, "egress", detected_by, "id", CLOSE)


def test_what_was_recorded_in_a_namespace_that_has_ended_is_handed_over_once() -> None:
    made = recorder()
    unseen = Unseen(made, 120.0)
    made.waiting.add(ONE, [connect(1000.0, 7, OUT, ONE), accept(1001.0, 8, IN, ONE)])
    assert list(unseen.over(1120.0)) == []
    [(key, recorded)] = unseen.over(1122.0)
    assert key.number == NOT_KNOWN
    assert [call.thread_id for call in recorded.calls] == [7, 8]
    assert list(unseen.over(1200.0)) == []


def test_its_key_is_the_same_after_sigkill_and_another_s_is_another() -> None:
    keys = []
    for netns, time in ((ONE, 1000.0), (ONE, 1000.0), (ONE + 1, 1000.0), (ONE, 2000.0)):
        made = recorder()
        made.waiting.add(netns, [connect(time, 7, netns=netns)])
        [(key, _)] = Unseen(made, 120.0).over(5000.0)
        keys.append(key)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_what_was_notified_is_not_logged_again_from_the_trace() -> None:
    unseen = Unseen(recorder(), 120.0)
    assert not unseen.is_known(connection("notification"), 1000.0)
    # Whichever of both ends the notification was taken for.
    assert unseen.is_known(connection("trace", THERE, HERE), 1100.0)
    assert not unseen.is_known(connection("trace"), 1100.0)


def test_what_was_dropped_for_want_of_room_is_counted() -> None:
    made = recorder()
    unseen = Unseen(made, 120.0)
    made.dropped = 5
    assert list(unseen.over(1000.0)) == []
    assert (unseen.take(), unseen.take()) == (5, 0)
