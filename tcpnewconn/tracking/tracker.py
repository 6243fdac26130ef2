"""Decides what is new: polls and destroyed sockets in, each connection out once.

Pure: it reads no clock and does no I/O. What it must ask of the kernel (which socket a 4-tuple is now, whether both ends of a
4-tuple are on this host) are two functions that it is given; a simulated kernel serves as well as the real one.

Four verbs: apply a poll, apply a destroyed socket, tick, stop. The rules, with the facts behind them measured (Linux 6.1, 6.12,
6.18):

- A socket is its cookie wherever that is known; else its 4-tuple, its inode and its state tell (matching.py).
- The kernel notifies of every socket that is destroyed, those that no poll has shown among them. A row in TIME_WAIT (or
  FIN_WAIT2 without an inode, which is a timewait socket too) was notified, or will be at once: while notifications arrive it
  says nothing new.
- A connection within this host has two sockets, two rows and two notifications. It is reported with the first of them; its
  peer is expected then, whichever way it comes.
- Notifications can be late and out of order. A socket that no row shows any longer, or whose addresses another one has, is dying
  until its notification has come. That takes as long as its program keeps it open, where its peer has reset it; how long it
  has been idle by then (tcpi_last_ack_recv) tells it from a later one on its addresses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum, auto
from itertools import chain
from typing import NamedTuple

from tcpnewconn.kernel.procnet import Poll
from tcpnewconn.model import CLOSE, TIME_WAIT, DestroyedSocket, FourTuple, Row, SocketInfo, mirrored
from tcpnewconn.state.log import Record, StateLog
from tcpnewconn.tracking.cursor import Cursor
from tcpnewconn.tracking.internal import Peers
from tcpnewconn.tracking.matching import attribution, can_be, in_time_wait, is_full, is_of
from tcpnewconn.tracking.socket import Phase, Socket
from tcpnewconn.tracking.sockets import Sockets
from tcpnewconn.tracking.unaddressed import Unaddressed

# Seconds after which a notification that has not come was lost, if some were: they are some milliseconds late (measured).
_LATE = 2.0
# Seconds within which those that were in TIME_WAIT at the first poll are notified, if they had not been before.
_CAUGHT_UP_AFTER = 0.2
# The correlation window: seconds within which what belongs together comes, at least; it begins no later than the poll that is so
# many polls back, this one included.
_WINDOW, _POLLS = 60.0, 4


class Notifications(Enum):
    """Where the kernel's destroy notifications go."""

    # None arrive.
    NONE = auto()
    # Into a socket of this program's own: those that come while it does not run are lost.
    OWN = auto()
    # Into a socket that outlives the program (systemd's).
    KEPT = auto()


class Run(Enum):
    """How far a run has come."""

    # The first poll is to come: what it shows in TIME_WAIT can be news, though notifications arrive.
    STARTING = auto()
    # It is not known yet which of those were notified before anybody listened.
    SETTLING = auto()
    RUNNING = auto()
    # The last poll is to come: notifications may be missed after it.
    STOPPING = auto()


class NewConnection(NamedTuple):
    """A connection to be reported, by one of its sockets. `detected_by` is startup, poll or notification.

    `destroyed` is the socket of the notification that it was detected by. Where that is unaddressed, the local address in the
    4-tuple may be zero, and the remote port is.
    """

    four_tuple: FourTuple
    number: int
    detected_by: str
    state: int
    uid: int | None
    cgroup: int
    internal: bool
    destroyed: DestroyedSocket | None = None


class ClosedSocket(NamedTuple):
    """A socket of a reported connection was destroyed.

    `opened` as in Socket, None where that was not seen; uid and cgroup are the socket's. It is `only_notified` where no poll
    has shown the connection, and this is the second of its sockets.
    """

    four_tuple: FourTuple
    number: int
    internal: bool
    destroyed: DestroyedSocket
    opened: float | None = None
    uid: int | None = None
    cgroup: int = 0
    only_notified: bool = False


