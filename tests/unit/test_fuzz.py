"""No bytes from outside raise any other exception than the declared ones.

The fuzz tests of configuration files, rows and notifications alone are in test_config.py, test_procnet.py and
test_sockdiag.py; here are the state file, the kernel's answers, what a directory of captured files may hold,
and all of it in a row.
"""

from __future__ import annotations

import json
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tcpnewconn.attribution.units import Units
from tcpnewconn.attribution.users import Users
from tcpnewconn.eventtypes import Event, Loss
from tcpnewconn.kernel import host
from tcpnewconn.kernel.host import Host
from tcpnewconn.kernel.lookup import Lookup
from tcpnewconn.kernel.procnet import ProcNet
from tcpnewconn.model import CONNECTED, DestroyedSocket, SocketInfo, Traffic, four_tuple_of
from tcpnewconn.observing.observer import Observer
from tcpnewconn.reporting.entries import Renderer
from tcpnewconn.state.log import StateLog
from tcpnewconn.tracking.run import Notifications
from tests.support.owners import Owners
from tests.support.table import TITLES, Line
from tests.support.terminal import TESTS

VERSION_1 = (TESTS / "fixtures" / "snapshot-version-1").read_bytes()
SAMPLE = (TESTS / "fixtures/sample_proc_net_tcp.txt").read_bytes()
PLACE = "0123456789abcdef0123456789abcdef-4026531840"

