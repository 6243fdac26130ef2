"""Notifies systemd of the state of the service (sd_notify(3)), and of the watchdog's interval."""

from __future__ import annotations

import os
import time
from collections.abc import Callable


class Notifier:
    """Without $NOTIFY_SOCKET nothing is sent, and nothing imported."""

    def __init__(self) -> None:
        self._notify: Callable[[str], object] | None = None
        if os.environ.get("NOTIFY_SOCKET"):
            from systemd.daemon import notify

            self._notify = notify
        self.watchdog = _watchdog()

    def send(self, *assignments: str) -> None:
        if self._notify is not None:
            self._notify("\n".join(assignments))

    def ready(self, status: str) -> None:
        self.send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        self.send(f"STATUS={status}")

    def starting(self, seconds: float) -> None:
        """It goes on: the start may take so many seconds from now on."""
        self.send(f"EXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}")

    def alive(self) -> None:
        self.send("WATCHDOG=1")

    def reloading(self) -> None:
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self.send("STOPPING=1", "STATUS=Saving the state")


def _watchdog() -> float | None:
    """Seconds between two notifications for the watchdog, half of what it allows; None without a watchdog.

    systemd.daemon has no watchdog_enabled(): this is sd_watchdog_enabled(3).
    """
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or int(microseconds) == 0:
        return None
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 2e6
