"""A page of a ring buffer, as read() of trace_pipe_raw returns it.

The layout is that of kernel/trace/ring_buffer.c (struct buffer_data_page) and include/linux/ring_buffer.h, in the kernel's byte
order: time, number of bytes that follow, records. Each record begins with a word: 5 bits of type, 27 of nanoseconds since the one
before.
"""

from __future__ import annotations

import struct
import sys
from typing import NamedTuple

_LONG = struct.calcsize("@l")
_HEADER = struct.Struct("=QQ" if _LONG == 8 else "=QI")
_MISSED = struct.Struct("=Q" if _LONG == 8 else "=I")
# In the number of bytes: records before this page were overwritten; their number stands behind the last record.
_WERE_OVERWRITTEN, _NUMBER_IS_THERE, _LENGTH = 1 << 31, 1 << 30, (1 << 30) - 1

_DATA_LONGEST, _PADDING, _TIME_EXTEND, _TIME_STAMP = 28, 29, 30, 31
_LITTLE = sys.byteorder == "little"
_DELTA_BITS = 27
_DELTA_MASK = (1 << _DELTA_BITS) - 1
# A time stamp has the lower 59 bits of the time.
_STAMP_MASK = (1 << 59) - 1


class Page(NamedTuple):
    """The records of a page: time in nanoseconds, place in `data`, length.

    `overwritten`: how many were overwritten before them, None if some were but their number is not said. `damaged`: the page has
    more, which cannot be read.
    """

    data: bytes
    records: list[tuple[int, int, int]]
    overwritten: int | None
    damaged: bool


def parse(page: bytes) -> Page:
    """Every record up to the first that is damaged. Never raises."""
    if len(page) < _HEADER.size:
        return Page(page, [], 0, True)
    time, committed = _HEADER.unpack_from(page)
    end = _HEADER.size + (committed & _LENGTH)
    if end > len(page):
        return Page(page, [], 0, True)
    overwritten: int | None = 0
    if committed & _WERE_OVERWRITTEN:
        overwritten = None
        if committed & _NUMBER_IS_THERE and end + _MISSED.size <= len(page):
            overwritten = _MISSED.unpack_from(page, end)[0]
    records: list[tuple[int, int, int]] = []
    whole = _read(page, end, time, records)
    return Page(page, records, overwritten, not whole)


def _read(page: bytes, end: int, time: int, records: list[tuple[int, int, int]]) -> bool:
    """Append the records that end before `end`; whether all of it was read."""
    at = _HEADER.size
    words = memoryview(page)[: len(page) & ~3].cast("I")
    while at < end:
        if at + 4 > end:
            return False
        word = words[at >> 2]
        kind, delta = (word & 31, word >> 5) if _LITTLE else (word >> _DELTA_BITS, word & _DELTA_MASK)
        if 0 < kind <= _DATA_LONGEST:
            length = 4 * kind
            if at + 4 + length > end:
                return False
            time += delta
            records.append((time, at + 4, length))
            at += 4 + length
            continue
        if kind == _PADDING and not delta:
            # The rest of the page is empty.
            return True
        if at + 8 > end:
            return False
        second = words[(at >> 2) + 1]
        if kind == _TIME_EXTEND:
            time += (second << _DELTA_BITS) + delta
            at += 8
        elif kind == _TIME_STAMP:
            time = (time & ~_STAMP_MASK) | (((second << _DELTA_BITS) + delta) & _STAMP_MASK)
            at += 8
        else:
            # A discarded record, or one that is too long for the word: `second` is its length, itself included.
            if second < 4 or at + 4 + second > end:
                return False
            time += delta
            if kind == 0:
                records.append((time, at + 8, second - 4))
            at += 4 + (second + 3 & ~3)
    return at == end
