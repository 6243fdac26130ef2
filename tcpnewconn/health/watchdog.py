"""When systemd is to be notified that the service is alive: in a start that takes long, and afterwards for the watchdog."""

from __future__ import annotations

from tcpnewconn.health.notify import Notifier

# Seconds that systemd waits for a start from each sign of life on.
_STARTS_WITHIN = 60.0


class Watchdog:
    """All times are monotonic, in seconds."""

    def __init__(self, notifier: Notifier) -> None:
        # When live() has something to do; infinite where that is never.
        self.due = float("inf")
        self._notifier = notifier
        # Before it is ready, systemd waits longer where it is notified.
        self._ready = False

    def starting(self, now: float) -> None:
        """The start begins."""
        self.due = now + _STARTS_WITHIN / 4

    def ready(self, now: float) -> None:
        """The start is over."""
        self._ready = True
        self.due = now if self._notifier.watchdog is not None else float("inf")

    def live(self, now: float) -> None:
        """Work was done: notify, where that is due."""
        if now < self.due:
            return
        if not self._ready:
            self._notifier.starting(_STARTS_WITHIN)
            self.due = now + _STARTS_WITHIN / 4
        elif self._notifier.watchdog is not None:
            self._notifier.alive()
            self.due = now + self._notifier.watchdog
