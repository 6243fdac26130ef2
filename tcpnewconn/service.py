"""The loop: when to read, what wakes it, what systemd is told."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator

from tcpnewconn.health.counters import ServiceStatistics
from tcpnewconn.health.metrics import MetricsFile, exposition
from tcpnewconn.health.notify import Notifier
from tcpnewconn.kernel.sockdiag import Notifications
from tcpnewconn.model import Degraded, Event, Recovered
from tcpnewconn.observer import Observer
from tcpnewconn.reporting.outbox import Outbox
from tcpnewconn.reporting.sinks import say
from tcpnewconn.settings.config import ConfigError, Settings
from tcpnewconn.state.snapshot import Snapshot

# So many ends are dealt with before the clock is looked at.
_ENDS_AT_ONCE = 500
# Before a read every end that was announced is dealt with; under a load that never pauses, so many.
_ENDS_BEFORE_READ = 20_000
# Seconds between two tries to send while the sink has no room.
_RETRY = 0.05
# Seconds between two looks at what waits for an end that may not come.
_SOON = 0.25
# Seconds between the reads that follow a loss: what they no longer show is what ended unannounced.
_AFTER_LOSS = 2.0

# Announcements come from a work queue: some milliseconds late, more on a starved machine. After the last read none may be.
_ANNOUNCED_AFTER = 0.25

# Seconds within which all has come that belongs to what a loss is or an end without addresses; at the end that is now.
_AT_THE_LATEST = 5.0

# Seconds between two status lines while the sink has no room.
_STATUS_EVERY = 1.0

_NO_READ = "Reading /proc failed"


class NoProc(Exception):
    """The first read of /proc failed; says why."""


class Service:
    """Runs until it is told to stop. `reload` reads the configuration anew; it raises ConfigError."""

    def __init__(
        self,
        observer: Observer,
        outbox: Outbox,
        snapshot: Snapshot | None,
        ends: Notifications | None,
        last_end: int,
        notifier: Notifier,
        reload: Callable[[], Settings],
        metrics: MetricsFile | None = None,
    ) -> None:
        self._observer = observer
        self._outbox = outbox
        self._snapshot = snapshot
        self._ends = ends
        self._last_end = last_end
        self._notifier = notifier
        self._reload = reload
        self._metrics = metrics
        self._metrics_problem: str | None = None
        self._course = ServiceStatistics(outbox.settings.interval)
        self._signals: set[int] = set()
        self._lost = 0
        self._proc_degraded = False
        self._problem: str | None = None
        self._before = 0
        self._took = 0.0
        self._told = 0.0
        # Not before it is ready.
        self._sign_of_life = float("inf")

    # --- once --------------------------------------------------------------------------------------------------------

    def once(self) -> None:
        """Read once and report. Raises NoProc, and OSError where it cannot be written."""
        self._save()
        self._first_read(time.monotonic())
        self._course.running = False
        self._tell_figures()

    # --- until stopped -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises NoProc if the first read of /proc fails; later ones are tried again. OSError where it cannot be written."""
        self._save()
        with selectors.DefaultSelector() as selector:
            wake = self._catch_signals()
            selector.register(wake, selectors.EVENT_READ)
            if self._ends is not None:
                selector.register(self._ends.fileno(), selectors.EVENT_READ)
            if self._outbox.pipe is not None:
                # Nothing can be read there: it wakes us when whoever read what we write has gone.
                selector.register(self._outbox.pipe, selectors.EVENT_READ)
            due = time.monotonic()
            self._first_read(due)
            self._tell_figures()
            self._notifier.ready(self._status())
            self._sign_of_life = due
            due = self._next(due, time.monotonic())
            blocked = False
            while not self._signals & {signal.SIGTERM, signal.SIGINT}:
                # Here everything that was due has been done: a loop that hangs does not come by.
                now = self._live()
                woken = selector.select(self._timeout(now, due))
                if any(key.fd == self._outbox.pipe for key, _ in woken):
                    raise BrokenPipeError
                self._drain(wake)
                if signal.SIGHUP in self._signals:
                    self._signals.discard(signal.SIGHUP)
                    due = self._reloaded(due)
                self._outbox.send()
                if (self._outbox.waiting or blocked) and time.monotonic() > self._told + _STATUS_EVERY:
                    blocked = self._outbox.waiting > 0
                    self._told = time.monotonic()
                    self._notifier.status(self._status())
                self._take_ends(_ENDS_AT_ONCE)
                now = time.monotonic()
                if self._observer.waiting:
                    self._outbox.from_read(self._observer.overdue(now))
                if self._count_losses(now):
                    due = now
                if now >= due:
                    self._read_again(now)
                    due = self._next(due, time.monotonic())
            self._notifier.stopping()
            self._leave()

    def _leave(self) -> None:
        self._observer.leave()
        # Without /proc, what is in TIME_WAIT now may be reported again.
        with contextlib.suppress(OSError):
            self._take(self._events(time.monotonic()))
        # What is in TIME_WAIT by now is all announced after this.
        time.sleep(_ANNOUNCED_AFTER)
        self._take_ends(_ENDS_BEFORE_READ)
        self._count_losses(time.monotonic())
        if self._observer.losing:
            # Two more reads tell which connections it does not mean.
            for _ in range(2):
                with contextlib.suppress(OSError):
                    self._take(self._events(time.monotonic()))
        self._outbox.from_read(self._observer.overdue(time.monotonic() + _AT_THE_LATEST, last=True))
        self._outbox.interval_over()
        self._save()
        self._course.running = False
        self._tell_figures()

    def _live(self) -> float:
        """Give a sign of life, if the watchdog wants one: where something was done. The time."""
        now = time.monotonic()
        if now >= self._sign_of_life and self._notifier.watchdog is not None:
            self._notifier.alive()
            self._sign_of_life = now + self._notifier.watchdog
        return now

    def _timeout(self, now: float, due: float) -> float:
        until = due
        if self._notifier.watchdog is not None:
            until = min(until, self._sign_of_life)
        timeout = max(0.0, until - now)
        if self._outbox.waiting:
            timeout = min(timeout, _RETRY)
        if self._observer.waiting:
            timeout = min(timeout, _SOON)
        return timeout

    def _next(self, due: float, now: float) -> float:
        """When to read next: on the schedule that the first read began, however long a read takes."""
        interval = self._outbox.settings.interval
        missed = max(0, int((now - due) / interval))
        self._course.skipped += missed
        if self._observer.losing:
            return now + _AFTER_LOSS
        return due + (missed + 1) * interval

    def _catch_signals(self) -> socket.socket:
        reading, writing = socket.socketpair()
        reading.setblocking(False)
        writing.setblocking(False)
        signal.set_wakeup_fd(writing.detach())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: self._signals.add(number))
        return reading

    @staticmethod
    def _drain(wake: socket.socket) -> None:
        try:
            while wake.recv(64):
                pass
        except BlockingIOError:
            pass

    def _reloaded(self, due: float) -> float:
        self._notifier.reloading()
        before = self._outbox.settings.interval
        try:
            self._outbox.set(self._reload())
        except ConfigError as error:
            say(f"{error}; the settings stay as they were", 3)
        self._notifier.ready(self._status())
        after = self._outbox.settings.interval
        return due if after == before else min(due, time.monotonic() + after)

    # --- ends --------------------------------------------------------------------------------------------------------

    def _take_ends(self, most: int) -> None:
        ends = self._ends
        if ends is None:
            return
        closed = self._outbox.settings.closed
        while most > 0:
            end = ends.peek()
            if end is None:
                self._observer.caught_up(time.monotonic())
                return
            # One that was dealt with, but not taken from the buffer, before a SIGKILL.
            if end.cookie != self._last_end:
                self._outbox.from_end(
                    self._observer.end(end, time.monotonic(), closed), end.cookie, self._told_drops(ends)
                )
                self._last_end = end.cookie
            ends.consume()
            most -= 1
            if most % _ENDS_AT_ONCE == 0:
                # On a starved machine, those before a read can take longer than the watchdog waits.
                self._live()

    def _count_losses(self, now: float) -> bool:
        """Whether announcements were lost since the last time."""
        lost = self._ends.lost() if self._ends is not None else 0
        if lost:
            self._lost += lost
            self._observer.lose(lost, now)
        return bool(lost)

    def _told_drops(self, ends: Notifications) -> int:
        """The value of the counter of lost announcements up to which they were told: after a restart the rest is."""
        return (ends.drops - self._observer.untold) & 0xFFFFFFFF

    # --- reads -------------------------------------------------------------------------------------------------------

    def _first_read(self, now: float) -> None:
        try:
            events = self._events(now)
        except OSError as error:
            raise NoProc(f"{error.filename}: {error.strerror}") from error
        self._take(events)

    def _events(self, now: float) -> Iterator[Event]:
        """Read /proc; raises OSError."""
        # Every end that is announced by now belongs to a socket that this read cannot show any more.
        self._take_ends(_ENDS_BEFORE_READ)
        began = time.perf_counter()
        self._before = self._outbox.connections
        events = self._observer.read(now)
        self._took = time.perf_counter() - began
        self._course.polls += 1
        self._course.seconds += self._took
        self._course.last_poll = time.time()
        return events

    def _take(self, events: Iterator[Event]) -> None:
        self._live()
        self._outbox.from_read(events)
        self._outbox.interval_over()
        self._save()

    def _read_again(self, now: float) -> None:
        try:
            events = self._events(now)
        except OSError as error:
            self._course.failed += 1
            if not self._proc_degraded:
                self._proc_degraded = True
                self._outbox.take(
                    Degraded(
                        "proc",
                        f"{error.filename} cannot be read ({error.strerror}): open connections are not seen until it can be. "
                        "It is tried again at every interval",
                    )
                )
        else:
            if self._proc_degraded:
                self._proc_degraded = False
                self._outbox.take(Recovered("proc", "/proc can be read again"))
            self._take(events)
        self._tell_figures()
        self._told = now
        self._notifier.status(self._status())

    def _tell_figures(self) -> None:
        if self._metrics is None:
            return
        course = self._course
        course.interval, course.waiting = self._outbox.settings.interval, self._outbox.waiting
        course.states = self._observer.states
        course.measure()
        self._metrics.write(exposition(self._outbox.counters, course))
        if self._metrics.problem != self._metrics_problem:
            if self._metrics.problem is None:
                say(f"{self._metrics.path} is written again", 6)
            elif self._metrics_problem is None:
                say(f"{self._metrics.problem}; there are no metrics until it can be written. It is tried at every read")
            self._metrics_problem = self._metrics.problem

    def _save(self) -> None:
        if self._snapshot is None:
            return
        if self._ends is not None:
            self._snapshot.last_end(self._last_end, self._told_drops(self._ends))
        self._snapshot.save(self._observer.tracker, self._observer.reported_listeners, self._outbox.folding)
        if self._snapshot.problem != self._problem:
            if self._snapshot.problem is None:
                say(f"{self._snapshot.path} is written again", 6)
            else:
                say(f"{self._snapshot.problem}; a restart would report connections again. It is tried at every read")
            self._problem = self._snapshot.problem

    def _status(self) -> str:
        count, new = self._observer.connections, self._outbox.connections - self._before
        noun = "connection" if count == 1 else "connections"
        status = f"{count:,} {noun} open, {new:,} new in the last read ({self._took * 1e3:.1f} ms)"
        if self._ends is None:
            status += "; reads only: ended connections are not announced"
        if self._lost:
            status += f"; {self._lost:,} ends lost"
        if self._proc_degraded:
            status += f"; {_NO_READ}"
        if self._outbox.waiting:
            status += f"; journal blocked, {self._outbox.waiting:,} waiting"
        if self._problem is not None:
            status += f"; no snapshot: {self._problem}"
        return status


def passed_descriptors() -> list[int]:
    """The file descriptors that systemd passed to this process (sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    from systemd.daemon import listen_fds

    return list(listen_fds())
