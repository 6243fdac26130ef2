"""Rings of real kernels (tests/fixtures/capture_trace.py), compared with the calls that were made; and the same, damaged."""

from __future__ import annotations

import errno
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpnewconn.kernel.ringpage import parse
from tcpnewconn.kernel.traceevents import EVENTS
from tcpnewconn.kernel.traceformat import FormatError, Layout
from tcpnewconn.model import Call, FailedAttempt, FourTuple, four_tuple_of, unmapped
from tests.support.terminal import TESTS

FIXTURES = sorted((TESTS / "fixtures").glob("trace/linux-*"))
OF_A_KERNEL = pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.name)
PAGE = 4096


def layouts(fixture: Path) -> dict[int, Layout]:
    made = [Layout(event, (fixture / f"{event}.format").read_text()) for event in EVENTS]
    return {layout.id: layout for layout in made}


def pages(ring: Path) -> list[bytes]:
    data = ring.read_bytes()
    return [data[at : at + PAGE] for at in range(0, len(data), PAGE)]


def recorded(fixture: Path, scene: str) -> list[Call | FailedAttempt]:
    """In the order of the clock."""
    known, found = layouts(fixture), []
    for ring in sorted((fixture / scene).glob("*.pages")):
        for page in pages(ring):
            parsed = parse(page)
            assert not parsed.damaged
            for nanoseconds, at, length in parsed.records:
                layout = known[int.from_bytes(page[at : at + 2], "little")]
                found.append(layout.record(page, at, length, nanoseconds))
    return sorted(found, key=lambda each: each.time)


def truth(fixture: Path, scene: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((fixture / scene / "truth.json").read_text())
    return read


def packed(four: list[Any]) -> FourTuple:
    def address(text: str) -> bytes:
        return unmapped(socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text))

    return four_tuple_of(address(four[0]), four[1], address(four[2]), four[3])


@OF_A_KERNEL
def test_every_call_is_recorded_with_its_socket_user_cgroup_and_thread(fixture: Path) -> None:
    true = truth(fixture, "whole")
    thread_id, thread_name = true["thread"]
    names = tuple(true["cgroup"]["names"])
    expected = [
        (by, packed(each[by]), true["user"], true["cgroup"]["id"], names, true["netns"], thread_id, thread_name)
        for each in true["scene"]
        for by in ("connect", "accept")
        if by in each
    ]
    calls = [each for each in recorded(fixture, "whole") if isinstance(each, Call)]
    assert [(call.by, call.four_tuple, *call.origin) for call in calls] == expected


@OF_A_KERNEL
def test_a_refused_attempt_has_its_error(fixture: Path) -> None:
    true = truth(fixture, "whole")
    failed = [each for each in recorded(fixture, "whole") if isinstance(each, FailedAttempt)]
    expected = [packed(each["failed"]) for each in true["scene"] if "failed" in each]
    assert [(each.four_tuple, each.netns, each.error) for each in failed] == [
        (four_tuple, true["netns"], errno.ECONNREFUSED) for four_tuple in expected
    ]


@OF_A_KERNEL
def test_a_mapped_attempt_that_failed_before_it_had_an_address_is_one_over_ipv4(fixture: Path) -> None:
    layout = Layout("failed", (fixture / "failed.format").read_text())
    [(page, at, length)] = [
        (page, at, length)
        for ring in (fixture / "whole").glob("*.pages")
        for page in pages(ring)
        for _, at, length in parse(page).records
        if int.from_bytes(page[at : at + 2], "little") == layout.id
    ]
    record = bytearray(page[at : at + length])
    values = {"family": b"\x0a\0", "local6_high": bytes(8), "local6_low": bytes(8), "remote6_high": bytes(8)}
    values["remote6_low"] = b"\0\0\xff\xff\xc0\0\2\7"
    for name, value in values.items():
        [offset] = re.findall(rf" {name};\toffset:(\d+);", (fixture / "failed.format").read_text())
        record[int(offset) : int(offset) + len(value)] = value
    found = layout.record(bytes(record), 0, length, 1)
    assert len(found.four_tuple) == 12
    assert (found.four_tuple[:4], found.four_tuple[6:10]) == (bytes(4), b"\xc0\0\2\7")


