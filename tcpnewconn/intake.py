"""Takes destroyed sockets from the kernel's buffer: each is on record, or delivered, before it is removed from there.

Before each batch it is known what happened until then: who opened and accepted connections, and which namespaces came.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tcpnewconn.health.watchdog import Watchdog
from tcpnewconn.kernel.sockdiag import Notifications
from tcpnewconn.namespaces.others import Others
from tcpnewconn.observing.observer import Observer
from tcpnewconn.reporting.outbox import Outbox
from tcpnewconn.state.log import StateLog

# Before a poll every waiting notification is processed, at most so many.
_MOST = 20_000
# Calls that no connection has taken after so many seconds are put on record meanwhile: a starved machine processes a handful of
# notifications per second. Otherwise a batch takes milliseconds.
_ON_RECORD_AFTER = 0.5


class Intake:
    """`redeliverable`: notifications outlive the program and are received again after SIGKILL. `save` writes the state."""

    def __init__(
        self,
        notifications: Notifications | None,
        redeliverable: bool,
        observer: Observer,
        others: Others | None,
        outbox: Outbox,
        log: StateLog | None,
        watchdog: Watchdog,
        save: Callable[[], None],
    ) -> None:
        self._notifications, self._redeliverable = notifications, redeliverable
        self._observer, self._others = observer, others
        self._outbox, self._log, self._save = outbox, log, save
        self._watchdog = watchdog

    def take_waiting(self) -> None:
        """Process the host's that wait now.

        Not those that come meanwhile: on a starved machine they can come as fast as they are processed.
        """
        if self._notifications is None:
            return
        began = time.monotonic()
        waiting = self._notifications.queued_at_most()
        if self.take(min(waiting, _MOST)) == waiting:
            self._observer.tracker.caught_up(began)

    def take(self, most: int) -> int:
        """Process so many at most of the host's; returns how many there were."""
        notifications, observer, outbox, log = self._notifications, self._observer, self._outbox, self._log
        if notifications is None:
            return 0
        others, watchdog = self._others, self._watchdog
        cursor, redeliverable = observer.tracker.cursor, self._redeliverable
        # Of so many of those that wait, what happened before is known: who called, and which namespaces came.
        known = 0 if observer.records or (others is not None and others.destroyed.descriptors) else most
        # When what is left of them is put on record, if they have not been taken by then.
        settle = float("inf")
        taken = 0
        while taken < most:
            destroyed = notifications.peek()
            if destroyed is None:
                observer.tracker.caught_up(time.monotonic())
                break
            now = time.monotonic()
            if now >= watchdog.due:
                # On a starved machine a few hundred can take longer than the watchdog waits.
                watchdog.live(now)
            if not known:
                # SIGKILL loses no more than what is read at once.
                observer.settle()
                known, settle = max(1, notifications.queued()), now + _ON_RECORD_AFTER
                observer.read_calls()
                if others is not None:
                    others.take_changes()
                now = time.monotonic()
            elif now >= settle:
                # Nor what was read long ago.
                observer.settle()
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
        observer.settle()
        if log is not None:
            log.flush()
            if log.filling:
                self._save()
        return taken

    def take_waiting_of_others(self) -> None:
        """The same, of other network namespaces. One more is looked for: where there is none, all has been processed."""
        if self._others is not None:
            self.take_others(min(self._others.destroyed.queued_at_most + 1, _MOST))

    def take_others(self, most: int) -> int:
        """Process so many at most of those of other network namespaces; returns how many there were."""
        if self._others is None:
            return 0
        flush = self._log.flush if self._log is not None else lambda: None
        taken = self._others.destroyed.take(most, self._deliver_of_others, flush)
        self._others.tick(time.monotonic())
        self._outbox.deliver()
        if self._log is not None and self._log.filling:
            self._save()
        return taken

    def _deliver_of_others(self) -> None:
        assert self._others is not None
        self._outbox.deliver(self._others.destroyed.redeliverable)
        now = time.monotonic()
        if now >= self._watchdog.due:
            self._watchdog.live(now)

    def count_losses(self, now: float) -> bool:
        """Whether notifications were lost since the last time."""
        if self._notifications is None:
            return False
        lost = self._observer.tracker.cursor.count(self._notifications.dropped(), now)
        if lost:
            self._observer.lost_notifications(now)
        return lost
