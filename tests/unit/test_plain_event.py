"""The kernel's own event of connect(): rings of a real kernel (tests/fixtures/capture_plain.py), and changes in any order."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpnewconn.kernel.instance import TraceMissing
from tcpnewconn.kernel.plainevent import Change, PlainLayout, PlainTrace
from tcpnewconn.kernel.ringpage import parse
from tcpnewconn.kernel.traceformat import FormatError
from tcpnewconn.model import Call, FailedAttempt, Thread
from tests.support.calls import NETNS, OUT, four_tuple
from tests.support.terminal import TESTS
from tests.unit.test_trace_captured import PAGE, packed, pages

[FIXTURE] = sorted((TESTS / "fixtures").glob("plain/linux-*"))
FORMAT = (FIXTURE / "format").read_text()
LATER = 1 << 62
CLOSE, SYN_SENT, ESTABLISHED = 7, 2, 1
CURL = Thread(0.0, NETNS, 1000, 77, ("curl.service", ""), "curl")


def truth(scene: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((FIXTURE / scene / "truth.json").read_text())
    return read


def instance(directory: Path, scene: str) -> Path:
    """As the service sees it."""
    made = directory / "instance"
    event = made / "events/sock/inet_sock_set_state"
    event.mkdir(parents=True)
    (event / "format").write_text(FORMAT)
    (event / "enable").write_text("1\n")
    (made / "tracing_on").write_text("1\n")
    (directory / "events").write_text("plain")
    ring = made / "per_cpu/cpu0"
    ring.mkdir(parents=True)
    shutil.copy(FIXTURE / scene / "cpu0.pages", ring / "trace_pipe_raw")
    (ring / "stats").write_text("overrun: 0\n")
    return made


def looked(thread: int) -> Thread | None:
    return CURL


def test_every_connect_has_the_ports_of_its_socket_and_the_thread_that_called(tmp_path: Path) -> None:
    true = truth("whole")
    trace = PlainTrace(looked, NETNS, str(instance(tmp_path, "whole")), lambda: LATER)
    found = trace.read()
    calls = [each for each in found if isinstance(each, Call)]
    assert [call.four_tuple for call in calls] == [packed(each["connect"]) for each in true["scene"]]
    assert {call.origin for call in calls} == {(1000, 77, ("curl.service", ""), NETNS, true["thread"], "curl")}
    [failed] = [each for each in found if isinstance(each, FailedAttempt)]
    assert failed.four_tuple == packed(true["scene"][-1]["failed"])
    assert (failed.netns, failed.error) == (NETNS, 0)
    assert trace.rings.malformed == trace.rings.overwritten == 0
    assert trace.read() == []
    trace.close()


def test_what_is_left_of_an_overwritten_ring_is_true(tmp_path: Path) -> None:
    true = truth("overwritten")
    trace = PlainTrace(looked, NETNS, str(instance(tmp_path, "overwritten")), lambda: LATER)
    found = [each.four_tuple for each in trace.read() if isinstance(each, Call)]
    connects = [packed(each["connect"]) for each in true["scene"]]
    assert 0 < len(found) < len(connects)
    assert found == connects[-len(found) :]
    assert trace.rings.overwritten > 0
    assert trace.rings.lost_until > 0
    trace.close()


def test_a_thread_that_has_gone_leaves_its_id(tmp_path: Path) -> None:
    trace = PlainTrace(lambda thread: None, NETNS, str(instance(tmp_path, "whole")), lambda: LATER)
    calls = [each for each in trace.read() if isinstance(each, Call)]
    # It may have been in another network namespace: an attempt that failed is not said to be of this one.
    assert len(calls) == len(truth("whole")["scene"]) - 1
    assert {call.origin for call in calls} == {(None, 0, (), NETNS, truth("whole")["thread"], None)}
    trace.close()


def test_calls_and_failed_attempts_in_another_network_namespace_have_its_number(tmp_path: Path) -> None:
    elsewhere = CURL._replace(netns=500_000)
    trace = PlainTrace(lambda thread: elsewhere, NETNS, str(instance(tmp_path, "whole")), lambda: LATER)
    found = trace.read()
    assert len(found) == len(truth("whole")["scene"]) + 1
    assert {each.netns for each in found} == {500_000}
    trace.close()


def test_calls_in_a_network_namespace_that_is_not_known_are_left_out(tmp_path: Path) -> None:
    nowhere = CURL._replace(netns=0)
    trace = PlainTrace(lambda thread: nowhere, NETNS, str(instance(tmp_path, "whole")), lambda: LATER)
    assert trace.read() == []
    trace.close()


def test_it_is_stale_while_the_event_is_disabled(tmp_path: Path) -> None:
    made = instance(tmp_path, "whole")
    trace = PlainTrace(looked, NETNS, str(made))
    assert not trace.stale()
    for file in ("events/sock/inet_sock_set_state/enable", "tracing_on"):
        (made / file).write_text("0\n")
        assert trace.stale()
        (made / file).write_text("1\n")
    assert not trace.stale()
    (tmp_path / "events").write_text("connect accept failed")
    assert trace.stale()
    trace.close()


def test_without_the_event_there_is_no_trace(tmp_path: Path) -> None:
    made = instance(tmp_path, "whole")
    (made / "events/sock/inet_sock_set_state/format").write_text(FORMAT.replace("skaddr", "socket"))
    with pytest.raises(TraceMissing, match="has no skaddr"):
        PlainTrace(looked, NETNS, str(made))
    (tmp_path / "events").unlink()
    with pytest.raises(TraceMissing, match="does not run"):
        PlainTrace(looked, NETNS, str(made))


# --- changes in any order --------------------------------------------------------------------------------------------


class Changes:
    """In place of the rings: what is to be read."""

    malformed = overwritten = 0
    lost_until = float("-inf")

    def __init__(self) -> None:
        self.next: list[Change] = []

    def read(self) -> list[Change]:
        read, self.next = self.next, []
        return read


@pytest.fixture
def trace(tmp_path: Path) -> PlainTrace:
    made = PlainTrace(lambda thread: CURL._replace(name=f"thread-{thread}"), NETNS, str(instance(tmp_path, "whole")))
    made.close()
    made.rings = Changes()  # type: ignore[assignment]
    return made


def change(time: int, thread: int, at: int, old: int, new: int, socket: bytes = OUT) -> Change:
    return Change(time, thread, at, old, new, socket)


NO_PORT = four_tuple("0.0.0.0:0", "192.0.2.7:443")


def read(trace: PlainTrace, *changes: Change, lost: float = float("-inf")) -> list[str | None]:
    """The names of the threads of the calls."""
    trace.rings.next = list(changes)  # type: ignore[attr-defined]
    trace.rings.lost_until = max(trace.rings.lost_until, lost)
    return [each.origin.thread_name for each in trace.read() if isinstance(each, Call)]


def test_memory_that_is_used_again_is_another_socket_s(trace: PlainTrace) -> None:
    assert read(trace, change(1, 7, 0xA, CLOSE, SYN_SENT, NO_PORT)) == []
    assert read(trace, change(2, 0, 0xA, SYN_SENT, ESTABLISHED)) == ["thread-7"]
    assert read(trace, change(3, 8, 0xA, CLOSE, SYN_SENT, NO_PORT), change(4, 9, 0xB, CLOSE, SYN_SENT, NO_PORT)) == []
    assert read(trace, change(5, 0, 0xB, SYN_SENT, ESTABLISHED), change(6, 0, 0xA, SYN_SENT, CLOSE)) == [
        "thread-9",
        "thread-8",
    ]
    assert read(trace, change(7, 0, 0xA, SYN_SENT, ESTABLISHED)) == []


def test_after_changes_were_overwritten_a_socket_from_before_is_not_taken_for_one_after(trace: PlainTrace) -> None:
    assert read(trace, change(1_000_000_000, 7, 0xA, CLOSE, SYN_SENT, NO_PORT)) == []
    # Its own outcome, and who used its memory again, were overwritten before 3 s.
    later = change(4_000_000_000, 0, 0xA, SYN_SENT, ESTABLISHED)
    assert read(trace, later, lost=3.0) == []
    assert read(
        trace,
        change(5_000_000_000, 8, 0xA, CLOSE, SYN_SENT, NO_PORT),
        change(6_000_000_000, 0, 0xA, SYN_SENT, ESTABLISHED),
    ) == ["thread-8"]


def test_changes_of_different_peers_are_not_of_one_socket(trace: PlainTrace) -> None:
    other = four_tuple("0.0.0.0:0", "192.0.2.8:443")
    assert read(trace, change(1, 7, 0xA, CLOSE, SYN_SENT, other), change(2, 0, 0xA, SYN_SENT, ESTABLISHED)) == []


def test_a_thread_is_looked_up_once_for_what_is_read_at_once(trace: PlainTrace) -> None:
    asked: list[int] = []

    def look(thread: int) -> Thread | None:
        asked.append(thread)
        # Thread 8 has started at 2.5 s: the id was another's before.
        return CURL._replace(name=f"thread-{thread}", since=2.5 if thread == 8 else 0.0)

    trace._look = look
    changes = []
    for second in range(1, 4):
        for thread in (7, 8):
            at = 16 * second + thread
            changes.append(change(second * 1_000_000_000, thread, at, CLOSE, SYN_SENT, NO_PORT))
            changes.append(change(second * 1_000_000_000 + 1, 0, at, SYN_SENT, ESTABLISHED))
    assert read(trace, *changes) == ["thread-7", None, "thread-7", None, "thread-7", "thread-8"]
    assert sorted(asked) == [7, 8]


# --- damaged ---------------------------------------------------------------------------------------------------------


@given(changes=st.lists(st.tuples(st.integers(0, PAGE), st.binary(min_size=1, max_size=6)), min_size=1, max_size=12))
def test_a_damaged_page_never_raises_anything_else(changes: list[tuple[int, bytes]]) -> None:
    layout = PlainLayout(FORMAT)
    page = bytearray(pages(FIXTURE / "whole/cpu0.pages")[0])
    for place, what in changes:
        page[place : place + len(what)] = what
    damaged = bytes(page[:PAGE])
    for nanoseconds, at, length in parse(damaged).records:
        understood(layout, damaged, at, length, nanoseconds)


def understood(layout: PlainLayout, page: bytes, at: int, length: int, nanoseconds: int) -> None:
    try:
        found = layout.record(page, at, length, nanoseconds)
    except FormatError:
        return
    assert len(found.four_tuple) in (12, 36)
    assert struct.pack("=i", found.thread_id) == page[at + 4 : at + 8]


@given(body=st.binary(max_size=200))
def test_a_record_of_random_bytes_never_raises_anything_else(body: bytes) -> None:
    layout = PlainLayout(FORMAT)
    understood(layout, body, 0, len(body), 1)
    understood(layout, struct.pack("=H", layout.id) + body, 0, len(body) + 2, 1)


@given(changes=st.lists(st.tuples(st.integers(0, 1800), st.text(max_size=5)), min_size=1, max_size=8))
def test_a_damaged_format_is_refused_or_read_within_its_records(changes: list[tuple[int, str]]) -> None:
    text = FORMAT
    for place, what in changes:
        text = text[:place] + what + text[place + len(what) :]
    try:
        layout = PlainLayout(text)
    except FormatError:
        return
    try:
        layout.record(b"\x02" * 500, 0, 500, 1)
    except FormatError:
        return
