"""What outlives a restart: nothing is reported twice, nothing that is damaged is believed, and a bad disk stops nothing."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import astuple
from pathlib import Path

import pytest

from tcpnewconn.model import TIME_WAIT, Row, four_tuple_of
from tcpnewconn.reporting.aggregation import Aggregation
from tcpnewconn.state.kept import Kept
from tcpnewconn.state.snapshot import Snapshot
from tcpnewconn.tracking.tracker import Tracker
from tests.support.state_file import PLACE, SSH, incoming, once, told
from tests.support.table import Tables, line, listener
from tests.support.terminal import TESTS, messages, run

# Written by the program as it was when this version of the format was the newest. One file more for each later version.
VERSION_1 = TESTS / "fixtures" / "snapshot-version-1"


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    made = Tables(tmp_path / "proc")
    made.write([SSH, *map(incoming, range(3))])
    return made


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state" / "snapshot"


# --- a restart -------------------------------------------------------------------------------------------------------


def test_a_restart_reports_nothing_twice_and_what_came_meanwhile(tables: Tables, state: Path) -> None:
    assert once(tables, state) == ["New listener: 0.0.0.0:22", *told(0, 1, 2)]
    assert once(tables, state) == []
    tables.write([SSH, listener("0.0.0.0:25", inode=11), incoming(0), incoming(2), incoming(3)])
    assert once(tables, state) == ["New listener: 0.0.0.0:25", *told(3)]
    assert once(tables, state) == []


def test_a_listener_that_is_back_after_it_was_gone_is_new(tables: Tables, state: Path) -> None:
    once(tables, state)
    tables.write([incoming(0)])
    assert once(tables, state) == []
    tables.write([SSH, incoming(0)])
    assert once(tables, state) == ["New listener: 0.0.0.0:22"]


def test_another_connection_on_the_same_addresses_is_new(tables: Tables, state: Path) -> None:
    once(tables, state)
    tables.write([SSH, line("10.0.0.5:22", "203.0.113.9:20000", inode=777), incoming(1)])
    assert once(tables, state) == told(0)


# --- not to be believed ----------------------------------------------------------------------------------------------


def test_one_that_may_not_be_read_is_moved_aside(tables: Tables, state: Path) -> None:
    once(tables, state)
    state.chmod(0)
    # Root may read everything, unless it has no capabilities.
    unprivileged = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.getuid() == 0 else []
    options = ["--once", "--procfs", str(tables.folder), "--state", str(state)]
    done = run(*options, python=[*unprivileged, sys.executable])
    assert done.returncode == 0
    assert messages(done.stdout) == ["New listener: 0.0.0.0:22", *told(0, 1, 2)]
    (warning,) = done.stderr.splitlines()
    assert warning.startswith(f"tcpnewconn: {state}: Permission denied; moved to {state}.damaged-1")
    assert once(tables, state) == []


def test_what_was_moved_aside_stays_for_nine_times(tables: Tables, state: Path) -> None:
    for number in range(1, 12):
        state.write_text(f"damage {number}")
        run("--once", "--procfs", str(tables.folder), "--state", str(state))
    assert {path.name for path in state.parent.iterdir()} == {
        "snapshot",
        *(f"snapshot.damaged-{n}" for n in range(1, 10)),
    }
    assert state.with_name("snapshot.damaged-1").read_text() == "damage 1"
    assert once(tables, state) == []


@pytest.mark.parametrize("what", ["boot", "namespace"])
def test_one_of_another_boot_or_namespace_is_discarded_without_a_word(tables: Tables, state: Path, what: str) -> None:
    once(tables, state)
    if what == "boot":
        boot = tables.folder / "sys/kernel/random/boot_id"
        boot.parent.mkdir(parents=True)
        boot.write_text("01234567-89ab-cdef-0123-456789abcdef\n")
    else:
        # The table of each namespace has an inode number of its own.
        shutil.copy(tables.tcp, tables.folder / "other")
        (tables.folder / "other").rename(tables.tcp)
    assert once(tables, state) == ["New listener: 0.0.0.0:22", *told(0, 1, 2)]
    assert once(tables, state) == []
    assert [path.name for path in state.parent.iterdir()] == ["snapshot"]


@pytest.mark.parametrize("boot", ['"', "x" * 500, "\\", "", "\x1b[2J"])
def test_a_boot_id_that_is_none_does_not_damage_it(tables: Tables, state: Path, boot: str) -> None:
    file = tables.folder / "sys/kernel/random/boot_id"
    file.parent.mkdir(parents=True)
    file.write_text(f"{boot}\n")
    once(tables, state)
    assert once(tables, state) == []


# --- the format ------------------------------------------------------------------------------------------------------


def held(kept: Kept) -> object:
    """All that a snapshot holds, to be compared."""
    sockets = {four_tuple.hex(): astuple(socket) for four_tuple, socket in kept.sockets.items()}
    leaving = {
        four_tuple.hex(): [(astuple(gone.socket), gone.doubtful, gone.lost) for gone in several]
        for four_tuple, several in kept.leaving.items()
        if several
    }
    owed = {four_tuple.hex(): numbers for four_tuple, numbers in kept.owed.items() if numbers}
    closed = {four_tuple.hex() for four_tuple in kept.closed}
    folded = {key: count for key, count in kept.folded.items() if count}
    wiped = {
        cookie: (end.four_tuple.hex(), tuple(end.traffic), came, guess and guess.hex())
        for cookie, (end, came, guess) in kept.wiped.items()
    }
    last = (kept.serial, kept.last_end, kept.drops, kept.buffer, kept.beginning, kept.doubtful)
    return kept.place, sockets, leaving, owed, closed, wiped, kept.listeners, folded, last, kept.undelivered


HELD_BY_VERSION_1 = (
    PLACE,
    {
        # cookie, inode, state, number, paired, opened
        "0a0000050016cb007109c958": (882130, 31001, 1, 882130, False, 0.0),
        "20010db800000000000000000000000501bb20010db80000000000000000000000099c41": (0, 31003, 8, -8, False, 1234.5),
        "7f0000019c427f0000011538": (882140, 0, 6, 882140, True, 1234.5),
    },
    {
        # And whether its announcement may have been missed; whether it is taken for lost.
        "0a0000050016cb007109c95a": [
            ((882150, 31009, 8, 882150, False, 1200.25), False, False),
            ((0, 31010, 1, -9, False, 1201.0), False, False),
        ],
        "0a0000050016cb007109c95c": [((882160, 31020, 1, 882160, False, 1202.0), True, False)],
        "0a0000050016cb007109c95d": [((882161, 31021, 1, 882161, False, 1202.0), True, True)],
    },
    {"7f00000115387f0000019c42": [882141], "7f00000115397f0000019c43": [882152]},
    {"0a0000050016cb007109c959"},
    {
        882170: ("000000000016cb0071090000", (10, 20, 30, 40, 50), 1203.5, "0a0000050016cb007109c95e"),
        882171: ("000000000016cb0071090000", (0, 0, 0, 0, 0), 1204.25, None),
    },
    {"0.0.0.0:22", "127.0.0.1:5432"},
    {
        ("ingress", bytes([203, 0, 113, 9]), bytes([10, 0, 0, 5]), 22, 4711): 2,
        ("egress", None, bytes.fromhex("20010db8000000000000000000000009"), 443, 0): 1,
    },
    (9, 882131, 3, 77123, True, False),
    {2: {"MESSAGE": "second, of \udcff\n", "PRIORITY": "6"}},
)


def load(path: Path) -> Kept | None:
    """What a file holds, None if it was moved aside; what was moved is put back."""
    kept, warning = Snapshot(str(path), PLACE).load()
    if warning is not None:
        assert kept is None
        assert str(path) in warning
        os.rename(f"{path}.damaged-1", path)
    return kept


def test_a_file_of_version_1_is_read() -> None:
    kept, warning = Snapshot(str(VERSION_1), PLACE).load()
    assert warning is None
    assert kept is not None
    assert held(kept) == HELD_BY_VERSION_1


def test_whatever_bit_is_flipped_it_is_not_believed(tmp_path: Path) -> None:
    path, content = tmp_path / "snapshot", VERSION_1.read_bytes()
    for at in range(len(content)):
        spoilt = bytearray(content)
        spoilt[at] ^= 1 << at % 8
        path.write_bytes(spoilt)
        kept = load(path)
        # What ends the header's padding does not matter.
        assert kept is None or (held(kept) == HELD_BY_VERSION_1 and at == 191), f"at byte {at}"


def test_however_much_of_the_end_is_missing_it_is_not_believed(tmp_path: Path) -> None:
    path, content = tmp_path / "snapshot", VERSION_1.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        assert load(path) is None, f"{size} bytes"


def test_a_line_that_is_missing_or_in_another_place_is_not_believed(tmp_path: Path) -> None:
    path, (header, *lines) = tmp_path / "snapshot", VERSION_1.read_bytes().splitlines(keepends=True)
    for at in range(len(lines)):
        path.write_bytes(header + b"".join(lines[:at] + lines[at + 1 :]))
        assert load(path) is None, f"line {at + 2}"


def test_what_stands_behind_its_length_is_a_write_that_was_cut(tmp_path: Path) -> None:
    path, content = tmp_path / "snapshot", VERSION_1.read_bytes()
    further = content.splitlines(keepends=True)[3]
    for tail in (b"x", b"\n", further[:40], further, further * 3 + further[:-1], b"\0" * 5000):
        path.write_bytes(content + tail)
        kept = load(path)
        assert kept is not None
        assert held(kept) == HELD_BY_VERSION_1


# --- its size --------------------------------------------------------------------------------------------------------


def test_what_a_stop_knows_for_told_outlives_the_file_s_writing_anew(state: Path) -> None:
    """However many are in TIME_WAIT then: the file is written anew when it has grown."""
    snapshot = Snapshot(str(state), PLACE)
    tracker = Tracker(lambda four_tuple: None, lambda four_tuple: False, True, snapshot)
    snapshot.save(tracker, set(), Aggregation(0, 0))
    tracker.read_done()
    assert list(tracker.overdue(1.0)) == []
    tracker.leave()
    ended = {four_tuple_of(bytes([10, 0, 0, 5]), 80, bytes([203, 0, 113, 9]), port) for port in range(30_000, 40_000)}
    for four_tuple in sorted(ended):
        assert tracker.row(Row(four_tuple, TIME_WAIT, 0, 0), "read", 2.0) is None
    snapshot.save(tracker, set(), Aggregation(0, 0))
    snapshot.done()
    kept, warning = Snapshot(str(state), PLACE).load()
    assert warning is None
    assert kept is not None
    assert kept.closed == ended


# --- a disk that takes nothing ---------------------------------------------------------------------------------------


def test_it_is_for_nobody_else_s_eyes(tables: Tables, state: Path) -> None:
    once(tables, state)
    assert state.stat().st_mode & 0o777 == 0o600
