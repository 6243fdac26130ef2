"""Writes the counters as metrics for Prometheus, in the text format of its exposition.

The format is written by hand: python3-prometheus-client alone takes 25 MiB (measured), more than the whole service may.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from tcpnewconn import __version__
from tcpnewconn.health.counters import Counters, ServiceStatistics
from tcpnewconn.model import STATE_NAMES

FILE = "tcpnewconn.prom"
# Where the service of the package writes it.
PATH = f"/run/tcpnewconn/{FILE}"

STATES = tuple(dict.fromkeys(STATE_NAMES.values()))


class Metric(NamedTuple):
    """One metric: its name without the common prefix, its type and meaning. A summary is a _sum and a _count."""

    name: str
    kind: str
    meaning: str


PREFIX = "tcpnewconn_"
METRICS = (
    Metric("connections_total", "counter", "New connections, logged one by one or in summaries."),
    Metric("connections_detected_total", "counter", "The same connections, by how they were detected."),
    Metric("connections_summarized_total", "counter", "New connections that were logged in summaries, not one by one."),
    Metric(
        "connections_attributed_total",
        "counter",
        "New connections whose user, unit or thread is known, by where that comes from: one can have several.",
    ),
    Metric(
        "connections_not_attributed_total",
        "counter",
        "New connections of which it is not known which thread called connect() or accept(), by reason.",
    ),
    Metric("connections_failed_total", "counter", "Failed attempts to open a connection, with Failed=yes."),
    Metric("listeners_total", "counter", "New listeners."),
    Metric("port_scans_total", "counter", "Port scans."),
    Metric(
        "lost_total", "counter", "Events that could not be observed or logged in full, as the loss events count them."
    ),
    Metric("sockets", "gauge", "Sockets in /proc/net/tcp and tcp6 when they were read last, by state."),
    Metric("polls_total", "counter", "Polls: of /proc/net/tcp and tcp6, or of counters that show no change."),
    Metric("poll_duration_seconds", "summary", "Duration of the successful polls."),
    Metric("polls_skipped_total", "counter", "Polls that were skipped because the one before was late."),
    Metric("namespaces", "gauge", "Other network namespaces that are observed, by the runtime of their container."),
    Metric("namespaces_not_observed", "gauge", "Other network namespaces that are too many to be observed."),
    Metric(
        "namespace_polls_total",
        "counter",
        "Other network namespaces in each interval: polled, unchanged so that a poll was not needed, or late.",
    ),
    Metric("namespace_cpu_seconds_total", "counter", "CPU time used to observe other network namespaces."),
    Metric("last_poll_timestamp_seconds", "gauge", "Unix time of the last successful poll; 0 before the first."),
    Metric("poll_interval_seconds", "gauge", "Interval between two polls, as configured."),
    Metric("journal_entries_waiting", "gauge", "Entries that wait because the journal does not accept them."),
    Metric("source_degraded", "gauge", "1 while a source of connections is missing."),
    Metric("running", "gauge", "1 while the service runs, 0 after it was stopped."),
    Metric("build_info", "gauge", "1; the label is the version of the service."),
    Metric("process_cpu_seconds_total", "counter", "CPU time used by the service."),
    Metric("process_resident_memory_bytes", "gauge", "Resident memory of the service."),
    Metric("process_start_time_seconds", "gauge", "Unix time of the start of the service."),
)
_HEADS = tuple(f"# HELP {PREFIX}{name} {meaning}\n# TYPE {PREFIX}{name} {kind}\n" for name, kind, meaning in METRICS)


def exposition(counters: Counters, statistics: ServiceStatistics) -> str:
    """All series, in the text format 0.0.4: every name and label is there from the start. No timestamps, ends in a newline."""
    samples = _samples(counters, statistics)
    lines = []
    for metric, head in zip(METRICS, _HEADS, strict=True):
        name = PREFIX + metric.name
        lines.append(head)
        lines += [f"{name}{labels} {value}\n" for labels, value in samples[metric.name]]
    return "".join(lines)


Samples = list[tuple[str, int | float]]
Name = TypeVar("Name", bound=str)


def _samples(counters: Counters, statistics: ServiceStatistics) -> dict[str, Samples]:
    """By metric: its labels, as they are written behind its name, each with its value."""
    return {
        "connections_total": [
            (f'{{direction="{direction}",family="{family}"}}', count)
            for (direction, family), count in counters.connections.items()
        ],
        "connections_detected_total": _by("detected_by", counters.detected_by),
        "connections_summarized_total": [("", counters.summarized)],
        "connections_attributed_total": _by("by", counters.attributed_by),
        "connections_not_attributed_total": _by("reason", counters.not_attributed),
        "connections_failed_total": [("", counters.failed)],
        "listeners_total": [("", counters.listeners)],
        "port_scans_total": [("", counters.port_scans)],
        "lost_total": _by("reason", counters.lost),
        "sockets": _by("state", _named(statistics.states)),
        "polls_total": [('{result="ok"}', statistics.polls), ('{result="failed"}', statistics.failed)],
        "poll_duration_seconds": [("_sum", round(statistics.seconds, 6)), ("_count", statistics.polls)],
        "polls_skipped_total": [("", statistics.skipped)],
        "namespaces": _by("kind", statistics.namespaces),
        "namespaces_not_observed": [("", statistics.namespaces_beyond)],
        "namespace_polls_total": _by("result", statistics.namespace_results),
        "namespace_cpu_seconds_total": [("", round(statistics.namespace_seconds, 6))],
        "last_poll_timestamp_seconds": [("", round(statistics.last_poll, 3))],
        "poll_interval_seconds": [("", statistics.interval)],
        "journal_entries_waiting": [("", statistics.waiting)],
        "source_degraded": _by("source", counters.degraded),
        "running": [("", int(statistics.running))],
        "build_info": [(f'{{version="{__version__}"}}', 1)],
        "process_cpu_seconds_total": [("", round(statistics.cpu, 6))],
        "process_resident_memory_bytes": [("", statistics.memory)],
        "process_start_time_seconds": [("", round(statistics.started, 3))],
    }


def _by(label: str, counts: Mapping[Name, int]) -> Samples:
    return [(f'{{{label}="{value}"}}', int(count)) for value, count in counts.items()]


def _named(states: Mapping[int, int]) -> dict[str, int]:
    """Sockets by the name of their state. Two of the kernel's states have one name; unknown ones are left out."""
    named = dict.fromkeys(STATES, 0)
    for state, count in states.items():
        if state in STATE_NAMES:
            named[STATE_NAMES[state]] += count
    return named


class MetricsFile:
    """The file that node_exporter and `tcpnewconn status` read: complete at any moment, readable by everybody.

    A write that fails stops nothing: `problem` says what is wrong, and the next write tries again.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.problem: str | None = None

    def write(self, text: str) -> None:
        # In the same directory, so that it can be renamed; with another ending, so that node_exporter leaves it alone.
        new = f"{self.path}.new"
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            with open(descriptor, "wb") as file:
                # In spite of the umask.
                os.fchmod(descriptor, 0o644)
                file.write(text.encode())
            os.rename(new, self.path)
        except OSError as error:
            self.problem = f"{self.path}: {error.strerror}"
        else:
            self.problem = None
