"""What could not be seen of one network namespace: how much, said at most once a minute."""

from __future__ import annotations

from collections.abc import Callable

from tcpnewconn.eventtypes import Event, Loss
from tcpnewconn.kernel.procnet import Poll
from tcpnewconn.kernel.table import Malformed
from tcpnewconn.reporting.seldom import Seldom
from tcpnewconn.tracking.cursor import Cursor


class Losses:
    """Owns the count of rows that were not understood; that of lost notifications is the cursor's."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._notifications, self._rows = Seldom(), Seldom()
        self._malformed = 0
        self._first: Malformed | None = None

    def count(self, poll: Poll) -> None:
        """Count the rows of a poll that were not understood."""
        self._malformed += poll.malformed
        self._first = self._first or poll.first_malformed

    def report(self, now: float, last: bool, report: Callable[[Event], None]) -> None:
        """Report what is due by now (monotonic seconds); all lost connections where this is the `last` time."""
        if self._cursor.connections and self._notifications.due(now, last):
            lost = self._cursor.take()
            report(
                Loss(
                    lost,
                    "notifications",
                    f"{lost} destroy notifications were lost because the receive buffer was full: connections that no "
                    "poll showed are missing here. Set a larger ReceiveBuffer= with systemctl edit tcpnewconn.socket",
                )
            )
        if self._malformed and self._rows.due(now):
            first = self._first
            assert first is not None
            report(
                Loss(
                    self._malformed,
                    "malformed",
                    f"{self._malformed} rows could not be understood, the first in {first.path} line {first.line}: "
                    f"{ascii(first.text[:160])[2:-1]}. Please report this kernel's format",
                )
            )
            self._malformed, self._first = 0, None
