"""Who listens in one network namespace, as polls and the kernel's answers show it; new listeners are events."""

from __future__ import annotations

from collections.abc import Callable

from tcpnewconn.eventtypes import Event, Listener
from tcpnewconn.kernel.lookup import Lookup
from tcpnewconn.kernel.procnet import Poll
from tcpnewconn.model import Row, SocketInfo, endpoints
from tcpnewconn.state.owner import Log
from tcpnewconn.tracking.direction import listened
from tcpnewconn.tracking.listeners import Listeners
from tcpnewconn.tracking.matching import attribution
from tcpnewconn.tracking.outcomes import NewConnection

# Seconds between two dumps of the listening sockets.
_EVERY = 1.0


class Listening:
    """`lookup` answers who listens, where there is one. Times are monotonic, in seconds."""

    def __init__(self, port_range: tuple[int, int], lookup: Lookup | None, log: Log | None) -> None:
        self.listeners = Listeners(port_range, log)
        self._lookup = lookup
        self._log = log
        self._asked = float("-inf")
        self._first = True

    def polled(self, poll: Poll, report: Callable[[Event], None]) -> None:
        """Compare with the listening sockets that a poll shows, and report new ones."""
        for four_tuple in poll.gone_listeners:
            self.listeners.gone(four_tuple)
        startup = self._first and not (self._log is not None and self._log.resumed)
        if self._first:
            self._first = False
            # Those that were closed while the program did not run: one that opens again is new.
            self.listeners.only(poll.listeners)
        answers = {row.four_tuple: info for row, info in self._all() or ()} if poll.listeners else {}
        for row in poll.listeners:
            info = answers.get(row.four_tuple)
            self.listeners.add(row, info.cgroup if info else 0)
            if not self.listeners.is_reported(row):
                self.listeners.reported(row)
                report(Listener(endpoints(row.four_tuple)[0], startup, *attribution(row, info)))

    def _all(self) -> list[tuple[Row, SocketInfo]] | None:
        """Every listening socket that the kernel answers with; None where it does not answer."""
        if self._lookup is None:
            return None
        try:
            return list(self._lookup.listeners())
        except OSError:
            return None

    def accepted(self, new: NewConnection, now: float) -> bool | None:
        """Whether the listening sockets decide that this one accepted; they are asked for where those known do not."""
        accepted = listened(new.four_tuple, new.internal, self.listeners)
        if accepted is None and self._ask(now):
            accepted = listened(new.four_tuple, new.internal, self.listeners)
        return accepted

    def _ask(self, now: float) -> bool:
        """Ask for all of them, unless that was done a moment ago; whether there is an answer."""
        if now < self._asked + _EVERY:
            return False
        self._asked = now
        answers = self._all()
        if answers is None:
            # The known listeners stay.
            return False
        self.listeners.replace((row, info.cgroup) for row, info in answers)
        return True
