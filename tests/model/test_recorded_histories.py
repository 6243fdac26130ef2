"""Histories that were once not reported right, each for another reason: the name says which."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcpnewconn.tracking.run import Notifications
from tests.model.histories import NAMES, parsed
from tests.model.judged import judge
from tests.model.play import Play, played
from tests.model.recorded import RECORDED

recorded = pytest.mark.parametrize("name", RECORDED)


@recorded
@pytest.mark.parametrize("notifications", Notifications, ids=lambda one: one.name.lower())
def test_every_connection_is_reported_exactly_once(name: str, notifications: Notifications, tmp_path: Path) -> None:
    history = parsed(RECORDED[name])
    judge(played(tmp_path, history, notifications))
    judge(played(tmp_path, history, notifications, small=1_000_000))


@recorded
def test_connections_whose_notifications_were_lost_are_counted(name: str, tmp_path: Path) -> None:
    judge(played(tmp_path, parsed(RECORDED[name]), Notifications.KEPT, room=1))


def test_the_state_file_is_rewritten_in_the_middle_of_histories(tmp_path: Path) -> None:
    plays = [played(tmp_path, parsed(text), Notifications.KEPT) for text in RECORDED.values()]
    assert sum(play.rewritten > 0 for play in plays) > len(plays) / 4


def performed(directory: Path, text: str, notifications: Notifications, room: int = 100) -> Play:
    play = Play(directory, notifications, room)
    play.perform(parsed(text))
    return play


@pytest.mark.parametrize("notifications", [Notifications.OWN, Notifications.KEPT], ids=lambda one: one.name.lower())
def test_an_older_dying_socket_is_not_taken_for_one_that_no_poll_showed(
    notifications: Notifications, tmp_path: Path
) -> None:
    """The cookie of the older one is unknown; its peer reset it more than a minute before the other was destroyed."""
    play = performed(
        tmp_path,
        """
poll
open r0
poll
    look-ups: fail
abort r0
poll
poll
wait 70 s
poll
poll
poll
poll
open r0
finish r0
deliver r0
receive
""",
        notifications,
    )
    assert [new.detected_by for new in play.reported] == ["poll", "notification"]


def test_one_that_its_program_keeps_open_is_not_taken_for_one_that_was_lost(tmp_path: Path) -> None:
    play = performed(
        tmp_path,
        """
poll
open r0
open r3
poll
abort r0
poll
poll
wait 50 s
finish r3
refused r1
deliver r1
deliver r3
poll
time wait expires r3
poll
poll
wait 1.1 s
wait 1.1 s
wait 1.1 s
wait 1.1 s
poll
""",
        Notifications.KEPT,
        room=1,
    )
    # A poll has shown it before: no connection was lost.
    assert (play.dropped, play.lost, play.tracker.cursor.pending) == (1, 0, 0)
    play.perform(parsed("let go r0\ndeliver r0\nreceive\n"))
    # It was the other one that was lost.
    assert play.tracker.cursor.pending == 0
    play.settle()
    assert (len(play.reported), play.lost) == (2, 0)


def test_one_whose_notification_was_lost_is_not_open_for_ever(tmp_path: Path) -> None:
    """It is absent from two polls, and between these another is closed that had its 4-tuple before."""
    play = performed(
        tmp_path,
        """
open r0
poll
finish r0
poll
    during: open r0
poll
    before look-up: finish r0
    left out: r0
deliver r0
deliver r0
poll
""",
        Notifications.KEPT,
        room=1,
    )
    assert (len(play.reported), play.dropped) == (2, 1)
    assert play.tracker.sockets.open == 0


@pytest.mark.parametrize("first", ["i0", "i0'"])
@pytest.mark.parametrize("restart", ["", "restart\n"])
def test_a_connection_of_which_a_poll_has_shown_one_end_was_open_since_then(
    first: str, restart: str, tmp_path: Path
) -> None:
    """The observer reports that it was closed with the end that opened it, shown or not."""
    play = performed(
        tmp_path,
        f"""
poll
open i0
poll
    left out: i0
    look-ups: fail
finish i0
deliver {first}
receive
{restart}deliver
receive
""",
        Notifications.KEPT,
    )
    assert {NAMES[closed.four_tuple] for closed in play.closed} == {"i0", "i0'"}
    for closed in play.closed:
        assert not closed.only_notified
        assert closed.opened
