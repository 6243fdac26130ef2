"""Decides what is new: rows of /proc and announced ends in, each connection out once.

Pure: it reads no clock and does no I/O. What it must ask of the kernel (which socket a four_tuple is now, whether both ends of a
four_tuple are on this host) are two functions that it is given; a simulated kernel serves as well as the real one.

The rules, with the facts behind them measured (Linux 6.1, 6.12, 6.18):

- A socket is its cookie wherever that is known. Where it is not, its inode tells: 0 -> n -> 0 is one connection (not
  accepted yet, then owned, then orphaned or in TIME_WAIT), n -> m is two. A connection's states only go forward: one that
  stands in an earlier state than before is another one on the same addresses.
- The kernel announces every socket that is destroyed, those that no read has shown among them. A row in TIME_WAIT (or
  FIN_WAIT2 without an inode, which is a TIME_WAIT socket too) has been announced, or will be at once: while
  announcements arrive it says nothing new.
- A connection within this host has two sockets, two rows and two announcements. It is reported with the first of them;
  the other half is then known to be *owed*, whichever way it comes.
- Announcements can be late and out of order. A socket that is gone from the table, or whose addresses another one has, is
  *leaving* until its announcement has come. That takes as long as its program holds it, where its peer has reset it; how long
  it has been idle by then (tcpi_last_ack_recv) tells it from a later one on its addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from tcpnewconn.model import (
    CLOSE,
    ESTABLISHED,
    LAST_ACK,
    TIME_WAIT,
    DestroyedSocket,
    FourTuple,
    Row,
    SocketInfo,
    Traffic,
    mirrored,
)
from tcpnewconn.tracking.changes import Changes
from tcpnewconn.tracking.claims import Claims
from tcpnewconn.tracking.leaving import Gone, Leaving
from tcpnewconn.tracking.owed import Owed
from tcpnewconn.tracking.sameness import AGE, can_be, in_time_wait, is_of, lives, owner
from tcpnewconn.tracking.sockets import Socket, Sockets
from tcpnewconn.tracking.table import Table
from tcpnewconn.tracking.wiped import Wiped

# Seconds for which a socket can stand in TIME_WAIT (TCP_TIMEWAIT_LEN, include/net/tcp.h), and then some.
_TIME_WAIT_LASTS = 90.0
# Seconds after which an announcement that has not come was lost, if some were: they are some milliseconds late (measured).
_LATE = 2.0
# How many sockets are waited for longer than is usual whose announcement may have been missed.
_DOUBTFUL = 1024


class New(NamedTuple):
    """A connection to be reported: by one of its sockets. `seen` is startup, read or closed.

    Where it is `wiped`, the four_tuple's local address may be zero and its remote port is.
    """

    four_tuple: FourTuple
    number: int
    detected_by: str
    state: int
    uid: int | None
    cgroup: int
    internal: bool
    wiped: bool = False


class Over(NamedTuple):
    """A connection that was reported has ended; one of its sockets is gone. `opened` as in Socket, None where not seen."""

    four_tuple: FourTuple
    number: int
    internal: bool
    traffic: Traffic
    opened: float | None


class Tracker:
    """Which connections were reported.

    `identify` asks the kernel for the socket of a four_tuple (None if it is gone or cannot be asked); `internal` says whether
    both ends of a four_tuple are on this host; `announced` whether the kernel's announcements arrive. `patience` is within how
    many seconds what belongs together comes, as a rule: it should cover some reads. What comes later than that must have
    been idle since.

    Where announcements that come while nobody runs are lost, a row in TIME_WAIT at the first read after a restart is new
    unless its connection was reported when it ended: `remember_closed` keeps those.
    """

    def __init__(
        self,
        identify: Callable[[FourTuple], SocketInfo | None],
        internal: Callable[[FourTuple], bool],
        announced: bool,
        changes: Changes | None = None,
        patience: float = 60.0,
        remember_closed: bool = False,
    ) -> None:
        self.announced = announced
        self.remember_closed = remember_closed
        self.patience = patience
        self.closed: dict[FourTuple, float] = {}
        self.serial = 0
        self._identify = identify
        self._internal = internal
        self._changes = changes or Changes()
        self.table = Table(self._changes)
        self.leaving = Leaving(self._changes)
        self.owed = Owed(self._changes)
        self._claims = Claims(identify)
        self._last = False
        self.wiped = Wiped(self.table, self.owed, self.leaving, self._changes, identify, internal, patience)
        # How many announcements were lost of which lost() has not told yet.
        self.losing = 0
        self._lost_since = 0.0
        # Whether rows in TIME_WAIT can be news, though announcements arrive: some can have been missed before.
        self.first = True
        # Whether it is not known yet what was there at the first read.
        self.beginning = True
        # Whether it is not known yet which sockets ended while nobody listened, before what was restored.
        self.doubtful = False
        self._compared = False

    # --- building it again -------------------------------------------------------------------------------------------

    def restore(
        self, sockets: Sockets, unbroken: bool = False, beginning: bool = False, doubtful: bool = False
    ) -> None:
        """The sockets of connections that were reported before a restart.

        `unbroken` where every announcement since has been waiting: then the first read is like any later one, unless it was
        not known yet what was there at the `beginning`. `doubtful` where some of them can have been missed before.
        """
        self.first = self.beginning = beginning or not unbroken
        self.doubtful = doubtful or not unbroken
        self.table.restore(sockets, nameless=self.announced)

    def restore_leaving(self, gone: Gone, now: float) -> None:
        """A socket whose announcement was waited for before a restart."""
        if self.announced:
            gone.since, gone.doubtful = now, gone.doubtful or self.doubtful
            self.leaving.restore(gone)

    def restore_closed(self, four_tuple: FourTuple, now: float) -> None:
        """A connection that was reported when it ended, before a restart."""
        self.closed[four_tuple] = now + _TIME_WAIT_LASTS

    # --- rows --------------------------------------------------------------------------------------------------------

    def read_done(self) -> None:
        """The first read is over: from now on rows in TIME_WAIT were announced."""
        if self.doubtful and self._compared:
            self.doubtful = False
            self._changes.knows(self.beginning, self.doubtful)
        self.first = False

    def leave(self) -> None:
        """The next read is the last, and announcements that come after that may be lost.

        So what it shows in TIME_WAIT must be known for reported then, and whatever ends in the meantime.
        """
        self._last = not (self.remember_closed or self.beginning)
        self.remember_closed = True

    def row(self, row: Row, seen: str, now: float) -> New | None:
        """A row that is new or has changed; the connection, if it is a new one. `seen` is startup or read."""
        four_tuple = row.four_tuple
        known = self.table.get(four_tuple)
        if known is None and self._was_announced(row) and not self.first:
            if self._last and (row.state == TIME_WAIT or not self._lives(four_tuple)):
                self._close(four_tuple, now)
            return None
        if known is not None and row.inode and row.inode == known.inode and can_be(row, known):
            if row.state != known.state:
                known.state = row.state
                self.table.put(four_tuple, known)
            return None
        current = self._identify(four_tuple)
        identity = current if is_of(row, current, self.announced) else None
        if known is None:
            return self._appeared(row, identity, seen, now)
        if identity is not None and known.cookie:
            same = identity.cookie == known.cookie
        elif lives(identity) and self.table.nameless(four_tuple):
            # The known one was gone when it was asked for its cookie: what is left of it can be there, and no more.
            same = False
        elif lives(current) and current.cookie == known.cookie:
            # It is not of that one, as is_of() says.
            same = False
        else:
            same = can_be(row, known)
        if same:
            known.inode, known.state = row.inode, row.state
            if identity is not None and not (self.announced and identity.remnant):
                known.cookie = known.cookie or identity.cookie
            self.table.put(four_tuple, known)
            return None
        if identity is None and current is not None and current.cookie == known.cookie:
            # The known one has taken the place of the one that the row is of.
            return self._appeared(row, None, seen, now, over=True)
        self._leave(four_tuple, now)
        return self._appeared(row, identity, seen, now)

    def _was_announced(self, row: Row) -> bool:
        return self.announced and in_time_wait(row)

    def _appeared(self, row: Row, identity: SocketInfo | None, seen: str, now: float, over: bool = False) -> New | None:
        """A row of another socket than the one that its four_tuple had; `over` if it does not have the four_tuple any more."""
        four_tuple = row.four_tuple
        cookie = identity.cookie if identity else 0
        if self._was_announced(row):
            if not self.first:
                return None
            if not lives(identity):
                if four_tuple not in self.closed and not self.leaving.can_be(four_tuple, cookie):
                    self._claims.add(four_tuple, cookie or self._next_serial(), seen, now)
                return None
        gone = self.leaving.named(cookie)
        if gone is not None and gone.four_tuple == four_tuple:
            # It was left out of two reads, and is there after all.
            self.leaving.remove(gone)
            self.table.put(four_tuple, gone.socket)
            return None
        if identity is None and row.inode and self.leaving.had(four_tuple, row.inode):
            return None
        socket = Socket(cookie, row.inode, row.state, 0, False, 0.0 if seen == "startup" else now)
        internal = self._internal(four_tuple)
        number = self._other_half(four_tuple, row.state, identity, now - self.patience) if internal else None
        if number is not None:
            socket.number, socket.paired = number, True
            self._keep(four_tuple, socket, over, now)
            return None
        socket.number = cookie or self._next_serial()
        if internal and identity is not None and four_tuple != mirrored(four_tuple):
            self._put_mirror(four_tuple, socket, now)
        self._keep(four_tuple, socket, over, now)
        uid, cgroup = owner(row, identity)
        return New(four_tuple, socket.number, seen, row.state, uid, cgroup, internal)

    def _keep(self, four_tuple: FourTuple, socket: Socket, over: bool, now: float) -> None:
        if not over:
            self.table.put(four_tuple, socket)
        elif self.announced:
            self.leaving.add(Gone(socket, four_tuple, now))

    def _put_mirror(self, four_tuple: FourTuple, socket: Socket, now: float) -> None:
        """Know a new internal connection's other socket too, so that its row, or its end, is expected."""
        other = mirrored(four_tuple)
        identity = self._identify(other)
        if not lives(identity):
            return
        known = self.table.get(other)
        if known is not None:
            if known.cookie in (0, identity.cookie):
                return
            self._leave(other, now)
        socket.paired = True
        self.table.put(other, Socket(identity.cookie, identity.inode, ESTABLISHED, socket.number, True, socket.opened))

    def _other_half(self, four_tuple: FourTuple, state: int, identity: SocketInfo | None, since: float) -> int | None:
        """The number of the connection whose other half this socket is, if that was reported, since then or later.

        `state` is that of its row, CLOSE if it was announced; `identity` what the kernel says of it at this moment.
        """
        other = mirrored(four_tuple)
        if state == CLOSE or self._bereft(state, identity, other):
            half = self.leaving.half(four_tuple, since)
            if half is not None:
                self.leaving.pair_up(half)
                return half.socket.number
            number = self.owed.take(four_tuple, since)
            if number is not None:
                return number
        known = self.table.get(other)
        if known is None or other == four_tuple or known.paired:
            return None
        if known.state == TIME_WAIT and AGE.get(state, 3) < AGE[LAST_ACK]:
            # The other end of a connection in TIME_WAIT has had its FIN acknowledged: this is a later connection.
            return None
        if identity is None and known.cookie and self._lives(other, known) and self._lives(four_tuple):
            # That end has another one.
            return None
        if identity is not None and self._replaced(other, known, identity.state == ESTABLISHED):
            return None
        self.table.pair_up(other, known)
        return known.number

    def _lives(self, four_tuple: FourTuple, known: Socket | None = None) -> bool:
        """Whether a four_tuple has a socket now, that is not what is left of one; and if one is `known`, whether it is that."""
        identity = self._identify(four_tuple)
        return lives(identity) and (known is None or identity.cookie == known.cookie)

    def _bereft(self, state: int, identity: SocketInfo | None, other: FourTuple) -> bool:
        """Whether the other end of a socket can have been destroyed: then it is not established, and has none that lives."""
        if ESTABLISHED in (state, identity and identity.state):
            return False
        return identity is None or not self._lives(other)

    def _replaced(self, four_tuple: FourTuple, known: Socket, live: bool) -> bool:
        """Whether a four_tuple has another socket than the known one now; or, if the other end of it is `live`, none."""
        identity = self._identify(four_tuple)
        if not lives(identity):
            return live
        return identity.cookie != known.cookie

    def gone(self, four_tuple: FourTuple, now: float) -> None:
        """A four_tuple that was absent from two reads."""
        known = self.table.get(four_tuple)
        if known is not None and not self._stays(four_tuple, known):
            self._leave(four_tuple, now)

    def missing(self, there: Callable[[FourTuple], object], now: float) -> None:
        """After a restart: what was restored and is not `there`, in the second read either; or has ended unheard."""
        unheard = self.announced and self.doubtful
        for four_tuple, known in list(self.table.items()):
            if (unheard and in_time_wait(known)) or not (there(four_tuple) or self._stays(four_tuple, known)):
                self._leave(four_tuple, now)
        self._compared = True

    def _stays(self, four_tuple: FourTuple, known: Socket) -> bool:
        """Whether a socket lives that no read shows: it can have come while one was under way, and be left out of the next."""
        return self.announced and known.cookie != 0 and self._lives(four_tuple, known)

    def _leave(self, four_tuple: FourTuple, now: float) -> None:
        socket = self.table.drop(four_tuple)
        if self.announced:
            self.leaving.add(Gone(socket, four_tuple, now, doubtful=self.doubtful))

    # --- ends --------------------------------------------------------------------------------------------------------

    def end(self, end: DestroyedSocket, now: float) -> New | Over | None:
        """An announced end; the connection, if no read has shown it, or that it is over, if it was reported."""
        if not end.established:
            return None
        if end.wiped:
            return self._wiped_end(end, now)
        four_tuple = end.four_tuple
        if self._claims:
            self._claims.ended(four_tuple)
        gone = self.leaving.named(end.cookie)
        if gone is not None:
            return self._gone_over(gone, end, now)
        known = self.table.get(four_tuple)
        if known is not None and known.cookie == end.cookie:
            return self._over(four_tuple, self.table.drop(four_tuple), end, now)
        # Nothing that came later than that can be of an earlier connection.
        since = now - self.patience - end.idle
        # One of those whose cookie is not known: of several that had these addresses any will do, and the first is the likeliest.
        gone = self.leaving.nameless(four_tuple, since)
        if gone is not None:
            return self._gone_over(gone, end, now)
        if known is not None and not known.cookie:
            return self._over(four_tuple, self.table.drop(four_tuple), end, now)
        internal = self._internal(four_tuple)
        if internal and self._other_half(four_tuple, CLOSE, None, since) is not None:
            self._close(four_tuple, now)
            return None
        if self.wiped.taken_back(end, now):
            return None
        if internal and not self.wiped.was_other_end(end, now):
            self._await_half(four_tuple, end.cookie, now)
        self._close(four_tuple, now)
        return New(four_tuple, end.cookie, "notification", CLOSE, None, 0, internal)

    def _await_half(self, four_tuple: FourTuple, number: int, now: float) -> None:
        """Wait for the other half of a reported connection, one of whose sockets has ended."""
        other = mirrored(four_tuple)
        if other != four_tuple:
            self.owed.add(other, number, now)

    def _close(self, four_tuple: FourTuple, now: float) -> None:
        """Remember a connection that ended, where a row of it in TIME_WAIT could be taken for a new one."""
        if self.beginning or self.remember_closed:
            self.closed[four_tuple] = now + _TIME_WAIT_LASTS
            self._changes.close(four_tuple)

    def _gone_over(self, gone: Gone, end: DestroyedSocket, now: float) -> Over:
        self.leaving.remove(gone)
        if gone.lost:
            # It was another one that was lost.
            self.lose(1, now)
        return self._over(gone.four_tuple, gone.socket, end, now)

    def _over(self, four_tuple: FourTuple, socket: Socket, end: DestroyedSocket, now: float) -> Over:
        internal = self._internal(four_tuple)
        if internal and not socket.paired:
            self._await_half(four_tuple, socket.number, now)
        self._close(four_tuple, now)
        return Over(four_tuple, socket.number, internal, end.traffic, socket.opened or None)

    def _wiped_end(self, end: DestroyedSocket, now: float) -> New | Over | None:
        """An end whose addresses the kernel wiped: its cookie tells, or its other half, or nothing does."""
        gone = self.leaving.named(end.cookie)
        if gone is not None:
            return self._gone_over(gone, end, now)
        four_tuple = self.table.by_cookie(end.cookie)
        if four_tuple is not None:
            return self._over(four_tuple, self.table.drop(four_tuple), end, now)
        return None if self.wiped.wait(end, now) else _partial(end)

    # --- what time brings --------------------------------------------------------------------------------------------

    def overdue(self, now: float) -> Iterator[New | Over]:
        """What was waited for and did not come: ends without addresses are reported with what is known. Also forgets."""
        for verdict in self.wiped.overdue(now):
            if verdict.four_tuple is None:
                yield _partial(verdict.end)
            elif (gone := self.leaving.nameless(verdict.four_tuple, 0.0)) is not None:
                yield self._gone_over(gone, verdict.end, now)
            else:
                yield self._over(verdict.four_tuple, self.table.drop(verdict.four_tuple), verdict.end, now)
        yield from self._from_before(now)
        if self.beginning and not self.first and not self._claims:
            self._began()
        self.owed.forget(now - self.patience)
        for gone in self.leaving.before(now - self.patience, doubtful=True)[:-_DOUBTFUL]:
            self.leaving.remove(gone)
        for four_tuple in [four_tuple for four_tuple, until in self.closed.items() if until <= now]:
            del self.closed[four_tuple]

    def _from_before(self, now: float) -> Iterator[New]:
        """The connections that were in TIME_WAIT at the first read, and had been announced before we listened."""
        told: set[FourTuple] = set()
        for four_tuple, number, seen in self._claims.from_before():
            internal = self._internal(four_tuple)
            self._close(four_tuple, now)
            half = internal and self._other_half(four_tuple, CLOSE, None, now - self.patience) is not None
            if half or mirrored(four_tuple) in told:
                continue
            if internal:
                told.add(four_tuple)
            yield New(four_tuple, number, seen, TIME_WAIT, None, 0, internal)

    def _began(self) -> None:
        """What was there at the first read is known."""
        self.beginning = False
        if not self.remember_closed:
            self.closed.clear()
        self._changes.knows(self.beginning, self.doubtful)

    def caught_up(self, now: float) -> None:
        """Every end that was announced by now has been dealt with."""
        self._claims.caught_up(now)

    @property
    def waiting(self) -> bool:
        """Whether overdue() will soon have something to tell."""
        return self.wiped.waiting or bool(self._claims)

    def unannounced(self, now: float) -> int:
        """How many sockets have left the table long ago, and were not announced."""
        return len(self.leaving.before(now - self.patience, doubtful=False))

    def lose(self, count: int, now: float) -> None:
        """So many announcements were lost."""
        self.losing += count
        self._lost_since = now

    def lost(self, now: float) -> int:
        """How many connections were lost with their announcements, once that can be told; then they are forgotten.

        Connections that were reported before, by their rows, do not count: they left, and their announcement did not come.
        """
        if not self.losing or now < self._lost_since + 2 * _LATE:
            return 0
        # The last that left: one that left long before can be held by its program.
        late = self.leaving.before(now - _LATE, doubtful=False)[-self.losing :]
        for gone in late:
            self.leaving.lose(gone, now)
        count, self.losing = self.losing - len(late), 0
        return count

    def _next_serial(self) -> int:
        self.serial += 1
        self._changes.serial(self.serial)
        return -self.serial


def _partial(end: DestroyedSocket) -> New:
    return New(end.four_tuple, end.cookie, "notification", CLOSE, None, 0, False, wiped=True)
