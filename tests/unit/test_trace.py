"""The reader of the trace, on an instance laid out as tracefs has it, with the formats and pages of real kernels."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tcpnewconn.kernel.instance import TraceMissing
from tcpnewconn.kernel.ringpage import parse
from tcpnewconn.kernel.trace import Trace, request_repair
from tcpnewconn.kernel.traceevents import EVENTS
from tcpnewconn.kernel.traceformat import Layout
from tcpnewconn.model import Call, FailedAttempt
from tests.support.terminal import TESTS
from tests.unit.test_trace_captured import pages, recorded

FIXTURES = sorted((TESTS / "fixtures").glob("trace/linux-*"))
LATER = 1 << 62


@pytest.fixture(params=FIXTURES, ids=lambda path: path.name)
def fixture(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def instance(tmp_path: Path, fixture: Path) -> Path:
    """Rings that hold what the scene `whole` has."""
    made = tmp_path / "instance"
    for event in EVENTS:
        directory = made / "events" / "tcpnewconn" / event
        directory.mkdir(parents=True)
        shutil.copy(fixture / f"{event}.format", directory / "format")
        (directory / "enable").write_text("1\n")
    (made / "tracing_on").write_text("1\n")
    (tmp_path / "events").write_text(" ".join(EVENTS))
    fill(made, fixture, "whole")
    return made


def fill(instance: Path, fixture: Path, scene: str) -> None:
    for cpu in ("cpu0", "cpu1"):
        (instance / "per_cpu" / cpu).mkdir(parents=True, exist_ok=True)
        pages = fixture / scene / f"{cpu}.pages"
        (instance / "per_cpu" / cpu / "trace_pipe_raw").write_bytes(pages.read_bytes() if pages.exists() else b"")
        (instance / "per_cpu" / cpu / "stats").write_text("entries: 0\noverrun: 0\n")


def test_everything_is_read_once_in_the_order_of_the_clock(instance: Path, fixture: Path) -> None:
    trace = Trace(str(instance), clock=lambda: LATER)
    assert trace.events == {"connect", "accept", "failed"}
    assert trace.read() == recorded(fixture, "whole")
    assert trace.read() == []
    assert (trace.rings.malformed, trace.rings.overwritten, trace.rings.lost_until) == (0, 0, float("-inf"))
    trace.close()


def test_what_is_newer_than_the_call_comes_with_the_next_one(instance: Path, fixture: Path) -> None:
    everything = recorded(fixture, "whole")
    for split in range(len(everything) + 1):
        time = round(everything[split].time * 1e9) if split < len(everything) else LATER
        clock = iter((time, LATER, LATER)).__next__
        trace = Trace(str(instance), clock=clock)
        first = trace.read()
        assert [each for each in everything if round(each.time * 1e9) < time] == first
        assert first + trace.read() == everything
        trace.close()


def test_overwritten_records_are_counted_and_are_older_than_the_first_that_is_left(
    instance: Path, fixture: Path
) -> None:
    fill(instance, fixture, "overwritten")
    counted = 0
    for stats in (fixture / "overwritten").parent.glob("overwritten/truth.json"):
        counted = sum(map(int, re.findall(r"\\noverrun: (\d+)", stats.read_text())))
    trace = Trace(str(instance), clock=lambda: LATER)
    left = trace.read()
    assert counted > 0
    assert trace.rings.overwritten == counted
    first = [parse(pages(ring)[0]).records[0][0] / 1e9 for ring in (fixture / "overwritten").glob("*.pages")]
    assert trace.rings.lost_until == max(first)
    assert trace.rings.lost_until in {each.time for each in left}
    trace.close()


def test_a_record_that_is_not_understood_is_lost_at_its_time(instance: Path, fixture: Path) -> None:
    shutil.rmtree(instance / "events/tcpnewconn/failed")
    failed = [each.time for each in recorded(fixture, "whole") if isinstance(each, FailedAttempt)]
    trace = Trace(str(instance), clock=lambda: LATER)
    trace.read()
    assert trace.rings.lost_until == pytest.approx(max(failed), abs=2e-9)
    assert trace.rings.lost_until > max(failed)
    trace.close()


def test_of_a_damaged_page_everything_is_lost_until_it_was_read(instance: Path) -> None:
    for cpu in ("cpu0", "cpu1"):
        (instance / "per_cpu" / cpu / "trace_pipe_raw").write_bytes(b"x" * 100)
    trace = Trace(str(instance), clock=lambda: 5_000_000_000)
    assert trace.read() == []
    assert (trace.rings.malformed, trace.rings.lost_until) == (2, 5.0)
    trace.close()


def test_events_that_were_deleted_and_defined_again_between_two_looks_are_noticed(instance: Path) -> None:
    trace = Trace(str(instance), clock=lambda: 5_000_000_000)
    assert not trace.stale()
    assert trace.rings.lost_until == float("-inf")
    os.utime(instance.parent / "events", ns=(1, 1))
    assert not trace.stale()
    assert trace.rings.lost_until == 5.0
    trace.close()


def test_events_that_are_defined_again_are_read_on(instance: Path, fixture: Path) -> None:
    trace = Trace(str(instance), clock=lambda: LATER)
    first = trace.read()
    # New numbers for the events, in the formats and in every record.
    for cpu in ("cpu0", "cpu1"):
        pages = bytearray((instance / "per_cpu" / cpu / "trace_pipe_raw").read_bytes())
        for event in EVENTS:
            number = int(re.findall(r"ID: (\d+)", (fixture / f"{event}.format").read_text())[0])
            pages = pages.replace(number.to_bytes(2, "little") + b"\0", (number + 300).to_bytes(2, "little") + b"\0")
        with (instance / "per_cpu" / cpu / "trace_pipe_raw").open("ab") as ring:
            ring.write(pages)
    for event in EVENTS:
        text = (fixture / f"{event}.format").read_text()
        renumbered = re.sub(r"ID: (\d+)", lambda found: f"ID: {int(found[1]) + 300}", text)
        (instance / "events" / "tcpnewconn" / event / "format").write_text(renumbered)
    assert trace.read() == first
    assert trace.rings.malformed == 0
    trace.close()


def test_formats_that_have_not_changed_are_not_taken_apart_again(
    instance: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    class Counted(Layout):
        def __init__(self, event: str, format_file: str) -> None:
            made.append(event)
            super().__init__(event, format_file)

    monkeypatch.setattr("tcpnewconn.kernel.trace.Layout", Counted)
    trace = Trace(str(instance))
    assert [trace.stale() for _ in range(3)] == [False] * 3
    assert made == list(EVENTS)
    file = instance / "events" / "tcpnewconn" / "accept" / "format"
    file.write_text(re.sub(r"ID: (\d+)", "ID: 2000", file.read_text()))
    assert not trace.stale()
    assert made == [*EVENTS, "accept"]
    trace.close()


def test_records_of_events_that_are_not_ours_are_counted(instance: Path, fixture: Path) -> None:
    everything = recorded(fixture, "whole")
    shutil.rmtree(instance / "events/tcpnewconn/failed")
    trace = Trace(str(instance), clock=lambda: LATER)
    assert trace.events == {"connect", "accept"}
    assert trace.read() == [each for each in everything if isinstance(each, Call)]
    assert trace.rings.malformed == sum(isinstance(each, FailedAttempt) for each in everything)
    trace.close()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tracing_on", "0\n"),
        ("events/tcpnewconn/connect/enable", "0\n"),
        ("events/tcpnewconn/accept/enable", "0\n"),
        ("events/tcpnewconn/connect/format", None),
        ("events/tcpnewconn/failed/format", None),
    ],
)
def test_it_is_stale_while_an_event_is_deleted_or_disabled(instance: Path, file: str, content: str | None) -> None:
    trace = Trace(str(instance))
    assert not trace.stale()
    before = (instance / file).read_text()
    if content is None:
        (instance / file).unlink()
    else:
        (instance / file).write_text(content)
    assert trace.stale()
    (instance / file).write_text(before)
    assert not trace.stale()
    trace.close()


def test_an_event_that_the_oneshot_did_not_define_is_not_missed(instance: Path) -> None:
    (instance.parent / "events").write_text("connect")
    shutil.rmtree(instance / "events/tcpnewconn/accept")
    shutil.rmtree(instance / "events/tcpnewconn/failed")
    trace = Trace(str(instance))
    assert trace.events == {"connect"}
    assert not trace.stale()
    trace.close()


def test_without_events_there_is_no_trace_and_the_oneshot_says_why(instance: Path) -> None:
    shutil.rmtree(instance / "events")
    with pytest.raises(TraceMissing, match=re.escape("systemctl status tcpnewconn-trace")):
        Trace(str(instance))
    (instance.parent / "missing").write_text("this kernel has no \x1b kprobes\n")
    with pytest.raises(TraceMissing, match=re.escape(r"this kernel has no \x1b kprobes")):
        Trace(str(instance))


def test_rings_that_may_not_be_read_are_no_trace(instance: Path) -> None:
    (instance / "per_cpu/cpu1/trace_pipe_raw").unlink()
    with pytest.raises(TraceMissing, match="trace_pipe_raw: No such file"):
        Trace(str(instance))


def test_a_repair_is_asked_for_by_writing_a_file(tmp_path: Path) -> None:
    request_repair(str(tmp_path / "trace.repair"))
    assert (tmp_path / "trace.repair").exists()
