"""What outlives a restart: nothing is reported twice, nothing that is damaged is believed, and a bad disk stops nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path

import pytest

from tcpnewconn.model import TIME_WAIT, Row, four_tuple_of
from tcpnewconn.reporting.aggregation import Aggregation
from tcpnewconn.state.kept import Kept
from tcpnewconn.state.snapshot import Snapshot
from tcpnewconn.tracking.tracker import Tracker
from tests.support.events import parsed
from tests.support.supervised import Supervised
from tests.support.table import Line, Tables, line, listener
from tests.support.terminal import TESTS, TREE, command, environment, messages, run

SSH = listener("0.0.0.0:22", inode=10)
PLACE = "0123456789abcdef0123456789abcdef-4026531840"
# Written by the program as it was when this version of the format was the newest. One file more for each later version.
VERSION_1 = TESTS / "fixtures" / "snapshot-version-1"


def incoming(number: int) -> Line:
    return line("10.0.0.5:22", f"203.0.113.9:{20000 + number}", inode=100 + number)


def told(*numbers: int) -> list[str]:
    return [f"New connection: 203.0.113.9:{20000 + number} -> 10.0.0.5:22" for number in numbers]


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    made = Tables(tmp_path / "proc")
    made.write([SSH, *map(incoming, range(3))])
    return made


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state" / "snapshot"


def once(tables: Tables, state: Path) -> list[str]:
    """What a single read reports; it must have nothing to complain of."""
    done = run("--once", "--procfs", str(tables.folder), "--state", str(state))
    assert (done.returncode, done.stderr) == (0, "")
    return messages(done.stdout)


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


@pytest.mark.parametrize("call", ["write", "pwrite64", "rename"])
def test_a_kill_at_any_write_loses_nothing_and_repeats_only_under_the_same_id(
    tables: Tables, state: Path, tmp_path: Path, call: str
) -> None:
    once(tables, state)
    before = state.read_bytes()
    tables.write([SSH, incoming(0), incoming(2), *map(incoming, range(10, 14))])
    options = command("--once", "--procfs", str(tables.folder), "--state", str(state), "--output", "json")[1:]
    number = kills = 0
    while number == kills:
        number += 1
        state.write_bytes(before)
        events = []
        # Killed as it comes to that call for the number-th time; if it does not, it is the last of these.
        kill = ["strace", "-qq", "-o", os.devnull, "-e", f"inject={call}:signal=SIGKILL:when={number}"]
        for tracer in (kill, [], []):
            done = subprocess.run(
                [*tracer, sys.executable, *options], cwd=TREE, env=environment(), capture_output=True, text=True
            )
            assert done.stderr == ""
            kills += done.returncode == -9 and tracer == kill
            assert done.returncode == (-9 if number == kills and tracer == kill else 0)
            events.append([parsed(line) for line in done.stdout.splitlines(keepends=True) if line.endswith("\n")])
        killed, after, quiet = events
        ids = {event["message"]: event["tcpnewconn.connection_id"] for event in killed + after}
        assert sorted(ids) == told(10, 11, 12, 13), f"killed at {call} {number}"
        assert {event["tcpnewconn.connection_id"] for event in killed + after} == set(ids.values())
        assert len({event["message"] for event in after}) == len(after)
        assert quiet == []
    assert kills > 0


# --- not to be believed ----------------------------------------------------------------------------------------------


def bad_header(version: int) -> bytes:
    """A header of another version, otherwise as it should be."""
    text = json.dumps({"tcpnewconn": version, "place": PLACE, "length": "000000000000192"})
    return f"{zlib.crc32(text.encode()):08x} {text}".ljust(191).encode() + b"\n"


def no_file(state: Path) -> None:
    state.unlink()
    state.mkdir()
    (state / "something").touch()


def truncated(size: int) -> Callable[[Path], object]:
    return lambda state: state.write_bytes(state.read_bytes()[:size])


def flipped(at: int) -> Callable[[Path], object]:
    def flip(state: Path) -> None:
        content = bytearray(state.read_bytes())
        content[at] ^= 0x10
        state.write_bytes(content)

    return flip


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda state: state.write_bytes(b""), "empty"),
        (lambda state: state.write_bytes(b"\0" * 5000), "damaged in line 1"),
        (lambda state: state.write_bytes(os.urandom(5000)), "damaged in line 1"),
        (lambda state: state.write_text("what is this\n"), "damaged in line 1"),
        (lambda state: state.write_bytes(bad_header(2)), "of version 2, this program knows 1"),
        (no_file, "Is a directory"),
        (lambda state: (state.unlink(), state.symlink_to(state)), "Too many levels of symbolic links"),
        (truncated(60), "damaged in line 1"),
        (truncated(192), "192 bytes of "),
        (truncated(-1), "damaged in line "),
        (truncated(-300), "damaged in line "),
        (flipped(20), "damaged in line 1"),
        (flipped(300), "damaged in line "),
        (flipped(-5), "damaged in line "),
    ],
)
def test_what_cannot_be_believed_is_moved_aside_with_a_warning_and_the_service_goes_on(
    tables: Tables, state: Path, spoil: Callable[[Path], object], why: str
) -> None:
    once(tables, state)
    spoil(state)
    options = ["--procfs", str(tables.folder), "--state", str(state), "--interval", "100ms"]
    with Supervised(*options) as service:
        service.ready()
        service.reads(2)
        assert service.stop() == 0
        (warning,) = service.said
    # Everything is told again: what the file said of it is not known.
    assert messages("\n".join(service.lines)) == ["New listener: 0.0.0.0:22", *told(0, 1, 2)]
    assert warning.startswith(f"tcpnewconn: {state}: {why}")
    assert warning.endswith(f"moved to {state}.damaged-1, connections that are open now are reported again")
    assert os.path.lexists(f"{state}.damaged-1")
    assert once(tables, state) == []


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


def test_a_quiet_read_writes_nothing_and_a_change_only_what_changed(tables: Tables, state: Path) -> None:
    tables.write([SSH, *map(incoming, range(2000))])
    with Supervised("--procfs", str(tables.folder), "--state", str(state), "--interval", "100ms") as service:
        service.reads(2)
        status, content = state.stat(), state.read_bytes()
        service.reads(4)
        after = state.stat()
        assert (after.st_ino, after.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
        assert state.read_bytes() == content
        assert len(content) > 100_000
        tables.write([SSH, *map(incoming, range(2001))])
        service.wait(lambda: told(2000)[0] in service.lines[-1], "the new one")
        service.reads(2)
        assert 0 < state.stat().st_size - status.st_size < 2000
        assert state.read_bytes()[192 : status.st_size] == content[192:]


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
        assert tracker.row(Row(four_tuple, TIME_WAIT, 0, 0), "poll", 2.0) is None
    snapshot.save(tracker, set(), Aggregation(0, 0))
    snapshot.done()
    kept, warning = Snapshot(str(state), PLACE).load()
    assert warning is None
    assert kept is not None
    assert kept.closed == ended


def test_however_much_comes_and_goes_it_stays_small(tables: Tables, state: Path) -> None:
    largest = 0
    with Supervised("--procfs", str(tables.folder), "--state", str(state), "--interval", "100ms") as service:
        service.ready()
        written = len(["the listener", *told(0, 1, 2)])
        for turn in range(12):
            tables.write([SSH, *map(incoming, range(turn * 300, turn * 300 + 300))])
            written += 300 if turn else 297
            service.wait(lambda wanted=written: len(service.lines) >= wanted, "what came")  # type: ignore[misc]
            service.reads(2)
            largest = max(largest, state.stat().st_size)
        service.reads(2)
        assert service.stop() == 0
    # 3,600 connections, each of which is some 700 bytes while it waits to be delivered.
    assert largest < 800_000
    assert once(tables, state) == []


# --- a disk that takes nothing ---------------------------------------------------------------------------------------


def fill(file: Path) -> None:
    """Make a file as large as there is room."""
    with file.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(b"\0" * 4096)


def test_a_full_disk_is_said_once_and_survived(tables: Tables, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["--procfs", str(tables.folder), "--state", f"{disk}/snapshot", "--interval", "100ms"]
    with Supervised(*options, mounts=[f"mount -t tmpfs -o size=64k tmpfs {disk}"]) as service:
        service.ready()
        filler = service.inside(disk / "filler")
        fill(filler)
        tables.write([SSH, *map(incoming, range(100))])
        service.wait(lambda: len(service.lines) == 101, "the new ones")
        service.wait(lambda: "; no snapshot: " in service.status, "status that says so")
        service.reads(3)
        service.wait(lambda: len(service.said) > 0, "warning")
        (warning,) = service.said
        filler.unlink()
        service.wait(lambda: len(service.said) == 2, "line that says it is written again")
        service.reads(1)
        assert "no snapshot" not in service.status
        shutil.copy(service.inside(disk / "snapshot"), tmp_path / "copy")
        assert service.stop() == 0
        assert len(service.lines) == 101
    assert warning == (
        f"tcpnewconn: {disk}/snapshot: No space left on device; a restart would report connections again. "
        "It is tried at every read"
    )
    assert service.said[1] == f"tcpnewconn: {disk}/snapshot is written again"
    # The one that was written in the end holds everything.
    assert once(tables, tmp_path / "copy") == []


def test_a_read_only_disk_is_said_once_and_survived(tables: Tables, state: Path) -> None:
    folder = state.parent
    once(tables, state)
    tables.write([SSH, *map(incoming, range(4))])
    options = ["--procfs", str(tables.folder), "--state", str(state), "--interval", "100ms"]
    mounts = [f"mount --bind {folder} {folder}", f"mount -o remount,bind,ro {folder}"]
    with Supervised(*options, mounts=mounts) as service:
        service.ready()
        service.wait(lambda: len(service.lines) == 1, "the new one")
        # What it could read counts.
        assert messages("\n".join(service.lines)) == told(3)
        service.reads(3)
        (warning,) = service.said
        assert warning.startswith(
            f"tcpnewconn: {state}: Read-only file system; a restart would report connections again"
        )
        service.mount("-o", "remount,bind,rw", str(folder))
        service.wait(lambda: len(service.said) == 2, "line that says it is written again")
        assert service.stop() == 0
        assert service.said[1] == f"tcpnewconn: {state} is written again"
    assert once(tables, state) == []


def test_a_folder_that_is_not_there_is_said_and_survived(tables: Tables, tmp_path: Path) -> None:
    options = ["--procfs", str(tables.folder), "--state", str(tmp_path / "no" / "snapshot"), "--interval", "100ms"]
    with Supervised(*options) as service:
        service.reads(2)
        service.wait(lambda: len(service.said) > 0, "warning")
        (warning,) = service.said
        assert warning.startswith(f"tcpnewconn: {tmp_path}/no/snapshot: No such file or directory; ")
        (tmp_path / "no").mkdir()
        service.wait(lambda: len(service.said) == 2, "line that says it is written again")
        assert service.stop() == 0
    assert once(tables, tmp_path / "no" / "snapshot") == []


def test_it_is_for_nobody_else_s_eyes(tables: Tables, state: Path) -> None:
    once(tables, state)
    assert state.stat().st_mode & 0o777 == 0o600
