"""Which of the namespaces that are known had a socket, before their ids are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcpnewconn.attribution.units import Units
from tcpnewconn.kernel.host import Host
from tcpnewconn.kernel.namespaces import Key
from tcpnewconn.model import four_tuple_of
from tcpnewconn.namespaces.known import Known
from tcpnewconn.namespaces.other import Other
from tcpnewconn.tracking.run import Notifications

SOCKET = four_tuple_of(bytes([10, 88, 0, 5]), 40_001, bytes([10, 88, 0, 6]), 80)


@pytest.fixture
def known(tmp_path: Path) -> Known:
    here = Host("0" * 32, "1", (32768, 60999), True, True)
    made = Known(here, str(tmp_path), lambda *_: None, lambda _: None, Units(str(tmp_path)), None, None)
    made.kind = Notifications.KEPT
    return made


def had_socket(known: Known, number: int, notified: bool) -> Other:
    """A namespace in which a poll has shown the socket."""
    other = known.begin(Key(number, 1), 1000.0)
    other.observer.tracker.run.notified = notified
    other.observer.tracker.expect(SOCKET, 1000.0)
    return other


def test_a_socket_is_of_the_namespace_without_a_process_that_had_it(known: Known) -> None:
    other = had_socket(known, 1, False)
    other.gone = 1000.0
    assert known.of_last_run(SOCKET) is other
    had_socket(known, 2, False).gone = 1000.0
    assert known.of_last_run(SOCKET) is None


def test_so_it_is_where_its_last_process_was_seen_but_ended_before_its_id_was_asked_for(known: Known) -> None:
    assert known.of_last_run(SOCKET) is None
    other = had_socket(known, 1, True)
    assert known.of_last_run(SOCKET) is other


def test_it_is_not_of_one_that_has_another_id_or_sends_no_notifications(known: Known) -> None:
    had_socket(known, 1, False)
    had_socket(known, 2, True).nsid = 7
    assert known.of_last_run(SOCKET) is None
