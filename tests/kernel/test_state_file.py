"""The state file under the running service: killed at any write, damaged, on a disk that takes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.events import parsed
from tests.support.state_file import PLACE, SSH, incoming, once, reported
from tests.support.supervised import Supervised
from tests.support.table import Tables
from tests.support.terminal import TREE, command, environment, messages


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    made = Tables(tmp_path / "proc")
    made.write([SSH, *map(incoming, range(3))])
    return made


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state" / "snapshot"


@pytest.mark.parametrize("call", ["write", "pwrite64", "rename"])
def test_a_kill_at_any_write_loses_nothing_and_repeats_only_under_the_same_id(
    tables: Tables, state: Path, tmp_path: Path, call: str
) -> None:
    once(tables, state)
    before = state.read_bytes()
    tables.write([SSH, incoming(0), incoming(2), *map(incoming, range(10, 14))])
    options = command("--once", "--procfs", str(tables.directory), "--state", str(state), "--output", "json")[1:]
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
        assert sorted(ids) == reported(10, 11, 12, 13), f"killed at {call} {number}"
        assert {event["tcpnewconn.connection_id"] for event in killed + after} == set(ids.values())
        assert len({event["message"] for event in after}) == len(after)
        assert quiet == []
    assert kills > 0


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
        (lambda state: state.write_bytes(bad_header(3)), "of version 3, this program knows 1 and 2"),
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
def test_a_damaged_file_is_moved_aside_with_a_warning_and_the_service_goes_on(
    tables: Tables, state: Path, spoil: Callable[[Path], object], why: str
) -> None:
    once(tables, state)
    spoil(state)
    options = ["--procfs", str(tables.directory), "--state", str(state), "--interval", "100ms"]
    with Supervised(*options) as service:
        service.ready()
        service.polls(2)
        assert service.stop() == 0
        (warning,) = service.said
    # Everything is reported again: what the file said of it is not known.
    assert messages("\n".join(service.lines)) == ["New listener: 0.0.0.0:22", *reported(0, 1, 2)]
    assert warning.startswith(f"tcpnewconn: {state}: {why}")
    assert warning.endswith(f"moved to {state}.damaged-1: connections that are open now are logged again")
    assert os.path.lexists(f"{state}.damaged-1")
    assert once(tables, state) == []


def test_a_quiet_read_writes_nothing_and_a_change_only_what_changed(tables: Tables, state: Path) -> None:
    tables.write([SSH, *map(incoming, range(2000))])
    with Supervised("--procfs", str(tables.directory), "--state", str(state), "--interval", "100ms") as service:
        service.polls(2)
        status, content = state.stat(), state.read_bytes()
        service.polls(4)
        after = state.stat()
        assert (after.st_ino, after.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
        assert state.read_bytes() == content
        assert len(content) > 100_000
        tables.write([SSH, *map(incoming, range(2001))])
        service.wait(lambda: reported(2000)[0] in service.lines[-1], "the new one")
        service.polls(2)
        assert 0 < state.stat().st_size - status.st_size < 2000
        assert state.read_bytes()[192 : status.st_size] == content[192:]


def test_however_much_comes_and_goes_it_stays_small(tables: Tables, state: Path) -> None:
    largest = 0
    with Supervised("--procfs", str(tables.directory), "--state", str(state), "--interval", "100ms") as service:
        service.ready()
        written = len(["the listener", *reported(0, 1, 2)])
        for turn in range(12):
            tables.write([SSH, *map(incoming, range(turn * 300, turn * 300 + 300))])
            written += 300 if turn else 297
            service.wait(lambda wanted=written: len(service.lines) >= wanted, "what came")  # type: ignore[misc]
            service.polls(2)
            largest = max(largest, state.stat().st_size)
        service.polls(2)
        assert service.stop() == 0
    # 3,600 connections, each of which is some 700 bytes while it waits to be delivered.
    assert largest < 800_000
    assert once(tables, state) == []


def fill(file: Path) -> None:
    """Make a file as large as there is room."""
    with file.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(b"\0" * 4096)


def test_a_full_disk_is_said_once_and_survived(tables: Tables, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["--procfs", str(tables.directory), "--state", f"{disk}/snapshot", "--interval", "100ms"]
    with Supervised(*options, mounts=[f"mount -t tmpfs -o size=64k tmpfs {disk}"]) as service:
        service.ready()
        filler = service.inside(disk / "filler")
        fill(filler)
        tables.write([SSH, *map(incoming, range(100))])
        service.wait(lambda: len(service.lines) == 101, "the new ones")
        service.wait(lambda: "; state not saved: " in service.status, "status that says so")
        service.polls(3)
        service.wait(lambda: len(service.said) > 0, "warning")
        (warning,) = service.said
        filler.unlink()
        service.wait(lambda: len(service.said) == 2, "line that says it is written again")
        service.polls(1)
        assert "state not saved" not in service.status
        shutil.copy(service.inside(disk / "snapshot"), tmp_path / "copy")
        assert service.stop() == 0
        assert len(service.lines) == 101
    assert warning == (
        f"tcpnewconn: {disk}/snapshot: No space left on device; a restart will log open connections again; "
        "retrying every interval"
    )
    assert service.said[1] == f"tcpnewconn: {disk}/snapshot is written again"
    # The one that was written in the end holds everything.
    assert once(tables, tmp_path / "copy") == []


def test_a_read_only_disk_is_said_once_and_survived(tables: Tables, state: Path) -> None:
    directory = state.parent
    once(tables, state)
    tables.write([SSH, *map(incoming, range(4))])
    options = ["--procfs", str(tables.directory), "--state", str(state), "--interval", "100ms"]
    mounts = [f"mount --bind {directory} {directory}", f"mount -o remount,bind,ro {directory}"]
    with Supervised(*options, mounts=mounts) as service:
        service.ready()
        service.wait(lambda: len(service.lines) == 1, "the new one")
        # The records that it could read count.
        assert messages("\n".join(service.lines)) == reported(3)
        service.polls(3)
        (warning,) = service.said
        assert warning.startswith(
            f"tcpnewconn: {state}: Read-only file system; a restart will log open connections again"
        )
        service.mount("-o", "remount,bind,rw", str(directory))
        service.wait(lambda: len(service.said) == 2, "line that says it is written again")
        assert service.stop() == 0
        assert service.said[1] == f"tcpnewconn: {state} is written again"
    assert once(tables, state) == []


def test_a_directory_that_is_not_there_is_said_and_survived(tables: Tables, tmp_path: Path) -> None:
    options = ["--procfs", str(tables.directory), "--state", str(tmp_path / "no" / "snapshot"), "--interval", "100ms"]
    with Supervised(*options) as service:
        service.polls(2)
        service.wait(lambda: len(service.said) > 0, "warning")
        (warning,) = service.said
        assert warning.startswith(f"tcpnewconn: {tmp_path}/no/snapshot: No such file or directory; ")
        (tmp_path / "no").mkdir()
        service.wait(lambda: len(service.said) == 2, "line that says it is written again")
        assert service.stop() == 0
    assert once(tables, tmp_path / "no" / "snapshot") == []
