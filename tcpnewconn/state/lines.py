"""The lines of the snapshot: the first one, and a checksummed one of JSON for each record. Pure, but for write()."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator

from tcpnewconn.state.tail import Damaged

VERSION, VERSION_WITH_TAIL = 1, 2
HEADER_SIZE = 192
# So many bytes are written together.
BLOCK = 128 * 1024

# The exceptions that come of a record that has a right checksum and was not written by this program.
NOT_OURS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, struct.error)


def header(place: str, length: int, generation: int | None = None) -> bytes:
    """The first line; with the generation of the tail that continues the snapshot."""
    version, continued = (VERSION, "") if generation is None else (VERSION_WITH_TAIL, f',"tail":{generation}')
    text = f'{{"tcpnewconn":{version},"place":"{place}","length":"{length:015d}"{continued}}}'.encode()
    return (b"%08x %b" % (zlib.crc32(text), text)).ljust(HEADER_SIZE - 1) + b"\n"


def _checked(line: str) -> bytes:
    text = line.encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def blocks(lines: Iterable[str]) -> Iterator[bytes]:
    """The lines, many at a time; some records are some ten kilobytes long."""
    block: list[bytes] = []
    size = 0
    for line in lines:
        block.append(_checked(line))
        size += len(block[-1])
        if size >= BLOCK:
            yield b"".join(block)
            block.clear()
            size = 0
    if block:
        yield b"".join(block)


def write(descriptor: int, block: bytes) -> int:
    """Write all of a block. Raises OSError, also where the disk is full."""
    written = os.write(descriptor, block)
    while written < len(block):
        written += os.write(descriptor, memoryview(block)[written:])
    return written


def read_header(line: bytes) -> tuple[str, int, int | None]:
    """Place, length, and the generation of the tail, None if there is none. Raises Damaged."""
    if not line:
        raise Damaged("empty")
    text = verified(line.rstrip() + b"\n", 1)
    try:
        first = json.loads(text)
        version = first["tcpnewconn"]
        if version not in (VERSION, VERSION_WITH_TAIL):
            raise Damaged(f"of version {version!r:.40}, this program knows {VERSION} and {VERSION_WITH_TAIL}")
        generation = int(first["tail"]) if version == VERSION_WITH_TAIL else None
        return first["place"], int(first["length"]), generation
    except NOT_OURS as error:
        raise Damaged("damaged in line 1") from error


def verified(line: bytes, number: int) -> bytes:
    """The JSON of the line with this number, whose checksum is right. Raises Damaged."""
    text = line[9:-1]
    if line[8:9] != b" " or not line.endswith(b"\n") or line[:8] != b"%08x" % zlib.crc32(text):
        raise Damaged(f"damaged in line {number}")
    return text
