"""The kernel's text format: rows, and lines that are not rows."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpnewconn.kernel.procnet import Poll, ProcNet
from tcpnewconn.kernel.table import Unreadable
from tcpnewconn.model import CONNECTED, LISTEN, Endpoint, Row, endpoints, four_tuple_of, unmapped
from tests.support.table import TITLES, Line, Tables, line, listener

FIXTURES = Path(__file__).parents[1] / "fixtures" / "linux-6.18-x86_64"


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


@pytest.fixture(scope="module")
def same_tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """For the tests that Hypothesis repeats."""
    return Tables(tmp_path_factory.mktemp("tables"))


def poll(tables: Tables, byteorder: str = "little") -> Poll:
    return ProcNet(str(tables.directory), byteorder).poll()


def written(row: Row) -> str:
    local, remote = endpoints(row.four_tuple)
    return f"{local} {remote} {row.state}"


# --- rows that are none ----------------------------------------------------------------------------------------------

BEFORE = line("10.0.0.5:22", "203.0.113.9:51544", uid=0, inode=101)
BROKEN = line("10.0.0.6:80", "203.0.113.9:51545", uid=33, inode=102)
AFTER = line("10.0.0.7:443", "203.0.113.9:51546", uid=0, inode=103)
BEFORE6 = line("[2001:db8::5]:22", "[2001:db8::9]:51544", inode=101)
BROKEN6 = line("[2001:db8::6]:80", "[2001:db8::9]:51545", uid=33, inode=102)
AFTER6 = line("[2001:db8::7]:443", "[2001:db8::9]:51546", inode=103)


def put(column: int, value: bytes) -> Callable[[bytes], bytes]:
    """A row in which one column, counted from 0, is another."""

    def change(row: bytes) -> bytes:
        columns = re.split(rb"( +)", row.rstrip(b"\n").lstrip(b" "))
        columns[2 * column] = value
        return b"   " + b"".join(columns) + b"\n"

    return change


def replace(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(row: bytes) -> bytes:
        assert old in row
        return row.replace(old, new, 1)

    return change


SLOT, LOCAL, REMOTE, STATE, QUEUES, TIMER, RETRANSMITS, UID, TIMEOUT, INODE = range(10)

MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "slot without colon": put(SLOT, b"1"),
    "slot missing": lambda row: row[row.index(b": ") + 2 :],
    "local address too short": put(LOCAL, b"600000A:0050"),
    "local address too long": put(LOCAL, b"00600000A:0050"),
    "local address not hexadecimal": put(LOCAL, b"0600G00A:0050"),
    "local address in lower case": put(LOCAL, b"0600000a:0050"),
    "local address signed": put(LOCAL, b"-600000A:0050"),
    "local port missing": put(LOCAL, b"0600000A"),
    "local port too short": put(LOCAL, b"0600000A:050"),
    "local port too long": put(LOCAL, b"0600000A:00050"),
    "local port not hexadecimal": put(LOCAL, b"0600000A:005G"),
    "remote address too short": put(REMOTE, b"97100CB:C959"),
    "remote address too long": put(REMOTE, b"0097100CB:C959"),
    "remote address not hexadecimal": put(REMOTE, b"X97100CB:C959"),
    "remote port missing": put(REMOTE, b"097100CB:"),
    "remote port not hexadecimal": put(REMOTE, b"097100CB:C9 9"),
    "remote port too long": put(REMOTE, b"097100CB:1C959"),
    "state not hexadecimal": put(STATE, b"0x"),
    "state too short": put(STATE, b"1"),
    "state too long": put(STATE, b"001"),
    "queues without colon": put(QUEUES, b"0000000000000000"),
    "queues not hexadecimal": put(QUEUES, b"0000000Z:00000000"),
    "queue too short": put(QUEUES, b"00000000:0000000"),
    "timer without colon": put(TIMER, b"0000000000"),
    "timer too long": put(TIMER, b"00:1000000000"),
    "timer not hexadecimal": put(TIMER, b"0z:00000000"),
    "retransmits not hexadecimal": put(RETRANSMITS, b"0000000z"),
    "retransmits too short": put(RETRANSMITS, b"0000"),
    "uid not a number": put(UID, b"root"),
    "uid negative": put(UID, b"-1"),
    "uid hexadecimal": put(UID, b"2F"),
    "timeout not a number": put(TIMEOUT, b"soon"),
    "inode not a number": put(INODE, b"many"),
    "inode negative": put(INODE, b"-102"),
    "inode hexadecimal": put(INODE, b"1f02"),
    "cut behind the local address": lambda row: row[:19] + b"\n",
    "cut behind the state": lambda row: row[:36] + b"\n",
    "cut behind the uid": lambda row: row[: row.index(b"   33") + 5] + b"\n",
    "cut before the inode": lambda row: row[: row.index(b" 102 ")] + b"\n",
    "a column missing": replace(b" 00000000  ", b"  "),
    "two columns exchanged": replace(b" 01 00000000:00000000 ", b" 00000000:00000000 01 "),
    "tabs": lambda row: row.replace(b" ", b"\t"),
    "an empty line": lambda row: b"\n",
    "blanks": lambda row: b" " * 149 + b"\n",
    "NUL bytes": lambda row: b"\0" * 149 + b"\n",
    "a NUL byte in an address": replace(b"A:0050", b"\0:0050"),
    "a NUL byte in the inode": replace(b" 102 ", b" 1\x002 "),
    "not ASCII": replace(b"0050", "0५5".encode()),
    "another table's row": lambda row: b"   1: 0000000000000000FFFF00000600000A:0050 " + row[20:],
    "words": lambda row: b"segmentation fault (core dumped)\n",
    "a carriage return in the state": replace(b" 01 ", b" 0\r "),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_row_is_counted_with_its_line_and_the_others_are_read(name: str, tables: Tables) -> None:
    broken = MALFORMED[name](BROKEN.text(1))
    assert broken != BROKEN.text(1)
    tables.tcp.write_bytes(TITLES + BEFORE.text(0) + broken + AFTER.text(2))
    result = poll(tables)
    assert [written(row) for row in result.rows()] == [
        "10.0.0.5:22 203.0.113.9:51544 1",
        "10.0.0.7:443 203.0.113.9:51546 1",
    ]
    assert result.malformed == 1
    assert result.first_malformed is not None
    assert result.first_malformed.path == str(tables.tcp)
    assert result.first_malformed.line == 3
    assert result.first_malformed.text.strip() in broken


MALFORMED6: dict[str, Callable[[bytes], bytes]] = {
    "local address too short": put(LOCAL, b"B80D01200000000000000000600000:0050"),
    "local address of IPv4": put(LOCAL, b"0600000A:0050"),
    "local address not hexadecimal": put(LOCAL, b"B80D0120000000000000000006000x00:0050"),
    "remote address too long": put(REMOTE, b"B80D012000000000000000000900000000:C959"),
    "remote port not hexadecimal": put(REMOTE, b"B80D0120000000000000000009000000:-959"),
    "state not hexadecimal": put(STATE, b"?1"),
    "queues not hexadecimal": put(QUEUES, b"0000000Z:00000000"),
    "uid not a number": put(UID, b"root"),
    "inode not a number": put(INODE, b"0x102"),
    "cut": lambda row: row[:90] + b"\n",
    "an empty line": lambda row: b"\n",
}


@pytest.mark.parametrize("name", MALFORMED6)
def test_the_same_in_the_table_of_ipv6(name: str, tables: Tables) -> None:
    tables.write([BEFORE6, BEFORE, AFTER6])
    titles, before, after = tables.tcp6.read_bytes().splitlines(keepends=True)
    tables.tcp6.write_bytes(titles + before + MALFORMED6[name](BROKEN6.text(1)) + after)
    result = poll(tables)
    assert [written(row) for row in result.rows()] == [
        "10.0.0.5:22 203.0.113.9:51544 1",
        "[2001:db8::5]:22 [2001:db8::9]:51544 1",
        "[2001:db8::7]:443 [2001:db8::9]:51546 1",
    ]
    assert result.malformed == 1
    assert result.first_malformed is not None
    assert (result.first_malformed.path, result.first_malformed.line) == (str(tables.tcp6), 3)


def test_every_malformed_row_counts_and_the_first_is_shown(tables: Tables) -> None:
    """Wherever it stands: first, last, in a batch of its own."""
    rows = [BEFORE.text(slot) for slot in range(2000)]
    for place in (0, 7, 600, 1300, 1999):
        rows[place] = b" 123: nonsense\n"
    tables.tcp.write_bytes(TITLES + b"".join(rows))
    result = poll(tables)
    assert len(list(result.rows())) == 1
    assert result.malformed == 5
    assert result.first_malformed is not None
    assert result.first_malformed.line == 2
    rows[0] = BEFORE.text(0)
    rows[7] = BEFORE.text(7)
    tables.tcp.write_bytes(TITLES + b"".join(rows))
    result = poll(tables)
    assert result.first_malformed is not None
    assert (result.malformed, result.first_malformed.line) == (3, 602)


def test_a_last_row_without_its_newline_is_read(tables: Tables) -> None:
    tables.tcp.write_bytes(TITLES + BEFORE.text(0) + AFTER.text(1).rstrip())
    result = poll(tables)
    assert len(list(result.rows())) == 2
    assert result.malformed == 0


def test_a_last_row_that_is_cut_is_malformed(tables: Tables) -> None:
    for length in range(1, AFTER.text(1).index(b" 103 ") + 1):
        tables.tcp.write_bytes(TITLES + BEFORE.text(0) + AFTER.text(1)[:length])
        result = poll(tables)
        assert len(list(result.rows())) == 1, length
        assert result.malformed == 1, length


@pytest.mark.parametrize("table", [b"", b"\n", TITLES, TITLES.rstrip(), b"\0" * 8192])
def test_a_table_without_rows_has_none(table: bytes, tables: Tables) -> None:
    tables.tcp.write_bytes(table)
    tables.tcp6.unlink()
    try:
        result = poll(tables)
        assert list(result.rows()) == result.listeners == []
        assert (result.count, result.malformed) == (0, 0)
    finally:
        tables.write()


def test_without_a_table_of_ipv4_a_poll_fails(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    with pytest.raises(Unreadable, match=r"net/tcp: No such file"):
        ProcNet(str(tmp_path)).poll()


@pytest.mark.parametrize("state", [state for state in range(256) if state not in CONNECTED | {LISTEN}])
def test_a_state_that_is_no_connection_or_is_unknown_is_passed_over(state: int, tables: Tables) -> None:
    tables.write([BEFORE, line("10.0.0.6:80", "203.0.113.9:51545", state, inode=102), AFTER])
    result = poll(tables)
    assert [row.inode for row in result.rows()] == [101, 103]
    assert result.malformed == 0


def test_columns_that_a_later_kernel_adds_do_not_matter(tables: Tables) -> None:
    longer = BROKEN.text(0).rstrip() + b" 17 new=yes\n"
    shorter = AFTER.text(1)[: AFTER.text(1).index(b" 103 ")] + b" 103\n"
    tables.tcp.write_bytes(TITLES + longer + shorter)
    assert [(row.uid, row.inode) for row in poll(tables).rows()] == [(33, 102), (0, 103)]


def test_a_row_that_ends_at_the_inode_is_read_wherever_it_stands(tables: Tables) -> None:
    rows = [line("10.0.0.5:22", f"203.0.113.9:{port}", inode=port) for port in (101, 102, 103)]
    short = [
        row.text(slot)[: row.text(slot).index(b" %d " % row.inode)] + b" %d\n" % row.inode
        for slot, row in enumerate(rows)
    ]
    tables.tcp.write_bytes(TITLES + b"".join(short))
    proc = ProcNet(str(tables.directory))
    first = proc.poll()
    assert [row.inode for row in first.rows()] == [101, 102, 103]
    assert first.malformed == 0
    # And it is known then.
    assert list(proc.poll().rows()) == []


# --- any row ---------------------------------------------------------------------------------------------------------

ports = st.integers(0, 0xFFFF)
words = st.integers(0, 0xFFFFFFFF)
mapped = st.binary(min_size=4, max_size=4).map(lambda address: b"\0" * 10 + b"\xff\xff" + address)


def lines(addresses: st.SearchStrategy[bytes]) -> st.SearchStrategy[Line]:
    return st.builds(
        Line,
        st.tuples(addresses, ports),
        st.tuples(addresses, ports),
        st.sampled_from(sorted(CONNECTED | {LISTEN})),
        words,
        st.integers(0, 2**32 - 1),
        st.tuples(words, words),
        st.tuples(st.integers(0, 255), words),
        words,
        st.integers(0, 2**31 - 1),
    )


any_line = lines(st.binary(min_size=4, max_size=4)) | lines(st.binary(min_size=16, max_size=16)) | lines(mapped)


@given(row=any_line, byteorder=st.sampled_from(["little", "big"]), slot=st.integers(0, 10_000_000))
def test_every_row_that_a_kernel_can_write_is_read_back(
    row: Line, byteorder: str, slot: int, same_tables: Tables
) -> None:
    same_tables.write([row], byteorder, slot)
    result = poll(same_tables, byteorder)
    assert [*result.rows(), *result.listeners] == [
        Row(
            four_tuple_of(unmapped(row.local[0]), row.local[1], unmapped(row.remote[0]), row.remote[1]),
            row.state,
            row.uid if row.inode else None,
            row.inode,
        )
    ]
    assert result.malformed == 0


@given(table=st.binary(max_size=4096))
def test_random_bytes_never_raise_and_never_are_a_socket(table: bytes, same_tables: Tables) -> None:
    same_tables.write()
    same_tables.tcp.write_bytes(table)
    result = poll(same_tables)
    assert [*result.rows(), *result.listeners] == []
    assert [*result.gone, *result.gone_listeners] == []


# Looked for at every place, so that rows that have run into each other are found too.
ANY_ROW = re.compile(
    rb"(?=(?P<ends>[0-9A-F]{8}:[0-9A-F]{4} [0-9A-F]{8}:[0-9A-F]{4}) (?P<state>[0-9A-F]{2}) "
    rb"[0-9A-F]{8}:[0-9A-F]{8} [0-9A-F]{2}:[0-9A-F]{8} [0-9A-F]{8} +(?P<uid>\d+) +-?\d+ (?P<inode>\d+)( |$))",
    re.MULTILINE,
)
CAPTURED = (FIXTURES / "many" / "net" / "tcp").read_bytes()


@given(
    table=st.lists(
        st.tuples(st.integers(0, len(CAPTURED)), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=30
    )
)
def test_a_damaged_table_tells_of_no_socket_that_does_not_stand_in_it(
    table: list[tuple[int, int, bytes]], same_tables: Tables
) -> None:
    same_tables.write()
    damaged = bytearray(CAPTURED)
    for place, length, put_there in table:
        damaged[place : place + length] = put_there
    same_tables.tcp.write_bytes(damaged)
    result = poll(same_tables)
    standing = {
        (match["ends"], int(match["state"], 16), int(match["uid"]), int(match["inode"]))
        for match in ANY_ROW.finditer(bytes(damaged))
    }
    for row in [*result.rows(), *result.listeners]:
        local, remote = (_hexadecimal(end) for end in endpoints(row.four_tuple))
        assert (b"%b %b" % (local, remote), row.state, row.uid or 0, row.inode) in standing


def _hexadecimal(end: Endpoint) -> bytes:
    assert end.address is not None
    return f"{end.address[::-1].hex().upper()}:{end.port:04X}".encode()


# --- however it comes ------------------------------------------------------------------------------------------------


@contextmanager
def by_pieces(path: Path, text: bytes, sizes: Iterator[int]) -> Iterator[None]:
    """A file of which each poll() gets one piece, of the next of these sizes (at most a page), as from /proc.

    It is a pipe in packet mode (O_DIRECT, pipe(2)), opened by way of /proc/self/fd.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_DIRECT)

    def write() -> None:
        at = 0
        while at < len(text):
            size = next(sizes)
            os.write(writing, text[at : at + size])
            at += size
        os.close(writing)

    path.unlink()
    path.symlink_to(f"/proc/self/fd/{reading}")
    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        os.close(reading)
        writer.join()
        path.unlink()
        path.touch()