# Places, how much is taken out there, and what is put there instead.
CHANGES = st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=6)
Change = tuple[int, int, bytes]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the tests that Hypothesis repeats."""
    return tmp_path_factory.mktemp("fuzz")


def changed(content: bytes, changes: list[Change]) -> bytes:
    spoilt = bytearray(content)
    for at, size, put_there in changes:
        spoilt[at : at + size] = put_there
    return bytes(spoilt)


# --- the state file ---------------------------------------------------------------------------------------------------


def load(directory: Path, content: bytes) -> bool:
    """Whether a state file of this content is believed. It must be read, or moved aside with one printable line."""
    path = directory / "snapshot"
    path.write_bytes(content)
    owners = Owners(path, PLACE)
    warning = owners.warning
    if warning is None:
        return True
    assert not owners.log.resumed
    assert warning.isprintable()
    assert len(warning) < 1000
    assert not path.exists()
    (directory / "snapshot.damaged-1").unlink()
    return False


@given(content=st.binary(max_size=2000))
def test_random_bytes_are_no_snapshot(directory: Path, content: bytes) -> None:
    assert not load(directory, content)


@given(changes=CHANGES)
# Its last line has grown beyond what the header says; a number has become another one.
@example(changes=[(len(VERSION_1) - 17, 0, b"\0")])
@example(changes=[(VERSION_1.index(b"882130"), 1, b"9")])
def test_a_snapshot_that_was_changed_is_not_believed_but_behind_its_end(directory: Path, changes: list[Change]) -> None:
    content = changed(VERSION_1, changes)
    believed = load(directory, content)
    assert not believed or content.startswith(VERSION_1[:191])
    assert not believed or content[192:].startswith(VERSION_1[192:])


def checked(line: str) -> bytes:
    content = line.encode(errors="surrogatepass")
    return b"%08x %b\n" % (zlib.crc32(content), content)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["0a00", "00" * 12]),
    lambda children: st.lists(children, max_size=8) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=12,
)
RECORDS = st.lists(st.tuples(st.sampled_from(list("+-vwoscyzxbnilkgfhedqtr?")), st.lists(JSON, max_size=8)), max_size=6)


@given(records=RECORDS, version=st.just(1) | JSON, place=st.just(PLACE) | JSON, length=st.none() | JSON)
@example(records=[("x", [float("inf"), 0])], version=1, place=PLACE, length=None)
@example(records=[], version=1, place=PLACE, length=float("inf"))
@example(records=[("+", ["00" * 12, 2**70, 1, 1, 1, True, 1.0])], version=1, place=PLACE, length=None)
def test_records_that_are_none_do_no_harm_though_their_checksum_is_right(
    directory: Path, records: list[tuple[str, list[object]]], version: object, place: object, length: object
) -> None:
    lines = b"".join(checked(json.dumps([kind, *rest])) for kind, rest in records)
    given = f"{192 + len(lines):015}" if length is None else length
    header = checked(json.dumps({"tcpnewconn": version, "place": place, "length": given}))[:-1].ljust(191) + b"\n"
    load(directory, header[:192] + lines)


def test_nor_does_json_that_is_nested_without_end(directory: Path) -> None:
    line = checked("[" * 100_000)
    header = checked(json.dumps({"tcpnewconn": 1, "place": PLACE, "length": str(192 + len(line))}))
    assert not load(directory, header[:-1].ljust(191) + b"\n" + line)


# --- what a directory of captured files may hold ------------------------------------------------------------------------


@given(boot=st.binary(max_size=60), ports=st.binary(max_size=30))
@example(boot=b"\xff\xfe", ports="²\t³".encode())
@example(boot=b"", ports=b"1\t" + b"9" * 5000)
@example(boot=b"", ports=b"9" * 5000 + b"\t1")
def test_any_boot_id_and_range_of_ports_are_read(directory: Path, boot: bytes, ports: bytes) -> None:
    for name, content in (("kernel/random/boot_id", boot), ("net/ipv4/ip_local_port_range", ports)):
        (directory / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / "sys" / name).write_bytes(content)
    here = host.look(str(directory), f"{directory}/net")
    assert here.place.isascii()
    assert here.place.isprintable()
    assert len(here.place) < 64
    assert all(isinstance(port, int) for port in here.port_range)


# --- the kernel's answers --------------------------------------------------------------------------------------------

PAIR = four_tuple_of(bytes([10, 0, 0, 5]), 22, bytes([203, 0, 113, 9]), 51544)
# Possible errors in an answer: its length, its kind, the question that it belongs to, its content.
MESSAGES = st.lists(
    st.tuples(
        st.none() | st.integers(0, 2**32 - 1),
        st.sampled_from([2, 3, 20, 0, 0xFFFF]),
        st.booleans(),
        st.binary(max_size=120),
    ),
    max_size=4,
)
Message = tuple[int | None, int, bool, bytes]


class Kernel:
    """Stands in for the socket on which the real kernel would answer: that cannot be made to say such things."""

    def __init__(self, messages: list[Message], tail: bytes) -> None:
        self._messages = messages
        self._tail = tail
        self._question = b""
        self._answered = False

    def connect(self, address: object) -> None: ...

    def setsockopt(self, level: int, option: int, value: bytes) -> None: ...

    def setblocking(self, flag: bool) -> None: ...

    def send(self, question: bytes) -> None:
        self._question = question
        self._answered = False

    def recv(self, size: int) -> bytes:
        if not self._question:
            raise BlockingIOError
        if self._answered:
            raise TimeoutError("timed out")
        self._answered = True
        sequence = struct.unpack_from("=I", self._question, 8)[0]
        answer = b""
        for length, kind, to_this, body in self._messages:
            size = 16 + len(body) if length is None else length
            answer += struct.pack("=IHHII", size, kind, 0, sequence if to_this else sequence ^ 1, 0) + body
            answer += b"\0" * (-len(answer) % 4)
        return answer + self._tail


@given(messages=MESSAGES, tail=st.binary(max_size=20))
@example(messages=[(None, 2, True, b"")], tail=b"")
@example(messages=[(None, 20, True, b"\xff" * 120)], tail=b"")
def test_any_answer_is_a_socket_or_none(messages: list[Message], tail: bytes) -> None:
    lookup = Lookup(cast(socket.socket, Kernel(messages, tail)))
    identity = lookup.socket_info(PAIR)
    assert identity is None or isinstance(identity, SocketInfo)
    try:
        found = list(lookup.listeners())
    except OSError:
        return
    assert all(len(row.four_tuple) in (12, 36) for row, _ in found)


# --- all of it in a row ----------------------------------------------------------------------------------------------

ADDRESSES = [bytes([10, 0, 0, 5]), bytes([127, 0, 0, 1]), bytes([203, 0, 113, 9]), b"\0" * 4]
ENDS = st.tuples(st.sampled_from(ADDRESSES), st.sampled_from([0, 22, 40000, 40001]))
LINES = st.builds(
    Line,
    local=ENDS,
    remote=ENDS,
    state=st.sampled_from([*CONNECTED, 2, 3, 10, 12, 13, 255]),
    uid=st.sampled_from([0, 1000, 2**32 - 1, 10**30]),
    inode=st.sampled_from([0, 1, 2, 2**32 - 1, 2**32, 10**10, 10**30]),
)
DESTROYED = st.builds(
    lambda local, remote, cookie, established, unaddressed: DestroyedSocket(
        four_tuple_of(*local, *((remote[0], 0) if unaddressed else remote)),
        cookie,
        established,
        unaddressed,
        Traffic(1, 2, 3, 4, 5),
    ),
    ENDS,
    ENDS,
    st.sampled_from([1, 2, 2**64 - 1]),
    st.booleans(),
    st.booleans(),
)
# One after the other: a poll of these rows (changed in places), or a destroyed socket.
HISTORY = st.lists(
    st.tuples(
        st.lists(LINES, max_size=6),
        st.lists(st.tuples(st.integers(150, 700), st.integers(0, 3), st.binary(max_size=3)), max_size=2),
    )
    | DESTROYED,
    max_size=12,
)


@given(history=HISTORY, notified=st.booleans())
# A listener that has a peer, and a connection on its addresses: no kernel writes that.
@example(history=[([Line((ADDRESSES[0], 22), (ADDRESSES[2], 1), state) for state in (10, 1)], [])], notified=False)
@example(history=[([Line((ADDRESSES[0], 22), (ADDRESSES[2], 40000), 1, 10**30, 10**30)], [])], notified=True)
# A row of the other end of a reported connection whose number is the largest cookie.
@example(
    history=[
        DestroyedSocket(
            four_tuple_of(ADDRESSES[0], 22, ADDRESSES[0], 40000), 2**64 - 1, True, False, Traffic(1, 2, 3, 4, 5)
        ),
        ([Line((ADDRESSES[0], 40000), (ADDRESSES[0], 22), 4, 0, 0)], []),
    ],
    notified=False,
)
def test_any_history_is_reported_and_the_state_file_holds_what_the_owners_do(
    directory: Path, history: list[DestroyedSocket | tuple[list[Line], list[Change]]], notified: bool
) -> None:
    (directory / "net").mkdir(exist_ok=True)
    (directory / "snapshot").unlink(missing_ok=True)
    here = Host("0", "0", (32768, 60999), live=False, users=True)
    render: Callable[..., dict[str, str]] = Renderer(Units("/nowhere"), Users()).entry

    def check(event: Event) -> None:
        entry = render(event)
        assert entry["MESSAGE"].isprintable() or isinstance(event, Loss)

    def built() -> tuple[StateLog, Observer]:
        log = StateLog(str(directory / "snapshot"), PLACE)
        kind = Notifications.KEPT if notified else Notifications.NONE
        made = Observer(ProcNet(str(directory), "little"), here, None, check, kind, log, 1)
        assert log.load() is None
        return log, made

    log, observer = built()
    observer.events.closed = True
    log.save()
    unaddressed: set[int] = set()
    for now, event in enumerate(history):
        if isinstance(event, DestroyedSocket):
            if event.unaddressed and event.cookie in unaddressed:
                # The kernel notifies of a socket once.
                continue
            unaddressed |= {event.cookie} if event.unaddressed else set()
            observer.destroyed(event, now * 1.0)
        else:
            table = TITLES + b"".join(row.text(slot, "little") for slot, row in enumerate(event[0]))
            (directory / "net" / "tcp").write_bytes(changed(table, event[1]))
            observer.poll(now * 1.0)
        log.save()
        read, again = built()
        assert again.tracker.run._recorded == (observer.tracker.run.unsettled, observer.tracker.run.gap)
        assert everything(read) == everything(log)


def everything(log: StateLog) -> list[str]:
    """The records that every owner would write.

    But for how far its run has come, because a new one begins at the start; and for closed sockets, which stay on record until
    they expire where a run forgets them before.
    """
    records = (record for owner in log._each_owner() for record in owner.records())
    return sorted(record for record in records if not record.startswith(('["i"', '["c"')))
