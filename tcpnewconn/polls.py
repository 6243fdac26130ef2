"""Polls of all network namespaces: what is known before each, and what is reported and saved after it."""

from __future__ import annotations

import time
from collections.abc import Callable

from tcpnewconn.attribution.names import ContainerNames
from tcpnewconn.health.observation import Observation
from tcpnewconn.health.problem import Problem
from tcpnewconn.health.watchdog import Watchdog
from tcpnewconn.intake import Intake
from tcpnewconn.kernel.table import Unreadable
from tcpnewconn.namespaces.others import Others
from tcpnewconn.observing.observer import Observer
from tcpnewconn.reporting.outbox import Outbox
from tcpnewconn.reporting.sinks import say
from tcpnewconn.servicestatus import ServiceStatus


class NoProc(Exception):
    """The first poll of /proc failed; says why."""


class Polls:
    """`names`: the names of containers from a file. `save` writes the state."""

    def __init__(
        self,
        observer: Observer,
        others: Others | None,
        outbox: Outbox,
        observation: Observation,
        names: ContainerNames | None,
        intake: Intake,
        status: ServiceStatus,
        watchdog: Watchdog,
        save: Callable[[], None],
    ) -> None:
        # When the last one began (monotonic seconds).
        self.began = 0.0
        self._observer, self._others, self._outbox, self._observation = observer, others, outbox, observation
        self._names, self._intake, self._status = names, intake, status
        self._watchdog, self._save = watchdog, save
        self._names_problem = Problem(
            say,
            "containers lack the names that are in it; retrying every interval",
            "ContainerNames= can be read again",
        )

    def first(self, now: float) -> None:
        """The first poll. Raises NoProc."""
        try:
            self.poll(now)
        except Unreadable as error:
            raise NoProc(f"{error.path}: {error.why}") from error

    def poll(self, now: float) -> None:
        """Poll /proc and report; raises Unreadable."""
        if self._names is not None:
            self._names.refresh()
            self._names_problem.set(self._names.problem)
        if self._others is not None:
            # Whose the other end of a connection is must be known before notifications that have waited are processed.
            self._others.look(now)
        # Every socket whose notification is there by now cannot be shown by this poll any more.
        self._intake.take_waiting()
        began = time.perf_counter()
        self.began = now
        self._status.poll_begins()
        # The backlog can take seconds: what came meanwhile is in the tables.
        self._observer.poll(time.monotonic())
        took = time.perf_counter() - began
        if self._others is not None:
            self._intake.take_waiting_of_others()
            self._others.poll(self._live)
        at = time.time()
        self._status.polled(took, at)
        self._observation.observed(at)
        self._live()
        self._outbox.deliver()
        self._outbox.interval_over()
        self._save()

    def again(self, now: float) -> None:
        """Poll, where that has worked before: it will again."""
        try:
            self.poll(now)
        except Unreadable:
            self._status.statistics.failed += 1
        self._outbox.deliver()
        self._status.write_metrics()
        self._status.send(now)

    def _live(self) -> None:
        self._watchdog.live(time.monotonic())