@given(size=st.integers(1, 4096), rows=st.integers(0, 1200), newline=st.booleans(), first=st.integers(0, 100_000))
def test_a_table_is_the_same_wherever_a_read_ends(
    size: int, rows: int, newline: bool, first: int, same_tables: Tables
) -> None:
    """The first piece has any size, so that the ends of pages and batches fall anywhere in a row."""
    ends = [line("10.0.0.5:22", f"203.0.{port // 250}.9:{port + 1}", inode=port + 1) for port in range(rows)]
    text = TITLES + b"".join(each.text(first + slot) for slot, each in enumerate(ends))
    if not newline:
        text = text.rstrip(b" \n")
    same_tables.write()
    with by_pieces(same_tables.tcp, text, iter([size, *[4096] * 100])):
        result = poll(same_tables)
    assert [row.inode for row in result.rows()] == list(range(1, rows + 1))
    assert (result.count, result.malformed) == (rows, 0)


@pytest.mark.parametrize("size", [1, 2, 7, 149, 150, 151])
def test_a_table_that_comes_in_small_pieces_is_the_same(size: int, tables: Tables) -> None:
    expected = [written(row) for row in captured()]
    tables.write()
    with by_pieces(tables.tcp, CAPTURED, iter([size] * len(CAPTURED))):
        result = poll(tables)
    assert [written(row) for row in [*result.listeners, *result.rows()]] == expected


def captured() -> list[Row]:
    result = ProcNet(str(FIXTURES / "many"), "little").poll()
    return [*result.listeners, *result.rows()]


def test_a_listener_is_distinguished_from_its_connections(tables: Tables) -> None:
    tables.write([listener("10.0.0.5:22", 7), BEFORE, listener("[::]:22", 8), BEFORE6])
    result = poll(tables)
    assert [row.inode for row in result.listeners] == [7, 8]
    assert [row.inode for row in result.rows()] == [101, 101]
