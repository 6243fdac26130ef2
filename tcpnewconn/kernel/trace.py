"""Calls of connect() and accept() that the kernel recorded, read from the rings of a tracefs instance of our own.

tcpnewconn-trace.service (root, oneshot) makes the instance and defines its events; the service, without a capability, sees the
instance through a bind mount, and its group may read the rings.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from operator import itemgetter

from tcpnewconn.kernel.ring import Ring
from tcpnewconn.kernel.ringpage import Page
from tcpnewconn.kernel.traceevents import CONNECT, EVENTS, GROUP
from tcpnewconn.kernel.traceformat import FormatError, Layout
from tcpnewconn.model import Call, FailedAttempt
from tcpnewconn.text import printable

# Where tcpnewconn.service sees the instance (BindReadOnlyPaths=).
DIRECTORY = "/run/tcpnewconn-trace/instance"
# Beside it: why tcpnewconn-trace.service made none.
REASON = "missing"
# Beside it too: the events that it defined.
WANTED = "events"
# tcpnewconn-trace-repair.path watches it: a write makes tcpnewconn-trace.service define the events again.
REPAIR_FILE = "/run/tcpnewconn/trace.repair"


class TraceMissing(Exception):
    """There is no trace. The message is one line for an administrator: why."""


class Trace:
    """The rings of all CPUs. Keep it open while the service runs: that keeps the instance, also over a restart of the oneshot.

    `events` are those that are recorded: "connect", and where the kernel and the settings allow it "accept" and "failed".
    `overwritten` is how many records the rings overwrote before they could be read, `malformed` how many could not be
    understood; both since the start; they were of before `lost_until` (CLOCK_MONOTONIC, in seconds). The probes are at the entry of
    functions, so the kernel misses no call.
    """

    def __init__(self, directory: str = DIRECTORY, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """Raises TraceMissing. `clock` is CLOCK_MONOTONIC in nanoseconds, the clock of the events."""
        self._directory = directory
        self._clock = clock
        self.malformed = 0
        self.lost_until = float("-inf")
        self._defined = self._when_defined()
        # By the number of the event. Those of events that were deleted stay: records of them may be in the rings.
        self._layouts: dict[int, Layout] = {}
        self._ids: dict[str, int] = {}
        # Numbers of events that are not ours.
        self._foreign: set[int] = set()
        # Recorded after the clock reading of the last read(), for the next one.
        self._later: list[tuple[int, Call | FailedAttempt]] = []
        self._read_formats()
        if CONNECT not in self._ids:
            raise TraceMissing(self._why_missing())
        self._rings: list[Ring] = []
        try:
            for name in sorted(os.listdir(f"{directory}/per_cpu")):
                self._rings.append(Ring(f"{directory}/per_cpu/{name}"))
        except OSError as error:
            self.close()
            raise TraceMissing(f"{error.filename}: {error.strerror}") from None

    def _why_missing(self) -> str:
        reason = self._text(f"../{REASON}").strip()
        return (
            printable(reason) if reason else "tcpnewconn-trace.service does not run: systemctl status tcpnewconn-trace"
        )

    @property
    def events(self) -> frozenset[str]:
        return frozenset(self._ids)

    @property
    def overwritten(self) -> int:
        return sum(ring.overwritten for ring in self._rings)

    def read(self) -> list[Call | FailedAttempt]:
        """All that was recorded before this call, by time over all CPUs; newer records wait for the next. Never raises."""
        until = self._clock()
        found, self._later = self._later, []
        for ring in self._rings:
            while (page := ring.read()) is not None:
                if page.overwritten != 0:
                    self._lost_before(page.records[0][0] if page.records else until)
                if page.damaged:
                    self._lost_before(until)
                self._decode(page, found)
                if page.records:
                    ring.newest = page.records[-1][0]
                    if ring.newest >= until:
                        break
        found.sort(key=itemgetter(0))
        while found and found[-1][0] >= until:
            self._later.append(found.pop())
        return [call for _, call in found]

    def _decode(self, page: Page, found: list[tuple[int, Call | FailedAttempt]]) -> None:
        """Append what the records of a page say."""
        self.malformed += page.damaged
        for nanoseconds, at, length in page.records:
            number = int.from_bytes(page.data[at : at + 2], sys.byteorder)
            layout = self._layouts.get(number) or self._new_layout(number)
            try:
                if layout is None:
                    raise FormatError
                found.append((nanoseconds, layout.record(page.data, at, length, nanoseconds)))
            except FormatError:
                self.malformed += 1
                # Its own time is before this one.
                self._lost_before(nanoseconds + 1)

    def _lost_before(self, nanoseconds: int) -> None:
        self.lost_until = max(self.lost_until, nanoseconds / 1e9)

    def _new_layout(self, number: int) -> Layout | None:
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
            text = self._text(f"events/{GROUP}/{event}/format")
            if not text:
                continue
            try:
                layout = Layout(event, text)
            except FormatError:
                continue
            self._layouts[layout.id] = layout
            self._ids[event] = layout.id

    def stale(self) -> bool:
        """Whether another tool has deleted or disabled our events, or the oneshot was stopped: nothing is recorded then.

        False once they are defined again: read() goes on with the new ones by itself. A few system calls: once per poll.
        """
        self._read_formats()
        defined = self._when_defined()
        if defined != self._defined:
            # They were deleted before; nobody says when.
            self._defined = defined
            self._lost_before(self._clock())
        recorded = {event for event in self._ids if self._text(f"events/{GROUP}/{event}/enable").strip() == "1"}
        return not recorded >= self._wanted() or self._text("tracing_on").strip() != "1"

    def _when_defined(self) -> int:
        """When the oneshot defined the events, as its file has it; 0 while there is none."""
        try:
            return os.stat(f"{self._directory}/../{WANTED}").st_mtime_ns
        except OSError:
            return 0

    def _wanted(self) -> set[str]:
        """The events that the oneshot has defined."""
        return {CONNECT, *self._text(f"../{WANTED}").split()}

    def _text(self, name: str) -> str:
        """The contents of a file of the instance; empty if it is not there."""
        try:
            with open(f"{self._directory}/{name}", encoding="ascii", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def close(self) -> None:
        for ring in self._rings:
            ring.close()


def request_repair(path: str = REPAIR_FILE) -> None:
    """Ask systemd to have the events defined again. Raises OSError.

    At most once a minute: the path unit gives up after 20 within ten minutes.
    """
    with open(path, "w", encoding="ascii"):
        pass
