"""Judges the service by its metrics file, and shows the metrics to a person or a program."""

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
from tcpnewconn.health.metrics import PATH, PREFIX, exposition
from tcpnewconn.text import printable

# The words for the service, each with the exit status that monitoring plugins use for it.
EXIT_STATUSES = {"ok": 0, "degraded": 1, "stale": 2, "not running": 2, "unknown": 3}

_SAMPLE = re.compile(PREFIX + r'(\w+)(?:\{((?:\w+="[\w.+~-]*",?)+)\})? (\S+)')
# The only metric in the file from boot on, before the service starts for the first time.
_FROM_BOOT_ON = {"last_poll_timestamp_seconds", "running"}
# The service's file is smaller; --metrics can name any other.
_LARGEST_FILE = 1 << 20
# Seconds without a poll that are never too many, however short the interval.
_NEVER_STALE = 5.0

_GREEN, _YELLOW, _RED, _PLAIN = "\033[1;32m", "\033[1;33m", "\033[1;31m", "\033[0m"
_COLORS = {"ok": _GREEN, "degraded": _YELLOW}

Labels = tuple[str, ...]
Metrics = dict[str, dict[Labels, float]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`word`: a key of EXIT_STATUSES; `problems`: why it is not ok; `age`: seconds since the last poll, None without one."""

    word: str
    problems: tuple[str, ...]
    age: float | None = None


class NoMetrics(Exception):
    """The file holds no metrics; `verdict` says what that means."""

    def __init__(self, word: str, problem: str) -> None:
        super().__init__(problem)
        self.verdict = Verdict(word, (problem,))


def report(path: str, as_json: bool) -> tuple[str, int]:
    """The status of the service that writes this file, as text, and the exit status for it."""
    metrics: Metrics = {}
    try:
        metrics = read(path)
        verdict = judged(metrics, time.time())
    except NoMetrics as error:
        verdict = error.verdict
    text = _json(metrics, verdict) if as_json else _page(metrics, verdict, _in_color())
    return text, EXIT_STATUSES[verdict.word]


# --- reading ---------------------------------------------------------------------------------------------------------


def read(path: str) -> Metrics:
    """The file's samples, by metric and values of the labels. Raises NoMetrics."""
    try:
        # Not to wait for somebody to write into a named pipe.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            content = file.read(_LARGEST_FILE) or b""
    except FileNotFoundError as error:
        if path == PATH:
            problem = f"no service is installed here: there is no {path}, which comes with the package"
        else:
            problem = f"{path}: {error.strerror}"
        raise NoMetrics("not running", problem) from error
    except OSError as error:
        raise NoMetrics("unknown", f"{path}: {error.strerror}") from error
    metrics: Metrics = {}
    for line in content.decode(errors="replace").split("\n"):
        if line and not line.startswith("#"):
            name, labels, number = _sample(line, path)
            metrics.setdefault(name, {})[labels] = number
    if metrics and set(metrics) <= _FROM_BOOT_ON:
        raise NoMetrics("not running", "the service has not run since boot; start it with systemctl start tcpnewconn")
    if not _names() <= set(metrics):
        raise NoMetrics("unknown", f"{path}: not the metrics of tcpnewconn, or those of another version")
    return metrics


def _sample(line: str, path: str) -> tuple[str, Labels, float]:
    match = _SAMPLE.fullmatch(line)
    try:
        number = float(match[3]) if match is not None else math.nan
    except ValueError:
        number = math.nan
    if match is None or not math.isfinite(number):
        raise NoMetrics("unknown", f"{path}: not the metrics of tcpnewconn")
    return match[1], tuple(re.findall(r'"([^"]*)"', match[2] or "")), number


def _names() -> set[str]:
    text = exposition(Counters(), ServiceStatistics(1.0))
    return set(re.findall(rf"(?m)^{PREFIX}(\w+)", text))


def judged(metrics: Metrics, now: float) -> Verdict:
    """Whether the service runs and sees everything; `now` is Unix time in seconds."""
    last, interval = _one(metrics, "last_poll_timestamp_seconds"), _one(metrics, "poll_interval_seconds")
    age = max(0.0, now - last) if last else None
    if not _one(metrics, "running"):
        return Verdict("not running", ("the service was stopped; start it with systemctl start tcpnewconn",), age)
    if age is None:
        return Verdict("not running", ("no poll has succeeded yet: journalctl -u tcpnewconn says why",))
    if age > max(_NEVER_STALE, 3 * interval):
        return Verdict("stale", (f"the last poll was {_span(age)} ago: the service hangs or was killed",), age)
    problems = [
        f"{_SOURCES.get(source, source)}: journalctl -u tcpnewconn -p warning says why"
        for (source,), degraded in metrics["source_degraded"].items()
        if degraded
    ]
    waiting = _one(metrics, "journal_entries_waiting")
    if waiting:
        problems.append(
            f"the journal accepts no entries: {waiting:,.0f} are waiting; see systemctl status systemd-journald"
        )
    return Verdict("degraded" if problems else "ok", tuple(problems), age)


_SOURCES = {
    "proc": "/proc/net/tcp cannot be read, so open connections are not seen",
    "notifications": "no destroy notifications, so connections that open and close between two polls are not seen",
    "trace": "the kernel's trace records nothing, so connections can lack user, unit and process",
}


def _one(metrics: Metrics, name: str) -> float:
    """The sum of a metric's samples."""
    return sum(metrics[name].values())


def _by(metrics: Metrics, name: str, label: int = 0) -> dict[str, float]:
    """The sums of a metric's samples by one of its labels."""
    sums: dict[str, float] = {}
    for labels, value in metrics[name].items():
        sums[labels[label]] = sums.get(labels[label], 0) + value
    return sums


# --- for programs ----------------------------------------------------------------------------------------------------


def _json(metrics: Metrics, verdict: Verdict) -> str:
    return json.dumps(
        {
            "status": verdict.word,
            "problems": verdict.problems,
            "last_poll_age_seconds": None if verdict.age is None else round(verdict.age, 3),
            "metrics": {name: _nested(samples) for name, samples in metrics.items()},
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


def _in_color() -> bool:
    """Follows no-color.org."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _page(metrics: Metrics, verdict: Verdict, in_color: bool) -> str:
    def colored(text: str, color: str) -> str:
        return f"{color}{text}{_PLAIN}" if in_color else text

    color = _COLORS.get(verdict.word, _RED)
    of = "the status of tcpnewconn" if verdict.word == "unknown" else "tcpnewconn"
    lines = [f"{of} is {colored(verdict.word, color)}"]
    lines += [f"  {colored('!', color)} {printable(problem)}" for problem in verdict.problems]
    if metrics:
        rows = list(_rows(metrics, verdict))
        width = max(len(title) for title, _, _ in rows)
        lines.append("")
        lines += [
            f"  {title:<{width}}  {colored(text, _YELLOW) if notable else text}".rstrip()
            for title, text, notable in rows
        ]
    return "\n".join(lines)


def _rows(metrics: Metrics, verdict: Verdict) -> Iterator[tuple[str, str, bool]]:
    """Title and text of each line, and whether it is of note."""
    polls, failed = (_by(metrics, "polls_total")[result] for result in ("ok", "failed"))
    skipped, interval = _one(metrics, "polls_skipped_total"), _one(metrics, "poll_interval_seconds")
    if verdict.age is not None:
        yield "last poll", f"{_span(verdict.age)} ago, one every {_span(interval)}", verdict.word == "stale"
    mean = _one(metrics, "poll_duration_seconds_sum") / max(1.0, polls)
    yield (
        "polls",
        f"{_number(polls)}, {mean * 1e3:.1f} ms each; {_number(failed)} failed, {_number(skipped)} skipped",
        bool(failed or skipped),
    )
    connections, summarized = metrics["connections_total"], _one(metrics, "connections_summarized_total")
    yield "connections", f"{_number(sum(connections.values()))}, {_number(summarized)} of them in summaries", False
    yield "  direction", _listed(_by(metrics, "connections_total")), False
    yield "  family", _listed(_by(metrics, "connections_total", 1)), False
    yield "  detected by", _listed(_by(metrics, "connections_detected_total")), False
    yield (
        "  attributed",
        _listed({by: count for by, count in _by(metrics, "connections_attributed_total").items() if count}) or "none",
        False,
    )
    missing = {reason: count for reason, count in _by(metrics, "connections_not_attributed_total").items() if count}
    yield "  no thread", _listed(missing) or "none", False
    if failed_attempts := _one(metrics, "connections_failed_total"):
        yield "failed", f"{_number(failed_attempts)} attempts to connect", False
    yield "listeners", _number(_one(metrics, "listeners_total")), False
    scans, lost = _one(metrics, "port_scans_total"), _by(metrics, "lost_total")
    yield "port scans", _number(scans), scans > 0
    yield "lost", _listed({reason: count for reason, count in lost.items() if count}) or "nothing", any(lost.values())
    sockets = {state: count for state, count in _by(metrics, "sockets").items() if count}
    yield "sockets", _listed(sockets) or "none", False
    namespaces = {kind: count for kind, count in _by(metrics, "namespaces").items() if count}
    results, beyond = _by(metrics, "namespace_polls_total"), _one(metrics, "namespaces_not_observed")
    if namespaces or beyond:
        more = f"; {_number(beyond)} more are not observed" if beyond else ""
        yield "namespaces", f"{_listed(namespaces) or 'none'}{more}", beyond > 0
        taken = _one(metrics, "namespace_cpu_seconds_total")
        yield "  polls", f"{_listed(results)}; {taken:,.1f} s of CPU time", results["late"] > 0
    started = _one(metrics, "process_start_time_seconds")
    cpu, memory = _one(metrics, "process_cpu_seconds_total"), _one(metrics, "process_resident_memory_bytes")
    ((version,),) = metrics["build_info"]
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
