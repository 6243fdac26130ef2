"""Writes the counters as metrics for Prometheus, in the text format of its exposition.

The format is written by hand: python3-prometheus-client alone takes 25 MiB (measured), more than the whole service may.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import NamedTuple

from tcpnewconn import __version__
from tcpnewconn.eventtypes import ATTRIBUTED_BY, DETECTED_BY
from tcpnewconn.health.counters import (
    FAMILIES,
    MISSING,
    NAMESPACE_KINDS,
    NAMESPACE_RESULTS,
    REASONS,
    SOURCES,
    Counters,
    ServiceStatistics,
)
from tcpnewconn.model import DIRECTIONS, STATE_NAMES
from tcpnewconn.state.lines import write

FILE = "tcpnewconn.prom"
# Where the service of the package writes it.
PATH = f"/run/tcpnewconn/{FILE}"

STATES = tuple(dict.fromkeys(STATE_NAMES.values()))


class Metric(NamedTuple):
    """One metric: its name without the common prefix, its type and meaning; what stands behind the name in each of its series."""

    name: str
    kind: str
    meaning: str
    series: tuple[str, ...] = ("",)


def _by(label: str, values: Iterable[str]) -> tuple[str, ...]:
    """The labels of a metric with a series for each value of one label."""
    return tuple(f'{{{label}="{value}"}}' for value in values)


PREFIX = "tcpnewconn_"
METRICS = (
    Metric(
        "connections_total",
        "counter",
        "New connections, logged one by one or in summaries.",
        tuple(f'{{direction="{direction}",family="{family}"}}' for direction in DIRECTIONS for family in FAMILIES),
    ),
    Metric(
        "connections_detected_total",
        "counter",
        "The same connections, by how they were detected.",
        _by("detected_by", DETECTED_BY),
    ),
    Metric("connections_summarized_total", "counter", "New connections that were logged in summaries, not one by one."),
    Metric(
        "connections_attributed_total",
        "counter",
        "New connections whose user, unit or thread is known, by where that comes from: one can have several.",
        _by("by", ATTRIBUTED_BY),
    ),
    Metric(
        "connections_not_attributed_total",
        "counter",
        "New connections of which it is not known which thread called connect() or accept(), by reason.",
        _by("reason", MISSING),
    ),
    Metric("connections_failed_total", "counter", "Failed attempts to open a connection, with Failed=yes."),
    Metric("listeners_total", "counter", "New listeners."),
    Metric("port_scans_total", "counter", "Port scans."),
    Metric(
        "lost_total",
        "counter",
        "Events that could not be observed or logged in full, as the loss events count them.",
        _by("reason", REASONS),
    ),
    Metric(
        "sockets",
        "gauge",
        "Sockets in /proc/net/tcp and tcp6 when they were read last, by state.",
        _by("state", STATES),
    ),
    Metric(
        "polls_total",
        "counter",
        "Polls: of /proc/net/tcp and tcp6, or of counters that show no change.",
        _by("result", ("ok", "failed")),
    ),
    Metric("poll_duration_seconds", "summary", "Duration of the successful polls.", ("_sum", "_count")),
    Metric("polls_skipped_total", "counter", "Polls that were skipped because the one before was late."),
    Metric(
        "namespaces",
        "gauge",
        "Other network namespaces that are observed, by the runtime of their container.",
        _by("kind", NAMESPACE_KINDS),
    ),
    Metric("namespaces_not_observed", "gauge", "Other network namespaces that are too many to be observed."),
    Metric(
        "namespace_polls_total",
        "counter",
        "Other network namespaces in each interval: polled, unchanged so that a poll was not needed, or late.",
        _by("result", NAMESPACE_RESULTS),
    ),
    Metric("namespace_cpu_seconds_total", "counter", "CPU time used to observe other network namespaces."),
    Metric("last_poll_timestamp_seconds", "gauge", "Unix time of the last successful poll; 0 before the first."),
    Metric("poll_interval_seconds", "gauge", "Interval between two polls, as configured."),
    Metric("journal_entries_waiting", "gauge", "Entries that wait because the journal does not accept them."),
    Metric("source_degraded", "gauge", "1 while a source of connections is missing.", _by("source", SOURCES)),
    Metric("running", "gauge", "1 while the service runs, 0 after it was stopped."),
    Metric("build_info", "gauge", "1; the label is the version of the service.", _by("version", (__version__,))),
    Metric("process_cpu_seconds_total", "counter", "CPU time used by the service."),
    Metric("process_resident_memory_bytes", "gauge", "Resident memory of the service."),
    Metric("process_start_time_seconds", "gauge", "Unix time of the start of the service."),
)


def _template() -> str:
    """All series, with a place for the value of each."""
    lines = []
    for name, kind, meaning, series in METRICS:
        lines.append(f"# HELP {PREFIX}{name} {meaning}\n# TYPE {PREFIX}{name} {kind}\n")
        lines += [f"{PREFIX}{name}{labels} %s\n" for labels in series]
    return "".join(lines)


# Written at each poll, of which most find nothing: making each line took 0.04 ms more, of 1.1 (measured).
_TEMPLATE = _template()


def exposition(counters: Counters, statistics: ServiceStatistics) -> str:
    """All series, in the text format 0.0.4: every name and label is there from the start. No timestamps, ends in a newline."""
    values = _values(counters, statistics)
    return _TEMPLATE % tuple(chain.from_iterable(values[metric.name] for metric in METRICS))


def _values(counters: Counters, statistics: ServiceStatistics) -> dict[str, Iterable[int | float]]:
    """By metric: the values of its series, in their order."""
    return {
        "connections_total": counters.connections.values(),
        "connections_detected_total": counters.detected_by.values(),
        "connections_summarized_total": (counters.summarized,),
        "connections_attributed_total": counters.attributed_by.values(),
        "connections_not_attributed_total": counters.not_attributed.values(),
        "connections_failed_total": (counters.failed,),
        "listeners_total": (counters.listeners,),
        "port_scans_total": (counters.port_scans,),
        "lost_total": counters.lost.values(),
        "sockets": _by_name(statistics.states),
        "polls_total": (statistics.polls, statistics.failed),
        "poll_duration_seconds": (round(statistics.seconds, 6), statistics.polls),
        "polls_skipped_total": (statistics.skipped,),
        "namespaces": statistics.namespaces.values(),
        "namespaces_not_observed": (statistics.namespaces_beyond,),
        "namespace_polls_total": statistics.namespace_results.values(),
        "namespace_cpu_seconds_total": (round(statistics.namespace_seconds, 6),),
        "last_poll_timestamp_seconds": (round(statistics.last_poll, 3),),
        "poll_interval_seconds": (statistics.interval,),
        "journal_entries_waiting": (statistics.waiting,),
        "source_degraded": map(int, counters.degraded.values()),
        "running": (int(statistics.running),),
        "build_info": (1,),
        "process_cpu_seconds_total": (round(statistics.cpu, 6),),
        "process_resident_memory_bytes": (statistics.memory,),
        "process_start_time_seconds": (round(statistics.started, 3),),
    }


def _by_name(states: Mapping[int, int]) -> Iterable[int]:
    """Sockets by the name of their state (STATES). Two of the kernel's states have one name; unknown ones are left out."""
    named = dict.fromkeys(STATES, 0)
    for state, count in states.items():
        if state in STATE_NAMES:
            named[STATE_NAMES[state]] += count
    return named.values()


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
            try:
                # In spite of the umask.
                os.fchmod(descriptor, 0o644)
                write(descriptor, text.encode())
            finally:
                os.close(descriptor)
            os.rename(new, self.path)
        except OSError as error:
            self.problem = f"{self.path}: {error.strerror}"
        else:
            self.problem = None
