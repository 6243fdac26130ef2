"""How many destroy notifications were processed, and how many were lost.

The one owner of these counts, from the kernel's counter to the loss event. In between, polls show which connections were reported
although their notification was lost. Records x and b are its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from tcpnewconn.state.owner import Log, Record

_MASK = 0xFFFFFFFF


class Cursor:
    """`socket` is the inode of the socket whose buffer holds notifications while the program does not run; 0 if there is none."""

    def __init__(self, log: Log | None, socket: int) -> None:
        self._log = log
        self._socket = socket
        # How many notifications were lost since the start.
        self.lost = 0
        # How many of them are not yet matched with a connection, and when the last of those was counted.
        self.pending = 0
        self.since = 0.0
        # How many lost connections are not reported yet, and how many notifications they had.
        self.connections = 0
        self._notifications = 0
        self.clear()
        if log is not None:
            log.register("xb", self)

    def clear(self) -> None:
        """Start without any state."""
        # The cookie of the last destroyed socket that was processed.
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
        """Continue after a restart with the kernel's `counter`; whether no notification was missed since the last run."""
        unbroken = self._socket_before == self._socket != 0
        # A counter that is a little lower has wrapped; one that is much lower belongs to another socket.
        if not unbroken:
            self.last, self._counter = 0, 0
        elif (counter - self._counter) & _MASK >= 0x80000000:
            self._counter = 0
        self._recorded = (self.last, self._reported)
        return unbroken

    def received_before(self, socket: int) -> bool:
        """Whether the last run received from this socket."""
        return self._socket_before == socket != 0

    def receive_from(self, socket: int) -> None:
        """Notifications wait in this socket from now on."""
        if socket != self._socket:
            self._socket = socket
            if self._log is not None:
                self._log.append(f'["b",{socket}]')

    @property
    def _reported(self) -> int:
        """The kernel's counter up to which losses were reported. Later losses will be reported, after a restart too."""
        return (self._counter - self.pending - self._notifications) & _MASK

    def handled(self, cookie: int) -> None:
        """The destroyed socket with this cookie was processed."""
        self.last = cookie
        if self._log is not None:
            reported = self._reported
            self._recorded = (cookie, reported)
            self._log.append(f'["x",{cookie},{reported}]')

    def record(self) -> None:
        """Write the position, if it has changed."""
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
        """Count lost notifications; polls may or may not have shown their connections."""
        self.pending += lost
        self.since = now

    def settle(self, shown: int) -> None:
        """So many of the pending ones were of connections that a poll had shown: these are reported. The others are lost."""
        self.connections += self.pending - shown
        self._notifications = self._notifications + self.pending if self.connections else 0
        self.pending = 0
        self.record()

    def take(self) -> int:
        """The number of lost connections to report; they count as reported from now on."""
        connections, self.connections, self._notifications = self.connections, 0, 0
        self.record()
        return connections
