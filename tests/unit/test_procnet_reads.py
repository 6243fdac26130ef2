"""From poll to poll: what is new in the tables, what has changed, what is gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpnewconn.kernel.procnet import ProcNet
from tcpnewconn.kernel.table import Unreadable
from tcpnewconn.model import (
    CLOSE_WAIT,
    ESTABLISHED,
    FIN_WAIT1,
    FIN_WAIT2,
    SYN_SENT,
    TIME_WAIT,
    FourTuple,
    Row,
    endpoints,
    four_tuple_of,
    unmapped,
)
from tests.support.table import Line, Tables, line, listener

SSH = line("10.0.0.5:22", "203.0.113.9:51544", inode=101)
WEB = line("10.0.0.5:80", "203.0.113.9:51545", inode=102)
WEB6 = line("[2001:db8::5]:80", "[2001:db8::9]:51545", inode=103)
MAPPED = line("[::ffff:10.0.0.5]:80", "[::ffff:203.0.113.9]:51546", inode=104)


class Reader:
    """Writes rows and polls them; what was changed and what is gone, by words."""

    def __init__(self, directory: Path) -> None:
        self.tables = Tables(directory)
        self.proc = ProcNet(str(directory))

    def read(self, *lines: Line, slot: int = 0, time_wait: bool = True) -> list[str]:
        self.tables.write(lines, first_slot=slot)
        poll = self.proc.poll(time_wait)
        assert poll.count == len(lines)
        assert poll.malformed == 0
        self.last = poll
        return [
            *(f"+ {said(row)}" for row in (*poll.listeners, *poll.rows())),
            *(f"- {ends(four_tuple)}" for four_tuple in (*poll.gone_listeners, *poll.gone)),
        ]


def ends(four_tuple: FourTuple) -> str:
    return " ".join(str(end) for end in endpoints(four_tuple))


def said(row: Row) -> str:
    return f"{ends(row.four_tuple)} {row.state} {row.inode}"


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


SSH_NEW = "+ 10.0.0.5:22 203.0.113.9:51544 1 101"
SSH_GONE = "- 10.0.0.5:22 203.0.113.9:51544"
WEB_NEW = "+ 10.0.0.5:80 203.0.113.9:51545 1 102"
WEB6_NEW = "+ [2001:db8::5]:80 [2001:db8::9]:51545 1 103"
MAPPED_NEW = "+ 10.0.0.5:80 203.0.113.9:51546 1 104"


def test_a_row_is_reported_once(reader: Reader) -> None:
    assert reader.read(SSH, WEB6) == [SSH_NEW, WEB6_NEW]
    assert reader.read(SSH, WEB6) == []
    assert reader.read(SSH, WEB, WEB6) == [WEB_NEW]
    assert reader.read(WEB, SSH, WEB6) == []


def test_a_doubled_row_is_one(reader: Reader) -> None:
    assert reader.read(SSH, WEB, SSH) == [SSH_NEW, WEB_NEW]
    assert reader.read(SSH, WEB, WEB) == []
    assert reader.read(SSH, WEB) == []


def test_a_row_that_is_missing_once_is_neither_gone_nor_new(reader: Reader) -> None:
    reader.read(SSH, WEB)
    assert reader.read(WEB) == []
    assert reader.read(SSH, WEB) == []
    assert reader.read(WEB) == []
    assert reader.read(SSH, WEB) == []


def test_a_row_that_is_missing_twice_is_gone_once_and_new_when_it_is_back(reader: Reader) -> None:
    reader.read(SSH, WEB)
    assert reader.read(WEB) == []
    assert reader.read(WEB) == [SSH_GONE]
    assert reader.read(WEB) == []
    assert reader.read(SSH, WEB) == [SSH_NEW]


def test_a_row_whose_absence_a_doubled_one_hides_is_gone_all_the_same(reader: Reader) -> None:
    """There are as many rows as before, and each is known."""
    reader.read(SSH, WEB)
    assert reader.read(WEB, WEB) == []
    assert reader.read(WEB, WEB) == [SSH_GONE]
    assert reader.read(WEB) == []


def test_a_row_whose_place_another_one_took_is_gone_after_two_reads(reader: Reader) -> None:
    reader.read(SSH)
    assert reader.read(WEB) == [WEB_NEW]
    assert reader.read(WEB) == [SSH_GONE]


def test_a_last_row_that_leaves_an_empty_table_is_gone(reader: Reader) -> None:
    reader.read(SSH)
    assert reader.read() == []
    assert reader.read() == [SSH_GONE]
    assert reader.read() == []


def test_a_change_of_state_is_a_change_and_the_row_before_is_not_gone(reader: Reader) -> None:
    reader.read(SSH)
    for state in (FIN_WAIT1, FIN_WAIT2, TIME_WAIT):
        changed = line("10.0.0.5:22", "203.0.113.9:51544", state)
        assert reader.read(changed) == [f"+ 10.0.0.5:22 203.0.113.9:51544 {state} 0"]
        assert reader.read(changed) == []
    assert reader.read(SSH) == [SSH_NEW]
    assert reader.read() == []
    assert reader.read() == [SSH_GONE]


def test_a_change_of_inode_is_a_change(reader: Reader) -> None:
    """Not yet accepted, accepted, and another connection on the same addresses."""
    reader.read(line("10.0.0.5:22", "203.0.113.9:51544", inode=0))
    assert reader.read(SSH) == [SSH_NEW]
    assert reader.read(line("10.0.0.5:22", "203.0.113.9:51544", inode=1010)) == [
        "+ 10.0.0.5:22 203.0.113.9:51544 1 1010"
    ]
    assert reader.read(line("10.0.0.5:22", "203.0.113.9:51544", inode=101)) == [SSH_NEW]


def test_an_inode_that_begins_as_the_known_one_is_another(reader: Reader) -> None:
    reader.read(SSH)
    assert reader.read(line("10.0.0.5:22", "203.0.113.9:51544", inode=1011)) == [
        "+ 10.0.0.5:22 203.0.113.9:51544 1 1011"
    ]
    assert reader.read(line("10.0.0.5:22", "203.0.113.9:51544", inode=10)) == ["+ 10.0.0.5:22 203.0.113.9:51544 1 10"]


def test_a_change_of_user_is_a_change(reader: Reader) -> None:
    reader.read(SSH)
    reader.read(line("10.0.0.5:22", "203.0.113.9:51544", uid=33, inode=101))
    assert reader.last.row(four_tuple(SSH)) == Row(four_tuple(SSH), ESTABLISHED, 33, 101)


def test_queues_timers_and_slots_are_no_change(reader: Reader) -> None:
    reader.read(SSH, WEB)
    busy = Line(SSH.local, SSH.remote, inode=101, queues=(77, 4096), timer=(1, 24), retransmits=3, timeout=12)
    assert busy.text(9) != SSH.text(0)
    assert (
        reader.read(WEB, Line(SSH.local, SSH.remote, inode=101, queues=(77, 4096), timer=(1, 24), retransmits=3)) == []
    )


@pytest.mark.parametrize("slot", [9_998, 9_999, 99_998, 99_999, 999_999])
def test_rows_that_move_past_a_longer_slot_number_are_no_change(slot: int, reader: Reader) -> None:
    rows = [line("10.0.0.5:22", f"203.0.113.9:{port}", inode=port) for port in range(1, 6)]
    assert len(reader.read(*rows, slot=0)) == 5
    assert reader.read(*rows, slot=slot - 2) == []
    assert reader.read(*rows, slot=slot) == []
    assert reader.read(*rows[1:], slot=slot) == []
    assert reader.read(*rows, slot=7) == []


def test_several_sockets_that_listen_on_one_address_are_one_listener(reader: Reader) -> None:
    one, other = listener("0.0.0.0:8080", inode=7), listener("0.0.0.0:8080", inode=8)
    (change,) = reader.read(one, other)
    assert change.startswith("+ 0.0.0.0:8080 0.0.0.0:0 10 ")
    assert reader.read(other, one) == []
    assert reader.read(one, other, listener("0.0.0.0:8080", inode=9)) == []
    assert reader.read(other) == []
    assert reader.read(other) == []
    assert reader.read() == []
    assert reader.read() == ["- 0.0.0.0:8080 0.0.0.0:0"]


def test_a_listener_in_both_tables_is_two(reader: Reader) -> None:
    """[::]:80 that is only for IPv6, and 0.0.0.0:80."""
    assert reader.read(listener("0.0.0.0:80", 7), listener("[::]:80", 8)) == [
        "+ 0.0.0.0:80 0.0.0.0:0 10 7",
        "+ [::]:80 [::]:0 10 8",
    ]


def test_a_mapped_row_is_one_of_ipv4(reader: Reader) -> None:
    assert reader.read(MAPPED) == [MAPPED_NEW]
    assert reader.read() == []
    assert reader.read() == ["- 10.0.0.5:80 203.0.113.9:51546"]


def test_a_connect_is_reported_when_it_has_succeeded(reader: Reader) -> None:
    connecting = line("10.0.0.5:40000", "203.0.113.9:443", SYN_SENT, inode=101)
    assert reader.read(connecting) == []
    assert reader.read(connecting) == []
    assert reader.read(line("10.0.0.5:40000", "203.0.113.9:443", inode=101)) == [
        "+ 10.0.0.5:40000 203.0.113.9:443 1 101"
    ]


def test_rows_in_time_wait_can_be_passed_over(reader: Reader) -> None:
    """They are not reported, and their connection is gone when it was absent twice."""
    waiting = line("10.0.0.5:22", "203.0.113.9:51544", TIME_WAIT)
    assert reader.read(waiting, time_wait=False) == []
    assert reader.read(SSH, time_wait=False) == [SSH_NEW]
    assert reader.read(waiting, time_wait=False) == []
    assert reader.read(waiting, time_wait=False) == [SSH_GONE]
    assert reader.read(waiting, time_wait=False) == []
    assert reader.read(waiting) == ["+ 10.0.0.5:22 203.0.113.9:51544 6 0"]


def test_one_in_time_wait_that_was_not_reported_because_a_read_failed_is_passed_over_later(reader: Reader) -> None:
    waiting = line("10.0.0.5:22", "203.0.113.9:51544", TIME_WAIT)
    reader.tables.write([waiting, WEB])
    reader.tables.tcp6.unlink()
    reader.tables.tcp6.mkdir()
    with pytest.raises(Unreadable):
        reader.proc.poll()
    reader.tables.tcp6.rmdir()
    assert reader.read(waiting, WEB, time_wait=False) == [WEB_NEW]
    assert [row.state for row in reader.last.rows(ended=True)] == [ESTABLISHED]
    assert reader.last.states == {TIME_WAIT: 1, ESTABLISHED: 1}


def test_one_in_time_wait_that_is_missing_is_not_shown_among_those_that_ended(reader: Reader) -> None:
    waiting = line("10.0.0.5:22", "203.0.113.9:51544", TIME_WAIT)
    reader.read(waiting, WEB)
    assert [row.state for row in reader.last.rows(ended=True)] == [TIME_WAIT, ESTABLISHED]
    reader.read(WEB)
    assert list(reader.last.rows(ended=True)) == []


def test_a_table_of_ipv6_comes_and_goes(reader: Reader) -> None:
    reader.tables.write([SSH])
    reader.tables.tcp6.unlink()
    read = reader.proc.poll()
    assert [said(row) for row in read.rows()] == [SSH_NEW[2:]]
    assert reader.read(SSH, WEB6) == [WEB6_NEW]
    for expected in ([], ["[2001:db8::5]:80 [2001:db8::9]:51545"], []):
        reader.tables.tcp6.unlink(missing_ok=True)
        read = reader.proc.poll()
        assert list(read.rows()) == []
        assert [ends(four_tuple) for four_tuple in read.gone] == expected


@pytest.mark.parametrize("name", ["tcp", "tcp6"])
def test_a_read_that_fails_takes_nothing_away(name: str, reader: Reader) -> None:
    """The next poll reports its new rows; an absence counts only if a poll shows it."""
    heard = listener("10.0.0.5:22", 7)
    reader.read(SSH, MAPPED)
    reader.read(MAPPED)
    table = reader.tables.directory / "net" / name
    for _ in range(3):
        reader.tables.write([MAPPED, WEB, WEB6, heard])
        table.unlink()
        table.mkdir()
        with pytest.raises(Unreadable, match="Is a directory"):
            reader.proc.poll()
        table.rmdir()
    assert sorted(reader.read(MAPPED, WEB, WEB6, heard)) == sorted(
        [WEB_NEW, WEB6_NEW, "+ 10.0.0.5:22 0.0.0.0:0 10 7", SSH_GONE]
    )
    assert reader.read(MAPPED, WEB, WEB6, heard) == []
    assert reader.read(WEB, WEB6, heard) == []
    assert reader.read(MAPPED, WEB, WEB6, heard) == []


def test_a_read_that_fails_once_does_not_make_a_row_gone_sooner(reader: Reader) -> None:
    reader.read(SSH, WEB6)
    reader.tables.tcp.unlink()
    with pytest.raises(Unreadable, match="No such file"):
        reader.proc.poll()
    assert reader.read(WEB6) == []
    assert reader.read(SSH, WEB6) == []


def test_a_row_that_does_not_change_is_shown_again_where_that_is_asked_for(reader: Reader) -> None:
    """Where a destroy notification said that its socket is gone, the same text is another socket's."""
    reader.read(SSH, WEB)
    tables = reader.tables
    tables.write([SSH])
    poll = reader.proc.poll()
    assert list(poll.rows()) == []
    assert list(poll.rows(again={four_tuple(SSH), four_tuple(WEB)})) == [Row(four_tuple(SSH), ESTABLISHED, 0, 101)]
    # One that is in no row may have been left out once, and be there after all.
    assert (poll.absent_once(four_tuple(SSH)), poll.absent_once(four_tuple(WEB))) == (False, True)
    poll = reader.proc.poll()
    assert not poll.absent_once(four_tuple(WEB))
    # One that has changed is shown once.
    tables.write([line("10.0.0.5:22", "203.0.113.9:51544", inode=999)])
    assert [row.inode for row in reader.proc.poll().rows(again={four_tuple(SSH)})] == [999]