@OF_A_KERNEL
def test_what_was_overwritten_and_what_is_left_are_all_there_was(fixture: Path) -> None:
    true = truth(fixture, "overwritten")
    happened = sum(sum(by in each for by in EVENTS) for each in true["scene"])
    overrun = sum(int(re.findall(r"^overrun: (\d+)$", stats, re.MULTILINE)[0]) for stats in true["stats"].values())
    said = [parse(page).overwritten for ring in (fixture / "overwritten").glob("*.pages") for page in pages(ring)]
    assert overrun > 0
    assert None in said or sum(filter(None, said)) == overrun
    left = recorded(fixture, "overwritten")
    assert len(left) + overrun == happened
    known = {packed(each[by]) for each in true["scene"] for by in EVENTS if by in each}
    assert {each.four_tuple for each in left} <= known


@OF_A_KERNEL
@given(changes=st.lists(st.tuples(st.integers(0, PAGE), st.binary(min_size=1, max_size=6)), min_size=1, max_size=12))
def test_a_damaged_page_never_raises_anything_else(fixture: Path, changes: list[tuple[int, bytes]]) -> None:
    known = layouts(fixture)
    for ring in (fixture / "whole").glob("*.pages"):
        page = bytearray(pages(ring)[0])
        for place, what in changes:
            page[place : place + len(what)] = what
        damaged = bytes(page[:PAGE])
        for nanoseconds, at, length in parse(damaged).records:
            layout = known.get(int.from_bytes(damaged[at : at + 2], "little"))
            if layout:
                understood(layout, damaged, at, length, nanoseconds)


def understood(layout: Layout, page: bytes, at: int, length: int, nanoseconds: int) -> None:
    """From any record, a call is taken that has the form of one, and is from within the record."""
    try:
        found = layout.record(page, at, length, nanoseconds)
    except FormatError:
        return
    assert len(found.four_tuple) in (12, 36)
    if isinstance(found, Call):
        assert all(
            name.encode(errors="surrogateescape") in page[at : at + length] for name in found.origin.cgroup_names
        )
        assert "" not in found.origin.cgroup_names[:-1]
        assert found.origin.thread_name is not None
        assert found.origin.thread_name.encode(errors="surrogateescape") in page[at : at + length]


@OF_A_KERNEL
@given(body=st.binary(max_size=300))
def test_a_record_of_random_bytes_never_raises_anything_else(fixture: Path, body: bytes) -> None:
    for layout in layouts(fixture).values():
        understood(layout, body, 0, len(body), 1)
        understood(layout, b"\0" * 100 + body + b"\0" * 100, 100, len(body), 1)


@OF_A_KERNEL
@pytest.mark.parametrize("event", EVENTS)
def test_a_format_without_one_of_the_fields_is_refused(fixture: Path, event: str) -> None:
    text = (fixture / f"{event}.format").read_text()
    lines = text.splitlines(keepends=True)
    needed = ["local_port", "remote_port", "family", "netns", "common_pid", "protocol"]
    needed += ["error"] if event == "failed" else ["uid", "cgroup", "thread"]
    for field in needed:
        without = "".join(line for line in lines if f" {field};" not in line.replace("[]", ""))
        assert without != text
        with pytest.raises(FormatError):
            Layout(event, without)
    with pytest.raises(FormatError, match="no ID"):
        Layout(event, text.replace("ID:", "Id:"))
    with pytest.raises(FormatError):
        Layout(event, text.replace("size:2", "size:4"))


@OF_A_KERNEL
def test_the_number_of_the_network_namespace_has_the_size_of_a_pointer(fixture: Path) -> None:
    text = (fixture / "accept.format").read_text()
    of_64_bits = re.compile(r"u64 netns;\toffset:(\d+);\tsize:8;")
    layout = Layout("accept", of_64_bits.sub(r"u32 netns;\toffset:\1;\tsize:4;", text))
    found = [
        layout.record(page, at, length, nanoseconds).netns
        for ring in (fixture / "whole").glob("*.pages")
        for page in pages(ring)
        for nanoseconds, at, length in parse(page).records
        if int.from_bytes(page[at : at + 2], "little") == layout.id
    ]
    assert set(found) == {truth(fixture, "whole")["netns"]}
    for other in ("1", "2", "16"):
        with pytest.raises(FormatError):
            Layout("accept", of_64_bits.sub(rf"u32 netns;\toffset:\1;\tsize:{other};", text))


@OF_A_KERNEL
@given(changes=st.lists(st.tuples(st.integers(0, 2500), st.text(max_size=5)), min_size=1, max_size=8))
def test_a_damaged_format_is_refused_or_read_within_its_records(fixture: Path, changes: list[tuple[int, str]]) -> None:
    for event in EVENTS:
        text = (fixture / f"{event}.format").read_text()
        for place, what in changes:
            text = text[:place] + what + text[place + len(what) :]
        try:
            layout = Layout(event, text)
        except FormatError:
            continue
        understood(layout, b"\x02" * 500, 0, 500, 1)
