"""Reads /proc/net/tcp and /proc/net/tcp6: which sockets are new, changed or gone since the last read.

The format is that of get_tcp4_sock() in net/ipv4/tcp_ipv4.c and get_tcp6_sock() in net/ipv6/tcp_ipv6.c. A read is not
atomic: every read() returns at most one page, and the table changes between two of them, so that a row may stand twice
in one read or be missing from it once. Both are settled here: what this room reports as gone was absent from two reads.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from tcpnewconn.model import CONNECTED, FIN_WAIT2, LISTEN, TIME_WAIT, FourTuple, Row, four_tuple_of, unmapped

# Read this much before looking at it: Python's own work per page would cost as much as the rows in it.
_BATCH = 64 * 1024

_STATES = {b"%02X" % number: number for number in range(256)}
_LISTEN = b"%02X" % LISTEN
_TIME_WAIT = b"%02X" % TIME_WAIT
# FIN_WAIT2 can be what is left of a socket too.
_ENDED = (_TIME_WAIT, b"%02X" % FIN_WAIT2)
# Stands for the columns from uid to inode of a row that is to be told by the next read, whatever they are.
_UNTOLD = b"\n"
_REPORTED = frozenset(b"%02X" % number for number in CONNECTED | {LISTEN})

# The kernel counts those of sockets in 32 bits (fs/inode.c, get_next_ino()).
_LARGEST_INODE = 0xFFFFFFFF

# What follows the addresses and the state, up to the inode; the kernel has added columns behind it and may again.
_REST = (
    rb" [0-9A-F]{8}:[0-9A-F]{8} [0-9A-F]{2}:[0-9A-F]{8} [0-9A-F]{8} "
    rb"+(?P<uid>[0-9]{1,10}) +-?[0-9]+ (?P<inode>[0-9]{1,10})(?= |$)"
)


@dataclass(slots=True)
class _Seen:
    """What is remembered of a row: the columns from uid to inode, and the number of the read it last stood in."""

    owner: bytes
    read: int


@dataclass(frozen=True, slots=True)
class Malformed:
    """A row that could not be understood: file, line number in it (from 1), and the row."""

    path: str
    line: int
    text: bytes


@dataclass(slots=True)
class Read:
    """One read of both tables.

    `changed` decodes lazily, in the order of the tables (a first read of 400,000 rows must not hold them all decoded);
    it is to be gone through before the next read. `rows` counts the rows of both tables, `malformed` those not understood,
    `states` those of each state.
    """

    changed: Iterator[Row]
    gone: list[FourTuple]
    listeners: list[Row]
    gone_listeners: list[FourTuple]
    rows: int
    malformed: int
    first_malformed: Malformed | None
    states: dict[int, int]
    _tables: tuple[_Table, _Table] = field(repr=False)

    def find(self, four_tuple: FourTuple) -> Row | None:
        """The row of a four_tuple, if it stands in this read or stood in the one before."""
        for table in self._tables:
            row = table.find(four_tuple)
            if row is not None:
                return row
        return None


class ProcNet:
    """The two tables under a root of /proc, and what was seen in them.

    For the machine's own /proc that is /proc/self/net, which stays visible under ProcSubset=pid. A /proc that is mounted
    elsewhere is another host's (or the host's, seen from a container): there, the network namespace of its process 1
    is meant. A folder of captured files has just net/. Without `users`, user ids are taken for unknown.
    """

    def __init__(self, root: str = "/proc", byteorder: str = sys.byteorder, users: bool = True) -> None:
        folder = net_folder(root)
        self._tables = (_Table(f"{folder}/tcp", 8, byteorder, users), _Table(f"{folder}/tcp6", 32, byteorder, users))

    def read(self, time_wait: bool = True) -> Read:
        """Read both tables. Without `time_wait`, rows in TIME_WAIT are passed over.

        Raises OSError if /proc/net/tcp cannot be read. A missing tcp6 is normal: IPv6 is off.
        """
        tcp, tcp6 = self._tables
        first = tcp.read(time_wait)
        try:
            second = tcp6.read(time_wait)
        except FileNotFoundError:
            second = tcp6.nothing()
        except OSError:
            tcp.take_back(first)
            raise
        return Read(
            changed=chain(tcp.rows(first, first.changed), tcp6.rows(second, second.changed)),
            gone=[table.four_tuple(head) for table, part in ((tcp, first), (tcp6, second)) for head in part.gone],
            listeners=[*tcp.rows(first, first.listeners), *tcp6.rows(second, second.listeners)],
            gone_listeners=[
                table.four_tuple(head) for table, part in ((tcp, first), (tcp6, second)) for head in part.gone_listeners
            ],
            rows=first.rows + second.rows,
            malformed=first.malformed + second.malformed,
            first_malformed=first.first_malformed or second.first_malformed,
            states=_states((tcp, first), (tcp6, second)),
            _tables=self._tables,
        )

    def forget(self, four_tuple: FourTuple) -> None:
        """The socket of this four_tuple is gone: whatever row the four_tuple has from now on is new, however alike."""
        for table in self._tables:
            table.forget(four_tuple)

    def forget_ended(self) -> None:
        """Let the next read have every row of a connection that has ended, however known."""
        for table in self._tables:
            table.forget_ended()


def net_folder(root: str) -> str:
    """Where the tables are under a root of /proc."""
    if os.path.realpath(root) == "/proc":
        return f"{root}/self/net"
    if os.path.exists(f"{root}/1/net/tcp"):
        return f"{root}/1/net"
    return f"{root}/net"


@dataclass(slots=True)
class _Part:
    """One read of one table, by the heads of its rows: their addresses and state, as text."""

    changed: list[bytes] = field(default_factory=list)
    # What stood in this read, and then, on the same addresses in another state, the next connection did.
    replaced: dict[bytes, _Seen] = field(default_factory=dict)
    gone: list[bytes] = field(default_factory=list)
    listeners: list[bytes] = field(default_factory=list)
    gone_listeners: list[bytes] = field(default_factory=list)
    rows: int = 0
    malformed: int = 0
    first_malformed: Malformed | None = None
    # Rows that are not remembered, and (below zero) remembered ones that did not stand in this read, by state.
    apart: dict[bytes, int] = field(default_factory=dict)

    def count(self, state: bytes, sign: int = 1) -> None:
        self.apart[state] = self.apart.get(state, 0) + sign


def _states(*read: tuple[_Table, _Part]) -> dict[int, int]:
    """How many rows of each state stood in a read, where there were any."""
    states: dict[int, int] = {}
    for counts in (counts for table, part in read for counts in (table.states, part.apart)):
        for state, count in counts.items():
            number = _STATES[state]
            states[number] = states.get(number, 0) + count
    return {state: count for state, count in states.items() if count}


class _Table:
    """One file. `digits` is the number of hexadecimal digits of an address in it."""

    def __init__(self, path: str, digits: int, byteorder: str, users: bool) -> None:
        self._path = path
        self._digits = digits
        self._byteorder: str = byteorder
        self._users = users
        # "0100007F:1F99 00000000:0000 0A", then the queues, timer and retransmits of a fixed width, then the uid.
        self._head = 2 * (digits + 5) + 4
        self._owner = self._head + 40
        self._known: dict[bytes, _Seen] = {}
        # How many of the known rows have each state: counting them anew would cost as much as a quiet table (measured).
        self.states = dict.fromkeys(_REPORTED, 0)
        self._read = 0
        address = rb"[0-9A-F]{%d}:[0-9A-F]{4}" % digits
        self._pattern = re.compile(address + b" " + address + b" [0-9A-F]{2}" + _REST)

    def read(self, time_wait: bool) -> _Part:
        """Read the whole file; raises OSError."""
        self._read += 1
        part = _Part()
        # Bound to local names: this loop runs once a row, and is the cost of a quiet table.
        known, read, head, owner = self._known.get, self._read, self._head, self._owner
        unlike = passed = 0
        before = len(self._known)
        try:
            for line, bodies in _bodies(self._path):
                for body in bodies:
                    seen = known(body[:head])
                    if seen is not None and body.startswith(seen.owner, owner):
                        seen.read = read
                    else:
                        unlike += 1
                        if time_wait or body[head - 2 : head] != _TIME_WAIT:
                            self._look(body, line, bodies, part)
                        else:
                            passed += 1
                part.rows += len(bodies)
        except OSError:
            self.take_back(part)
            raise
        part.count(_TIME_WAIT, passed)
        if unlike or part.rows != before:
            self._forget(part)
        return part

    def nothing(self) -> _Part:
        """A read of a file that is not there: all its rows are absent."""
        self._read += 1
        part = _Part()
        self._forget(part)
        return part

    def take_back(self, part: _Part) -> None:
        """Nobody will hear of this read, the other table's or the rest of this one failed: the next one tells it again."""
        self._read -= 1
        for head in part.changed:
            if head in self._known:
                self._known[head].owner = _UNTOLD
        for head in part.listeners:
            self._drop(head)
        for head in (*part.gone, *part.gone_listeners):
            self._keep(head, _Seen(_UNTOLD, self._read - 1))

    def _look(self, body: bytes, line: int, bodies: list[bytes], part: _Part) -> None:
        """Remember a row that is not as it was."""
        match = self._pattern.match(body)
        if match is None or int(match["inode"]) > _LARGEST_INODE:
            part.malformed += 1
            if part.first_malformed is None:
                text = body.split(b"\n", 1)[0].strip()
                part.first_malformed = Malformed(self._path, line + _index(bodies, body), text)
            return
        head = body[: self._head]
        state = head[-2:]
        if state not in _REPORTED:
            part.count(state)
            return
        owner = body[self._owner : match.end()] + b" "
        seen = self._known.get(head)
        if seen is None:
            for other in _REPORTED:
                replaced = self._drop(head[:-2] + other)
                if replaced is not None and replaced.read == self._read:
                    part.replaced[head[:-2] + other] = replaced
            self._keep(head, _Seen(owner, self._read))
        else:
            seen.owner, seen.read = owner, self._read
            if state == _LISTEN:
                # SO_REUSEPORT: several sockets listen on one address; which of them stands first does not matter.
                return
        (part.listeners if state == _LISTEN else part.changed).append(head)

    def _forget(self, part: _Part) -> None:
        """Drop the rows that were absent from two reads, this one and the one before."""
        before = self._read - 1
        for head in [head for head, seen in self._known.items() if seen.read != self._read]:
            if self._known[head].read == before:
                part.count(head[-2:], -1)
                continue
            self._drop(head)
            (part.gone_listeners if head.endswith(_LISTEN) else part.gone).append(head)

    def rows(self, part: _Part, heads: list[bytes]) -> Iterator[Row]:
        """The rows of one read that begin with these heads, decoded."""
        for head in heads:
            yield self._decoded(head, self._known.get(head) or part.replaced[head])

    def row(self, head: bytes) -> Row:
        """The row that begins with `head`, decoded."""
        return self._decoded(head, self._known[head])

    def _decoded(self, head: bytes, seen: _Seen) -> Row:
        uid, _, inode = seen.owner.split()
        number = int(inode)
        # Without an inode (TIME_WAIT, an orphan, not yet accepted) the uid column says 0 for "unknown".
        return Row(self.four_tuple(head), _STATES[head[-2:]], int(uid) if number and self._users else None, number)

    def four_tuple(self, head: bytes) -> FourTuple:
        """The four_tuple that a row's head stands for: b"0500000A:0016 090071CB:C978" -> 10.0.0.5:22, 203.0.113.9:51576.

        An address is written as 32-bit words in the host's byte order, a port as a plain number.
        """
        local, remote, _ = head.split(b" ")
        digits = self._digits
        return four_tuple_of(
            self._address(local[:digits]),
            int(local[digits + 1 :], 16),
            self._address(remote[:digits]),
            int(remote[digits + 1 :], 16),
        )

    def _address(self, text: bytes) -> bytes:
        packed = bytes.fromhex(text.decode())
        if self._byteorder == "little":
            packed = b"".join(packed[word : word + 4][::-1] for word in range(0, len(packed), 4))
        return unmapped(packed)

    def find(self, four_tuple: FourTuple) -> Row | None:
        """The row of a four_tuple, if this file has it."""
        for head in self._heads(four_tuple):
            seen = self._known.get(head)
            if seen is not None and seen.owner != _UNTOLD:
                return self._decoded(head, seen)
        return None

    def forget(self, four_tuple: FourTuple) -> None:
        """Know nothing of a four_tuple's row."""
        for head in self._heads(four_tuple):
            self._drop(head)

    def forget_ended(self) -> None:
        for head in [head for head in self._known if head[-2:] in _ENDED]:
            self._drop(head)

    def _keep(self, head: bytes, seen: _Seen) -> None:
        self._known[head] = seen
        self.states[head[-2:]] += 1

    def _drop(self, head: bytes) -> _Seen | None:
        seen = self._known.pop(head, None)
        if seen is not None:
            self.states[head[-2:]] -= 1
        return seen

    def _heads(self, four_tuple: FourTuple) -> list[bytes]:
        """How a row of this four_tuple can begin."""
        half = len(four_tuple) // 2
        if half - 2 > self._digits // 2:
            return []
        addresses = b"%b %b " % (self._endpoint(four_tuple[:half]), self._endpoint(four_tuple[half:]))
        return [addresses + state for state in _REPORTED]

    def _endpoint(self, end: bytes) -> bytes:
        address, port = end[:-2], int.from_bytes(end[-2:], "big")
        if self._digits == 32 and len(address) == 4:
            address = b"\0" * 10 + b"\xff\xff" + address
        if self._byteorder == "little":
            address = b"".join(address[word : word + 4][::-1] for word in range(0, len(address), 4))
        return b"%b:%04X" % (address.hex().upper().encode(), port)


