"""The figures of the service for a person, and whether they are as they should be: read from the file that Prometheus gets."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from tcpnewconn.health.counters import Counters, ServiceStatistics
from tcpnewconn.health.metrics import PREFIX, exposition
from tcpnewconn.text import printable

_SAMPLE = re.compile(PREFIX + r'(\w+)(?:\{((?:\w+="[\w.+~-]*",?)+)\})? (\S+)')
# The file is smaller; it may be anybody's that --metrics names.
_LARGEST_FILE = 1 << 20
# Seconds without a read that are none too many, whatever the interval.
_PATIENCE = 5.0

_GREEN, _YELLOW, _RED, _PLAIN = "\033[1;32m", "\033[1;33m", "\033[1;31m", "\033[0m"
_COLOURS = {"ok": _GREEN, "degraded": _YELLOW}

Labels = tuple[str, ...]
Figures = dict[str, dict[Labels, float]]


class NoFigures(Exception):
    """What is wrong with the file, in one line."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`word`: ok, degraded, stale or not running; why it is not ok; how long ago the last read was, None if there was none."""

    word: str
    problems: tuple[str, ...]
    age: float | None


def told(path: str, as_json: bool) -> tuple[str, bool]:
    """What is to be said of the service whose figures are in this file, and whether all is well."""
    try:
        figures = read(path)
        verdict = judged(figures, time.time())
    except NoFigures as error:
        figures, verdict = {}, Verdict("not running", (str(error),), None)
    text = _json(figures, verdict) if as_json else _page(figures, verdict, _in_colour())
    return text, verdict.word == "ok"


# --- reading ---------------------------------------------------------------------------------------------------------