def test_rows_of_timewait_sockets_are_shown_again_before_a_stop(reader: Reader) -> None:
    waiting = line("10.0.0.5:22", "203.0.113.9:51544", TIME_WAIT)
    reader.read(waiting, WEB)
    poll = reader.proc.poll()
    assert list(poll.rows()) == []
    assert [row.state for row in poll.rows(ended=True)] == [TIME_WAIT]


def test_a_row_can_be_found(reader: Reader) -> None:
    reader.read(SSH, MAPPED)
    assert reader.last.row(four_tuple(SSH)) == Row(four_tuple(SSH), ESTABLISHED, 0, 101)
    assert reader.last.row(four_tuple(MAPPED)) == Row(four_tuple(MAPPED), ESTABLISHED, 0, 104)
    assert reader.last.row(four_tuple(WEB)) is None


def four_tuple(row: Line) -> FourTuple:
    return four_tuple_of(unmapped(row.local[0]), row.local[1], unmapped(row.remote[0]), row.remote[1])


# --- any sequence of polls -------------------------------------------------------------------------------------------

STATES = [(ESTABLISHED, 0), (ESTABLISHED, 7), (ESTABLISHED, 8), (CLOSE_WAIT, 7), (TIME_WAIT, 0)]
# Each of three 4-tuples stands in a poll with one of these, or not at all.
STANDING = [
    st.sampled_from(
        [None, *(line("10.0.0.5:22", f"203.0.113.9:{port}", state, inode=inode) for state, inode in STATES)]
    )
    for port in (1, 2, 3)
]


@given(reads=st.lists(st.tuples(*STANDING), max_size=12))
def test_the_reported_rows_are_those_that_changed(
    reads: list[tuple[Line | None, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A row is reported when it stood in neither of the two polls before, or stood otherwise when it was last seen in them."""
    reader = Reader(tmp_path_factory.mktemp("reads"))
    one: tuple[Line | None, ...] = (None, None, None)
    two = one
    for standing in reads:
        expected = []
        for now, once_ago, twice_ago in zip(standing, one, two, strict=True):
            if now is not None and now != (once_ago or twice_ago):
                expected.append(f"+ {ends(four_tuple(now))} {now.state} {now.inode}")
            if now is None and once_ago is None and twice_ago is not None:
                expected.append(f"- {ends(four_tuple(twice_ago))}")
        assert sorted(reader.read(*(row for row in standing if row is not None))) == sorted(expected)
        one, two = standing, one