def _index(bodies: list[bytes], body: bytes) -> int:
    return next(number for number, other in enumerate(bodies) if other is body)


def _bodies(path: str) -> Iterator[tuple[int, list[bytes]]]:
    """The rows of a file behind their slot number ("  12: "), in batches, with the line number of each batch's first row.

    A row ends in its newline and what follows that; what stands before the first is dropped. The slot number's width
    varies, so that no row has fixed columns before it is split there.
    """
    line = 1
    rest = b""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while True:
            pages, size = [rest], 0
            while size < _BATCH and (page := os.read(descriptor, _BATCH)):
                pages.append(page)
                size += len(page)
            text = b"".join(pages)
            if size < _BATCH:
                if text and not text.endswith(b"\n"):
                    text += b"\n"
                rest = b""
            else:
                cut = text.rindex(b"\n") + 1 if b"\n" in text else 0
                text, rest = text[:cut], text[cut:]
            if line == 1 and (text or size < _BATCH):
                # The column titles.
                _, _, text = text.partition(b"\n")
                line = 2
            newlines = text.count(b"\n")
            bodies = text.split(b": ")
            del bodies[0]
            if len(bodies) != newlines or (bodies and not text.startswith(b" ") and not text[:1].isdigit()):
                bodies = _lines(text)
            yield line, bodies
            line += newlines
            if size < _BATCH:
                return
    finally:
        os.close(descriptor)


def _lines(text: bytes) -> list[bytes]:
    """The rows of a text that has lines which are none: those stand for themselves, to be counted as malformed."""
    bodies = []
    for line in text.splitlines(keepends=True):
        slot, colon, body = line.partition(b": ")
        # No row begins with a blank behind its slot number.
        bodies.append(body if colon and slot.strip().isdigit() else b" " + line)
    return bodies
