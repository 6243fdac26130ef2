"""Which connect() or accept() made a connection: from recorded calls, by their order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcpnewconn.attribution import callers
from tcpnewconn.attribution import left as over
from tcpnewconn.attribution.calls import Calls
from tcpnewconn.attribution.found import NOT_RECORDED, Found
from tcpnewconn.model import Call, Caller, FailedAttempt, FourTuple
from tcpnewconn.state.log import StateLog
from tests.support.calls import ACCEPTOR, IN, NETNS, OPENER, OUT, accept, connect, failed, four_tuple


def known(*recorded: Call | FailedAttempt, most: int = 100) -> Calls:
    """Of a run that began long ago, and has polled at 990 s."""
    calls = Calls(NETNS, 0.0, most=most)
    calls.polled(980.0)
    calls.polled(990.0)
    calls.add(recorded)
    return calls


def who(caller: Caller | None) -> int | None:
    """The thread; 0 where the caller is known and the thread is not."""
    return None if caller is None else caller.thread_id or 0


def threads(found: Found) -> tuple[int | None, int | None]:
    return who(found.opened), who(found.accepted)


# --- a socket that was destroyed, and that no poll has shown ---------------------------------------------------------


def test_a_short_connection_is_its_caller_s() -> None:
    calls = known(connect(1000.0, 7), accept(1000.1, 8))
    found = callers.destroyed(calls, OUT, False, 1001.0, 0.0)
    assert found == Found(Caller("connect", 1007, 107, 7, "thread-7", 1000.0), None, False)
    found = callers.destroyed(calls, IN, False, 1001.0, 0.0)
    assert found == Found(None, Caller("accept", 1008, 108, 8, "thread-8", 1000.1), True)
    assert len(calls) == 0


def test_a_call_is_taken_once() -> None:
    calls = known(connect(1000.0, 7))
    callers.destroyed(calls, OUT, False, 1001.0, 0.0)
    assert callers.destroyed(calls, OUT, False, 1001.0, 0.0) == Found(missing="not-recorded")


def test_a_call_in_another_network_namespace_is_another_connection_s() -> None:
    calls = known(connect(1000.0, 7, netns=430_414))
    assert callers.destroyed(calls, OUT, False, 1001.0, 0.0).missing == "not-recorded"


def test_ports_that_are_used_again_one_after_the_other_are_distinguished_by_order() -> None:
    calls = known()
    for second in range(1000, 1010):
        calls.add([connect(second, second)])
        assert threads(callers.destroyed(calls, OUT, False, second + 0.5, 0.0)) == (second, None)


def test_where_two_calls_can_be_meant_nothing_is_said_but_what_they_share() -> None:
    # Notifications of both wait, and are not strictly in order.
    same = connect(1000.2, 7)
    same = same._replace(origin=same.origin._replace(thread_id=9, thread_name="thread-9"))
    for second, uid, cgroup in ((connect(1000.2, 9), None, 0), (same, 1007, 107)):
        calls = known(connect(1000.0, 7), second)
        for _ in range(2):
            found = callers.destroyed(calls, OUT, False, 1001.0, 0.0)
            assert (found.missing, found.accepted_here) == ("ambiguous", False)
            assert found.opened == Caller("connect", uid, cgroup)
        # Each was one of them: both are taken.
        assert len(calls) == 0


def test_a_socket_that_was_reset_long_ago_is_not_that_of_a_later_call() -> None:
    # Its program kept it open for a minute; meanwhile its port was used again.
    calls = known(connect(995.0, 7), connect(1050.0, 8))
    assert threads(callers.destroyed(calls, OUT, False, 1060.0, idle=62.0)) == (7, None)
    assert threads(callers.destroyed(calls, OUT, False, 1060.0, idle=0.0)) == (8, None)


def test_a_late_tick_of_the_kernel_does_not_make_a_call_later_than_its_connection() -> None:
    # Acknowledged at 1000.01, while the kernel's ticks stood at 999.8: idle for 0.2 s more than it was.
    calls = known(connect(1000.0, 7))
    assert threads(callers.destroyed(calls, OUT, False, 1000.03, idle=0.23)) == (7, None)
    calls = known(connect(1000.0, 7, OPENER), accept(1000.01, 8, ACCEPTOR))
    assert threads(callers.destroyed(calls, OPENER, True, 1000.03, idle=0.23)) == (7, 8)
    # One that can be the next connection's is not taken for it either.
    calls = known(connect(999.5, 7), connect(1000.0, 8))
    assert callers.destroyed(calls, OUT, False, 1000.03, idle=0.23).missing == "ambiguous"


def test_a_notification_that_comes_seconds_late_has_its_call_among_many_others() -> None:
    calls = known(connect(1000.0, 7), most=1000)
    calls.add(
        [
            connect(1000.0 + number / 1000, 8, four_tuple(f"10.0.0.5:{number}", "192.0.2.7:80"))
            for number in range(1, 900)
        ]
    )
    assert threads(callers.destroyed(calls, OUT, False, 1003.5, idle=3.5)) == (7, None)
    # The kernel's work queue was late, not the reader: it says how long the socket was idle when the work was done.
    calls = known(connect(1000.0, 7))
    assert threads(callers.destroyed(calls, OUT, False, 1003.5, idle=0.0)) == (7, None)


def test_after_a_loss_they_are_whole_again_when_a_poll_has_shown_what_was_open() -> None:
    calls = known(connect(1000.0, 7))
    assert calls.are_whole(1000.1)
    calls.lost(1000.2)
    assert not calls.are_whole(1010.0)
    calls.polled(1010.0)
    assert not calls.are_whole(1010.1)
    assert calls.are_whole(1013.0)


def test_a_connect_that_failed_is_no_connection_s() -> None:
    calls = known(connect(1000.0, 7))
    assert calls.add([failed(1000.1)]) == [(failed(1000.1), Caller("connect", 1007, 107, 7, "thread-7", 1000.0))]
    calls.add([connect(1000.2, 8)])
    assert threads(callers.destroyed(calls, OUT, False, 1001.0, 0.0)) == (8, None)


def test_of_several_attempts_the_last_before_its_failure_has_failed() -> None:
    calls = known(connect(1000.0, 7), connect(1000.2, 8), failed(1000.3), connect(1000.4, 9))
    assert [who(caller) for _, caller in calls.add([failed(1000.5)])] == [9]
    assert threads(callers.destroyed(calls, OUT, False, 1001.0, 0.0)) == (7, None)


def test_an_attempt_that_had_no_port_yet_has_failed_without_a_caller() -> None:
    attempt = failed(1000.0, four_tuple("0.0.0.0:0", "192.0.2.7:443"))
    assert known().add([attempt]) == [(attempt, None)]


def test_after_calls_were_lost_nothing_is_said_until_a_poll_has_shown_what_is_open() -> None:
    calls = known(connect(1000.0, 7))
    calls.lost(1000.2)
    assert callers.destroyed(calls, OUT, False, 1000.5, 0.0) == Found(missing="overwritten")
    # One that can have been opened before, and whose notification is late.
    calls.add([connect(1000.6, 8)])
    calls.polled(1010.0)
    assert callers.destroyed(calls, OUT, False, 1011.0, 0.0) == Found(missing="overwritten")
    calls.add([connect(1013.0, 5)])
    assert threads(callers.destroyed(calls, OUT, False, 1014.0, 0.0)) == (5, None)


def test_a_poll_that_began_before_the_loss_ended_shows_not_all_that_was_open_then() -> None:
    calls = known()
    calls.lost(1010.1)
    calls.polled(1010.0)
    calls.add([connect(1013.0, 5)])
    assert callers.destroyed(calls, OUT, False, 1014.0, 0.0) == Found(missing="overwritten")
    assert calls.wants_poll
    calls.polled(1020.0)
    assert not calls.wants_poll
    calls.add([connect(1023.0, 5)])
    assert threads(callers.destroyed(calls, OUT, False, 1024.0, 0.0)) == (5, None)


def test_while_calls_are_lost_nothing_is_said_whatever_polls_show() -> None:
    calls = known()
    calls.lost(float("inf"))
    for begin in (1000.0, 1010.0, 1020.0):
        calls.polled(begin)
    calls.add([connect(1023.0, 5)])
    assert shown(calls, OUT) == Found(missing="overwritten")
    assert callers.destroyed(calls, OUT, False, 1024.0, 0.0) == Found(missing="overwritten")
    assert calls.losing
    assert not calls.wants_poll
    calls.lost(1025.0)
    assert not calls.losing
    assert calls.wants_poll


def test_a_failed_attempt_has_its_caller_where_that_is_newer_than_all_that_was_lost() -> None:
    calls = known(connect(1000.0, 7))
    calls.lost(1000.2)
    assert [caller for _, caller in calls.add([failed(1000.5)])] == [None]
    assert [who(caller) for _, caller in calls.add([connect(1000.6, 8), failed(1000.7)])] == [8]


def test_what_was_destroyed_before_the_start_is_not_a_later_call_s() -> None:
    calls = Calls(NETNS, 1000.0)
    calls.add([connect(1000.1, 7)])
    assert callers.destroyed(calls, OUT, False, 1000.2, 0.0) == Found(missing="not-recorded")


# --- within this host ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [OPENER, ACCEPTOR], ids=["opener", "acceptor"])
def test_within_this_host_both_sides_are_known_whichever_socket_goes_first(first: FourTuple) -> None:
    calls = known(connect(1000.0, 7, OPENER), accept(1000.1, 8, ACCEPTOR))
    found = callers.destroyed(calls, first, True, 1001.0, 0.0)
    assert threads(found) == (7, 8)
    assert found.accepted_here is (first == ACCEPTOR)
    assert len(calls) == 0


def test_who_accepts_late_has_not_accepted_the_next_connection() -> None:
    calls = known(connect(1000.0, 7, OPENER))
    # The client has gone when the server calls accept().
    assert threads(callers.destroyed(calls, OPENER, True, 1000.1, 0.0)) == (7, None)
    calls.add([connect(1000.2, 9, OPENER), accept(1000.3, 8, ACCEPTOR)])
    assert threads(callers.destroyed(calls, OPENER, True, 1000.4, 0.0)) == (9, None)


def test_who_accepted_before_has_not_accepted_what_was_opened_after() -> None:
    calls = known(accept(1000.0, 8, ACCEPTOR), connect(1000.1, 7, OPENER))
    assert threads(callers.destroyed(calls, OPENER, True, 1001.0, 0.0)) == (7, None)


def test_a_socket_that_is_connected_to_itself_was_opened_and_not_accepted() -> None:
    itself = four_tuple("127.0.0.1:50000", "127.0.0.1:50000")
    calls = known(connect(1000.0, 7, itself))
    found = callers.destroyed(calls, itself, True, 1001.0, 0.0)
    assert (threads(found), found.accepted_here) == ((7, None), False)


# --- a socket without addresses --------------------------------------------------------------------------------------

CLEARED = four_tuple("0.0.0.0:41906", "192.0.2.7:0")


def test_a_cleared_socket_has_the_addresses_of_its_call() -> None:
    calls = known(connect(1000.0, 7), connect(1000.0, 8, IN))
    found = callers.unaddressed(calls, CLEARED, 1001.0, 0.0)
    assert (threads(found), found.four_tuple, found.accepted_here) == ((7, None), OUT, False)


def test_where_it_can_be_that_of_two_connections_it_stays_without() -> None:
    other = four_tuple("10.0.0.6:41906", "192.0.2.7:80")
    calls = known(connect(1000.0, 7), connect(1000.0, 8, other))
    assert callers.unaddressed(calls, CLEARED, 1001.0, 0.0) == Found(missing="ambiguous")
    assert threads(callers.destroyed(calls, other, False, 1001.0, 0.0)) == (8, None)


def test_a_cleared_socket_takes_no_accept_because_it_can_be_one_that_nobody_accepted() -> None:
    calls = known(accept(1000.0, 8))
    assert callers.unaddressed(calls, four_tuple("0.0.0.0:22", "203.0.113.9:0"), 1001.0, 0.0) == Found(
        missing="ambiguous"
    )
    assert threads(callers.destroyed(calls, IN, False, 1001.1, 0.0)) == (None, 8)


def test_among_very_many_calls_it_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "_MOST_SEARCHED", 1)
    calls = known(connect(1000.0, 7), connect(1000.0, 8, IN))
    assert callers.unaddressed(calls, CLEARED, 1001.0, 0.0) == Found(missing="ambiguous")


# --- a socket that a poll shows --------------------------------------------------------------------------------------


def shown(calls: Calls, at: FourTuple, internal: bool = False, accepted: bool = True) -> Found:
    return callers.shown(calls, at, internal, 1010.0, 1010.2, accepted, 1010.3)


def test_of_an_open_connection_the_last_call_before_the_poll_is_its_own() -> None:
    # That of the first is notified later.
    calls = known(connect(1000.0, 7), connect(1005.0, 8))
    assert threads(shown(calls, OUT)) == (8, None)
    assert threads(callers.destroyed(calls, OUT, False, 1011.0, 0.0)) == (7, None)


def test_a_call_while_the_table_was_read_may_have_come_after_the_row() -> None:
    calls = known(connect(1000.0, 7), connect(1010.1, 8))
    found = shown(calls, OUT)
    assert (found.opened, found.missing) == (Caller("connect"), "ambiguous")


def test_a_call_after_the_table_was_read_is_a_later_connection_s() -> None:
    calls = known(connect(1000.0, 7), connect(1010.25, 8))
    assert threads(shown(calls, OUT)) == (7, None)


def test_what_waits_to_be_accepted_has_no_acceptor_and_later_gets_none() -> None:
    calls = known(accept(1000.0, 8))
    assert shown(calls, IN, accepted=False).accepted is None
    # It is accepted now; the next on its ports is another's.
    calls.add([accept(1010.5, 9)])
    calls.closed(IN)
    calls.add([accept(1012.0, 5)])
    found = callers.destroyed(calls, IN, False, 1013.0, 0.0)
    assert (found.missing, found.accepted) == ("ambiguous", Caller("accept"))


def test_an_open_connection_within_this_host_has_both_sides() -> None:
    calls = known(connect(1000.0, 7, OPENER), accept(1000.1, 8, ACCEPTOR))
    assert threads(shown(calls, ACCEPTOR, internal=True)) == (7, 8)


def test_calls_before_the_start_are_those_of_what_is_open_at_the_start() -> None:
    calls = Calls(NETNS, 1010.0)
    calls.add([connect(1000.0, 7)])
    assert threads(shown(calls, OUT)) == (7, None)


def test_while_the_first_table_is_read_another_can_have_stood_there() -> None:
    calls = Calls(NETNS, 1010.0)
    calls.add([connect(1010.1, 7)])
    assert shown(calls, OUT) == Found(missing="ambiguous")


@pytest.mark.parametrize(
    ("lost", "recorded", "known_thread"),
    [
        # Nothing later was lost: the last one before the poll.
        (1000.0, (connect(1000.1, 7),), 7),
        (1000.0, (connect(999.0, 6), connect(1000.1, 7)), 7),
        # A later one can have been lost.
        (1000.2, (connect(1000.1, 7),), None),
        # It came after the poll began: another that was lost can have stood there.
        (1000.0, (connect(1010.1, 7),), None),
        # Either of both, and none that was lost.
        (1000.0, (connect(1000.1, 7), connect(1010.1, 7)), 7),
        # The poll before has shown all that was open at the loss.
        (989.0, (connect(1010.1, 7),), 7),
        (989.0, (connect(988.0, 7),), None),
    ],
)
def test_after_a_loss_an_open_connection_has_a_caller_that_no_lost_call_can_have_followed(
    lost: float, recorded: tuple[Call, ...], known_thread: int | None
) -> None:
    calls = known()
    calls.lost(lost)
    calls.add(recorded)
    assert threads(shown(calls, OUT)) == (known_thread, None)


def test_after_a_loss_within_this_host_a_later_opener_is_not_taken_for_the_one_that_was_lost() -> None:
    calls = known()
    calls.lost(1000.0)
    # The opener's connect() was lost. After the row was read another one had the same ports.
    calls.add([accept(1000.1, 8, ACCEPTOR), connect(1010.1, 9, OPENER)])
    assert threads(shown(calls, ACCEPTOR, internal=True)) == (None, 8)


@pytest.mark.parametrize(
    ("shows_both", "later", "opener"),
    [
        (True, [], 9),
        (False, [], None),
        # It may have come before the row of the other end was read.
        (True, [connect(1010.1, 7, OPENER)], None),
    ],
)
def test_after_a_loss_the_opener_is_known_where_the_poll_shows_its_socket_too(
    shows_both: bool, later: list[Call], opener: int | None
) -> None:
    calls = known()
    calls.lost(1000.0)
    calls.add([connect(1000.1, 9, OPENER), *later])
    found = callers.shown(calls, ACCEPTOR, True, 1010.0, 1010.2, True, 1010.2, lambda one: shows_both and one == OPENER)
    assert (found.opened.thread_id if found.opened is not None else None) == opener


def test_after_a_loss_the_call_of_a_connection_that_was_reported_is_none_of_the_next_one() -> None:
    calls = known()
    calls.lost(1000.0)
    calls.add([connect(1000.1, 9, OPENER)])
    assert callers.shown(calls, ACCEPTOR, True, 1010.0, 1010.2, True, 1010.2, lambda _: True).opened is not None
    calls.add([accept(1010.3, 8, ACCEPTOR)])
    assert len(calls) == 0


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_a_call_that_two_polls_and_the_longest_connect_have_not_used_is_forgotten() -> None:
    calls = known(connect(1000.0, 7))
    for begin in (1010.0, 1149.0, 1151.0):
        calls.polled(begin)
        assert len(calls) == (1 if begin < 1150.0 else 0)


def test_with_a_long_interval_it_is_kept_for_two_polls() -> None:
    calls = known(connect(1000.0, 7))
    calls.polled(4600.0)
    assert len(calls) == 1
    calls.polled(8200.0)
    assert len(calls) == 1
    calls.polled(11800.0)
    assert len(calls) == 0


def test_of_too_many_the_oldest_half_goes_and_is_not_guessed() -> None:
    tuples = [four_tuple(f"10.0.0.5:{port}", "192.0.2.7:443") for port in range(10_000, 10_101)]
    calls = known(*(connect(1000.0 + index, index, at) for index, at in enumerate(tuples)), most=100)
    assert len(calls) == 51
    assert [call.time for call in calls] == [1000.0 + index for index in range(50, 101)]
    assert callers.destroyed(calls, tuples[-1], False, 1200.0, 0.0).missing == "overwritten"


# --- what outlives a restart -----------------------------------------------------------------------------------------


def test_a_socket_that_was_idle_since_before_a_connect_was_not_made_by_it() -> None:
    calls = known(connect(1000.0, 7))
    assert callers.destroyed(calls, OUT, False, 1000.5, idle=5.0) == NOT_RECORDED
    assert threads(callers.destroyed(calls, OUT, False, 1000.6, idle=0.1)) == (7, None)


def test_an_accept_can_come_later_than_all_that_the_peer_acknowledged_but_not_where_a_poll_would_have_shown_it() -> (
    None
):
    calls = known(accept(1000.0, 7))
    calls.polled(990.0)
    # It was there at the poll, which has not shown it: it had been reset before.
    assert callers.destroyed(calls, IN, False, 1000.5, idle=20.0) == NOT_RECORDED
    assert threads(callers.destroyed(calls, IN, False, 1000.6, idle=5.0)) == (None, 7)


def test_one_accepted_before_the_last_two_polls_would_have_been_in_them() -> None:
    calls = known(accept(1000.0, 7))
    calls.polled(1010.0)
    calls.polled(1020.0)
    found = callers.destroyed(calls, IN, False, 1020.5, idle=0.0)
    assert (found.accepted, found.missing) == (None, "ambiguous")


def restarted(path: Path, *recorded: Call | FailedAttempt) -> Calls:
    """A run that has taken these, and one that continues it."""
    for run in range(2):
        log = StateLog(str(path), "here", small=0)
        calls = Calls(NETNS, 1000.0 + run, log)
        assert log.load() is None
        if log.resumed:
            calls.resume()
        log.save()
        if not run:
            calls.add(recorded)
            calls.settle()
            log.flush()
        log.close()
    return calls


def test_after_a_restart_calls_are_those_of_connections_that_close_then(tmp_path: Path) -> None:
    calls = restarted(tmp_path / "state", connect(999.0, 7), connect(999.1, 8), accept(999.2, 9))
    assert len(calls) == 3
    found = callers.destroyed(calls, OUT, False, 1001.1, 0.0)
    assert (found.missing, found.opened) == ("ambiguous", Caller("connect"))
    assert callers.destroyed(calls, IN, False, 1001.1, 0.0) == Found(
        None, Caller("accept", 1009, 109, 9, "thread-9", 999.2), True
    )


def test_what_was_taken_before_a_restart_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "state"
    log = StateLog(str(path), "here")
    calls = Calls(NETNS, 0.0, log)
    log.save()
    calls.polled(990.0)
    calls.add([connect(1000.0, 7), accept(1000.0, 8)])
    calls.settle()
    callers.destroyed(calls, OUT, False, 1001.0, 0.0)
    callers.shown(calls, ACCEPTOR, False, 1010.0, 1010.1, False, 1010.2)
    calls.settle()
    log.flush()
    log.close()
    log = StateLog(str(path), "here")
    again = Calls(NETNS, 1020.0, log)
    assert log.load() is None
    assert [call.origin.thread_id for call in again] == [8]
    # It was reported before it was accepted: that is another connection's.
    again.add([accept(1021.0, 5, ACCEPTOR)])
    assert len(again) == 1


def test_what_a_batch_has_taken_is_never_written(tmp_path: Path) -> None:
    log = StateLog(str(tmp_path / "state"), "here")
    calls = Calls(NETNS, 0.0, log)
    log.save()
    size = (tmp_path / "state").stat().st_size
    calls.polled(990.0)
    calls.add([connect(1000.0, 7)])
    callers.destroyed(calls, OUT, False, 1001.0, 0.0)
    calls.settle()
    log.flush()
    assert (tmp_path / "state").stat().st_size == size


def test_that_calls_were_lost_outlives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for lost in (True, False):
        log = StateLog(str(path), "here", small=0)
        calls = Calls(NETNS, 0.0, log)
        log.load()
        log.save()
        if lost:
            calls.lost(1000.5)
        assert callers.destroyed(calls, OUT, False, 1001.0, 0.0).missing == "overwritten"
        log.flush()
        log.close()


@pytest.mark.parametrize(
    "record",
    [
        ["r"],
        ["r", "00"],
        ["r", 1.0],
        ["r", [], None],
        ["r", OUT.hex(), None, 0, [["connect"]]],
        ["r", OUT.hex(), None, 0, [["bind", 1, 1, 1, [], 1, 1, ""]]],
    ],
)
def test_a_record_that_makes_no_sense_is_refused(record: list[object]) -> None:
    with pytest.raises((ValueError, LookupError, TypeError)):
        Calls(NETNS, 0.0).load(record)


# --- where there are no destroy notifications: what is left is a connection of its own --------------------------------


def without_notifications(*recorded: Call | FailedAttempt) -> Calls:
    calls = Calls(NETNS, 0.0, notified=False)
    calls.add(recorded)
    return calls


def is_internal(four_tuple: FourTuple) -> bool:
    return four_tuple in (OPENER, ACCEPTOR)


def left(
    calls: Calls, *standing: FourTuple, last: bool = False
) -> list[tuple[FourTuple, tuple[int | None, int | None], bool | None]]:
    found = over.left(calls, lambda four_tuple: four_tuple in standing, is_internal, last)
    return [(four_tuple, threads(one), one.accepted_here) for four_tuple, one in found]


def test_of_one_before_on_its_addresses_the_calls_are_left() -> None:
    before = connect(1005.0, 7, OPENER), accept(1006.0, 8, ACCEPTOR)
    calls = without_notifications(*before, connect(1009.0, 7, OPENER))
    callers.shown(calls, ACCEPTOR, True, 1010.0, 1010.2, False, 1010.2)
    for begin in (1020.0, 1030.0, 1040.0):
        calls.polled(begin)
    assert len(left(calls)) == 1


@pytest.mark.parametrize("accepted_at", [1009.9, 1010.05, 1011.0])
def test_one_that_waited_for_accept_at_its_poll_leaves_no_call(accepted_at: float) -> None:
    """It was accepted while the tables were read, and known by then; or later; or before, but had no inode yet."""
    calls = known(connect(1009.0, 7, OPENER), *([accept(accepted_at, 8, ACCEPTOR)] if accepted_at < 1010.2 else []))
    assert callers.shown(calls, ACCEPTOR, True, 1010.0, 1010.2, False, 1010.2).opened is not None
    if accepted_at > 1010.2:
        calls.add([accept(accepted_at, 8, ACCEPTOR)])
    for begin in (1020.0, 1030.0, 1040.0):
        calls.polled(begin)
    assert left(calls) == []


def test_one_that_was_accepted_after_its_poll_leaves_no_call_that_was_read_meanwhile() -> None:
    calls = known(connect(1009.0, 7, OPENER), accept(1010.25, 8, ACCEPTOR))
    assert callers.shown(calls, OPENER, True, 1010.0, 1010.2, True, 1010.3).opened is not None
    for begin in (1020.0, 1030.0, 1040.0):
        calls.polled(begin)
    assert left(calls) == []


def test_a_call_whose_connection_two_polls_have_not_shown_is_left() -> None:
    calls = without_notifications(connect(1000.0, 7), accept(1000.1, 8))
    calls.polled(1001.0)
    assert left(calls) == []
    calls.polled(1002.0)
    assert left(calls) == [(OUT, (7, None), False), (IN, (None, 8), True)]
    assert left(calls) == []
    assert len(calls) == 0


def test_at_the_end_no_further_poll_is_waited_for() -> None:
    assert left(without_notifications(connect(1000.0, 7)), last=True) == [(OUT, (7, None), False)]


def test_connect_and_accept_of_a_connection_within_the_namespace_are_one() -> None:
    calls = without_notifications(connect(1000.0, 7, OPENER), accept(1000.1, 8, ACCEPTOR), connect(1000.2, 9, OPENER))
    assert left(calls, last=True) == [(OPENER, (7, 8), False), (OPENER, (9, None), False)]


def test_what_a_poll_shows_is_not_left_nor_one_that_waits_for_an_answer() -> None:
    calls = without_notifications(connect(1000.0, 7), accept(1000.0, 8))
    callers.shown(calls, IN, False, 1001.0, 1001.1, True, 1001.2)
    for begin in (1001.0, 1002.0, 1003.0):
        calls.polled(begin)
    assert left(calls, OUT) == []
    assert left(calls) == [(OUT, (7, None), False)]


def test_an_attempt_that_failed_is_not_left() -> None:
    assert left(without_notifications(connect(1000.0, 7), failed(1000.5)), last=True) == []


def test_what_can_have_failed_unseen_is_counted_and_not_left() -> None:
    calls = without_notifications(connect(1000.0, 7), connect(1002.0, 8, OPENER))
    calls.lost(1001.0)
    assert left(calls, last=True) == [(OPENER, (8, None), False)]
    assert calls.uncertain == 1


def test_a_connection_that_was_reported_without_its_calls_leaves_none() -> None:
    """They are not known for sure because others were lost; but one of them is its own."""
    calls = without_notifications(connect(1000.0, 7, OPENER), accept(1000.1, 8, ACCEPTOR))
    calls.lost(999.0)
    assert callers.shown(calls, OPENER, True, 999.5, 1001.0, True, 1001.0).missing == "overwritten"
    calls.lost(998.0)
    assert left(calls, last=True) == []


def test_of_several_that_cannot_be_distinguished_those_that_no_poll_has_shown_are_left() -> None:
    calls = without_notifications(connect(1000.0, 7), connect(1000.5, 8), connect(1001.0, 9))
    assert callers.shown(calls, OUT, False, 999.0, 1002.0, True, 1002.0).missing == "ambiguous"
    assert left(calls, last=True) == [(OUT, (0, None), False)] * 2
