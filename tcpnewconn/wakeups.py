"""What wakes the loop: signals, and descriptors that become readable."""

from __future__ import annotations

import os
import select
import selectors
import signal
from collections.abc import Iterable


class Wakeups:
    """SIGTERM, SIGINT and SIGHUP are caught from now on."""

    def __init__(self) -> None:
        self._signals: set[int] = set()
        self._wake = self._catch_signals()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._resting = select.poll()
        self._resting.register(self._wake, select.POLLIN)

    def _catch_signals(self) -> int:
        # Neither end is closed: a second Ctrl+C may come while the program exits.
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: self._signals.add(number))
        return reading

    @property
    def stopped(self) -> bool:
        """Whether the program is to end."""
        return bool(self._signals & {signal.SIGTERM, signal.SIGINT})

    def take_reload(self) -> bool:
        """Whether the configuration is to be read again; it is asked for no longer."""
        asked = signal.SIGHUP in self._signals
        self._signals.discard(signal.SIGHUP)
        return asked

    def watch(self, descriptors: Iterable[int], before: frozenset[int] = frozenset()) -> frozenset[int]:
        """Wake for these, and no longer for those `before`; returns them."""
        now = frozenset(descriptors)
        for descriptor in before - now:
            self._selector.unregister(descriptor)
        for descriptor in now - before:
            self._selector.register(descriptor, selectors.EVENT_READ)
        return now

    def rest(self, milliseconds: int) -> None:
        """Wait for so long, whatever becomes readable, but for a signal."""
        self._resting.poll(milliseconds)

    def wait(self, timeout: float) -> set[int]:
        """Wait for so many seconds at most. Returns which of those that are watched are readable."""
        woken = {key.fd for key, _ in self._selector.select(timeout)}
        if self._wake in woken:
            self._drain()
        return woken

    def _drain(self) -> None:
        try:
            while os.read(self._wake, 64):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        self._selector.close()