def read(path: str) -> Figures:
    """The file's samples, by metric and values of the labels. Raises NoFigures."""
    try:
        # Not to wait for somebody to write into a named pipe.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            text = (file.read(_LARGEST_FILE) or b"").decode()
    except OSError as error:
        raise NoFigures(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise NoFigures(f"{path}: holds no figures of tcpnewconn") from error
    figures: Figures = {}
    for line in text.split("\n"):
        if not line or line.startswith("#"):
            continue
        match = _SAMPLE.fullmatch(line)
        if match is None:
            raise NoFigures(f"{path}: holds no figures of tcpnewconn")
        name, labels, value = match.groups()
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise NoFigures(f"{path}: holds no figures of tcpnewconn")
        figures.setdefault(name, {})[tuple(re.findall(r'"([^"]*)"', labels or ""))] = number
    if figures and set(figures) <= {"last_poll_timestamp_seconds"}:
        raise NoFigures("the service has not run since boot; start it with systemctl start tcpnewconn")
    if not _names() <= set(figures):
        raise NoFigures(f"{path}: holds no figures of tcpnewconn, or of another version")
    return figures


def _names() -> set[str]:
    text = exposition(Counters(), ServiceStatistics(1.0))
    return set(re.findall(rf"(?m)^{PREFIX}(\w+)", text))


def judged(figures: Figures, now: float) -> Verdict:
    """Whether the service runs and sees everything."""
    last, interval = _one(figures, "last_poll_timestamp_seconds"), _one(figures, "poll_interval_seconds")
    if not last:
        return Verdict("not running", ("no read has gone well yet",), None)
    age = max(0.0, now - last)
    if age > max(_PATIENCE, 3 * interval):
        return Verdict("stale", (f"the last read was {_span(age)} ago: the service is stopped or hangs",), age)
    problems = [
        f"{source} cannot be seen: journalctl -u tcpnewconn -p warning says why"
        for (source,), degraded in figures["source_degraded"].items()
        if degraded
    ]
    waiting = _one(figures, "journal_entries_waiting")
    if waiting:
        problems.append(f"{waiting:,.0f} entries wait for the journal, which takes none")
    return Verdict("degraded" if problems else "ok", tuple(problems), age)


def _one(figures: Figures, name: str) -> float:
    """The sum of a metric's samples."""
    return sum(figures[name].values())


def _by(figures: Figures, name: str, label: int = 0) -> dict[str, float]:
    """The sums of a metric's samples by one of its labels."""
    sums: dict[str, float] = {}
    for labels, value in figures[name].items():
        sums[labels[label]] = sums.get(labels[label], 0) + value
    return sums


# --- for programs ----------------------------------------------------------------------------------------------------


def _json(figures: Figures, verdict: Verdict) -> str:
    return json.dumps(
        {
            "status": verdict.word,
            "problems": verdict.problems,
            "last_read_age_seconds": None if verdict.age is None else round(verdict.age, 3),
            "figures": {name: _nested(samples) for name, samples in figures.items()},
        }
    )


def _nested(samples: Mapping[Labels, float]) -> object:
    """A metric's value, or its values by those of its labels."""
    tree: dict[str, object] = {}
    for labels, value in samples.items():
        number = int(value) if value.is_integer() else value
        if not labels:
            return number
        branch = tree
        for label in labels[:-1]:
            branch = branch.setdefault(label, {})  # type: ignore[assignment]
        branch[labels[-1]] = number
    return tree


# --- for people ------------------------------------------------------------------------------------------------------


def _in_colour() -> bool:
    """As no-color.org asks for."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _page(figures: Figures, verdict: Verdict, in_colour: bool) -> str:
    def coloured(text: str, colour: str) -> str:
        return f"{colour}{text}{_PLAIN}" if in_colour else text

    colour = _COLOURS.get(verdict.word, _RED)
    lines = [f"tcpnewconn is {coloured(verdict.word, colour)}"]
    lines += [f"  {coloured('!', colour)} {printable(problem)}" for problem in verdict.problems]
    if figures:
        rows = list(_rows(figures, verdict))
        width = max(len(title) for title, _, _ in rows)
        lines.append("")
        lines += [
            f"  {title:<{width}}  {coloured(text, _YELLOW) if notable else text}".rstrip()
            for title, text, notable in rows
        ]
    return "\n".join(lines)


def _rows(figures: Figures, verdict: Verdict) -> Iterator[tuple[str, str, bool]]:
    """Title and text of each line, and whether it is of note."""
    reads, failed = (_by(figures, "polls_total")[result] for result in ("ok", "failed"))
    overruns, interval = _one(figures, "polls_skipped_total"), _one(figures, "poll_interval_seconds")
    if verdict.age is not None:
        yield "last read", f"{_span(verdict.age)} ago, one every {_span(interval)}", verdict.word == "stale"
    mean = _one(figures, "poll_duration_seconds_sum") / max(1.0, reads)
    yield (
        "reads",
        f"{_number(reads)}, {mean * 1e3:.1f} ms each; {_number(failed)} failed, {_number(overruns)} left out",
        bool(failed or overruns),
    )
    connections, folded = figures["connections_total"], _one(figures, "connections_summarized_total")
    yield "connections", f"{_number(sum(connections.values()))}, {_number(folded)} of them in summaries", False
    yield "  direction", _listed(_by(figures, "connections_total")), False
    yield "  family", _listed(_by(figures, "connections_total", 1)), False
    yield "  detected", _listed(_by(figures, "connections_detected_total")), False
    yield "listeners", _number(_one(figures, "listeners_total")), False
    scans, lost = _one(figures, "port_scans_total"), _by(figures, "lost_total")
    yield "port scans", _number(scans), scans > 0
    yield "lost", _listed({reason: count for reason, count in lost.items() if count}) or "nothing", any(lost.values())
    sockets = {state: count for state, count in _by(figures, "sockets").items() if count}
    yield "sockets", _listed(sockets) or "none", False
    started = _one(figures, "process_start_time_seconds")
    cpu, memory = _one(figures, "process_cpu_seconds_total"), _one(figures, "process_resident_memory_bytes")
    ((version,),) = figures["build_info"]
    since = datetime.fromtimestamp(started, timezone.utc).isoformat(" ", "seconds")
    yield "process", f"version {version}, since {since}, {cpu:,.1f} s of CPU time, {memory / 2**20:.1f} MiB", False


def _number(count: float) -> str:
    return f"{count:,.0f}"


def _listed(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{_number(count)} {name}" for name, count in counts.items())


def _span(seconds: float) -> str:
    """A time for people: 0.5 s, 12 s, 3 min, 5 h, 2 d."""
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
