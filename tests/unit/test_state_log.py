"""The state log: nothing is reported twice, no damaged record is accepted, and a bad disk stops nothing."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tcpnewconn.kernel.procnet import ProcNet
from tcpnewconn.model import TIME_WAIT, DestroyedSocket, Traffic, four_tuple_of
from tcpnewconn.tracking.socket import Phase, Socket
from tests.support.owners import Owners
from tests.support.state_file import PLACE, SSH, incoming, once, reported
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
    assert once(tables, state) == ["New listener: 0.0.0.0:22", *reported(0, 1, 2)]
    assert once(tables, state) == []
    tables.write([SSH, listener("0.0.0.0:25", inode=11), incoming(0), incoming(2), incoming(3)])
    assert once(tables, state) == ["New listener: 0.0.0.0:25", *reported(3)]
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
    assert once(tables, state) == reported(0)


# --- not to be believed ----------------------------------------------------------------------------------------------


def test_one_that_may_not_be_read_is_moved_aside(tables: Tables, state: Path) -> None:
    once(tables, state)
    state.chmod(0)
    # Root may read everything, unless it has no capabilities.
    unprivileged = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.getuid() == 0 else []
    options = ["--once", "--procfs", str(tables.directory), "--state", str(state)]
    done = run(*options, python=[*unprivileged, sys.executable])
    assert done.returncode == 0
    assert messages(done.stdout) == ["New listener: 0.0.0.0:22", *reported(0, 1, 2)]
    (warning,) = done.stderr.splitlines()
    assert warning.startswith(f"tcpnewconn: {state}: Permission denied; moved to {state}.damaged-1")
    assert once(tables, state) == []


def test_a_file_that_was_moved_aside_stays_for_nine_times(tables: Tables, state: Path) -> None:
    for number in range(1, 12):
        state.write_text(f"damage {number}")
        run("--once", "--procfs", str(tables.directory), "--state", str(state))
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
        boot = tables.directory / "sys/kernel/random/boot_id"
        boot.parent.mkdir(parents=True)
        boot.write_text("01234567-89ab-cdef-0123-456789abcdef\n")
    else:
        # The table of each namespace has an inode number of its own.
        shutil.copy(tables.tcp, tables.directory / "other")
        (tables.directory / "other").rename(tables.tcp)
    assert once(tables, state) == ["New listener: 0.0.0.0:22", *reported(0, 1, 2)]
    assert once(tables, state) == []
    assert [path.name for path in state.parent.iterdir()] == ["snapshot"]


@pytest.mark.parametrize("boot", ['"', "x" * 500, "\\", "", "\x1b[2J"])
def test_a_boot_id_that_is_none_does_not_damage_it(tables: Tables, state: Path, boot: str) -> None:
    file = tables.directory / "sys/kernel/random/boot_id"
    file.parent.mkdir(parents=True)
    file.write_text(f"{boot}\n")
    once(tables, state)
    assert once(tables, state) == []


# --- the format ------------------------------------------------------------------------------------------------------


# The state from the file of version 1, as its owners would write it today.
HELD_BY_VERSION_1 = [
    '["+","0a0000050016cb007109c958",882130,31001,1,882130,false,0.000,null,0]',
    '["+","20010db800000000000000000000000501bb20010db80000000000000000000000099c41",0,31003,8,-8,false,1234.500,null,0]',
    '["+","7f0000019c427f0000011538",882140,0,6,882140,true,1234.500,null,0]',
    '["b",77123]',
    '["c","0a0000050016cb007109c959",inf]',
    '["e",2,{"MESSAGE":"second, of \\udcff\\n","PRIORITY":"6"}]',
    '["g",0,"ingress","cb007109","0a000005",22,4711,2]',
    '["g",1,"egress",null,"20010db8000000000000000000000009",443,0,1]',
    '["i",1,0]',
    '["l", "0.0.0.0:22"]',
    '["l", "127.0.0.1:5432"]',
    '["n",7]',
    '["o","7f00000115387f0000019c42",882141]',
    '["o","7f00000115397f0000019c43",882152]',
    '["v","0a0000050016cb007109c95a",0,31010,1,-9,false,1201.000,-1,null,0]',
    '["v","0a0000050016cb007109c95a",882150,31009,8,882150,false,1200.250,-1,null,0]',
    '["v","0a0000050016cb007109c95c",882160,31020,1,882160,false,1202.000,0,null,0]',
    '["v","0a0000050016cb007109c95d",882161,31021,1,882161,false,1202.000,1,null,0]',
    '["x",882131,3]',
    '["y","000000000016cb0071090000",882170,[10,20,30,40,50],1203.5,"0a0000050016cb007109c95e"]',
    '["y","000000000016cb0071090000",882171,[0,0,0,0,0],1204.25,null]',
]


def load(path: Path) -> list[str] | None:
    """The state that a file gives its owners, None if it was moved aside; then it is put back."""
    owners = Owners(path, PLACE)
    if owners.warning is not None:
        assert str(path) in owners.warning
        assert not owners.log.resumed
        assert owners.records() == Owners(path.with_name("none"), PLACE).records()
        os.rename(f"{path}.damaged-1", path)
        return None
    return owners.records()


def test_a_file_of_version_1_is_read() -> None:
    assert load(VERSION_1) == HELD_BY_VERSION_1


def test_a_file_with_any_bit_flipped_is_not_believed(tmp_path: Path) -> None:
    path, content = tmp_path / "snapshot", VERSION_1.read_bytes()
    for at in range(len(content)):
        spoilt = bytearray(content)
        spoilt[at] ^= 1 << at % 8
        path.write_bytes(spoilt)
        held = load(path)
        # The end of the header's padding does not matter.
        assert held is None or (held == HELD_BY_VERSION_1 and at == 191), f"at byte {at}"


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


def test_text_behind_its_length_is_a_write_that_was_cut(tmp_path: Path) -> None:
    path, content = tmp_path / "snapshot", VERSION_1.read_bytes()
    further = content.splitlines(keepends=True)[3]
    for tail in (b"x", b"\n", further[:40], further, further * 3 + further[:-1], b"\0" * 5000):
        path.write_bytes(content + tail)
        assert load(path) == HELD_BY_VERSION_1


def test_many_sockets_share_a_line_and_are_loaded_as_they_were(state: Path) -> None:
    owners = Owners(state, PLACE)
    owners.log.save()
    sockets = owners.tracker.sockets
    for number in range(2500):
        address = bytes([203, 0, *divmod(number, 256)]) if number % 3 else b"\x20\x01" + number.to_bytes(14, "big")
        four_tuple = four_tuple_of(bytes(len(address)), 22, address, 1024)
        cookie = 0 if number % 5 == 0 else 2**64 - 1 - number
        name = cookie or -1 - number
        state_number = TIME_WAIT if number % 7 == 0 else 1
        uid = None if number % 2 else number
        sockets.show(
            Socket(four_tuple, None, name, cookie, number, state_number, number % 4 == 0, number / 8, uid, number)
        )
    held, connections = {one.four_tuple: one for one in sockets.all_shown()}, sockets.open
    first, second = list(held)[:2]
    owners.log.flush()
    for _ in range(2):
        # At first a line for each, then the file as it is rewritten.
        owners.log.close()
        again = Owners(state, PLACE)
        loaded = again.tracker.sockets
        assert {one.four_tuple: str(one) for one in loaded.all_shown()} == {
            name: str(one) for name, one in held.items()
        }
        assert (loaded.open, loaded.largest_serial()) == (connections, 1 + 2495)
        assert [loaded.was_gone_when_looked_up(one) for one in held] == [not one.cookie for one in held.values()]
        again.log.save()
        owners = again
    assert len(state.read_bytes().splitlines()) < 50
    # What changes later is read behind it.
    gone = again.tracker.sockets.shown(first)
    assert gone is not None
    again.tracker.sockets.forget(gone)
    again.log.flush()
    again.log.close()
    last = Owners(state, PLACE).tracker.sockets
    assert (last.shown(first), str(last.shown(second))) == (None, str(held[second]))


# The last two are of the size of one socket: a bit that is left over is set, a character is none of base64.
@pytest.mark.parametrize(
    "record",
    [
        *('["p"]', '["p",12]', '["p",13,""]', '["p",12,7]', '["p",12,"?"]', '["p",12,"AAAA"]', '["p","12",""]'),
        *(f'["p",12,"{"A" * 73}B=="]', f'["p",12,"{"A" * 73}?A=="]'),
    ],
)
def test_a_line_of_many_that_makes_no_sense_is_not_believed(record: str, state: Path) -> None:
    owners = Owners(state, PLACE)
    owners.log.save()
    owners.log.append(record)
    owners.log.flush()
    owners.log.close()
    assert load(state) is None


# --- its size --------------------------------------------------------------------------------------------------------


def test_connections_reported_at_a_stop_outlive_the_rewriting_of_the_file(state: Path, tmp_path: Path) -> None:
    """However many are in TIME_WAIT then: the file is rewritten when it has grown."""
    tables = Tables(tmp_path / "proc")
    owners = Owners(state, PLACE)
    proc = ProcNet(str(tables.directory))
    owners.log.save()
    owners.tracker.poll(proc.poll(), 1.0)
    owners.tracker.stop()
    ended = [line("10.0.0.5:80", f"203.0.113.9:{port}", TIME_WAIT) for port in range(30_000, 40_000)]
    tables.write(ended)
    owners.tracker.poll(proc.poll(), 2.0)
    before = state.stat().st_ino
    owners.log.save()
    assert state.stat().st_ino != before
    owners.log.close()
    again = Owners(state, PLACE)
    assert again.warning is None
    closed = {socket.four_tuple for socket in again.tracker.sockets.all_in(Phase.CLOSED)}
    assert len(closed) == 10_000


# --- what is forgotten -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "logged"), [(30.0, False), (89.0, False), (91.0, True), (5400.0, True)])
def test_a_closed_connection_is_forgotten_after_90_seconds_over_a_restart_too(
    seconds: float, logged: bool, state: Path, tmp_path: Path
) -> None:
    """A row in TIME_WAIT on its addresses is another connection then, where notifications were lost meanwhile."""
    tables = Tables(tmp_path / "proc")
    four_tuple = four_tuple_of(bytes([10, 0, 0, 5]), 80, bytes([203, 0, 113, 9]), 40000)
    owners = Owners(state, PLACE)
    owners.log.save()
    owners.tracker.poll(ProcNet(str(tables.directory)).poll(), 100.0)
    owners.tracker.stop()
    owners.tracker.destroyed(DestroyedSocket(four_tuple, 4711, True, False, Traffic(1, 2, 3, 4, 5)), 101.0)
    owners.log.save()
    owners.log.close()
    # Started again with another socket: what was destroyed meanwhile is lost.
    again = Owners(state, PLACE, socket=77124)
    now = 101.0 + seconds
    again.tracker.resume(now, 0)
    tables.write([line("10.0.0.5:80", "203.0.113.9:40000", TIME_WAIT)])
    again.tracker.poll(ProcNet(str(tables.directory)).poll(), now)
    again.tracker.caught_up(now + 1)
    again.tracker.tick(now + 1)
    assert len(again.reported) == int(logged)


# --- a disk that takes nothing ---------------------------------------------------------------------------------------


def test_it_is_for_nobody_else_s_eyes(tables: Tables, state: Path) -> None:
    once(tables, state)
    assert state.stat().st_mode & 0o777 == 0o600
