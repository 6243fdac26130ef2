"""The text of /proc/net/tcp and tcp6: how a row is written, and how a file is split into rows.

The format is that of get_tcp4_sock() in net/ipv4/tcp_ipv4.c and get_tcp6_sock() in net/ipv6/tcp_ipv6.c. A row's head is its
addresses and its state; its owner is its columns from uid on: those up to the inode, and some of what follows them.
"""

from __future__ import annotations

import functools
import os
import re
import struct
from binascii import unhexlify
from collections.abc import Callable, Iterable, Iterator

from tcpnewconn.model import CONNECTED, ESTABLISHED, FIN_WAIT2, LISTEN, MAPPED, TIME_WAIT, FourTuple, Row, unmapped

# Four 32-bit words; both ends of a row of IPv4.
_BIG, _LITTLE = struct.Struct(">4I"), struct.Struct("<4I")
_BIG4, _LITTLE4 = struct.Struct(">I2sI2s"), struct.Struct("<I2sI2s")
# Likewise, and a state.
_ENDS4 = struct.Struct("<I2sI2sx")

# Read this much before looking at it: Python's own work per page would cost as much as the rows in it.
_BATCH = 64 * 1024

# The states as rows write them.
STATE_NUMBERS = {b"%02X" % number: number for number in range(256)}
LISTENING = b"%02X" % LISTEN
IS_ESTABLISHED = b" %02X" % ESTABLISHED
IN_TIME_WAIT = b"%02X" % TIME_WAIT
# A timewait socket can be in FIN_WAIT2 too.
ENDED = (IN_TIME_WAIT, b"%02X" % FIN_WAIT2)
# Those of listeners and of sockets that are, or were, connected.
WANTED = frozenset(b"%02X" % number for number in CONNECTED | {LISTEN})

# Of a value that is made with every row: namedtuple.__new__() takes twice as long (measured).
_tuple = tuple.__new__

# The kernel counts inodes of sockets in 32 bits (fs/inode.c, get_next_ino()).
_LARGEST_INODE = 0xFFFFFFFF

# The columns up to the inode, and a blank, are not longer in any row of the kernel: "%5u %8d %lu", two of them with ten digits.
_OWNER_SIZE = 31

# The columns from uid to inode, of an owner that holds them whole.
_UP_TO_INODE = re.compile(rb" *[0-9]+ +-?[0-9]+ [0-9]+[ \n]").match

# The columns behind the addresses and the state, up to the inode, which is a group where it can be too large. The kernel has
# added columns behind that and may add more.
_REST = (
    rb" [0-9A-F]{8}:[0-9A-F]{8} [0-9A-F]{2}:[0-9A-F]{8} [0-9A-F]{8} "
    rb"+[0-9]{1,10} +-?[0-9]+ (?:[0-9]{1,9}|([0-9]{10}))[ \n]"
)


class RowText:
    """The rows of one file. `digits` is the number of hexadecimal digits of an address in it; without `users`, user ids count as
    unknown."""

    def __init__(self, digits: int, byteorder: str, users: bool) -> None:
        self._digits = digits
        self._byteorder = byteorder
        self._users = users
        self._turned4 = digits == 8 and byteorder == "little"
        # "0100007F:1F99 00000000:0000 0A", then the queues, timer and retransmits of a fixed width, then the uid.
        self.head_size = 2 * (digits + 5) + 4
        self.owner_at = self.head_size + 40
        address = rb"[0-9A-F]{%d}:[0-9A-F]{4}" % digits
        self._match = re.compile(address + b" " + address + b" [0-9A-F]{2}" + _REST).match

    def rows(self, text: bytes) -> Rows:
        """The rows of a text of whole lines."""
        at = places(text)
        if at is not None and (behind := at.step - at.start - self.owner_at - _OWNER_SIZE) >= 0:
            unpack = _unpacker(at.start, self.head_size, self.owner_at - self.head_size, behind, len(at))
            return Rows(text, list(unpack(text)), at=at)
        split = bodies(text)
        head, owner, end = self.head_size, self.owner_at, self.owner_at + _OWNER_SIZE
        columns = [b""] * (2 * len(split))
        columns[::2] = [body[:head] for body in split]
        columns[1::2] = [body[owner:end] for body in split]
        return Rows(text, columns, split)

    def owner(self, text: bytes, at: int) -> bytes | None:
        """Of the row that begins here, the columns from uid to inode, and the character behind them; None where it cannot be
        understood."""
        match = self._match(text, at)
        if match is None or (match.lastindex and int(match[1]) > _LARGEST_INODE):
            return None
        return text[at + self.owner_at : match.end()]

    def rows_of(self, heads: list[bytes], owners: list[bytes]) -> Iterator[Row]:
        """The rows with these heads and owners, decoded."""
        users = self._users
        for four_tuple, head, owner in zip(self._four_tuples(heads), heads, owners, strict=True):
            fields = owner.split(None, 3)
            number = int(fields[2])
            # Without an inode (TIME_WAIT, an orphan, not yet accepted) the uid column says 0 for "unknown".
            uid = int(fields[0]) if number and users else None
            yield _tuple(Row, (four_tuple, STATE_NUMBERS[head[-2:]], uid, number))

    def _four_tuples(self, heads: list[bytes]) -> list[FourTuple]:
        if not self._turned4:
            return list(map(self.four_tuple, heads))
        # Most rows of a first poll: all at once takes half the time.
        packed = unhexlify(b"".join(heads).translate(None, b": "))
        return [_BIG4.pack(*ends) for ends in _ENDS4.iter_unpack(packed)]

    def four_tuple(self, head: bytes) -> FourTuple:
        """The 4-tuple of a row's head: b"0500000A:0016 090071CB:C978 01" -> 10.0.0.5:22, 203.0.113.9:51576.

        An address is written as 32-bit words in the host's byte order, a port as a plain number.
        """
        # Without the state, the colons and the blank.
        packed = unhexlify(head[:-3].translate(None, b": "))
        if self._turned4:
            return _BIG4.pack(*_LITTLE4.unpack(packed))
        half = len(packed) // 2
        local, remote = self._address(packed[: half - 2]), self._address(packed[half:-2])
        return b"%b%b%b%b" % (local, packed[half - 2 : half], remote, packed[-2:])

    def _address(self, words: bytes) -> bytes:
        if self._byteorder != "little":
            return unmapped(words)
        return unmapped(_LITTLE.pack(*_BIG.unpack(words)))

    def heads(self, four_tuple: FourTuple, states: Iterable[bytes]) -> list[bytes]:
        """How a row of this 4-tuple begins in these states."""
        half = len(four_tuple) // 2
        if half - 2 > self._digits // 2:
            return []
        if self._turned4:
            # As below, in half the time: after a restart, all that were known are asked for.
            text = _LITTLE4.pack(*_BIG4.unpack(four_tuple)).hex().upper().encode()
            addresses = b"%b:%b %b:%b " % (text[:8], text[8:12], text[12:20], text[20:])
        else:
            addresses = b"%b %b " % (self._endpoint(four_tuple[:half]), self._endpoint(four_tuple[half:]))
        return [addresses + state for state in states]

    def _endpoint(self, end: bytes) -> bytes:
        address, port = end[:-2], int.from_bytes(end[-2:], "big")
        if self._digits == 32 and len(address) == 4:
            address = MAPPED + address
        if self._byteorder == "little":
            address = _LITTLE.pack(*_BIG.unpack(address))
        return b"%b:%04X" % (address.hex().upper().encode(), port)


