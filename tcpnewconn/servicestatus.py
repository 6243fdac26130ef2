"""The status of the service: a line for systemd, and metrics for Prometheus."""

from __future__ import annotations

import os
import time

from tcpnewconn.health.counters import ServiceStatistics
from tcpnewconn.health.metrics import MetricsFile, exposition
from tcpnewconn.health.notify import Notifier
from tcpnewconn.health.problem import Problem
from tcpnewconn.kernel.procfile import Held
from tcpnewconn.namespaces.others import Others
from tcpnewconn.observing.observer import Observer
from tcpnewconn.reporting.outbox import Outbox
from tcpnewconn.reporting.sinks import say

_PAGE = os.sysconf("SC_PAGE_SIZE")


def used(files: Held) -> tuple[float, int]:
    """The CPU time (seconds) and the memory (bytes) that this process has used so far; proc(5)."""
    return time.process_time(), int(files.content("/proc/self/statm").split()[1]) * _PAGE


class ServiceStatus:
    """`polls_only`: destroy notifications are not received. `metrics`: where they are written, if they are."""

    def __init__(
        self,
        interval: float,
        observer: Observer,
        others: Others | None,
        outbox: Outbox,
        polls_only: bool,
        metrics: MetricsFile | None,
        notifier: Notifier,
    ) -> None:
        self.statistics = ServiceStatistics(interval)
        self._files = Held()
        # Why the state could not be saved.
        self.not_saved: str | None = None
        # When the line was sent last (monotonic seconds).
        self.sent = 0.0
        self._observer, self._others, self._outbox = observer, others, outbox
        self._polls_only, self._metrics, self._notifier = polls_only, metrics, notifier
        self._problem = Problem(
            say,
            "there are no metrics until it can be written; retrying every interval",
            f"{metrics.path if metrics else ''} is written again",
        )
        # Connections that had been reported before the last poll; what that took, in seconds.
        self._before = 0
        self._took = 0.0

    def poll_begins(self) -> None:
        self._before = self._outbox.connections

    def polled(self, took: float, at: float) -> None:
        """All were polled, the host in so many seconds; `at` is a Unix time."""
        self._took = took
        self.statistics.polls += 1
        self.statistics.seconds += took
        self.statistics.last_poll = at

    def write_metrics(self) -> None:
        if self._metrics is None:
            return
        statistics = self.statistics
        statistics.waiting = self._outbox.waiting
        statistics.states = self._observer.tables.states
        if (others := self._others) is not None:
            statistics.namespaces, statistics.namespaces_beyond = others.known.kinds(), others.beyond
            statistics.namespace_results, statistics.namespace_seconds = (
                others.schedule.results,
                others.schedule.budget.seconds,
            )
        statistics.cpu, statistics.memory = used(self._files)
        self._metrics.write(exposition(self._outbox.counters, statistics))
        self._problem.set(self._metrics.problem)

    def send(self, now: float) -> None:
        """Send the line to systemd."""
        self.sent = now
        self._notifier.status(self.text())

    def text(self) -> str:
        count, new = self._observer.connections, self._outbox.connections - self._before
        noun = "connection" if count == 1 else "connections"
        status = f"{count:,} {noun} open, {new:,} new in the last poll ({self._took * 1e3:.1f} ms)"
        if (others := self._others) is not None and others.known.count:
            status += f"; {others.known.connections:,} open in {others.known.count:,} other namespaces"
            if late := others.schedule.late + others.beyond:
                status += f", {late:,} of them late"
        if self._polls_only:
            status += "; polls only: no destroy notifications"
        if lost := self._observer.tracker.cursor.lost:
            status += f"; {lost:,} destroy notifications lost"
        if self._observer.tables.unreadable:
            status += "; reading /proc failed"
        if self._outbox.waiting:
            status += f"; journal blocked, {self._outbox.waiting:,} waiting"
        if self.not_saved is not None:
            status += f"; state not saved: {self.not_saved}"
        return status
