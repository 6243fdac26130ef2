"""The loop: when to poll, what else to wait for, when to notify systemd."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import time
from collections.abc import Callable, Sequence

from tcpnewconn.attribution.names import ContainerNames
from tcpnewconn.health.counters import ServiceStatistics
from tcpnewconn.health.metrics import MetricsFile, exposition
from tcpnewconn.health.notify import Notifier
from tcpnewconn.health.observation import Observation
from tcpnewconn.health.problem import Problem
from tcpnewconn.kernel.procnet import Unreadable
from tcpnewconn.kernel.sockdiag import Notifications
from tcpnewconn.model import ObservationStarted, ObservationStopped
from tcpnewconn.observer import Observer
from tcpnewconn.others import Others
from tcpnewconn.reporting.outbox import Outbox
from tcpnewconn.reporting.sinks import say
from tcpnewconn.settings.config import ConfigError, Settings
from tcpnewconn.state.log import StateLog

# Destroyed sockets that are processed before the clock is read again.
_AT_ONCE = 500
# Before a poll every waiting notification is processed; under a load that never pauses, at most so many.
_BEFORE_POLL = 20_000
# After destroyed sockets the next are awaited for so many milliseconds, and processed together: waking up for each of them costs
# as much as processing it (measured). Not where calls of threads that are soon gone must be read.
_REST = 5
# Seconds between two tries to send while the sink has no room.
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

# Calls that no connection has taken after so many seconds are put on record meanwhile: a starved machine processes a handful of
# notifications per second. Otherwise a batch takes milliseconds.
_ON_RECORD_AFTER = 0.5

# Seconds that systemd waits for a start from each sign of life on.
_STARTS_WITHIN = 60.0

# Seconds to rest after somebody who connects has woken the loop, where it was woken as soon after the time before.
_REST_AFTER_CALLS = 0.001

# Seconds between two status lines while the sink has no room.
_STATUS_EVERY = 1.0


class NoProc(Exception):
    """The first poll of /proc failed; says why."""


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
        self.notifications, self.notifier, self.reload, self.metrics = notifications, notifier, reload, metrics
        self.others, self.names = others, names
        self.redeliverable, self.record_runs = redeliverable, record_runs
        self._statistics = ServiceStatistics(settings.interval)
        self._signals: set[int] = set()
        self._before = 0
        self._took = 0.0
        self._status_sent = 0.0
        self._calls_due = 0.0
        # Whether those that were destroyed since have been processed.
        self._rests = False
        self._calls_taken = 0.0
        self._poll_began = 0.0
        # Before it is ready, systemd waits longer where it is notified.
        self._ready = False
        self._sign_of_life = float("inf")
        self._state_problem = Problem(
            say,
            "a restart will log open connections again; retrying every interval",
            f"{self.log.path if self.log else ''} is written again",
        )
        self._metrics_problem = Problem(
            say,
            "there are no metrics until it can be written; retrying every interval",
            f"{self.metrics.path if self.metrics else ''} is written again",
        )
        self._names_problem = Problem(
            say,
            "containers lack the names that are in it; retrying every interval",
            "ContainerNames= can be read again",
        )
        self._apply(settings)

    def _apply(self, settings: Settings) -> None:
        self.settings = settings
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
        self._first_poll(time.monotonic())
        self._statistics.running = False
        self._write_metrics()

    # --- until stopped -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises NoProc if the first poll of /proc fails; later ones are tried again. OSError where it cannot be written."""
        self._save()
        if self.log is not None and self.log.no_tail is not None:
            say(f"{self.log.no_tail}: the state is written to {self.log.path} alone, which takes more CPU time", 5)
        with selectors.DefaultSelector() as selector:
            wake = self._catch_signals()
            selector.register(wake, selectors.EVENT_READ)
            resting = select.poll()
            resting.register(wake, select.POLLIN)
            if self.notifications is not None:
                selector.register(self.notifications.fileno(), selectors.EVENT_READ)
            watched_namespaces: frozenset[int] = frozenset()
            if self.outbox.pipe is not None:
                # Nothing can be read there: it wakes the loop when the reader of the output has exited.
                selector.register(self.outbox.pipe, selectors.EVENT_READ)
            due, since = time.monotonic(), time.time()
            before = self.observation.until
            # A backlog of notifications comes first: on a starved machine, that takes longer than a start may.
            self._sign_of_life = due + _STARTS_WITHIN / 4
            self._first_poll(due)
            self._started(since, before)
            self._write_metrics()
            self.notifier.ready(self._status())
            self._ready = True
            self._sign_of_life = due if self.notifier.watchdog is not None else float("inf")
            due = self._next(due, time.monotonic())
            watched: frozenset[int] = frozenset()
            while not self._signals & {signal.SIGTERM, signal.SIGINT}:
                # Everything that was due is done here; a loop that hangs does not get here.
                now = self._live()
                watched = self._watch(selector, watched, self.observer.call_descriptors)
                watched_namespaces = self._watch(selector, watched_namespaces, self._namespace_descriptors)
                if self._rests and not watched:
                    resting.poll(_REST)
                woken = {key.fd for key, _ in selector.select(self._timeout(now, due))}
                if self.outbox.pipe in woken:
                    raise BrokenPipeError
                if not watched.isdisjoint(woken):
                    self._take_calls()
                if wake in woken:
                    self._drain(wake)
                if signal.SIGHUP in self._signals:
                    self._signals.discard(signal.SIGHUP)
                    due = self._reloaded(due)
                due = self._turn(due)
            self.notifier.stopping()
            self._stop()

    @property
    def _namespace_descriptors(self) -> Sequence[int]:
        return self.others.destroyed.descriptors if self.others is not None else ()

    @staticmethod
    def _watch(selector: selectors.BaseSelector, before: frozenset[int], descriptors: Sequence[int]) -> frozenset[int]:
        """Wake for what is to be read at once; returns the descriptors."""
        now = frozenset(descriptors)
        for descriptor in before - now:
            selector.unregister(descriptor)
        for descriptor in now - before:
            selector.register(descriptor, selectors.EVENT_READ)
        return now

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
        if (self.outbox.waiting or blocked) and time.monotonic() > self._status_sent + _STATUS_EVERY:
            self._send_status(time.monotonic())
        self._rests = 0 < self._take_destroyed(_AT_ONCE) + self._take_others(_AT_ONCE) < _AT_ONCE
        now = time.monotonic()
        if self.observer.waiting:
            self.observer.tick(now)
            self.outbox.deliver()
        if self.observer.records and now >= self._calls_due:
            # With a long interval, and where few connections close, the rings would fill.
            self._calls_due = now + _CALLS_EVERY
            self.observer.read_calls()
            self.observer.look_after_calls(now)
            self.observer.settle_calls()
            if self.others is not None:
                self.others.destroyed.find_callers(now)
            self.outbox.deliver()
        if self.observer.wants_poll:
            due = min(due, self._poll_began + _AFTER_LOSS)
        if self._count_losses(now):
            due = now
        if now < due:
            return due
        self._poll_again(now)
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
            with contextlib.suppress(Unreadable):
                self._poll(time.monotonic())
            time.sleep(seconds)
            self._take_destroyed(_BEFORE_POLL)
            self._take_others(_BEFORE_POLL)
            self.observer.tick(time.monotonic())
        at_the_latest = time.monotonic() + _AT_THE_LATEST
        while tracker.expects and time.monotonic() < at_the_latest:
            time.sleep(_RETRY)
            self._take_destroyed(_BEFORE_POLL)
        self._count_losses(time.monotonic())
        if self.observer.losing:
            # Two more polls tell which connections it does not mean.
            for _ in range(2):
                with contextlib.suppress(Unreadable):
                    self._poll(time.monotonic())
        self.observer.tick(time.monotonic() + _AT_THE_LATEST, last=True)
        if self.others is not None:
            self.others.tick(time.monotonic() + _AT_THE_LATEST, last=True)
        if self.record_runs:
            self.outbox.take(ObservationStopped())
        self.outbox.deliver()
        self.outbox.interval_over()
        if self._statistics.last_poll:
            self.observation.observed(self._statistics.last_poll, last=True)
        self._save(last=True)
        self._statistics.running = False
        self._write_metrics()

    def _live(self) -> float:
        """Notify the watchdog, if there is one, after work was done. Returns the time."""
        now = time.monotonic()
        if now >= self._sign_of_life and not self._ready:
            self.notifier.starting(_STARTS_WITHIN)
            self._sign_of_life = now + _STARTS_WITHIN / 4
        elif now >= self._sign_of_life and self.notifier.watchdog is not None:
            self.notifier.alive()
            self._sign_of_life = now + self.notifier.watchdog
        return now

    def _timeout(self, now: float, due: float) -> float:
        until = due
        if self.notifier.watchdog is not None:
            until = min(until, self._sign_of_life)
        timeout = max(0.0, until - now)
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
        self._statistics.skipped += missed
        if self.observer.losing:
            return now + _AFTER_LOSS
        return due + (missed + 1) * interval

    def _catch_signals(self) -> int:
        # Neither end is closed: a second Ctrl+C may come while the program exits.
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: self._signals.add(number))
        return reading

    @staticmethod
    def _drain(wake: int) -> None:
        try:
            while os.read(wake, 64):
                pass
        except BlockingIOError:
            pass

    def _reloaded(self, due: float) -> float:
        self.notifier.reloading()
        before = self.settings.interval
        try:
            self._apply(self.reload())
        except ConfigError as error:
            say(f"{error}; the settings stay as they were", 3)
        self.notifier.ready(self._status())
        after = self.settings.interval
        return due if after == before else min(due, time.monotonic() + after)

    # --- destroyed sockets -------------------------------------------------------------------------------------------

    def _take_destroyed(self, most: int) -> int:
        """Process so many at most of those that wait; returns how many there were."""
        notifications, observer, outbox, log = self.notifications, self.observer, self.outbox, self.log
        if notifications is None:
            return 0
        cursor, redeliverable = observer.tracker.cursor, self.redeliverable
        # Of so many of those that wait, what happened before is known: who called, and which namespaces came.
        known = 0 if observer.records or self._namespace_descriptors else most
        # When what is left of them is put on record, if they have not been taken by then.
        settle = float("inf")
        taken = 0
        while taken < most:
            destroyed = notifications.peek()
            if destroyed is None:
                observer.tracker.caught_up(time.monotonic())
                break
            now = time.monotonic()
            if now >= self._sign_of_life:
                # On a starved machine a few hundred can take longer than the watchdog waits.
                self._live()
            if not known:
                # SIGKILL loses no more than what is read at once.
                observer.settle_calls()
                known, settle = max(1, notifications.queued()), now + _ON_RECORD_AFTER
                observer.read_calls()
                if self.others is not None:
                    self.others.take_changes()
                now = time.monotonic()
            elif now >= settle:
                # Nor what was read long ago.
                observer.settle_calls()
                settle = float("inf")
            known -= 1
            # One that was processed, but not removed from the buffer, before a SIGKILL.
            if destroyed.cookie != cursor.last:
                observer.destroyed(destroyed, now)
                outbox.deliver(redeliverable)
                cursor.handled(destroyed.cookie)
                if log is not None:
                    log.flush()
            notifications.consume()
            taken += 1
        observer.settle_calls()
        if log is not None:
            log.flush()
            if log.filling:
                self._save()
        return taken

    def _take_others(self, most: int) -> int:
        """Process so many at most of the destroyed sockets of other network namespaces; returns how many there were."""
        if self.others is None:
            return 0
        flush = self.log.flush if self.log is not None else lambda: None
        taken = self.others.destroyed.take(most, self._deliver_of_others, flush)
        self.others.tick(time.monotonic())
        self.outbox.deliver()
        if self.log is not None and self.log.filling:
            self._save()
        return taken

    def _deliver_of_others(self) -> None:
        assert self.others is not None
        self.outbox.deliver(self.others.destroyed.redeliverable)
        if time.monotonic() >= self._sign_of_life:
            self._live()

    def _count_losses(self, now: float) -> bool:
        """Whether notifications were lost since the last time."""
        if self.notifications is None:
            return False
        lost = self.observer.tracker.cursor.count(self.notifications.dropped(), now)
        if lost:
            self.observer.lost_notifications(now)
        return lost

    # --- polls -------------------------------------------------------------------------------------------------------

    def _first_poll(self, now: float) -> None:
        try:
            self._poll(now)
        except Unreadable as error:
            raise NoProc(f"{error.path}: {error.why}") from error

    def _poll(self, now: float) -> None:
        """Poll /proc and report; raises Unreadable."""
        if self.names is not None:
            self.names.refresh()
            self._names_problem.set(self.names.problem)
        if self.others is not None:
            # Whose the other end of a connection is must be known before notifications that have waited are processed.
            self.others.look(now)
        # Every socket whose notification is there by now cannot be shown by this poll any more.
        self._take_destroyed(_BEFORE_POLL)
        began = time.perf_counter()
        self._poll_began = now
        self._before = self.outbox.connections
        # The backlog can take seconds: what came meanwhile is in the tables.
        self.observer.poll(time.monotonic())
        self._took = time.perf_counter() - began
        if self.others is not None:
            self._take_others(_BEFORE_POLL)
            self.others.poll(self._live)
        self._statistics.polls += 1
        self._statistics.seconds += self._took
        self._statistics.last_poll = time.time()
        self.observation.observed(self._statistics.last_poll)
        self._live()
        self.outbox.deliver()
        self.outbox.interval_over()
        self._save()

    def _poll_again(self, now: float) -> None:
        try:
            self._poll(now)
        except Unreadable:
            self._statistics.failed += 1
        self.outbox.deliver()
        self._write_metrics()
        self._send_status(now)

    # --- counters and status ------------------------------------------------------------------------------------------------

    def _write_metrics(self) -> None:
        if self.metrics is None:
            return
        statistics = self._statistics
        statistics.interval, statistics.waiting = self.settings.interval, self.outbox.waiting
        statistics.states = self.observer.tables.states
        if (others := self.others) is not None:
            statistics.namespaces, statistics.namespaces_beyond = others.known.kinds(), others.beyond
            statistics.namespace_results, statistics.namespace_seconds = (
                others.schedule.results,
                others.schedule.budget.seconds,
            )
        statistics.measure()
        self.metrics.write(exposition(self.outbox.counters, statistics))
        self._metrics_problem.set(self.metrics.problem)

    def _save(self, last: bool = False) -> None:
        if self.log is None:
            return
        self.observer.tracker.cursor.record()
        self.log.save(last)
        self._state_problem.set(self.log.problem)

    def _send_status(self, now: float) -> None:
        self._status_sent = now
        self.notifier.status(self._status())

    def _status(self) -> str:
        count, new = self.observer.connections, self.outbox.connections - self._before
        noun = "connection" if count == 1 else "connections"
        status = f"{count:,} {noun} open, {new:,} new in the last poll ({self._took * 1e3:.1f} ms)"
        if self.others is not None and self.others.known.count:
            status += f"; {self.others.known.connections:,} open in {self.others.known.count:,} other namespaces"
            if late := self.others.schedule.late + self.others.beyond:
                status += f", {late:,} of them late"
        if self.notifications is None:
            status += "; polls only: no destroy notifications"
        if lost := self.observer.tracker.cursor.lost:
            status += f"; {lost:,} destroy notifications lost"
        if self.observer.tables.unreadable:
            status += "; reading /proc failed"
        if self.outbox.waiting:
            status += f"; journal blocked, {self.outbox.waiting:,} waiting"
        if self._state_problem.now is not None:
            status += f"; state not saved: {self._state_problem.now}"
        return status
