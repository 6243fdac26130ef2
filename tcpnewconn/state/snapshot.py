"""What outlives a restart: the connections that were reported, and the entries that were not delivered yet.

The file is a log of what changed, a checksummed line of JSON each, rewritten when it has grown to twice what it would
have to be. So its cost follows what changes, not the size of the table, and it is whole after SIGKILL at any moment: its
first line holds the length up to which it was written, what stands behind that is the write that was cut. It need not be
synced to disk, because connections do not survive a reboot. (SQLite was measured first: three times the cost of an
appended line, 3 MiB of memory, and no checksums.)
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from json.encoder import encode_basestring_ascii as quoted

from tcpnewconn.model import DestroyedSocket, FourTuple
from tcpnewconn.reporting.aggregation import Aggregation, Key
from tcpnewconn.reporting.fields import Entry
from tcpnewconn.state.kept import Kept, apply, gone_line, group_line, socket_line, wiped_line
from tcpnewconn.tracking.changes import Changes
from tcpnewconn.tracking.sockets import Socket
from tcpnewconn.tracking.tracker import Tracker

VERSION = 1
_HEADER_SIZE = 192
# Below this size the log is not rewritten, whatever part of it is still needed.
_SMALL = 256 * 1024


# What lines raise that have a right checksum and that this program did not write.
_NOT_OURS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, struct.error)


class Damaged(Exception):
    """The file is not to be believed; says why."""


class Snapshot(Changes):
    """The file, open for writing. Writes are gathered until `flush`.

    A write that fails stops nothing: `problem` says what is wrong, and the next `save` writes the whole file anew.
    """

    def __init__(self, path: str, place: str) -> None:
        """`place` names what the file is valid for: this boot and this network namespace."""
        self.path = path
        self.problem: str | None = None
        self._place = place
        self._valid_for = f'{{"tcpnewconn":{VERSION},"place":"{place}"'.encode()
        self._lines: list[str] = []
        self._descriptor = -1
        self._length = 0
        self._needed = 0
        self._sequence = 0
        self._undelivered: dict[int, str] = {}
        self._last_end = '["x",0,0]'
        self._keys: dict[Key, int] = {}
        self._buffer = 0

    # --- reading it back ---------------------------------------------------------------------------------------------

    def load(self) -> tuple[Kept | None, str | None]:
        """What the file holds, if it is there, and a warning if it was moved aside.

        If it is of another boot or namespace only its undelivered entries count: those are still owed to the journal.
        """
        try:
            kept = _read(self.path)
        except FileNotFoundError:
            return None, None
        except (OSError, Damaged) as error:
            return None, self._move_aside(error)
        self._sequence = max(kept.undelivered, default=0)
        self._undelivered = {number: _object(entry) for number, entry in kept.undelivered.items()}
        if kept.place == self._place:
            self._last_end = f'["x",{kept.last_end},{kept.drops}]'
        return kept, None

    def _move_aside(self, error: Exception) -> str:
        why = error.strerror if isinstance(error, OSError) else str(error)
        for number in range(1, 10):
            aside = f"{self.path}.damaged-{number}"
            if not os.path.lexists(aside):
                break
        try:
            os.rename(self.path, aside)
        except OSError as failure:
            return f"{self.path}: {why}; it could not be moved aside either ({failure.strerror}): connections are reported again"
        return f"{self.path}: {why}; moved to {aside}, connections that are open now are reported again"

    # --- writing it --------------------------------------------------------------------------------------------------

    def serial(self, number: int) -> None:
        self._lines.append(f'["n",{number}]')

    def put(self, four_tuple: FourTuple, socket: Socket) -> None:
        self._lines.append(socket_line("+", four_tuple, socket))

    def drop(self, four_tuple: FourTuple) -> None:
        self._lines.append(f'["-","{four_tuple.hex()}"]')

    def leave(self, four_tuple: FourTuple, socket: Socket, doubtful: bool, lost: bool) -> None:
        self._lines.append(gone_line(four_tuple, socket, doubtful, lost))

    def left(self, four_tuple: FourTuple, cookie: int) -> None:
        self._lines.append(f'["w","{four_tuple.hex()}",{cookie}]')

    def owe(self, four_tuple: FourTuple, number: int) -> None:
        self._lines.append(f'["o","{four_tuple.hex()}",{number}]')

    def settle(self, four_tuple: FourTuple, number: int) -> None:
        self._lines.append(f'["s","{four_tuple.hex()}",{number}]')

    def close(self, four_tuple: FourTuple) -> None:
        self._lines.append(f'["c","{four_tuple.hex()}"]')

    def wait(self, end: DestroyedSocket, came: float, guess: FourTuple | None) -> None:
        self._lines.append(wiped_line(end, came, guess))

    def explained(self, cookie: int) -> None:
        self._lines.append(f'["z",{cookie}]')

    def knows(self, beginning: bool, doubtful: bool) -> None:
        self._lines.append(f'["i",{int(beginning)},{int(doubtful)}]')

    def listener(self, name: str) -> None:
        """A listener that was reported."""
        self._lines.append(f'["l","{name}"]')

    def no_listener(self, name: str) -> None:
        """A listener that was reported is gone."""
        self._lines.append(f'["k","{name}"]')

    def last_end(self, cookie: int, drops: int) -> None:
        """The announced end with this cookie was dealt with, and so many lost ones were counted."""
        line = f'["x",{cookie},{drops}]'
        if line != self._last_end:
            self._last_end = line
            self._lines.append(line)

    def fold(self, key: Key) -> None:
        """A connection was counted in this group."""
        number = self._keys.get(key)
        if number is None:
            number = self._keys[key] = len(self._keys)
            self._lines.append(group_line(number, key, 0))
        self._lines.append(f'["f",{number}]')

    def told(self) -> None:
        """What was counted in the groups is told by the entries that follow."""
        if self._keys:
            self._keys.clear()
            self._lines.append('["h"]')

    def buffer(self, inode: int) -> None:
        """The announcements that come from now on wait in the buffer of this socket."""
        self._buffer = inode

    def entry(self, entry: Entry) -> None:
        """An entry that is to be delivered: after a crash it is delivered from here."""
        self._sequence += 1
        text = _object(entry)
        self._undelivered[self._sequence] = text
        self._lines.append(f'["e",{self._sequence},{text}]')

    def delivered(self) -> None:
        """The oldest entry that was to be delivered was."""
        number = next(iter(self._undelivered))
        del self._undelivered[number]
        self._lines.append(f'["d",{number}]')

    def flush(self) -> None:
        """Write what was gathered. It is safe from SIGKILL then."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        if self._descriptor < 0:
            return
        block = b"".join([_checked(line) for line in lines])
        try:
            _write(self._descriptor, block)
            self._length += len(block)
            os.pwrite(self._descriptor, self._header(), 0)
        except OSError as error:
            self._failed(error)

    def save(self, tracker: Tracker, listeners: set[str], folding: Aggregation) -> None:
        """Write what was gathered; and the whole file anew if it has grown too large, or if it could not be written."""
        self.flush()
        if self._descriptor >= 0 and self._length <= max(_SMALL, 2 * self._needed):
            return
        new = f"{self.path}.new"
        try:
            descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                self._length = _HEADER_SIZE
                _write(descriptor, b" " * _HEADER_SIZE)
                for block in _blocks(self._all(tracker, listeners, folding)):
                    self._length += _write(descriptor, block)
                os.pwrite(descriptor, self._header(), 0)
                os.rename(new, self.path)
            except OSError:
                os.close(descriptor)
                raise
        except OSError as error:
            self._failed(error)
            return
        self.done()
        self._descriptor = descriptor
        self._needed = self._length
        self.problem = None

    def _all(self, tracker: Tracker, listeners: set[str], folding: Aggregation) -> Iterator[str]:
        yield f'["n",{tracker.serial}]'
        yield self._last_end
        yield f'["b",{self._buffer}]'
        for four_tuple, socket in tracker.table.items():
            yield socket_line("+", four_tuple, socket)
        for gone in tracker.leaving:
            yield gone_line(gone.four_tuple, gone.socket, gone.doubtful, gone.lost)
        for four_tuple, number in tracker.owed:
            yield f'["o","{four_tuple.hex()}",{number}]'
        for four_tuple in tracker.closed:
            yield f'["c","{four_tuple.hex()}"]'
        for end, came, guess in tracker.wiped:
            yield wiped_line(end, came, guess)
        yield f'["i",{int(tracker.beginning)},{int(tracker.doubtful)}]'
        for name in listeners:
            yield f'["l","{name}"]'
        self._keys = {key: number for number, (key, _) in enumerate(folding.counted())}
        for number, (key, count) in enumerate(folding.counted()):
            yield group_line(number, key, count)
        for number, text in self._undelivered.items():
            yield f'["e",{number},{text}]'

    def _header(self) -> bytes:
        text = b'%b,"length":"%015d"}' % (self._valid_for, self._length)
        return (b"%08x %b" % (zlib.crc32(text), text)).ljust(_HEADER_SIZE - 1) + b"\n"

    def _failed(self, error: OSError) -> None:
        self.problem = f"{self.path}: {error.strerror}"
        self.done()

    def done(self) -> None:
        """Write no more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _object(entry: Entry) -> str:
    """An entry in JSON. Its values are all text: a json.JSONEncoder takes twice as long for it (measured)."""
    return "{" + ",".join([f"{quoted(name)}:{quoted(value)}" for name, value in entry.items()]) + "}"


def _checked(line: str) -> bytes:
    text = line.encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _blocks(lines: Iterator[str]) -> Iterator[bytes]:
    while block := b"".join([_checked(line) for line in islice(lines, 1000)]):
        yield block


def _write(descriptor: int, block: bytes) -> int:
    """Write all of a block; raises OSError if there is no room for it."""
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    return len(block)


def _read(path: str) -> Kept:
    """What a file holds. Raises OSError, Damaged."""
    with open(path, "rb") as file:
        header = file.read(_HEADER_SIZE)
        place, length = _read_header(header)
        kept = Kept(place)
        at = len(header)
        for number, line in enumerate(file, 2):
            if at == length:
                break
            at += len(line)
            try:
                apply(_unchecked(line), kept)
            except _NOT_OURS as error:
                raise Damaged(f"damaged in line {number}") from error
    if at != length:
        raise Damaged(f"{at} bytes of {length} are there")
    return kept


def _read_header(header: bytes) -> tuple[str, int]:
    if not header:
        raise Damaged("empty")
    try:
        first = _unchecked(header.rstrip() + b"\n")
        version = first["tcpnewconn"]
        if version != VERSION:
            raise Damaged(f"of version {version!r:.40}, this program knows {VERSION}")
        return first["place"], int(first["length"])
    except _NOT_OURS as error:
        raise Damaged("damaged in line 1") from error


def _unchecked(line: bytes):  # type: ignore[no-untyped-def]
    """The JSON of a line whose checksum is right; raises one of _NOT_OURS."""
    if line[8:9] != b" " or not line.endswith(b"\n") or line[:8] != b"%08x" % zlib.crc32(line[9:-1]):
        raise ValueError("wrong checksum")
    return json.loads(line[9:])
