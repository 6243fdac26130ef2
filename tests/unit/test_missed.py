"""How many connections no poll has shown, from counters that are read a moment before the tables."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tcpnewconn.kernel.activity import Counters
from tcpnewconn.state.log import StateLog
from tcpnewconn.tracking.missed import Missed


def counters(opened: int, accepted: int = 0, failed: int = 0) -> Counters:
    return Counters(opened, accepted, 0, 0, 0, 0, failed)


def test_what_no_poll_shows_is_missed_once_the_next_poll_does_not_show_it_either() -> None:
    missed = Missed(None)
    missed.begin(0)
    missed.polled(counters(5, 2), 0, 4)
    assert missed.count == 0
    missed.polled(counters(5, 2), 0, 0)
    assert missed.take() == 3
    missed.polled(counters(5, 2), 0, 0)
    assert missed.take() == 0


def test_what_was_there_before_it_was_found_is_not_missed() -> None:
    missed = Missed(None)
    missed.begin(None)
    missed.polled(counters(500, 200), 0, 4)
    missed.polled(counters(501, 200), 0, 1)
    missed.polled(counters(501, 200), 0, 0)
    assert missed.count == 0


def test_what_was_counted_before_it_ended_is_not_counted_again_when_it_is_back() -> None:
    missed = Missed(None)
    missed.begin(0)
    missed.polled(counters(7), 0, 2)
    connected = missed.end()
    assert missed.take() == 5
    again = Missed(None)
    again.begin(connected)
    again.polled(counters(8), 0, 0)
    again.polled(counters(8), 0, 0)
    assert again.take() == 1


def test_failed_attempts_and_those_under_way_are_not_missed() -> None:
    missed = Missed(None)
    missed.begin(0)
    missed.polled(counters(3), 2, 1)
    missed.polled(counters(3, failed=1), 1, 0)
    missed.polled(counters(3, failed=2), 0, 0)
    missed.polled(counters(3, failed=2), 0, 0)
    assert missed.count == 0


def test_a_row_that_a_poll_leaves_out_is_not_missed() -> None:
    missed = Missed(None)
    missed.begin(0)
    missed.polled(counters(1), 0, 0)
    missed.polled(counters(1), 0, 1)
    missed.polled(counters(1), 0, 0)
    assert missed.count == 0


def test_one_that_opens_between_counters_and_tables_hides_none_that_is_missed_later() -> None:
    missed = Missed(None)
    missed.begin(0)
    missed.polled(counters(0), 0, 1)
    missed.polled(counters(1), 0, 0)
    missed.polled(counters(2), 0, 0)
    missed.polled(counters(2), 0, 0)
    assert missed.count == 1


# Of each poll: connections that it shows, others that are closed before it, and whether the last of the former opened between
# counters and tables.
POLLS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), max_size=30)


@given(POLLS)
def test_the_number_is_exact_where_nothing_fails(polls: list[tuple[int, int, bool]]) -> None:
    missed = Missed(None)
    missed.begin(0)
    opened = short = 0
    for shown, closed, late in [*polls, (0, 0, False), (0, 0, False)]:
        short += closed
        opened += closed + shown - (late and shown > 0)
        missed.polled(counters(opened), 0, shown)
        opened += late and shown > 0
    # One that opened between counters and tables can stand for one that is missing at the same time.
    assert missed.count <= short
    assert missed.count >= short - sum(late and shown > 0 for shown, _, late in polls)


def test_the_number_outlives_a_restart(tmp_path: Path) -> None:
    def begun() -> tuple[StateLog, Missed]:
        log = StateLog(str(tmp_path / "state"), "here")
        missed = Missed(log)
        assert log.load() is None
        log.save()
        return log, missed

    log, missed = begun()
    missed.begin(0)
    missed.polled(counters(5), 0, 2)
    log.flush()
    log.close()
    log, missed = begun()
    missed.polled(counters(6), 0, 1)
    assert missed.count == 3
    log.flush()
    log.close()
    log, missed = begun()
    assert missed.take() == 3
    log.flush()
    log.close()
    assert begun()[1].count == 0


def test_what_was_seen_in_another_way_since_the_last_poll_is_not_missed_at_the_end() -> None:
    missed = Missed(None)
    missed.begin(0)
    missed.polled(counters(5), 0, 2)
    missed.saw(2)
    missed.end()
    assert missed.take() == 1


def test_more_that_was_seen_than_the_counters_said_hides_none_that_is_missed_later() -> None:
    missed = Missed(None)
    missed.begin(0)
    missed.polled(counters(2), 0, 2)
    missed.saw(3)
    missed.polled(counters(5), 0, 0)
    missed.end()
    assert missed.take() == 3
