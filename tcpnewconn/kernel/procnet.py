"""Polls /proc/net/tcp and /proc/net/tcp6: which rows are new, changed or gone since the last poll.

The format is that of get_tcp4_sock() in net/ipv4/tcp_ipv4.c and get_tcp6_sock() in net/ipv6/tcp_ipv6.c. A poll is not
atomic: every read() returns at most one page, and the table changes between two of them, so that a row may stand twice
in one poll or be missing from it once. Both are handled here: a row is gone when it was absent from two polls.

The text of the last polls is kept here, so that only unknown rows have to be decoded. Only tracking knows what a row means and
which socket it is of.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from tcpnewconn.model import CONNECTED, FIN_WAIT2, LISTEN, MAPPED, TIME_WAIT, FourTuple, Row, four_tuple_of, unmapped

# Read this much before looking at it: Python's own work per page would cost as much as the rows in it.
_BATCH = 64 * 1024

_STATES = {b"%02X" % number: number for number in range(256)}
_LISTEN = b"%02X" % LISTEN
_TIME_WAIT = b"%02X" % TIME_WAIT
# A timewait socket can be in FIN_WAIT2 too.
_ENDED = (_TIME_WAIT, b"%02X" % FIN_WAIT2)
# Stands for the columns from uid to inode of a row that the next poll must show, whatever they are.
_NOT_SHOWN = b"\n"
_WANTED = frozenset(b"%02X" % number for number in CONNECTED | {LISTEN})

# The kernel counts inodes of sockets in 32 bits (fs/inode.c, get_next_ino()).
_LARGEST_INODE = 0xFFFFFFFF

# The columns behind the addresses and the state, up to the inode; the kernel has added columns behind that and may add more.
_REST = (
    rb" [0-9A-F]{8}:[0-9A-F]{8} [0-9A-F]{2}:[0-9A-F]{8} [0-9A-F]{8} "
    rb"+(?P<uid>[0-9]{1,10}) +-?[0-9]+ (?P<inode>[0-9]{1,10})[ \n]"
)


@dataclass(slots=True)
class _Remembered:
    """Of a row: the columns from uid to inode and what follows them, and the number of the last poll that it stood in."""

    owner: bytes
    poll: int


class Unreadable(Exception):
    """A table cannot be read: its path, and why."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


@dataclass(frozen=True, slots=True)
class Malformed:
    """A row that could not be understood: file, line number in it (from 1), and the row."""

    path: str
    line: int
    text: bytes


@dataclass(slots=True)
class Poll:
    """One poll of both tables, valid until the next one.

    `count` is the number of rows in both tables, `malformed` of those not understood, `states` of those of each state. `gone` are
    the 4-tuples that were absent from two polls.
    """

    gone: list[FourTuple]
    listeners: list[Row]
    gone_listeners: list[FourTuple]
    count: int
    malformed: int
    first_malformed: Malformed | None
    states: dict[int, int]
    _parts: tuple[tuple[_Table, _Part], ...] = field(repr=False)

    def rows(self, again: Collection[FourTuple] = (), ended: bool = False) -> Iterator[Row]:
        """The rows that are new or changed, in the order of the tables; not those of listeners.

        Also the unchanged ones of the 4-tuples in `again`, and with `ended` those in TIME_WAIT or FIN_WAIT2. They are decoded
        one at a time: a first poll of 400,000 rows must not hold them all.
        """
        for table, part in self._parts:
            for head in part.changed:
                yield table.row(head, part)
            if again or ended:
                shown = set(part.changed)
                unchanged = [found for one in again if (found := table.standing(one)) is not None]
                for head in dict.fromkeys(unchanged + table.ended() if ended else unchanged):
                    if head not in shown:
                        yield table.row(head, part)

    def row(self, four_tuple: FourTuple) -> Row | None:
        """The row of a 4-tuple, if it stands in this poll."""
        for table, part in self._parts:
            head = table.standing(four_tuple)
            if head is not None:
                return table.row(head, part)
        return None

    def absent_once(self, four_tuple: FourTuple) -> bool:
        """Whether a 4-tuple has no row in this poll, and had one in the poll before."""
        return self.row(four_tuple) is None and self.recent(four_tuple)

    def recent(self, four_tuple: FourTuple) -> bool:
        """Whether a 4-tuple has a row in this poll or had one in the poll before."""
        return any(table.remembers(four_tuple) for table, _ in self._parts)


