"""The loop: when to poll, what else to wait for, and how a run ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, suppress

from tcpnewconn.attribution.names import ContainerNames
from tcpnewconn.eventtypes import ObservationStarted, ObservationStopped
from tcpnewconn.health.metrics import MetricsFile
from tcpnewconn.health.notify import Notifier
from tcpnewconn.health.observation import Observation
from tcpnewconn.health.problem import Problem
from tcpnewconn.health.watchdog import Watchdog
from tcpnewconn.intake import Intake
from tcpnewconn.kernel.sockdiag import Notifications
from tcpnewconn.kernel.table import Unreadable
from tcpnewconn.namespaces.others import Others
from tcpnewconn.observing.observer import Observer
from tcpnewconn.polls import Polls
from tcpnewconn.reporting.outbox import Outbox
from tcpnewconn.reporting.sinks import say
from tcpnewconn.servicestatus import ServiceStatus
from tcpnewconn.settings.config import ConfigError, Settings
from tcpnewconn.state.log import StateLog
from tcpnewconn.wakeups import Wakeups

# Destroyed sockets that are processed before the clock is read again.
_AT_ONCE = 500
# After destroyed sockets the next are awaited for so many milliseconds, and processed together: waking up for each of them costs
# as much as processing it (measured). Not where calls of threads that are soon gone must be read.
_REST = 5
# After so many the rest is longer, where the buffer holds what comes meanwhile, at a million per second: in a burst, waking up is
# a quarter of the cost.
_MANY, _LONG_REST, _CAPACITY = 50, 20, 20_000
# Seconds between two tries to send while the sink takes no entries.
_RETRY = 0.05
# Seconds between two ticks while something waits for a notification that may not come.
_SOON = 0.25
# Seconds between the polls that follow a loss: what they no longer show was closed without a notification. And calls of short
# connections are not attributed before one.
_AFTER_LOSS = 2.0

# Notifications come from a work queue: some milliseconds late, more on a starved machine (a second was seen). What comes into
# TIME_WAIT between the last two polls shows whether they are; then they are waited for.
_BETWEEN_LAST_POLLS = 0.1
_NOTIFIED_AFTER = 0.25

# Seconds after which a loss or an unaddressed socket is decided, and a notification is not waited for any longer; at the end that
# is now.
_AT_THE_LATEST = 5.0

# The trace is read after so many seconds where nothing else asks for it: when something wakes the loop.
_CALLS_EVERY = 1.0

# Seconds to rest after somebody who connects has woken the loop, where it was woken as soon after the time before.
_REST_AFTER_CALLS = 0.001

# Seconds between two status lines while the sink takes no entries.
_STATUS_EVERY = 1.0


class Service:
    """Runs until it is stopped. `reload` reads the configuration again; it raises ConfigError.

    `redeliverable`: notifications outlive the program and are received again after SIGKILL. `record_runs`: report when the
    observation starts and stops. `others`: the network namespaces that are not the host's; `names`: the
    names of containers from a file.
    """

    def __init__(
        self,
        settings: Settings,
        observer: Observer,
        outbox: Outbox,
        observation: Observation,
        log: StateLog | None,
        notifications: Notifications | None,
        notifier: Notifier,
        reload: Callable[[], Settings],
        metrics: MetricsFile | None = None,
        others: Others | None = None,
        names: ContainerNames | None = None,
        redeliverable: bool = False,
        record_runs: bool = False,
    ) -> None:
        self.observer, self.outbox, self.observation, self.log = observer, outbox, observation, log
        self.notifications, self.notifier, self.reload = notifications, notifier, reload
        self.others, self.names = others, names
        self.record_runs = record_runs
        self.watchdog = Watchdog(notifier)
        self.status = ServiceStatus(
            settings.interval, observer, others, outbox, notifications is None, metrics, notifier
        )
        self.intake = Intake(notifications, redeliverable, observer, others, outbox, log, self.watchdog, self._save)
        self.polls = Polls(
            observer, others, outbox, observation, names, self.intake, self.status, self.watchdog, self._save
        )
        self._calls_due = 0.0
        # For how many milliseconds to rest: 0 where some that were destroyed since have not been processed.
        self._rests = 0
        self._long_rest = _LONG_REST if notifications is not None and notifications.capacity >= _CAPACITY else _REST
        self._calls_taken = 0.0
        self._state_problem = Problem(
            say,
            "a restart will log open connections again; retrying every interval",
            f"{self.log.path if self.log else ''} is written again",
        )
        self._apply(settings)

    def _apply(self, settings: Settings) -> None:
        self.settings = settings
        self.status.statistics.interval = settings.interval
        self.outbox.set(settings)
        self.observer.events.closed = settings.closed
        self.observer.failed = settings.failed
        if self.names is not None:
            self.names.path = settings.container_names
        if self.others is not None:
            self.others.include(settings.include, settings.cpuquota, settings.failed)

    # --- once --------------------------------------------------------------------------------------------------------

    def once(self) -> None:
        """Poll once and report. Raises NoProc, and OSError where it cannot be written."""
        self._save()
        self.polls.first(time.monotonic())
        self.status.statistics.running = False
        self.status.write_metrics()

    # --- until stopped -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises NoProc if the first poll of /proc fails; later ones are tried again. OSError where it cannot be written."""
        self._save()
        if self.log is not None and self.log.no_tail is not None:
            say(f"{self.log.no_tail}: the state is written to {self.log.path} alone, which takes more CPU time", 5)
        with closing(Wakeups()) as wakeups:
            if self.notifications is not None:
                wakeups.watch([self.notifications.fileno()])
            if self.outbox.pipe is not None:
                # Nothing can be read there: it wakes the loop when the reader of the output has exited.
                wakeups.watch([self.outbox.pipe])
            due, since = time.monotonic(), time.time()
            before = self.observation.until
            # A backlog of notifications comes first: on a starved machine, that takes longer than a start may.
            self.watchdog.starting(due)
            self.polls.first(due)
            self._started(since, before)
            self.status.write_metrics()
            self.notifier.ready(self.status.text())
            self.watchdog.ready(due)
            self._loop(wakeups, self._next(due, time.monotonic()))
            self.notifier.stopping()
            self._stop()

    def _loop(self, wakeups: Wakeups, due: float) -> None:
        """Until a signal stops it; the next poll is due then."""
        calls: frozenset[int] = frozenset()
        namespaces: frozenset[int] = frozenset()
        while not wakeups.stopped:
            # Everything that was due is done here; a loop that hangs does not get here.
            now = time.monotonic()
            self.watchdog.live(now)
            calls = wakeups.watch(self.observer.call_descriptors, calls)
            if self.others is not None:
                namespaces = wakeups.watch(self.others.destroyed.descriptors, namespaces)
            if self._rests and not calls:
                wakeups.rest(self._rests)
            woken = wakeups.wait(self._timeout(now, due))
            if self.outbox.pipe in woken:
                raise BrokenPipeError
            if not calls.isdisjoint(woken):
                self._take_calls()
            if wakeups.take_reload():
                due = self._reloaded(due)
            due = self._turn(due)

    def _take_calls(self) -> None:
        """Read calls of threads that are soon gone."""
        now = time.monotonic()
        self.observer.read_calls()
        self.outbox.deliver()
        if now < self._calls_taken + _REST_AFTER_CALLS:
            # Each wake-up costs who connects 10 us; resting, there is one for many. But a process can be gone in the meantime.
            time.sleep(_REST_AFTER_CALLS)
        self._calls_taken = now

    def _turn(self, due: float) -> float:
        """Do what is due. Returns the time of the next poll."""
        blocked = self.outbox.waiting > 0
        self.outbox.send()
        if (self.outbox.waiting or blocked) and time.monotonic() > self.status.sent + _STATUS_EVERY:
            self.status.send(time.monotonic())
        taken = self.intake.take(_AT_ONCE) + self.intake.take_others(_AT_ONCE)
        self._rests = 0 if not 0 < taken < _AT_ONCE else self._long_rest if taken >= _MANY else _REST
        now = time.monotonic()
        if self.observer.waiting:
            self.observer.tick(now)
            self.outbox.deliver()
        if self.observer.records and now >= self._calls_due:
            # With a long interval, and where few connections close, the rings would fill.
            self._calls_due = now + _CALLS_EVERY
            self.observer.read_calls()
            self.observer.look_after_calls(now)
            self.observer.settle()
            if self.others is not None:
                self.others.destroyed.find_callers(now)
            self.outbox.deliver()
        if self.observer.wants_poll:
            due = min(due, self.polls.began + _AFTER_LOSS)
        if self.intake.count_losses(now):
            due = now
        if now < due:
            return due
        self.polls.again(now)
        return self._next(due, time.monotonic())

    def _started(self, since: float, before: float | None) -> None:
        """Report since when this run observes, and until when the one before did (Unix times)."""
        if self.record_runs:
            self.outbox.take(ObservationStarted(since, before, str(self.settings.ignore)))
            self.outbox.deliver()

    def _stop(self) -> None:
        tracker = self.observer.tracker
        for seconds in (_NOTIFIED_AFTER if tracker.expects else _BETWEEN_LAST_POLLS, _NOTIFIED_AFTER):
            self.observer.stop()
            if self.others is not None:
                self.others.stop()
            # Without /proc, what is in TIME_WAIT now may be reported again.
            with suppress(Unreadable):
                self.polls.poll(time.monotonic())
            time.sleep(seconds)
            self.intake.take_waiting()
            self.intake.take_waiting_of_others()
            self.observer.tick(time.monotonic())
        at_the_latest = time.monotonic() + _AT_THE_LATEST
        while tracker.expects and time.monotonic() < at_the_latest:
            time.sleep(_RETRY)
            self.intake.take_waiting()
        self.intake.count_losses(time.monotonic())
        if self.observer.losing:
            # Two more polls tell which connections it does not mean.
            for _ in range(2):
                with suppress(Unreadable):
                    self.polls.poll(time.monotonic())
        self.observer.tick(time.monotonic() + _AT_THE_LATEST, last=True)
        if self.others is not None:
            self.others.tick(time.monotonic() + _AT_THE_LATEST, last=True)
        if self.record_runs:
            self.outbox.take(ObservationStopped())
        self.outbox.deliver()
        self.outbox.interval_over()
        if self.status.statistics.last_poll:
            self.observation.observed(self.status.statistics.last_poll, last=True)
        self._save(last=True)
        self.status.statistics.running = False
        self.status.write_metrics()

    def _timeout(self, now: float, due: float) -> float:
        timeout = max(0.0, min(due, self.watchdog.due) - now)
        if self.outbox.waiting:
            timeout = min(timeout, _RETRY)
        if self.observer.waiting:
            timeout = min(timeout, _SOON)
        if self.others is not None and self.others.waiting:
            timeout = min(timeout, _RETRY)
        return timeout

    def _next(self, due: float, now: float) -> float:
        """When to poll next: on the schedule that the first poll began, however long a poll takes."""
        interval = self.settings.interval
        missed = max(0, int((now - due) / interval))
        self.status.statistics.skipped += missed
        if self.observer.losing:
            return now + _AFTER_LOSS
        return due + (missed + 1) * interval

    def _reloaded(self, due: float) -> float:
        self.notifier.reloading()
        before = self.settings.interval
        try:
            self._apply(self.reload())
        except ConfigError as error:
            say(f"{error}; the settings stay as they were", 3)
        self.notifier.ready(self.status.text())
        after = self.settings.interval
        return due if after == before else min(due, time.monotonic() + after)

    def _save(self, last: bool = False) -> None:
        if self.log is None:
            return
        self.observer.tracker.cursor.record()
        self.log.save(last)
        self._state_problem.set(self.log.problem)
        self.status.not_saved = self.log.problem
