"""The tail of the state log: the records since the snapshot was written last, in memory that outlives the program.

A file of fixed size on tmpfs, mapped. A record is stored there without a system call, and is safe from SIGKILL once it is
stored: the pages are the kernel's. It does not outlive a reboot; nor does what the records describe.

Each block of records has its length and its checksum. The mark says how far the blocks are whole. It is stored after a block, and
twice: a kill in between leaves one that is whole. A block behind the mark is a write that was cut off.

A record of one number that changes all the time is not in a block: the stamp is stored over the one before. A kill while it is
stored leaves none.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

# Its name in the runtime directory.
FILE = "state.tail"
# So many bytes hold the records of about 15,000 destroyed sockets.
SIZE = 1024 * 1024

# The generation, where the last block ends, and the complement of both, so that a mark that was cut off is none.
_MARK = struct.Struct("=III")
# The copies lie in different cache lines.
_COPIES = (0, 64)
# The kind of the record, its number, and the checksum of both and of the generation.
_STAMP = struct.Struct("=cdI")
_STAMP_AT = 32
_FIRST = 128
# The length of a block, and its checksum.
_BLOCK = struct.Struct("=II")
_MASK = 0xFFFFFFFF


class Unusable(Exception):
    """There can be no tail here. The text is the reason."""


class Damaged(Exception):
    """A file cannot be used. The text is the reason."""


class OtherGeneration(Damaged):
    """The blocks do not belong to the snapshot."""


class Tail:
    """The file, mapped. It belongs to the snapshot that names its generation."""

    def __init__(self, path: str, size: int = SIZE) -> None:
        """Use the file that is there, or make one. Raises Unusable."""
        self.path = path
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unusable(f"{path}: {error.strerror}") from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or not _on_tmpfs(status.st_dev):
                # Elsewhere a store can find the disk full, or wait for it.
                raise Unusable(f"{path} is not a file on tmpfs")
            self._size = max(size, status.st_size)
            # Every page is there from now on: a store needs no room.
            os.posix_fallocate(descriptor, 0, self._size)
            self._map = mmap.mmap(descriptor, self._size)
        except OSError as error:
            if not status.st_size:
                os.unlink(path)
            raise Unusable(f"{path}: {error.strerror}") from error
        finally:
            os.close(descriptor)
        self._generation, self._end = _mark(self._map) or (0, _FIRST)
        self._set_mark()
        # That of this run: the one in the file can be older than the snapshot.
        self._stamp: tuple[str, float] | None = None

    @property
    def generation(self) -> int:
        return self._generation

    @property
    def used(self) -> int:
        """Bytes of blocks."""
        return self._end - _FIRST

    @property
    def filling(self) -> bool:
        """Whether it should be emptied soon."""
        return self._end > self._size // 2

    def append(self, block: bytes) -> bool:
        """Add a block; whether there was room for it."""
        at = self._end
        end = at + _BLOCK.size + len(block)
        if end > self._size:
            return False
        self._map[at:end] = _BLOCK.pack(len(block), zlib.crc32(block)) + block
        self._end = end
        self._set_mark()
        return True

    def empty(self, generation: int) -> None:
        """Forget the blocks: they are in the snapshot that names this generation."""
        self._generation, self._end = generation, _FIRST
        self._set_mark()
        if self._stamp is not None:
            self.stamp(*self._stamp)

    def stamp(self, kind: str, number: float) -> None:
        """Store a record of one number, in the place of the last."""
        self._stamp = (kind, number)
        name = kind.encode()
        _STAMP.pack_into(self._map, _STAMP_AT, name, number, _stamp_checksum(self._generation, name, number))

    def _set_mark(self) -> None:
        generation, end = self._generation, self._end
        check = ~(generation ^ end) & _MASK
        _MARK.pack_into(self._map, _COPIES[0], generation, end, check)
        _MARK.pack_into(self._map, _COPIES[1], generation, end, check)

    def blocks(self) -> Iterator[bytes]:
        """The blocks, the first first."""
        return _blocks(self._map, self._end)

    def remove(self) -> None:
        """Delete the file: its blocks are needed no longer."""
        self._map.close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)


class Content(NamedTuple):
    """What a file holds: its blocks, the first first, and the record of one number, if there is one."""

    blocks: Iterator[bytes]
    stamp: tuple[str, float] | None


def read(path: str, generation: int) -> Content:
    """What a file holds that belongs to the snapshot of a generation. Raises OSError, and Damaged; `blocks` raise that, too."""
    with open(path, "rb") as file:
        content = file.read()
    mark = _mark(content)
    if mark is None:
        raise Damaged("damaged mark")
    found, end = mark
    if found == (generation - 1) & _MASK:
        # The snapshot was written with these blocks; a kill came before they were forgotten here.
        return Content(iter(()), _stamp(content, found))
    if found != generation:
        raise OtherGeneration(f"of generation {found}, the snapshot is of {generation}")
    return Content(_blocks(content, end), _stamp(content, found))


def _blocks(content: bytes | mmap.mmap, end: int) -> Iterator[bytes]:
    at = _FIRST
    while at < end:
        if at + _BLOCK.size > min(end, len(content)):
            raise Damaged(f"damaged at byte {at}")
        length, checksum = _BLOCK.unpack_from(content, at)
        block = content[at + _BLOCK.size : at + _BLOCK.size + length]
        if at + _BLOCK.size + length > end or len(block) != length or zlib.crc32(block) != checksum:
            raise Damaged(f"damaged at byte {at}")
        yield block
        at += _BLOCK.size + length


def _mark(content: bytes | mmap.mmap) -> tuple[int, int] | None:
    """Generation and end, of the copy that was stored first, or of the other where that is none; None if neither is one."""
    for at in _COPIES:
        if at + _MARK.size <= len(content):
            generation, end, check = _MARK.unpack_from(content, at)
            if check == ~(generation ^ end) & _MASK and _FIRST <= end <= len(content):
                return generation, end
    return None


def _stamp(content: bytes, generation: int) -> tuple[str, float] | None:
    name, number, checksum = _STAMP.unpack_from(content, _STAMP_AT)
    whole = checksum == _stamp_checksum(generation, name, number)
    return (name.decode(), number) if whole else None


def _stamp_checksum(generation: int, name: bytes, number: float) -> int:
    return zlib.crc32(_STAMP.pack(name, number, generation))


def _on_tmpfs(device: int) -> bool:
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", errors="replace") as file:
        for line in file:
            # proc(5): the third column is the device, the type of the file system comes behind a single dash.
            mount, _, what = line.partition(" - ")
            if mount.split(" ", 3)[2] == number:
                return what.split(" ", 1)[0] == "tmpfs"
    return False
