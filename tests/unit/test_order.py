"""Rows that stand as they did in the poll before are not looked up: what a poll reports is the same, whatever has moved."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpnewconn.kernel import rowtext
from tcpnewconn.kernel.order import Order
from tcpnewconn.kernel.procnet import ProcNet
from tcpnewconn.model import CLOSE_WAIT, ESTABLISHED, FourTuple
from tests.support.table import Line, Tables, line, listener

End = tuple[bytes, int]
Ends = tuple[End, End]
Head = tuple[End, End, int]

# More than are compared without being divided, several times.
MANY = 150


def connection(number: int, v6: bool = False) -> Line:
    local, remote = ("[2001:db8::5]", "[2001:db8::9]") if v6 else ("10.0.0.5", "203.0.113.9")
    return line(f"{local}:443", f"{remote}:{1000 + number}", inode=10_000 + number)


class Known:
    """What is known of a table by looking up every row of it: by addresses, the state and inode of the last row with them."""

    def __init__(self) -> None:
        self._known: dict[Ends, tuple[int, int]] = {}
        self._absent: set[Ends] = set()

    def poll(self, rows: list[Line]) -> tuple[list[Head], set[Ends]]:
        """The rows that are new or changed, and those that are gone."""
        changed = []
        for row in rows:
            if self._known.get((row.local, row.remote)) != (row.state, row.inode):
                self._known[row.local, row.remote] = (row.state, row.inode)
                changed.append((row.local, row.remote, row.state))
        missing = self._known.keys() - {(row.local, row.remote) for row in rows}
        gone = missing & self._absent
        for one in gone:
            del self._known[one]
        self._absent = missing - gone
        return changed, gone


def ends(four_tuple: FourTuple) -> Ends:
    half = len(four_tuple) // 2
    local, remote = four_tuple[:half], four_tuple[half:]
    return (local[:-2], int.from_bytes(local[-2:], "big")), (remote[:-2], int.from_bytes(remote[-2:], "big"))


def change(rows: list[Line], how: str, place: int, size: int, fresh: Line) -> None:
    """Something that happens to a table between two polls."""
    place %= len(rows) + 1
    some = rows[place : place + size]
    if how == "opened":
        rows.insert(place, fresh)
    elif how == "closed":
        del rows[place : place + size]
    elif how == "moved":
        del rows[place : place + size]
        rows[len(rows) // 2 : len(rows) // 2] = some
    elif how == "doubled":
        rows[len(rows) - place : 0] = some
    elif how == "in two states":
        rows[len(rows) - place : 0] = [
            replace(row, state=CLOSE_WAIT if row.state == ESTABLISHED else ESTABLISHED) for row in some
        ]
    elif how == "half closed":
        rows[place : place + size] = [replace(row, state=CLOSE_WAIT) for row in some]
    elif how == "other sockets":
        rows[place : place + size] = [replace(row, state=ESTABLISHED, inode=row.inode + 500_000) for row in some]
    elif how == "busy":
        rows[place : place + size] = [replace(row, queues=(9, 9), timer=(1, 99), references=2) for row in some]


WHAT = ("opened", "closed", "moved", "doubled", "in two states", "half closed", "other sockets", "busy")
changes = st.lists(
    st.tuples(st.sampled_from(WHAT), st.integers(0, MANY), st.sampled_from([1, 1, 2, 9, 70])), max_size=4
)


@pytest.mark.parametrize("batch", [64 * 1024, 4096])
@given(polls=st.lists(changes, min_size=2, max_size=8), v6=st.booleans(), slot=st.sampled_from([0, 9_900]))
def test_a_poll_reports_what_looking_up_every_row_does(
    batch: int, polls: list[list[tuple[str, int, int]]], v6: bool, slot: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In one text, or in several: behind one in which many rows changed all are looked up."""
    tables = Tables(tmp_path_factory.mktemp("proc", numbered=True))
    proc, known = ProcNet(str(tables.directory)), Known()
    rows = [connection(number, v6) for number in range(MANY)]
    opened = MANY
    for changed in polls:
        for how, place, size in changed:
            opened += 1
            change(rows, how, place, size, connection(opened, v6))
        # The copies of a row say what it does.
        said = {(row.local, row.remote, row.state): row for row in rows}
        rows = [said[row.local, row.remote, row.state] for row in rows]
        tables.write(rows, first_slot=slot)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rowtext, "_BATCH", batch)
            poll = proc.poll()
        changed_rows, gone = known.poll(rows)
        assert [(*ends(row.four_tuple), row.state) for row in poll.rows()] == changed_rows
        assert set(map(ends, poll.gone)) == gone
        assert poll.count == len(rows)


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were looked up at a time."""
    counts: list[int] = []
    stand = Order.stand

    def counted(order: Order, columns: list[bytes], known: bytes | None) -> None:
        counts.append(len(columns) // 2)
        stand(order, columns, known)

    monkeypatch.setattr(Order, "stand", counted)
    return counts


def test_few_rows_are_looked_up(tmp_path: Path, looked_up: list[int]) -> None:
    tables = Tables(tmp_path)
    proc = ProcNet(str(tmp_path))

    def polled(rows: list[Line]) -> tuple[list[int], int]:
        looked_up.clear()
        tables.write(rows)
        changed = [row.inode for row in proc.poll().rows()]
        return changed, sum(looked_up)

    rows = [listener("0.0.0.0:443"), *map(connection, range(MANY))]
    first, _ = polled(rows)
    assert len(first) == MANY
    # All at once.
    assert looked_up == [len(rows)]
    assert polled(rows) == ([], 0)
    # One goes and one comes: the slot number of each row between them is another one.
    others = [*rows[:20], *rows[21:120], connection(MANY), *rows[120:]]
    changed, count = polled(others)
    assert changed == [connection(MANY).inode]
    assert count < 50
    assert polled(others) == ([], 0)
    # Many are missing once.
    assert polled([row for at, row in enumerate(others) if at % 10])[0] == []
    assert polled(others)[0] == []
    assert polled(others) == ([], 0)


def test_a_reference_count_that_changes_is_not_looked_up(tmp_path: Path, looked_up: list[int]) -> None:
    """Timers hold references: those of a busy socket come and go."""
    tables = Tables(tmp_path)
    proc = ProcNet(str(tmp_path))
    rows = [listener("0.0.0.0:443", 7), *map(connection, range(MANY)), *(connection(at, v6=True) for at in range(9))]
    for references in (2, 1, 3, 4):
        looked_up.clear()
        tables.write([replace(row, references=references if at % 3 else 1) for at, row in enumerate(rows)])
        changed = len(list(proc.poll().rows()))
        assert (changed, sum(looked_up)) == ((MANY + 9, len(rows)) if references == 2 else (0, 0))


def test_no_other_column_is_taken_for_it(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    proc = ProcNet(str(tmp_path))
    others = [*map(connection, range(MANY))]
    row = replace(connection(MANY), inode=2, uid=2, timeout=2)
    for inode, uid in (
        (2, 2),
        (3, 2),
        (3, 3),
        (4, 3),
        (4_000_000_000, 3),
        (3_000_000_000, 3),
        (3_000_000_000, 4_000_000_000),
    ):
        tables.write([*others, replace(row, inode=inode, uid=uid)])
        assert (inode, uid) in [(row.inode, row.uid) for row in proc.poll().rows()]
    assert list(proc.poll().rows()) == []


def test_only_what_stands_behind_the_inode_may_differ() -> None:
    head, owner = b"0500000A:01BB 090071CB:03E9 01", b" 1000        0 712 2 0000"
    rows = [head, owner, head[:-2] + b"08", b" 1000        0 8\n"]
    assert rowtext.are_same(rows, [head, owner.replace(b" 2 ", b" 14 "), *rows[2:]])
    for other in (owner.replace(b" 712 ", b" 713 "), owner.replace(b" 712 ", b" 7122 "), owner[:18], b"\n", b""):
        assert not rowtext.are_same(rows, [head, other, *rows[2:]])
    for other in (head[:-2] + b"08", head.lower(), owner):
        assert not rowtext.are_same(rows, [other, *rows[1:]])
    assert not rowtext.are_same(rows, rows[:2])
    # What is kept so that the next poll shows the row again.
    assert not rowtext.are_same([head, b"\n"], [head, owner])


def test_where_many_rows_come_back_the_others_are_not_looked_up(tmp_path: Path, looked_up: list[int]) -> None:
    tables = Tables(tmp_path)
    proc = ProcNet(str(tmp_path))
    rows = [*map(connection, range(20 * MANY))]
    for shown in (rows, [row for at, row in enumerate(rows) if at % MANY > 20], rows):
        looked_up.clear()
        tables.write(shown)
        proc.poll()
    assert sum(looked_up) < 20 * 50


def test_one_of_two_copies_of_a_row_is_new_after_another_state(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    proc = ProcNet(str(tmp_path))
    row, *rows = map(connection, range(MANY))
    other = replace(row, state=CLOSE_WAIT)
    found = []
    for shown in ([row, *rows, row, *rows], [other, *rows, row, *rows]):
        tables.write(shown)
        found.append([row.state for row in proc.poll().rows() if row.inode == 10_000])
    assert found == [[ESTABLISHED], [CLOSE_WAIT, ESTABLISHED]]


def test_a_state_that_comes_again_is_not_looked_up_for_ever(tmp_path: Path, looked_up: list[int]) -> None:
    tables = Tables(tmp_path)
    proc = ProcNet(str(tmp_path))
    row, *rows = map(connection, range(MANY))
    for shown in ([row, *rows], [*rows, replace(row, state=CLOSE_WAIT)], [*rows, row], [*rows, row]):
        looked_up.clear()
        tables.write(shown)
        proc.poll()
    assert looked_up == []


def test_a_row_is_kept_once(tmp_path: Path) -> None:
    """However often rows around it came and went."""
    tables = Tables(tmp_path)
    proc = ProcNet(str(tmp_path))
    rows = [*map(connection, range(10 * MANY))]
    later = [[*map(connection, range(at, at + 30))] for at in range(10 * MANY, 13 * MANY, 30)]
    sizes = []
    tracemalloc.start()
    try:
        for number, new in enumerate(later):
            rows[3 * number :: len(rows) // 30] = new
            tables.write(rows)
            proc.poll()
            gc.collect()
            # Without what the tests themselves keep.
            kept = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/tcpnewconn/kernel/*")])
            sizes.append(sum(trace.size for trace in kept.traces))
    finally:
        tracemalloc.stop()
    assert sizes[-1] < 1.05 * sizes[2]


def test_columns_that_are_wider_than_the_kernel_s_are_compared_whole(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    proc = ProcNet(str(tmp_path))
    found = []
    for inode in (4_000_000_001, 4_000_000_001, 4_000_000_002):
        tables.write([replace(connection(1), timeout=10**20, inode=inode)])
        found.append([row.inode for row in proc.poll().rows()])
    assert found == [[4_000_000_001], [], [4_000_000_002]]


def test_listeners_that_share_an_address_are_not_looked_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SO_REUSEPORT: rows that begin the same way, of several sockets."""
    tables = Tables(tmp_path)
    rows = [listener("0.0.0.0:443", inode) for inode in (7, 8, 9)]
    tables.write([*rows, *map(connection, range(MANY))])
    proc = ProcNet(str(tmp_path))
    assert len(proc.poll().listeners) == 1
    with monkeypatch.context() as patch:
        patch.setattr(Order, "stand", None)
        proc.poll()
    for left in (rows[:2], rows[1:2], [], []):
        tables.write([*left, *map(connection, range(MANY))])
        poll = proc.poll()
        assert poll.listeners == []
        assert poll.gone == []
    assert len(poll.gone_listeners) == 1