class ProcNet:
    """The two tables under a root of /proc.

    For the machine's own /proc that is /proc/self/net, which stays visible under ProcSubset=pid. A /proc that is mounted
    elsewhere is another host's (or the host's, seen from a container): there, the network namespace of its process 1
    is meant. A directory of captured files has just net/. Without `users`, user ids are taken for unknown.
    """

    def __init__(self, root: str = "/proc", byteorder: str = sys.byteorder, users: bool = True) -> None:
        directory = net_directory(root)
        self._tables = (
            _Table(f"{directory}/tcp", 8, byteorder, users),
            _Table(f"{directory}/tcp6", 32, byteorder, users),
        )

    def poll(self, time_wait: bool = True) -> Poll:
        """Poll both tables. Without `time_wait`, rows in TIME_WAIT are passed over.

        Raises Unreadable. A missing tcp6 is normal: IPv6 is off.
        """
        tcp, tcp6 = self._tables
        first = tcp.poll(time_wait)
        try:
            second = tcp6.poll(time_wait)
        except Unreadable as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                tcp.undo(first)
                raise
            second = tcp6.nothing()
        parts = ((tcp, first), (tcp6, second))
        return Poll(
            gone=[table.four_tuple(head) for table, part in parts for head in part.gone],
            listeners=[table.row(head, part) for table, part in parts for head in part.listeners],
            gone_listeners=[table.four_tuple(head) for table, part in parts for head in part.gone_listeners],
            count=first.rows + second.rows,
            malformed=first.malformed + second.malformed,
            first_malformed=first.first_malformed or second.first_malformed,
            states=_states(parts),
            _parts=parts,
        )


def net_directory(root: str) -> str:
    """Where the tables are under a root of /proc."""
    if os.path.realpath(root) == "/proc":
        return f"{root}/self/net"
    if os.path.exists(f"{root}/1/net/tcp"):
        return f"{root}/1/net"
    return f"{root}/net"


@dataclass(slots=True)
class _Part:
    """One poll of one table, by the heads of its rows: their addresses and state, as text."""

    changed: list[bytes] = field(default_factory=list)
    # A row of this poll whose addresses the next connection then had, in another state, in the same poll.
    replaced: dict[bytes, _Remembered] = field(default_factory=dict)
    gone: list[bytes] = field(default_factory=list)
    listeners: list[bytes] = field(default_factory=list)
    gone_listeners: list[bytes] = field(default_factory=list)
    rows: int = 0
    malformed: int = 0
    first_malformed: Malformed | None = None
    # Rows that are not remembered, and (below zero) remembered ones that did not stand in this poll, by state.
    apart: dict[bytes, int] = field(default_factory=dict)

    def count(self, state: bytes, sign: int = 1) -> None:
        self.apart[state] = self.apart.get(state, 0) + sign


