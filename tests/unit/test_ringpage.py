"""Pages of ring buffers: made as the kernel makes them, and damaged. Those of real kernels: test_trace_captured.py."""

from __future__ import annotations

import struct
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tcpnewconn.kernel.ringpage import parse

PAGE = 4096
START = 13_529_854_859_123

pytestmark = pytest.mark.skipif(
    sys.byteorder != "little", reason="the pages made here are those of a little-endian kernel"
)


def word(kind: int, delta: int) -> bytes:
    return struct.pack("<I", kind | delta << 5)


def record(data: bytes, delta: int) -> bytes:
    """As kernel/trace/ring_buffer.c writes it: short ones with their length in the word, a delta of more than 27 bits before."""
    extend = b""
    if delta >> 27:
        extend, delta = word(30, delta & (1 << 27) - 1) + struct.pack("<I", delta >> 27), 0
    padded = data + b"\0" * (-len(data) % 4)
    if len(padded) <= 112:
        return extend + word(len(padded) // 4, delta) + padded
    return extend + word(0, delta) + struct.pack("<I", len(padded) + 4) + padded


def page(body: bytes, overwritten: int | None = 0) -> bytes:
    committed = len(body)
    behind = b""
    if overwritten != 0:
        committed |= 1 << 31
        if overwritten is not None:
            committed |= 1 << 30
            behind = struct.pack("<Q", overwritten)
    return struct.pack("<QQ", START, committed) + (body + behind).ljust(PAGE - 16, b"\xaa")


RECORDS = st.lists(
    st.tuples(st.binary(min_size=1, max_size=200), st.one_of(st.integers(0, 1000), st.integers(0, 1 << 40))),
    max_size=17,
)


@given(RECORDS)
def test_every_record_is_there_with_its_time(records: list[tuple[bytes, int]]) -> None:
    data = page(b"".join(record(*each) for each in records))
    parsed = parse(data)
    assert not parsed.damaged
    assert parsed.overwritten == 0
    assert [data[at : at + length].rstrip(b"\0") for _, at, length in parsed.records] == [
        content.rstrip(b"\0") for content, _ in records
    ]
    time, times = START, []
    for _, delta in records:
        times.append(time := time + delta)
    assert [nanoseconds for nanoseconds, _, _ in parsed.records] == times


def test_the_number_of_overwritten_records_is_read_behind_the_last() -> None:
    body = record(b"one", 5)
    assert parse(page(body, 1749)).overwritten == 1749
    assert parse(page(body)).overwritten == 0


def test_a_page_without_space_for_the_number_says_that_it_is_not_known() -> None:
    assert parse(page(record(b"one", 5), None)).overwritten is None


def test_an_absolute_time_is_taken_as_it_is() -> None:
    time = START + 123_456_789_012
    stamp = word(31, time & (1 << 27) - 1) + struct.pack("<I", time >> 27)
    parsed = parse(page(record(b"one", 5) + stamp + record(b"two", 0)))
    assert [nanoseconds for nanoseconds, _, _ in parsed.records] == [START + 5, time]


def test_a_discarded_record_is_passed_over_and_the_rest_of_a_page_may_be_empty() -> None:
    discarded = word(29, 7) + struct.pack("<I", 12) + b"\xff" * 8
    parsed = parse(page(discarded + record(b"one", 5) + word(29, 0) + b"\xff" * 64))
    assert not parsed.damaged
    assert [nanoseconds for nanoseconds, _, _ in parsed.records] == [START + 12]


@pytest.mark.parametrize(
    "rest",
    [
        word(28, 1) + b"too short",
        word(0, 1) + struct.pack("<I", 5000),
        word(0, 1) + struct.pack("<I", 3),
        word(30, 1),
        word(29, 1) + struct.pack("<I", 0),
        b"\x01",
    ],
    ids=["short", "long", "impossible length", "half a time", "padding without end", "a byte"],
)
def test_what_stands_before_the_damage_is_read(rest: bytes) -> None:
    parsed = parse(page(record(b"one", 5) + rest))
    assert parsed.damaged
    assert [nanoseconds for nanoseconds, _, _ in parsed.records] == [START + 5]


def within(data: bytes) -> None:
    parsed = parse(data)
    ends = 16
    for _, at, length in parsed.records:
        assert ends <= at - 4 <= at + length <= len(data)
        ends = at + length


@given(st.binary(max_size=400))
@example(b"")
@example(struct.pack("<QQ", START, 4081).ljust(PAGE, b"\0"))
@example(struct.pack("<QQ", START, 1 << 31 | 1 << 30 | 4080).ljust(PAGE, b"\0"))
def test_random_bytes_never_raise_and_no_record_is_outside_of_them(data: bytes) -> None:
    within(data)
    within(page(data))
    within(struct.pack("<QQ", START, len(data)) + data)