class Tracker:
    """Which connections were reported. All times are monotonic, in seconds.

    `look_up` asks the kernel for the socket of a 4-tuple (None if it is gone or cannot be asked); `internal` says whether
    both ends of a 4-tuple are on this host. `report` is called with each outcome and its time, in order.
    """

    def __init__(
        self,
        look_up: Callable[[FourTuple], SocketInfo | None],
        internal: Callable[[FourTuple], bool],
        report: Callable[[NewConnection | ClosedSocket, float], None],
        notifications: Notifications,
        log: StateLog | None = None,
        socket: int = 0,
    ) -> None:
        """`socket` as in Cursor."""
        self.notified = notifications is not Notifications.NONE
        self.cursor = Cursor(log, socket)
        self.sockets = Sockets(log)
        self._look_up = look_up
        self._internal = internal
        self._report = report
        self._log = log
        self._unaddressed = Unaddressed(self.sockets, look_up, internal, log)
        self._peers = Peers(self.sockets, look_up)
        # Where notifications that come while nobody runs are lost, a row in TIME_WAIT at the first poll after a restart is new
        # unless its connection was reported when it was closed: those are remembered.
        self._remember_closed = notifications is Notifications.OWN and log is not None
        self._run = Run.STARTING
        # Whether notifications can have been missed before this run, of sockets that the first two polls have yet to compare.
        self._gap = False
        self._resumed = False
        # When the last polls were, the first first.
        self._polls: deque[float] = deque(maxlen=_POLLS)
        self._poll_count = 0
        self._caught_up = float("-inf")
        # 4-tuples of destroyed sockets that polls may have shown: a row that stands there again is another socket's.
        self._vacated: set[FourTuple] = set()
        self.clear()
        if log is not None:
            log.register("ni", self)

    # --- what outlives a restart -------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Begin without what was before."""
        self._serial = 0
        # What the record says: whether it was not known yet what there was at the first poll; whether there was a gap.
        self._recorded = (False, False)

    def records(self) -> Iterator[str]:
        self._recorded = (self._unsettled, self._gap)
        yield f'["n",{self._serial}]'
        yield self._run_record()

    def _run_record(self) -> str:
        unsettled, gap = self._recorded
        return f'["i",{unsettled:d},{gap:d}]'

    def load(self, record: Record) -> None:
        if record[0] == "n":
            self._serial = max(self._serial, int(record[1]))
        else:
            self._recorded = (bool(record[1]), bool(record[2]))

    def resume(self, now: float, counter: int) -> None:
        """Continue where the run before ended; `counter` is the kernel's count of lost notifications."""
        unbroken = self.cursor.resume(counter)
        unsettled, gap = self._recorded
        self._resumed = True
        self._run = Run.STARTING if unsettled or not unbroken else Run.RUNNING
        self._gap = gap or not unbroken
        self.sockets.resume(now, self.notified, self._gap)
        self._unaddressed.resume()
        known = chain(self.sockets.all_shown(), self.sockets.all_in(Phase.DYING))
        self._serial = max(self._serial, max((-one.number for one in known), default=0))

    @property
    def _unsettled(self) -> bool:
        """Whether it is not known yet what there was at the first poll."""
        return self._run in (Run.STARTING, Run.SETTLING) or self.sockets.any_in(Phase.ENDED_BEFORE_START)

    def _record(self) -> None:
        if self._log is not None and (self._unsettled, self._gap) != self._recorded:
            self._recorded = (self._unsettled, self._gap)
            self._log.append(self._run_record())

    def _next_serial(self) -> int:
        self._serial += 1
        if self._log is not None:
            self._log.append(f'["n",{self._serial}]')
        return -self._serial

    # --- a poll ------------------------------------------------------------------------------------------------------

    @property
    def wants_time_wait(self) -> bool:
        """Whether the next poll must show rows in TIME_WAIT."""
        return not self.notified or self._remember_closed or self._run in (Run.STARTING, Run.STOPPING)

    def window(self, now: float) -> float:
        """When the correlation window begins: within it comes what belongs together. What comes later was idle since."""
        return min(now - _WINDOW, self._polls[0]) if self._polls else now - _WINDOW

    def poll(self, poll: Poll, now: float) -> None:
        """Apply a poll; then tick."""
        self._polls.append(now)
        self._poll_count += 1
        compare = self._resumed and self._poll_count == 2
        if compare:
            self._drop_missing(poll, now)
        for four_tuple in poll.gone:
            if four_tuple not in self._vacated:
                self._absent(four_tuple, now)
        detected_by = "poll" if self._resumed or self._poll_count > 1 else "startup"
        for row in poll.rows(again=self._vacated, ended=self._run is Run.STOPPING):
            self._row(row, detected_by, now)
        self._vacated = {one for one in self._vacated if poll.absent_once(one)}
        if compare:
            self._gap = False
        if self._run is Run.STARTING:
            self._run = Run.SETTLING
        self.tick(now)

    def _row(self, row: Row, detected_by: str, now: float) -> None:
        """A row that is new or has changed."""
        four_tuple = row.four_tuple
        known = self.sockets.shown(four_tuple)
        if known is None and self.notified and in_time_wait(row) and self._run is not Run.STARTING:
            if self._run is Run.STOPPING:
                self._ended_before_stop(row, now)
            return
        if known is not None and row.inode and row.inode == known.inode and can_be(row, known):
            if row.state != known.state:
                known.state = row.state
                self.sockets.show(known)
            return
        current = self._look_up(four_tuple)
        info = current if is_of(row, current, self.notified) else None
        if known is None:
            self._appeared(row, info, detected_by, now)
        elif self._is_known(row, known, info, current):
            known.inode, known.state = row.inode, row.state
            if info is not None and not (self.notified and info.timewait):
                known.cookie = known.cookie or info.cookie
            self.sockets.show(known)
        elif info is None and current is not None and current.cookie == known.cookie:
            # The known one has taken the place of the one that the row is of.
            self._appeared(row, None, detected_by, now, replaced=True)
        else:
            self._die(known, now)
            self._appeared(row, info, detected_by, now)

    def _ended_before_stop(self, row: Row, now: float) -> None:
        """What comes after the last poll may be missed: a row in TIME_WAIT must be known as reported then."""
        four_tuple = row.four_tuple
        if self.sockets.has(four_tuple, Phase.ENDED_BEFORE_START):
            return
        if row.state == TIME_WAIT or not is_full(self._look_up(four_tuple)):
            self._close(Socket(four_tuple), now)

    def _is_known(self, row: Row, known: Socket, info: SocketInfo | None, current: SocketInfo | None) -> bool:
        """Whether a row is of the known socket. The order of the rules matters."""
        if info is not None and known.cookie:
            return info.cookie == known.cookie
        if is_full(info) and self.sockets.was_gone_when_looked_up(row.four_tuple):
            # The known one was gone when it was looked up: what is left of it can be there, and no more.
            return False
        if is_full(current) and current.cookie == known.cookie:
            # It is not of that one, as is_of() says.
            return False
        return can_be(row, known)

    def _appeared(
        self, row: Row, info: SocketInfo | None, detected_by: str, now: float, replaced: bool = False
    ) -> None:
        """A row of another socket than the known one of its 4-tuple; `replaced` if it does not have that any more."""
        four_tuple = row.four_tuple
        cookie = info.cookie if info else 0
        if self.notified and in_time_wait(row):
            if self._run is not Run.STARTING:
                return
            if not is_full(info):
                self._ended_before_start(four_tuple, cookie, detected_by, now)
                return
        dying = self.sockets.dying_with_cookie(cookie)
        if dying is not None and dying.four_tuple == four_tuple:
            # It was left out of two polls, and is there after all.
            self.sockets.show(dying)
            return
        if info is None and row.inode and self.sockets.dying_with_inode(four_tuple, row.inode):
            return
        uid, cgroup = attribution(row, info)
        opened = 0.0 if detected_by == "startup" else now
        socket = Socket(four_tuple, None, 0, cookie, row.inode, row.state, False, opened, uid, cgroup)
        internal = self._internal(four_tuple)
        number = self._peers.number(four_tuple, row.state, info, self.window(now)) if internal else None
        if number is not None:
            socket.number, socket.paired = number, True
            self._keep(socket, replaced, now)
            return
        socket.number = cookie or self._next_serial()
        if internal and info is not None and four_tuple != mirrored(four_tuple):
            self._show_mirror(socket, now)
        self._keep(socket, replaced, now)
        self._report(NewConnection(four_tuple, socket.number, detected_by, row.state, uid, cgroup, internal), now)

    def _keep(self, socket: Socket, replaced: bool, now: float) -> None:
        if not replaced:
            self.sockets.show(socket)
        elif self.notified:
            self.sockets.enter(socket, Phase.DYING, now)

    def _show_mirror(self, socket: Socket, now: float) -> None:
        """Know a new internal connection's other socket too, so that its row, or its notification, is expected."""
        other = mirrored(socket.four_tuple)
        info = self._look_up(other)
        if not is_full(info):
            return
        known = self.sockets.shown(other)
        if known is not None:
            if known.cookie in (0, info.cookie):
                return
            self._die(known, now)
        socket.paired = True
        self.sockets.show(self._peers.mirror(socket, info))

    def _absent(self, four_tuple: FourTuple, now: float) -> None:
        """A 4-tuple that was absent from two polls."""
        known = self.sockets.shown(four_tuple)
        if known is not None and not self._is_there(known):
            self._die(known, now)

    def _drop_missing(self, poll: Poll, now: float) -> None:
        """After a restart: what was SHOWN before, and is in neither of two polls; or was closed while nobody listened."""
        unheard = self.notified and self._gap
        for known in list(self.sockets.all_shown()):
            there = poll.recent(known.four_tuple) or self._is_there(known)
            if (unheard and in_time_wait(known)) or not there:
                self._die(known, now)

    def _is_there(self, known: Socket) -> bool:
        """Whether the kernel has a socket that no poll shows: it can have come during one, and be left out of the next."""
        if not self.notified or not known.cookie:
            return False
        info = self._look_up(known.four_tuple)
        return is_full(info) and info.cookie == known.cookie

    def _die(self, socket: Socket, now: float) -> None:
        if self.notified:
            socket.gap = self._gap
            self.sockets.enter(socket, Phase.DYING, now)
        else:
            self.sockets.forget(socket)

    # --- a destroyed socket ------------------------------------------------------------------------------------------

    def destroyed(self, destroyed: DestroyedSocket, now: float) -> None:
        """Apply a destroyed socket."""
        if not destroyed.established:
            return
        four_tuple = destroyed.four_tuple
        if destroyed.unaddressed:
            self._destroyed_unaddressed(destroyed, now)
            return
        if self.sockets.any_in(Phase.ENDED_BEFORE_START):
            self._claim(four_tuple)
        dying = self.sockets.dying_with_cookie(destroyed.cookie)
        known = self.sockets.shown(four_tuple)
        # Nothing that came later than that can be of an earlier connection.
        since = self.window(now) - destroyed.idle
        if dying is not None:
            self._closed(dying, destroyed, now)
        elif known is not None and known.cookie == destroyed.cookie:
            self._closed(known, destroyed, now)
        elif (dying := self.sockets.dying_without_cookie(four_tuple, since)) is not None:
            # Of several that had these addresses any will do, and the first is the likeliest.
            self._closed(dying, destroyed, now)
        elif known is not None and not known.cookie:
            self._closed(known, destroyed, now)
        else:
            self._never_shown(destroyed, since, now)

    def _never_shown(self, destroyed: DestroyedSocket, since: float, now: float) -> None:
        """A destroyed socket that no poll has shown."""
        four_tuple = destroyed.four_tuple
        internal = self._internal(four_tuple)
        if internal:
            number = self._peers.number(four_tuple, CLOSE, None, since)
            if number is not None:
                self._close(Socket(four_tuple), now)
                self._report(ClosedSocket(four_tuple, number, True, destroyed, only_notified=True), now)
                return
        if self._unaddressed.taken_back(destroyed, now):
            return
        if internal and not self._unaddressed.was_peer(destroyed, now):
            self._peers.expect(four_tuple, destroyed.cookie, now)
        self._close(Socket(four_tuple), now)
        self._report(
            NewConnection(four_tuple, destroyed.cookie, "notification", CLOSE, None, 0, internal, destroyed), now
        )

    def _destroyed_unaddressed(self, destroyed: DestroyedSocket, now: float) -> None:
        """Its cookie tells which socket it was, or its peer, or nothing does."""
        known = self.sockets.dying_with_cookie(destroyed.cookie) or self.sockets.shown_with_cookie(destroyed.cookie)
        if known is not None:
            self._closed(known, destroyed, now)
        elif not self._unaddressed.wait(destroyed, now):
            self._only_trace(destroyed, now)

    def _only_trace(self, destroyed: DestroyedSocket, now: float) -> None:
        self._report(
            NewConnection(destroyed.four_tuple, destroyed.cookie, "notification", CLOSE, None, 0, False, destroyed), now
        )

    def _closed(self, socket: Socket, destroyed: DestroyedSocket, now: float, sure: bool = True) -> None:
        """A socket of a reported connection was destroyed; not `sure` where that is a guess, of which nothing is reported."""
        if socket.lost:
            # It was another one whose notification was lost.
            self.cursor.await_polls(1, now)
        four_tuple = socket.four_tuple
        self._vacated.add(four_tuple)
        internal = self._internal(four_tuple)
        self.sockets.forget(socket)
        if internal and not socket.paired:
            self._peers.expect(four_tuple, socket.number, now)
        self._close(socket, now)
        if sure:
            self._report(
                ClosedSocket(
                    four_tuple, socket.number, internal, destroyed, socket.opened or None, socket.uid, socket.cgroup
                ),
                now,
            )

    def _close(self, socket: Socket, now: float) -> None:
        """Remember a closed socket, where a row of it in TIME_WAIT could be taken for a new one."""
        if self._remember_closed or self._unsettled or self._run is Run.STOPPING:
            self.sockets.enter(socket, Phase.CLOSED, now)

    # --- what was in TIME_WAIT at the first poll ---------------------------------------------------------------------

    def _ended_before_start(self, four_tuple: FourTuple, cookie: int, detected_by: str, now: float) -> None:
        if self.sockets.has(four_tuple, Phase.CLOSED) or self.sockets.can_be_dying(four_tuple, cookie):
            return
        before = self.sockets.first(four_tuple, Phase.ENDED_BEFORE_START)
        if before is not None:
            self.sockets.forget(before)
        number = cookie or self._next_serial()
        socket = Socket(four_tuple, None, number, detected_by=detected_by)
        self.sockets.enter(socket, Phase.ENDED_BEFORE_START, now)

    def _claim(self, four_tuple: FourTuple) -> None:
        """A destroyed socket can be of this 4-tuple, or be its peer: if the 4-tuple is as it was at the poll, it is."""
        for one in (four_tuple, mirrored(four_tuple)):
            socket = self.sockets.first(one, Phase.ENDED_BEFORE_START)
            if socket is None:
                continue
            info = self._look_up(one) if socket.number > 0 else None
            if socket.number < 0 or (info is not None and info.cookie == socket.number):
                self.sockets.forget(socket)

    def _settle(self, now: float) -> None:
        """Report what was in TIME_WAIT at the first poll and had been notified before anybody listened."""
        unclaimed = list(self.sockets.all_in(Phase.ENDED_BEFORE_START))
        if unclaimed and self._caught_up > unclaimed[-1].since + _CAUGHT_UP_AFTER:
            self.sockets.forget_all(Phase.ENDED_BEFORE_START)
            reported: set[FourTuple] = set()
            for socket in unclaimed:
                self._report_ended(socket, reported, now)
            unclaimed = []
        if self._run is Run.SETTLING and not unclaimed:
            self._run = Run.RUNNING
            if not self._remember_closed:
                self.sockets.forget_all(Phase.CLOSED)

    def _report_ended(self, socket: Socket, reported: set[FourTuple], now: float) -> None:
        four_tuple = socket.four_tuple
        internal = self._internal(four_tuple)
        self.sockets.enter(Socket(four_tuple), Phase.CLOSED, now)
        is_peer = internal and self._peers.number(four_tuple, CLOSE, None, self.window(now)) is not None
        if is_peer or mirrored(four_tuple) in reported:
            return
        if internal:
            reported.add(four_tuple)
        self._report(NewConnection(four_tuple, socket.number, socket.detected_by, TIME_WAIT, None, 0, internal), now)

    # --- what time brings --------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Report what was waited for and did not come; forget what is waited for no longer."""
        window = self.window(now)
        for verdict in self._unaddressed.tick(now, window):
            if verdict.four_tuple is None:
                self._only_trace(verdict.socket, now)
                continue
            dying = self.sockets.dying_without_cookie(verdict.four_tuple, float("-inf"))
            socket = dying or self.sockets.shown(verdict.four_tuple)
            assert socket is not None
            self._closed(socket, verdict.socket, now, sure=False)
        self._settle(now)
        self.sockets.expire(now, window)
        self._settle_losses(now)
        self._record()

    def caught_up(self, now: float) -> None:
        """Every notification that was there by now has been applied."""
        self._caught_up = now

    @property
    def waiting(self) -> bool:
        """Whether tick() will soon have something to report."""
        return self._unaddressed.waiting or self.sockets.any_in(Phase.ENDED_BEFORE_START)

    def not_notified(self, now: float) -> int:
        """How many sockets have been dying for long, without a notification and without a gap that explains it."""
        return len(self.sockets.dying_before(self.window(now), gap=False))

    def _settle_losses(self, now: float) -> None:
        """Tell lost notifications of sockets that polls had shown from those of connections that were lost with them.

        The former left the table, and their notification did not come.
        """
        cursor = self.cursor
        if not cursor.pending or now < cursor.since + 2 * _LATE:
            return
        # The last that left: one that left long before can be kept open by its program.
        late = self.sockets.dying_before(now - _LATE, gap=False)[-cursor.pending :]
        for socket in late:
            self.sockets.forget(socket)
            socket.gap, socket.lost = True, True
            self.sockets.enter(socket, Phase.DYING, now)
        cursor.settle(len(late))

    # --- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """The next poll is the last, and notifications that come after it may be missed.

        So what that poll shows in TIME_WAIT must be known as reported then, and whatever is closed in the meantime.
        """
        if self._run is not Run.STARTING:
            self._run = Run.STOPPING
