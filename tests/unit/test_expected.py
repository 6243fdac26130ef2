"""Of a connection that another network namespace has reported, the socket here is expected."""

from __future__ import annotations

import pytest

from tcpnewconn.model import four_tuple_of
from tcpnewconn.tracking.run import Notifications
from tcpnewconn.tracking.tracker import Tracker
from tests.support.calls import IN, OUT

MOST = 65_536


@pytest.fixture
def tracker() -> Tracker:
    return Tracker(lambda _: None, lambda _: False, lambda *_: None, Notifications.OWN)


@pytest.mark.parametrize("seconds", [0.1, 9.0])
def test_a_notification_that_is_on_its_way_is_expected_for_some_seconds(tracker: Tracker, seconds: float) -> None:
    tracker.expect(IN, 1000.0, at_once=True)
    assert not tracker.take_expected(OUT, 1000.0 + seconds)
    assert tracker.take_expected(IN, 1000.0 + seconds)
    # Once.
    assert not tracker.take_expected(IN, 1000.0 + seconds)


@pytest.mark.parametrize(("at_once", "seconds"), [(True, 10.5), (False, 60.5)])
def test_not_for_ever(tracker: Tracker, at_once: bool, seconds: float) -> None:
    tracker.expect(IN, 1000.0, at_once)
    assert not tracker.take_expected(IN, 1000.0 + seconds)


def test_of_very_many_the_oldest_are_forgotten(tracker: Tracker) -> None:
    # A flood of which many notifications are lost takes no more memory than that.
    ends = [four_tuple_of(b"\x7f\0\0\1", number >> 8, b"\x7f\0\0\2", 1 + (number & 255)) for number in range(MOST + 10)]
    for end in ends:
        tracker.expect(end, 1000.0)
    tracker.tick(1000.5)
    assert [tracker.take_expected(end, 1001.0) for end in ends] == [False] * 10 + [True] * MOST
