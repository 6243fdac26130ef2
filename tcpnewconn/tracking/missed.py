"""How many connections of a namespace no poll has shown, at most: from the kernel's counters of its sockets. Pure.

Each socket that was connected is counted once, by the kernel in ActiveOpens or PassiveOpens, and here when a poll has shown it;
a connection within the namespace has two. The counters are read a moment before the tables, and a poll can leave a row out: what
is missing must be missing in the next poll, too. Attempts that fail on the side that accepts (AttemptFails) make the number too
small, connections that another namespace has logged make it too large. Record m is its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from tcpnewconn.kernel.activity import Counters
from tcpnewconn.state.owner import Log, Record


class Missed:
    """Of one namespace. `count` is the number since somebody last took it."""

    def __init__(self, log: Log | None) -> None:
        self._log = log
        self.clear()
        if log is not None:
            log.register("m", self)

    def clear(self) -> None:
        self.count = 0
        # Sockets that were connected, as the counters said at the last poll; None before the first.
        self._connected: int | None = None
        # How many more of them the counters say than polls have shown; below zero, how many less.
        self._more = 0

    def begin(self, connected: int | None) -> None:
        """It was found. So many sockets had been connected before it could be observed; None: as many as at the first poll."""
        self._connected = connected

    def polled(self, counters: Counters, connecting: int, shown: int) -> None:
        """A poll has shown so many sockets for the first time, and `connecting` ones in SYN_SENT."""
        connected = counters.active_opens - counters.attempt_fails + counters.passive_opens - connecting
        before, self._connected = self._connected, connected
        if before is None:
            self._record()
            return
        last, more = self._more, self._more + connected - before - shown
        if last > 0 and more > 0:
            missed = min(last, more)
            self.count += missed
            more -= missed
        elif last < 0 and more < 0:
            more = min(0, more - last)
        self._more = more
        if (last, connected) != (more, before):
            self._record()

    def saw(self, sockets: int) -> None:
        """So many sockets that the last poll has counted were seen in another way since."""
        self._more -= min(sockets, max(0, self._more))

    def end(self) -> int | None:
        """No further poll comes. Returns how many sockets have been connected, for begin()."""
        self.count += max(0, self._more)
        self._more = 0
        return self._connected

    def take(self) -> int:
        """The number, which is 0 from now on."""
        count, self.count = self.count, 0
        if count:
            self._record()
        return count

    # --- what outlives a restart -------------------------------------------------------------------------------------

    def _line(self) -> str:
        return f'["m",{self._connected},{self._more},{self.count}]'

    def _record(self) -> None:
        if self._log is not None:
            self._log.append(self._line())

    def records(self) -> Iterator[str]:
        if self._connected is not None:
            yield self._line()

    def load(self, record: Record) -> None:
        self._connected, self._more, self.count = map(int, record[1:])
