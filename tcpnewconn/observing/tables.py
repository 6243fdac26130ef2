"""The tables of one network namespace as the last poll showed them: read again where they can show something new."""

from __future__ import annotations

from collections.abc import Callable

from tcpnewconn.eventtypes import Degraded, Event, Recovered
from tcpnewconn.kernel.activity import OPENING, Activity
from tcpnewconn.kernel.procnet import Poll, ProcNet
from tcpnewconn.kernel.table import Unreadable
from tcpnewconn.model import FourTuple, Row


class Tables:
    """`unreadable`: the last poll failed, and one before did not."""

    def __init__(self, proc: ProcNet) -> None:
        self.unreadable = False
        # Polls where nothing has happened are saved where this is set.
        self.activity: Activity | None = None
        self.last: Poll | None = None
        self._proc = proc

    @property
    def states(self) -> dict[int, int]:
        """How many rows of each state there are."""
        return self.last.states if self.last is not None else {}

    @property
    def opening(self) -> bool:
        """Whether there is a socket that waits to be connected."""
        return not OPENING.isdisjoint(self.states)

    def row(self, four_tuple: FourTuple) -> Row | None:
        return self.last.row(four_tuple) if self.last is not None else None

    def stands(self, four_tuple: FourTuple) -> bool:
        """Whether a 4-tuple has a row."""
        return self.row(four_tuple) is not None

    def connected(self, four_tuple: FourTuple) -> bool:
        """Whether there is a socket that has connected."""
        row = self.row(four_tuple)
        return row is not None and row.state not in OPENING

    def needed(self, disturbed: bool) -> bool:
        """Whether a poll can show something new. Call it before each; `disturbed`: as far as others know, it can."""
        if self.activity is None:
            return True
        return self.activity.poll_needed(disturbed or self.unreadable or self.opening)

    def poll(self, time_wait: bool, report: Callable[[Event], None]) -> Poll:
        """Read them, as ProcNet.poll() does. Reports, but for the first time, that they cannot be read; and that they can again.

        Raises Unreadable.
        """
        try:
            poll = self._proc.poll(time_wait)
        except Unreadable as error:
            if self.last is not None and not self.unreadable:
                self.unreadable = True
                report(
                    Degraded(
                        "proc",
                        f"{error.path} cannot be read ({error.why}): open connections are not seen until it can be; "
                        "retrying every interval",
                    )
                )
            raise
        if self.unreadable:
            self.unreadable = False
            report(Recovered("proc", "/proc can be read again"))
        self.last = poll
        return poll
