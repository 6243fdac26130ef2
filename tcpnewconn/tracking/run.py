"""The stage of a run of the program, and whether notifications can have been missed before it. Records n and i are its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import Enum, auto

from tcpnewconn.model import FourTuple
from tcpnewconn.state.owner import Log, Record
from tcpnewconn.tracking.socket import Phase, Socket
from tcpnewconn.tracking.sockets import Sockets

# The correlation window, in seconds: rows and notifications of one connection come within it. It begins no later than this many
# polls back, this one included.
_WINDOW, _POLLS = 60.0, 4

# Serial numbers that are taken with one record; the unused ones are skipped after a restart.
_SERIALS = 1000


class Notifications(Enum):
    """Where the kernel's destroy notifications go."""

    # They do not arrive.
    NONE = auto()
    # Into a socket of this program's own: those that come while it does not run are lost.
    OWN = auto()
    # Into a socket that outlives the program (systemd's).
    KEPT = auto()


class Stage(Enum):
    """The stage of a run."""

    # Before the first poll: its rows in TIME_WAIT can be new connections, although notifications arrive.
    STARTING = auto()
    # It is not known yet which of those were notified before the socket was opened.
    SETTLING = auto()
    RUNNING = auto()
    # Before the last poll but one: notifications may be missed soon. What it shows in TIME_WAIT was notified, or will be at once.
    STOPPING = auto()
    # Before the last poll: what is in TIME_WAIT since then is not known as notified before its notification is there.
    LAST = auto()


class Run:
    """The stage of a run, and its polls. All times are monotonic, in seconds."""

    def __init__(self, sockets: Sockets, notifications: Notifications, log: Log | None) -> None:
        self.stage = Stage.STARTING
        self.notified = notifications is not Notifications.NONE
        # Whether notifications can have been missed before this run, of sockets that the first two polls have yet to compare.
        self.gap = False
        self._resumed = False
        self._sockets = sockets
        self._log = log
        # Where notifications that come while nobody runs are lost, a row in TIME_WAIT at the first poll after a restart is new
        # unless its connection was reported when it was closed: those are remembered.
        self._remember_closed = notifications is Notifications.OWN and log is not None
        # When the last polls were, the first first.
        self._polls: deque[float] = deque(maxlen=_POLLS)
        self._count = 0
        self.clear()
        if log is not None:
            log.register("ni", self)

    # --- what outlives a restart -------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Start without any state."""
        self._serial = 0
        # The serial number on record: no number up to there is used again after a restart.
        self._taken = 0
        # As recorded: whether the sockets of the first poll were not all known yet; whether there was a gap.
        self._recorded = (False, False)

    def records(self) -> Iterator[str]:
        self._recorded = (self.unsettled, self.gap)
        yield f'["n",{self._taken}]'
        yield self._line()

    def load(self, record: Record) -> None:
        if record[0] == "n":
            self._serial = self._taken = max(self._taken, int(record[1]))
        else:
            self._recorded = (bool(record[1]), bool(record[2]))

    def _line(self) -> str:
        unsettled, gap = self._recorded
        return f'["i",{unsettled:d},{gap:d}]'

    def resume(self, unbroken: bool, largest_serial: int) -> None:
        """Continue the last run; `unbroken` if no notification was missed since."""
        unsettled, gap = self._recorded
        self._resumed = True
        self._serial = max(self._serial, largest_serial)
        self._taken = max(self._taken, self._serial)
        self.stage = Stage.STARTING if unsettled or not unbroken else Stage.RUNNING
        self.gap = gap or not unbroken

    def notify(self) -> None:
        """Notifications arrive from now on. Those of sockets that were destroyed before were missed, as before a restart."""
        self.notified = True
        if self._count or self._resumed:
            self._resumed = self.gap = True
            self.stage, self._count = Stage.STARTING, 0

    def record(self) -> None:
        """Write the stage, if it has changed."""
        if self._log is not None and (self.unsettled, self.gap) != self._recorded:
            self._recorded = (self.unsettled, self.gap)
            self._log.append(self._line())

    def next_serial(self) -> int:
        """A number for a connection, below zero, that no other has: for want of a cookie."""
        self._serial += 1
        if self._serial > self._taken:
            self._taken += _SERIALS
            if self._log is not None:
                self._log.append(f'["n",{self._taken}]')
        return -self._serial

    # --- the stage -------------------------------------------------------------------------------------------------

    @property
    def unsettled(self) -> bool:
        """Whether the sockets of the first poll are not all known yet."""
        if self.stage in (Stage.STARTING, Stage.SETTLING):
            return True
        return self._sockets.any_in(Phase.ENDED_BEFORE_START)

    @property
    def wants_time_wait(self) -> bool:
        """Whether the next poll must show rows in TIME_WAIT."""
        return not self.notified or self._remember_closed or self.stage is Stage.STARTING or self.stops

    @property
    def stops(self) -> bool:
        """Whether one of the last two polls is next."""
        return self.stage in (Stage.STOPPING, Stage.LAST)

    @property
    def detected_by(self) -> str:
        """`detected_by` of the connections in the current poll."""
        return "poll" if self._count > 1 else self.first_detected_by

    @property
    def first_detected_by(self) -> str:
        """`detected_by` of the connections in the first poll: `startup` if they were open at the first start."""
        return "poll" if self._resumed else "startup"

    @property
    def compares(self) -> bool:
        """Whether the current poll, the second after a restart, tells which sockets are gone since the run before."""
        return self._resumed and self._count == 2

    def window(self, now: float) -> float:
        """When the correlation window begins. A socket that is destroyed later than that was idle meanwhile."""
        return min(now - _WINDOW, self._polls[0]) if self._polls else now - _WINDOW

    @property
    def remembers_closed(self) -> bool:
        """Whether a row of a closed socket in TIME_WAIT could be taken for a new one."""
        return self.stage is not Stage.RUNNING or self._remember_closed

    def close(self, four_tuple: FourTuple, now: float) -> None:
        """Remember a closed socket, where that is needed."""
        if self.remembers_closed:
            self._sockets.enter(Socket(four_tuple), Phase.CLOSED, now)

    # --- changes of the stage -----------------------------------------------------------------------------------------------

    def poll_begins(self, now: float) -> None:
        self._polls.append(now)
        self._count += 1

    def poll_ends(self) -> None:
        if self.compares:
            self.gap = False
        if self.stage is Stage.STARTING:
            self.stage = Stage.SETTLING

    def settled(self) -> None:
        """All sockets of the first poll are known."""
        if self.stage is Stage.SETTLING:
            self.stage = Stage.RUNNING
            if not self._remember_closed:
                self._sockets.forget_notified()

    def stop(self) -> None:
        """Twice: before the last poll but one, and before the last."""
        if self.stage is not Stage.STARTING:
            self.stage = Stage.LAST if self.stops else Stage.STOPPING