def _states(parts: tuple[tuple[_Table, _Part], ...]) -> dict[int, int]:
    """How many rows of each state stood in a poll, where there were any."""
    states: dict[int, int] = {}
    for counts in (counts for table, part in parts for counts in (table.states, part.apart)):
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
        self._known: dict[bytes, _Remembered] = {}
        # How many of the known rows have each state: counting them at each poll would cost as much as a quiet table (measured).
        self.states = dict.fromkeys(_WANTED, 0)
        self._poll = 0
        address = rb"[0-9A-F]{%d}:[0-9A-F]{4}" % digits
        self._pattern = re.compile(address + b" " + address + b" [0-9A-F]{2}" + _REST)

    def poll(self, time_wait: bool) -> _Part:
        """Read the whole file; raises Unreadable."""
        self._poll += 1
        part = _Part()
        # Bound to local names: this loop runs once a row, and is the cost of a quiet table.
        known, poll, head, owner = self._known.get, self._poll, self._head, self._owner
        different = passed = 0
        before = len(self._known)
        try:
            for line, bodies in _bodies(self._path):
                for body in bodies:
                    seen = known(body[:head])
                    if seen is not None and body.startswith(seen.owner, owner):
                        seen.poll = poll
                    else:
                        different += 1
                        if time_wait or body[head - 2 : head] != _TIME_WAIT:
                            self._look(body, line, bodies, part)
                        else:
                            passed += 1
                part.rows += len(bodies)
        except OSError as error:
            self.undo(part)
            raise Unreadable(self._path, error.strerror or str(error)) from error
        part.count(_TIME_WAIT, passed)
        if different or part.rows != before:
            self._forget(part)
        return part

    def nothing(self) -> _Part:
        """A poll of a file that is not there: all its rows are absent."""
        self._poll += 1
        part = _Part()
        self._forget(part)
        return part

    def undo(self, part: _Part) -> None:
        """Reading failed, in the other table or later in this one: the next poll reports the changes of this one again."""
        self._poll -= 1
        for head in part.changed:
            if head in self._known:
                self._known[head].owner = _NOT_SHOWN
        for head in part.listeners:
            self._drop(head)
        for head in (*part.gone, *part.gone_listeners):
            self._keep(head, _Remembered(_NOT_SHOWN, self._poll - 1))

    def _look(self, body: bytes, line: int, bodies: list[bytes], part: _Part) -> None:
        """Remember a row that has changed."""
        match = self._pattern.match(body)
        if match is None or int(match["inode"]) > _LARGEST_INODE:
            part.malformed += 1
            if part.first_malformed is None:
                text = body.split(b"\n", 1)[0].strip()
                part.first_malformed = Malformed(self._path, line + _index(bodies, body), text)
            return
        head = body[: self._head]
        state = head[-2:]
        if state not in _WANTED:
            part.count(state)
            return
        owner = body[self._owner : match.end()]
        seen = self._known.get(head)
        if seen is None:
            for other in _WANTED:
                replaced = self._drop(head[:-2] + other)
                if replaced is not None and replaced.poll == self._poll:
                    part.replaced[head[:-2] + other] = replaced
            self._keep(head, _Remembered(owner, self._poll))
        else:
            seen.owner, seen.poll = owner, self._poll
            if state == _LISTEN:
                # SO_REUSEPORT: several sockets listen on one address; which of them stands first does not matter.
                return
        (part.listeners if state == _LISTEN else part.changed).append(head)

    def _forget(self, part: _Part) -> None:
        """Drop the rows that were absent from two polls, this one and the one before."""
        before = self._poll - 1
        for head in [head for head, seen in self._known.items() if seen.poll != self._poll]:
            if self._known[head].poll == before:
                part.count(head[-2:], -1)
                continue
            self._drop(head)
            (part.gone_listeners if head.endswith(_LISTEN) else part.gone).append(head)

    def row(self, head: bytes, part: _Part) -> Row:
        """The row of a poll that begins with `head`, decoded."""
        seen = self._known.get(head) or part.replaced[head]
        uid, _, inode = seen.owner.split()
        number = int(inode)
        # Without an inode (TIME_WAIT, an orphan, not yet accepted) the uid column says 0 for "unknown".
        return Row(self.four_tuple(head), _STATES[head[-2:]], int(uid) if number and self._users else None, number)

    def four_tuple(self, head: bytes) -> FourTuple:
        """The 4-tuple of a row's head: b"0500000A:0016 090071CB:C978 01" -> 10.0.0.5:22, 203.0.113.9:51576.

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

    def standing(self, four_tuple: FourTuple) -> bytes | None:
        """The head of the row that a 4-tuple has in the last poll, if it has one."""
        for head in self._heads(four_tuple):
            seen = self._known.get(head)
            if seen is not None and seen.poll == self._poll and seen.owner != _NOT_SHOWN:
                return head
        return None

    def remembers(self, four_tuple: FourTuple) -> bool:
        """Whether a 4-tuple has a row in the last poll or had one in the poll before."""
        known = (self._known.get(head) for head in self._heads(four_tuple))
        return any(seen is not None and seen.owner != _NOT_SHOWN for seen in known)

    def ended(self) -> list[bytes]:
        """The heads of the rows in TIME_WAIT and FIN_WAIT2 in the last poll."""
        return [head for head, seen in self._known.items() if seen.poll == self._poll and head[-2:] in _ENDED]

    def _keep(self, head: bytes, seen: _Remembered) -> None:
        self._known[head] = seen
        self.states[head[-2:]] += 1

    def _drop(self, head: bytes) -> _Remembered | None:
        seen = self._known.pop(head, None)
        if seen is not None:
            self.states[head[-2:]] -= 1
        return seen

    def _heads(self, four_tuple: FourTuple) -> list[bytes]:
        """How a row of this 4-tuple can begin."""
        half = len(four_tuple) // 2
        if half - 2 > self._digits // 2:
            return []
        addresses = b"%b %b " % (self._endpoint(four_tuple[:half]), self._endpoint(four_tuple[half:]))
        return [addresses + state for state in _WANTED]

    def _endpoint(self, end: bytes) -> bytes:
        address, port = end[:-2], int.from_bytes(end[-2:], "big")
        if self._digits == 32 and len(address) == 4:
            address = MAPPED + address
        if self._byteorder == "little":
            address = b"".join(address[word : word + 4][::-1] for word in range(0, len(address), 4))
        return b"%b:%04X" % (address.hex().upper().encode(), port)


def _index(bodies: list[bytes], body: bytes) -> int:
    return next(number for number, other in enumerate(bodies) if other is body)


def _bodies(path: str) -> Iterator[tuple[int, list[bytes]]]:
    """The rows of a file behind their slot number ("  12: "), in batches, with the line number of each batch's first row.

    A row ends in its newline and the text up to the next row; text before the first row is dropped. The slot number's width
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
    """The rows of a text in which some lines are not rows: these lines are returned too, to be counted as malformed."""
    bodies = []
    for line in text.splitlines(keepends=True):
        slot, colon, body = line.partition(b": ")
        # No row begins with a blank behind its slot number.
        bodies.append(body if colon and slot.strip().isdigit() else b" " + line)
    return bodies
