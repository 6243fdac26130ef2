"""How far the kernel's destroy notifications were dealt with, and how many were lost on the way.

The one owner of that count: from the kernel's counter, by way of the polls that show which of the lost ones were reported anyway,
to the loss event. Records x and b are its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from tcpnewconn.state.log import Record, StateLog

_MASK = 0xFFFFFFFF


class Cursor:
    """`socket` is the inode of the socket in whose buffer notifications wait while nobody runs, 0 if they do not."""

    def __init__(self, log: StateLog | None, socket: int) -> None:
        self._log = log
        self._socket = socket
        # How many notifications were lost since the start.
        self.lost = 0
        # How many of them nothing is known of yet, and when the last of those was counted.
        self.pending = 0
        self.since = 0.0
        # How many connections were lost and not reported, and with how many notifications.
        self.connections = 0
        self._notifications = 0
        self.clear()
        if log is not None:
            log.register("xb", self)

    def clear(self) -> None:
        """Begin without what was before."""
        # The cookie of the last destroyed socket that was dealt with.
        self.last = 0
        # The kernel's counter, 32 bits wide, up to which losses were counted.
        self._counter = 0
        self._recorded = (0, 0)
        self._socket_before = 0

    # --- what outlives a restart -------------------------------------------------------------------------------------

    def records(self) -> Iterator[str]:
        self._recorded = (self.last, self._reported)
        yield f'["x",{self.last},{self._reported}]'
        yield f'["b",{self._socket}]'

    def load(self, record: Record) -> None:
        if record[0] == "x":
            self.last, self._counter = int(record[1]), int(record[2])
        else:
            self._socket_before = int(record[1])

    def resume(self, counter: int) -> bool:
        """Go on from here, `counter` being the kernel's; whether no notification was missed since the run before."""
        unbroken = self._socket_before == self._socket != 0
        # One that is a little lower has wrapped, one that is much lower is another socket's.
        if not unbroken:
            self.last, self._counter = 0, 0
        elif (counter - self._counter) & _MASK >= 0x80000000:
            self._counter = 0
        self._recorded = (self.last, self._reported)
        return unbroken

    @property
    def _reported(self) -> int:
        """The kernel's counter up to which losses were reported: the rest will be, after a restart too."""
        return (self._counter - self.pending - self._notifications) & _MASK

    def handled(self, cookie: int) -> None:
        """The destroyed socket with this cookie was dealt with."""
        self.last = cookie
        self.record()

    def record(self) -> None:
        """Write how far it is, if that has changed."""
        if self._log is not None and (self.last, self._reported) != self._recorded:
            self._recorded = (self.last, self._reported)
            self._log.append(f'["x",{self.last},{self._reported}]')

    # --- losses ------------------------------------------------------------------------------------------------------

    def count(self, counter: int, now: float) -> bool:
        """Take the kernel's counter into account; whether notifications were lost since the last time."""
        lost = (counter - self._counter) & _MASK
        if not lost:
            return False
        self._counter = counter
        self.lost += lost
        self.await_polls(lost, now)
        return True

    def await_polls(self, lost: int, now: float) -> None:
        """So many were lost, of connections that polls will or will not have shown."""
        self.pending += lost
        self.since = now

    def settle(self, shown: int) -> None:
        """Of the pending ones, so many were of connections that a poll had shown: they are reported. The others are not."""
        self.connections += self.pending - shown
        self._notifications = self._notifications + self.pending if self.connections else 0
        self.pending = 0

    def take(self) -> int:
        """How many lost connections are to be reported: they count as reported from now on."""
        connections, self.connections, self._notifications = self.connections, 0, 0
        return connections
