"""Calls of connect() and accept() that the kernel recorded, read from the rings of a tracefs instance of our own.

tcpnewconn-trace.service (root, oneshot) makes the instance and defines its events; the service, without a capability, sees the
instance through a bind mount, and its group may read the rings.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tcpnewconn.kernel.instance import (
    DIRECTORY,
    Position,
    TraceMissing,
    is_on,
    opened,
    text_of,
    wanted,
    when_defined,
    why_missing,
)
from tcpnewconn.kernel.traceevents import CONNECT, EVENTS, GROUP
from tcpnewconn.kernel.traceformat import FormatError, Layout
from tcpnewconn.model import Call, FailedAttempt

# tcpnewconn-trace-repair.path watches it: a write makes tcpnewconn-trace.service define the events again.
REPAIR_FILE = "/run/tcpnewconn/trace.repair"


class Trace:
    """The rings of all CPUs, and what their records say.

    `events` are those that are recorded: "connect", and where the kernel and the settings allow it "accept" and "failed".
    The probes are at the entry of functions, so the kernel misses no call.
    """

    def __init__(self, directory: str = DIRECTORY, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """Raises TraceMissing. `clock` is CLOCK_MONOTONIC in nanoseconds, the clock of the events."""
        self._directory = directory
        self._defined = when_defined(directory)
        # By the number of the event, with which records begin. Those of deleted events stay: the rings may have records of them.
        self._layouts: dict[bytes, Layout] = {}
        self._ids: dict[str, int] = {}
        # The files that were read last, and what they say.
        self._formats: dict[str, tuple[str, Layout]] = {}
        # Numbers of events that are not ours.
        self._foreign: set[bytes] = set()
        self._read_formats()
        if CONNECT not in self._ids:
            raise TraceMissing(why_missing(directory))
        self.rings = opened(directory, clock, self._decode)

    @property
    def events(self) -> frozenset[str]:
        return frozenset(self._ids)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """None: what is recorded can wait until somebody asks."""
        return ()

    @property
    def position(self) -> Position:
        return Position(self._defined, self.rings.returned)

    def read(self) -> list[Call | FailedAttempt]:
        """All that was recorded before this call, by time over all CPUs; newer records wait for the next. Never raises."""
        return self.rings.read()

    def _decode(self, page: bytes, at: int, length: int, nanoseconds: int) -> Call | FailedAttempt:
        """Raises FormatError."""
        number = page[at : at + 2]
        layout = self._layouts.get(number) or self._new_layout(number)
        if layout is None:
            raise FormatError(f"no event of ours has the number {int.from_bytes(number, sys.byteorder)}")
        return layout.record(page, at, length, nanoseconds)

    def _new_layout(self, number: bytes) -> Layout | None:
        """The layout of an event that is not known: the oneshot has defined the events again."""
        if number not in self._foreign:
            self._read_formats()
            if number not in self._layouts:
                self._foreign.add(number)
        return self._layouts.get(number)

    def _read_formats(self) -> None:
        """Learn the events that are defined now."""
        self._foreign.clear()
        self._ids = {}
        for event in EVENTS:
            text = text_of(f"{self._directory}/events/{GROUP}/{event}/format")
            if not text:
                continue
            before, layout = self._formats.get(event, ("", None))
            if layout is None or text != before:
                try:
                    layout = Layout(event, text)
                except FormatError:
                    continue
                self._formats[event] = (text, layout)
            self._layouts[layout.id.to_bytes(2, sys.byteorder)] = layout
            self._ids[event] = layout.id

    def stale(self) -> bool:
        """Whether another tool has deleted or disabled our events, or the oneshot was stopped: nothing is recorded then.

        False once they are defined again: read() goes on with the new ones by itself. A few system calls: once per poll.
        """
        self._read_formats()
        defined = when_defined(self._directory)
        if defined != self._defined:
            self._defined = defined
            self.rings.defined_again()
        events = f"{self._directory}/events/{GROUP}"
        recorded = {event for event in self._ids if text_of(f"{events}/{event}/enable").strip() == "1"}
        return not recorded >= {CONNECT, *wanted(self._directory)} or not is_on(self._directory)

    def close(self) -> None:
        self.rings.close()


def request_repair(path: str = REPAIR_FILE) -> None:
    """Ask systemd to have the events defined again. Raises OSError.

    At most once a minute: the path unit gives up after 20 within ten minutes.
    """
    with open(path, "w", encoding="ascii"):
        pass
