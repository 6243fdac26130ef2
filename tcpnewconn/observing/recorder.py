"""Reads the kernel's trace when somebody asks who opened or accepted a connection, and says what of it is missing.

A trace that is not there is a container's normal state, or root's choice: that is a line in the log. One that was there and has
gone is a source that is degraded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from tcpnewconn.attribution.calls import Calls
from tcpnewconn.attribution.waiting import Waiting
from tcpnewconn.eventtypes import Degraded, Event, Loss, Recovered
from tcpnewconn.kernel.instance import Position, TraceMissing
from tcpnewconn.kernel.trace import request_repair
from tcpnewconn.kernel.traceevents import FAILED
from tcpnewconn.model import Call, Caller, FailedAttempt
from tcpnewconn.observing.progress import Progress
from tcpnewconn.observing.recorded import Elsewhere
from tcpnewconn.reporting.seldom import Seldom
from tcpnewconn.reporting.sinks import say
from tcpnewconn.state.owner import Log

# Seconds between two requests to define the events again: the path unit gives up above 20 in 10 minutes.
_REPAIR_EVERY = 60.0


class Rings(Protocol):
    """The part of kernel.rings.Rings that is used here."""

    malformed: int
    lost_until: float

    @property
    def overwritten(self) -> int: ...


class Trace(Protocol):
    """The part of kernel.trace.Trace and kernel.plainevent.PlainTrace that is used here.

    `descriptors` become readable when there is something to read at once; there are none where that can wait. `events`: which are
    recorded.
    """

    @property
    def rings(self) -> Rings: ...

    @property
    def descriptors(self) -> Sequence[int]: ...

    @property
    def events(self) -> frozenset[str]: ...

    @property
    def position(self) -> Position: ...

    def read(self) -> list[Call | FailedAttempt]: ...

    def stale(self) -> bool: ...


class Recorder:
    """`waiting` has the calls of namespaces that are not found yet. `open_trace` opens the trace, or raises TraceMissing.

    `learn` takes the names of a cgroup; `repair` asks root's unit.

    `failed` holds the attempts that have failed since somebody last took them, each with who made it. `calls` and `failed` are
    of the host's network namespace, `elsewhere` has those of others.
    """

    def __init__(
        self,
        calls: Calls,
        open_trace: Callable[[], Trace],
        learn: Callable[[int, Sequence[str]], None],
        repair: Callable[[], None] = request_repair,
        clock: Callable[[], float] = time.monotonic,
        waiting: Waiting | None = None,
        log: Log | None = None,
    ) -> None:
        self.calls = calls
        self.failed: list[tuple[FailedAttempt, Caller | None]] = []
        self._open = open_trace
        self._learn = learn
        self._repair = repair
        self._clock = clock
        self._repair_asked = float("-inf")
        self._trace: Trace | None = None
        self._lost = self._not_reported = 0
        self._progress = Progress(log)
        self._losses = Seldom()
        self._stale = False
        # The cgroups whose names were passed on.
        self._learned: dict[int, None] = {}
        self.elsewhere = Elsewhere(self, calls, waiting if waiting is not None else Waiting(), clock)
        self.missing = self._try()

    def resume(self) -> None:
        """The calls that the run before had read are loaded: their units can have gone, but not their names."""
        self._learn_from(self.elsewhere.calls())
        self._learn_from(self.calls)
        if self._trace is not None:
            self._progress.resume(self._trace.position)

    @property
    def records(self) -> bool:
        """Whether there is a trace."""
        return self._trace is not None

    @property
    def shows_failures(self) -> bool:
        """As Recorded.shows_failures."""
        return self._trace is not None and FAILED in self._trace.events

    @property
    def descriptors(self) -> Sequence[int]:
        """They become readable when read() is to be called at once."""
        return self._trace.descriptors if self._trace is not None else ()

    def _try(self) -> str | None:
        """Open the trace; why there is none."""
        try:
            self._trace = self._open()
        except TraceMissing as error:
            return str(error)
        return None

    def say_missing(self) -> None:
        """Say why there is no trace, where there is none, and what that means."""
        if self.missing is not None:
            say(
                f"no trace: {self.missing}; short outgoing connections have no user and no unit, and no connection has a "
                "process: tcpnewconn(8), ATTRIBUTION",
                5,
            )

    def read(self) -> float:
        """Take what was recorded until now, which is returned (CLOCK_MONOTONIC, in seconds)."""
        now = self._clock()
        if self._trace is None:
            return now
        recorded = self._trace.read()
        rings = self._trace.rings
        lost = rings.overwritten + rings.malformed
        if lost != self._lost:
            self._not_reported += lost - self._lost
            self._lost = lost
            self._lose(rings.lost_until)
        if recorded:
            self._learn_from(recorded)
            self.failed += self.calls.add(recorded)
            self.elsewhere.add(recorded, now)
        return now

    def settle(self) -> None:
        """Put on record what is left of what was read, in all namespaces that it was of."""
        self.calls.settle()
        self.elsewhere.settle()
        if self._trace is not None and self.elsewhere.taken:
            self._progress.on_record(self._trace.position)
        else:
            # On the host no connection is missing by that.
            self._progress.forget()

    def _lose(self, until: float) -> None:
        """As Calls.lost(), in all namespaces. One that was found since then knows of what was lost before: Elsewhere.of()."""
        if until <= self.calls.lost_until and not self.calls.losing:
            return
        self.calls.lost(until)
        self.elsewhere.lost(until)

    # --- looking after the trace -------------------------------------------------------------------------------------

    def _learn_from(self, recorded: Iterable[Call | FailedAttempt]) -> None:
        learned, last = self._learned, None
        for call in recorded:
            if isinstance(call, Call) and call.origin is not last:
                last = call.origin
                if last.cgroup not in learned:
                    learned[last.cgroup] = None
                    self._learn(last.cgroup, last.cgroup_names)
        while len(learned) > 10_000:
            del learned[next(iter(learned))]

    def polled(self, now: float, report: Callable[[Event], None]) -> None:
        """A poll that began now has been applied: look after the trace."""
        self.calls.polled(now)
        if self._trace is None:
            if self._try() is None:
                self.missing = None
                # Connections that are open were opened before.
                self._lose(self._clock())
                say("the trace is there: short outgoing connections have a user and a unit", 6)
            return
        self.look_after(now, report)

    def report_losses(self, now: float, last: bool, report: Callable[[Event], None]) -> None:
        """Report what was lost, at most once a minute; all of it where this is the `last` time."""
        if self.elsewhere.taken and (killed := self._progress.take()):
            report(
                Loss(
                    killed,
                    "namespaces",
                    f"{killed} records of connect() and accept() were lost when the service was killed: "
                    "at most so many connections in other network namespaces were not seen",
                )
            )
        if not self._not_reported or not self._losses.due(now, last):
            return
        count, self._not_reported = self._not_reported, 0
        report(
            Loss(
                count,
                "attribution",
                f"{count} records of connect() and accept() were overwritten before they were read, or not understood: "
                "connections can lack user, unit and process. No connection is missing. Accept=no records less",
            )
        )

    @property
    def stale(self) -> bool:
        """Whether the trace recorded nothing when look_after() was called last: then call it again soon."""
        return self._stale

    def look_after(self, now: float, report: Callable[[Event], None]) -> None:
        """See whether the events are still recorded; report it, and ask for them, where they are not."""
        assert self._trace is not None
        stale = self._trace.stale()
        if stale:
            # Of what comes until somebody looks again, some is recorded and some is not.
            self._lose(float("inf"))
        else:
            self._lose(self._clock() if self.calls.losing else self._trace.rings.lost_until)
        if stale and not self._stale:
            report(
                Degraded(
                    "trace",
                    "The kernel's trace records nothing: another tool has deleted its events, or tcpnewconn-trace.service was "
                    "stopped. Connections can lack user, unit and process; none is missing. It is asked for again every minute",
                )
            )
        elif self._stale and not stale:
            report(Recovered("trace", "The kernel's trace records again who opens and accepts connections"))
        self._stale = stale
        if stale and now >= self._repair_asked + _REPAIR_EVERY:
            self._repair_asked = now
            try:
                self._repair()
            except OSError as error:
                say(f"cannot ask for the trace again: {error.filename}: {error.strerror}", 4)
