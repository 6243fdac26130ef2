"""What the trace has recorded in one of the other network namespaces, for the observer there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tcpnewconn.attribution.calls import Calls
from tcpnewconn.eventtypes import Event
from tcpnewconn.model import Caller, FailedAttempt


class Reader(Protocol):
    """The part of recorder.Recorder that is used here."""

    @property
    def records(self) -> bool: ...

    @property
    def shows_failures(self) -> bool: ...

    def read(self) -> float: ...


class Recorded:
    """It has the verbs of recorder.Recorder that an observer calls."""

    stale = False
    descriptors: Sequence[int] = ()

    def __init__(self, recorder: Reader, calls: Calls) -> None:
        self.calls = calls
        self.failed: list[tuple[FailedAttempt, Caller | None]] = []
        self._recorder = recorder

    @property
    def records(self) -> bool:
        return self._recorder.records

    @property
    def shows_failures(self) -> bool:
        """Whether attempts that fail are recorded, too: without them, a call alone is no connection."""
        return self._recorder.shows_failures

    def read(self) -> float:
        """As Recorder.read()."""
        return self._recorder.read()

    def settle(self) -> None:
        """Put on record what is left of what was read."""
        self.calls.settle()

    def polled(self, now: float, report: Callable[[Event], None]) -> None:
        """A poll that began now has been applied."""
        self.calls.polled(now)

    def look_after(self, now: float, report: Callable[[Event], None]) -> None:
        """The trace is looked after once."""

    def report_losses(self, now: float, last: bool, report: Callable[[Event], None]) -> None:
        """What was lost is reported once."""
