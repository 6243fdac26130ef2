"""The service in figures: what was told since it started and how it fares, as text that Prometheus understands.

The format is written by hand: python3-prometheus-client alone takes 25 MiB (measured), more than the whole service may.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar, get_args

from tcpnewconn import __version__
from tcpnewconn.model import (
    DETECTED_BY,
    STATE_NAMES,
    Connection,
    Degraded,
    Event,
    Listener,
    Loss,
    PortScan,
    Reason,
    Recovered,
    Source,
)
from tcpnewconn.reporting.entries import family
from tcpnewconn.tracking.direction import DIRECTIONS

FILE = "tcpnewconn.prom"
# Where the service of the package has it.
PATH = f"/run/tcpnewconn/{FILE}"

FAMILIES = ("ipv4", "ipv6")
REASONS: tuple[Reason, ...] = get_args(Reason)
SOURCES: tuple[Source, ...] = get_args(Source)
STATES = tuple(dict.fromkeys(name.lower() for name in STATE_NAMES.values()))

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Metric(NamedTuple):
    """One metric: its name without the common prefix, its type and meaning. A summary is a _sum and a _count."""

    name: str
    kind: str
    meaning: str


PREFIX = "tcpnewconn_"
METRICS = (
    Metric("connections_total", "counter", "New connections that were reported, one by one or in summaries."),
    Metric("connections_seen_total", "counter", "The same connections, by where they were seen."),
    Metric("folded_total", "counter", "Those of them that were reported in summaries."),
    Metric("listeners_total", "counter", "New listeners that were reported."),
    Metric("port_scans_total", "counter", "Port scans that were reported."),
    Metric("lost_total", "counter", "What could not be seen or told, as the loss events count it."),
    Metric("sockets", "gauge", "Rows of /proc/net/tcp and tcp6 at the last read, by the state of the socket."),
    Metric("reads_total", "counter", "Reads of /proc/net/tcp and tcp6."),
    Metric("read_duration_seconds", "summary", "How long the reads took that went well, by the clock."),
    Metric("read_overruns_total", "counter", "Reads that were left out because what was before them took too long."),
    Metric("last_read_timestamp_seconds", "gauge", "When the last read went well, in Unix time; 0 before the first."),
    Metric("read_interval_seconds", "gauge", "Time between two reads, as it is set."),
    Metric("journal_waiting", "gauge", "Entries that wait because the journal takes none."),
    Metric("source_degraded", "gauge", "1 while a source of connections is missing."),
    Metric("build_info", "gauge", "1, with the version of the program."),
    Metric("process_cpu_seconds_total", "counter", "CPU time that the service has used."),
    Metric("process_resident_memory_bytes", "gauge", "Memory that the service has resident."),
    Metric("process_start_time_seconds", "gauge", "When the service started, in Unix time."),
)


class Counters:
    """Counts the events as they are told. A connection that is folded into a summary counts like any other."""

    def __init__(self) -> None:
        self.connections = {(direction, name): 0 for direction in DIRECTIONS for name in FAMILIES}
        self.seen = dict.fromkeys(DETECTED_BY, 0)
        self.folded = 0
        self.listeners = 0
        self.scans = 0
        self.lost = dict.fromkeys(REASONS, 0)
        self.degraded = dict.fromkeys(SOURCES, False)

    def connection(self, event: Connection, folded: bool) -> None:
        self.connections[event.direction, family(event.source, event.destination)] += 1
        self.seen[event.detected_by] += 1
        self.folded += folded

    def event(self, event: Event) -> None:
        """Any event but a connection."""
        if isinstance(event, Listener):
            self.listeners += 1
        elif isinstance(event, PortScan):
            self.scans += 1
        elif isinstance(event, Loss):
            self.lost[event.reason] += event.count
        elif isinstance(event, Degraded | Recovered):
            self.degraded[event.source] = isinstance(event, Degraded)


@dataclass(slots=True)
class ServiceStatistics:
    """How the service fares: its reads (times in seconds), and what it waits for. `states` is by number of state."""

    interval: float
    reads: int = 0
    failed: int = 0
    overruns: int = 0
    seconds: float = 0.0
    last_read: float = 0.0
    waiting: int = 0
    states: Mapping[int, int] = field(default_factory=dict)
    cpu: float = 0.0
    memory: int = 0
    started: float = field(default_factory=time.time)

    def look(self) -> None:
        """What this process has used by now."""
        self.cpu = time.process_time()
        with open("/proc/self/statm", "rb") as file:
            self.memory = int(file.read().split()[1]) * _PAGE


def exposition(counters: Counters, course: ServiceStatistics) -> str:
    """All series, in the text format 0.0.4: every name and label is there from the start. No timestamps, ends in a newline."""
    samples = _samples(counters, course)
    lines = []
    for metric in METRICS:
        name = PREFIX + metric.name
        lines.append(f"# HELP {name} {metric.meaning}\n# TYPE {name} {metric.kind}\n")
        lines += [f"{name}{labels} {value}\n" for labels, value in samples[metric.name]]
    return "".join(lines)


Samples = list[tuple[str, int | float]]
Name = TypeVar("Name", bound=str)


def _samples(counters: Counters, course: ServiceStatistics) -> dict[str, Samples]:
    """By metric: its labels, as they are written behind its name, each with its value."""
    return {
        "connections_total": [
            (f'{{direction="{direction}",family="{family}"}}', count)
            for (direction, family), count in counters.connections.items()
        ],
        "connections_seen_total": _by("seen", counters.seen),
        "folded_total": [("", counters.folded)],
        "listeners_total": [("", counters.listeners)],
        "port_scans_total": [("", counters.scans)],
        "lost_total": _by("reason", counters.lost),
        "sockets": _by("state", _named(course.states)),
        "reads_total": [('{result="ok"}', course.reads), ('{result="failed"}', course.failed)],
        "read_duration_seconds": [("_sum", round(course.seconds, 6)), ("_count", course.reads)],
        "read_overruns_total": [("", course.overruns)],
        "last_read_timestamp_seconds": [("", round(course.last_read, 3))],
        "read_interval_seconds": [("", course.interval)],
        "journal_waiting": [("", course.waiting)],
        "source_degraded": _by("source", counters.degraded),
        "build_info": [(f'{{version="{__version__}"}}', 1)],
        "process_cpu_seconds_total": [("", round(course.cpu, 6))],
        "process_resident_memory_bytes": [("", course.memory)],
        "process_start_time_seconds": [("", round(course.started, 3))],
    }


def _by(label: str, counts: Mapping[Name, int]) -> Samples:
    return [(f'{{{label}="{value}"}}', int(count)) for value, count in counts.items()]


def _named(states: Mapping[int, int]) -> dict[str, int]:
    """Sockets by the name of their state; two numbers have one name, and one that nobody knows has none."""
    named = dict.fromkeys(STATES, 0)
    for state, count in states.items():
        if state in STATE_NAMES:
            named[STATE_NAMES[state].lower()] += count
    return named


class MetricsFile:
    """The file that others read: whole at any moment, and for everybody.

    A write that fails stops nothing: `problem` says what is wrong, and the next one is a new try.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.problem: str | None = None

    def write(self, text: str) -> None:
        # In the same directory, so that it can be renamed; its name ends in something else, so that nobody reads it.
        new = f"{self.path}.new"
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            with open(descriptor, "wb") as file:
                # Whatever the umask.
                os.fchmod(descriptor, 0o644)
                file.write(text.encode())
            os.rename(new, self.path)
        except OSError as error:
            self.problem = f"{self.path}: {error.strerror}"
        else:
            self.problem = None