class Rows:
    """The rows of a text. `columns` has of each its head and its owner, one behind the other: in rows that are cut short, what
    stands there."""

    def __init__(
        self, text: bytes, columns: list[bytes], split: list[bytes] | None = None, at: range = range(0)
    ) -> None:
        self.text = text
        self.columns = columns
        self._split = split
        self._at = at

    def __len__(self) -> int:
        return len(self.columns) // 2

    def place(self, number: int) -> tuple[bytes, int]:
        """A text, and where the row of this number begins in it."""
        return (self.text, self._at[number]) if self._split is None else (self._split[number], 0)


def are_same(columns: list[bytes], others: list[bytes]) -> bool:
    """Whether columns of rows (Rows) differ in nothing but what stands behind the inode: the reference count, above all, of which
    each timer of a busy socket holds one."""
    if len(columns) != len(others):
        return False
    for one, other in zip(columns, others, strict=True):
        if one != other and ((owner := _UP_TO_INODE(one)) is None or not other.startswith(owner[0])):
            return False
    return True


@functools.lru_cache(maxsize=16)
def _unpacker(slot: int, head: int, between: int, behind: int, count: int) -> Callable[[bytes], tuple[bytes, ...]]:
    """Takes heads and owners from a text of `count` rows of one length: a fifth of the time of slices (measured)."""
    return struct.Struct(f"{slot}x{head}s{between}x{_OWNER_SIZE}s{behind}x" * count).unpack


def read(path: str) -> Iterator[bytes]:
    """The rows of a file, in batches of whole lines, without the column titles."""
    titles = True
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
            if titles and (text or size < _BATCH):
                _, _, text = text.partition(b"\n")
                titles = False
            yield text
            if size < _BATCH:
                return
    finally:
        os.close(descriptor)


def places(text: bytes) -> range | None:
    """Where each row begins behind its slot number ("  12: "), if all rows and slot numbers are as long as the first ones.

    The kernel pads the rows of IPv4 (seq_setwidth() in tcp4_seq_show()): nearly always they are. They need not be split then, nor
    their newlines be counted: either takes a fifteenth of the time that the kernel takes to write them (measured).
    """
    length, slot = text.find(b"\n") + 1, text.find(b": ")
    if not 0 < slot < length or len(text) % length or not text[:slot].strip().isdigit():
        return None
    count = len(text) // length
    for at, expected in ((length - 1, b"\n"), (slot, b":"), (slot + 1, b" ")):
        if text[at::length] != expected * count:
            return None
    return range(slot + 2, len(text), length)


def bodies(text: bytes) -> list[bytes]:
    """The rows of a text behind their slot number.

    A row ends in its newline and the text up to the next row; text before the first row is dropped. The slot number's width
    varies, so that no row has fixed columns before it is split there.
    """
    split = text.split(b": ")
    del split[0]
    if len(split) != text.count(b"\n") or (split and not text.startswith(b" ") and not text[:1].isdigit()):
        return _lines(text)
    return split


def line_of(row: bytes, text: bytes) -> int:
    """How many lines stand before the first one that is this row, with a slot number before it or without."""
    lines = enumerate(text.split(b"\n"))
    return next((at for at, line in lines if row in (line.strip(), line.partition(b": ")[2].strip())), 0)


def _lines(text: bytes) -> list[bytes]:
    """The rows of a text in which some lines are not rows: these lines are returned too, to be counted as malformed."""
    found = []
    for line in text.splitlines(keepends=True):
        slot, colon, body = line.partition(b": ")
        # No row begins with a blank behind its slot number.
        found.append(body if colon and slot.strip().isdigit() else b" " + line)
    return found
