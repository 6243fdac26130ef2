"""Decides what is new: rows of /proc and announced ends in, each connection out once.

Pure: it reads no clock and does no I/O. What it must ask of the kernel (which socket a pair is now, whether both ends of a
pair are on this host) are two functions that it is given; a simulated kernel serves as well as the real one.

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
  *leaving* until its announcement has come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tcpnewconn.model import (
    CLOSE,
    CLOSE_WAIT,
    CLOSING,
    ESTABLISHED,
    FIN_WAIT1,
    FIN_WAIT2,
    LAST_ACK,
    TIME_WAIT,
    End,
    Identity,
    Pair,
    Row,
    Traffic,
    mirrored,
)
from tcpnewconn.sockets import Socket, Sockets

# How far a connection has come to its end.
_AGE = {ESTABLISHED: 0, FIN_WAIT1: 1, CLOSE_WAIT: 1, FIN_WAIT2: 2, CLOSING: 2, LAST_ACK: 2, TIME_WAIT: 3}

# Seconds for which a socket can stand in TIME_WAIT (TCP_TIMEWAIT_LEN, include/net/tcp.h), and then some.
_TIME_WAIT_LASTS = 90.0
# Seconds after which an announcement that has not come was lost, if some were: they are some milliseconds late (measured).
_LATE = 2.0
# Seconds within which the sockets that were in TIME_WAIT at the first read are announced, if they were not before.
_CLAIMED_WITHIN = 0.2
# Seconds for which the other half of an end without addresses is waited for.
_WIPED_PATIENCE = 1.0


class New(NamedTuple):
    """A connection to be reported: by one of its sockets. `seen` is startup, read or closed.

    Where it is `wiped`, the pair's local address may be zero and its remote port is.
    """

    pair: Pair
    number: int
    seen: str
    state: int
    uid: int | None
    cgroup: int
    internal: bool
    wiped: bool = False


class Over(NamedTuple):
    """A connection that was reported has ended; one of its sockets is gone. `opened` as in Socket, None where not seen."""

    pair: Pair
    number: int
    internal: bool
    traffic: Traffic
    opened: float | None


@dataclass(slots=True)
class _Owed:
    number: int
    until: float


@dataclass(slots=True)
class _Leaving:
    socket: Socket
    pair: Pair
    since: float


class Changes:
    """What must be written down so that the tracker can be built again after a restart: one call per change."""

    def put(self, pair: Pair, socket: Socket) -> None: ...

    def drop(self, pair: Pair) -> None: ...

    def owe(self, pair: Pair, number: int) -> None: ...

    def settle(self, pair: Pair) -> None: ...

    def close(self, pair: Pair) -> None: ...


class Tracker:
    """Which connections were reported.

    `identify` asks the kernel for the socket of a pair (None if it is gone or cannot be asked); `internal` says whether
    both ends of a pair are on this host; `announced` whether the kernel's announcements arrive. `patience` is how many
    seconds to wait for the other half of a connection: it should cover some reads.

    Where announcements that come while nobody runs are lost, a row in TIME_WAIT at the first read after a restart is new
    unless its connection was reported when it ended: `remember_closed` keeps those.
    """

    def __init__(
        self,
        identify: Callable[[Pair], Identity | None],
        internal: Callable[[Pair], bool],
        announced: bool,
        changes: Changes | None = None,
        patience: float = 60.0,
        remember_closed: bool = False,
    ) -> None:
        self.announced = announced
        self.remember_closed = remember_closed
        self.patience = patience
        self.closed: dict[Pair, float] = {}
        # How many sockets left the table and were never announced.
        self.unannounced = 0
        self.sockets = Sockets()
        self.owed: dict[Pair, list[_Owed]] = {}
        self.serial = 0
        self._identify = identify
        self._internal = internal
        self._changes = changes or Changes()
        self._halves = 0
        # Pairs by their cookie, which only ends without addresses must be found by: None until the first of those.
        self._cookies: dict[int, Pair] | None = None
        # Those of `sockets` whose cookie is not known.
        self._nameless: set[Pair] = set()
        # By the cookie, or by the pair where that is not known.
        self._leaving: dict[int | Pair, _Leaving] = {}
        self._wiped: list[tuple[float, End]] = []
        self._lost = 0
        self._lost_since = 0.0
        # Whether rows in TIME_WAIT can be news, though announcements arrive: some can have been missed before.
        self.first = True
        self._first_read = 0.0
        self._caught_up = 0.0
        # Pairs in TIME_WAIT at the first read: were they announced before we listened, or will they be? By the number and
        # the `seen` of the connection that each is, if it was before.
        self._unclaimed: dict[Pair, tuple[int, str]] = {}

    @property
    def open(self) -> int:
        """How many connections are open, as far as rows have shown them; those within this host counted once."""
        return self._halves // 2

    def _count(self, socket: Socket, sign: int) -> None:
        """Count a socket (1), or stop doing so (-1)."""
        if socket.state != TIME_WAIT:
            self._halves += sign * (1 if socket.paired else 2)

    # --- building it again -------------------------------------------------------------------------------------------

    def restore(self, sockets: Sockets, unbroken: bool = False) -> None:
        """The sockets of connections that were reported before a restart.

        `unbroken` where every announcement since has been waiting: then the first read is like any later one.
        """
        self.sockets = sockets
        self.first = not unbroken
        for pair, socket in sockets.items():
            self._count(socket, 1)
            if not socket.cookie and self.announced:
                self._nameless.add(pair)

    def restore_owed(self, pair: Pair, number: int, now: float) -> None:
        """A half that was owed before a restart."""
        self.owed.setdefault(pair, []).append(_Owed(number, now + self.patience))

    def restore_closed(self, pair: Pair, now: float) -> None:
        """A connection that was reported when it ended, before a restart."""
        self.closed[pair] = now + _TIME_WAIT_LASTS

    # --- rows --------------------------------------------------------------------------------------------------------

    def read_done(self, now: float) -> None:
        """The first read is over: from now on rows in TIME_WAIT were announced."""
        if self.first:
            self.first, self._first_read = False, now
        if not self.remember_closed:
            self.closed.clear()

    def row(self, row: Row, seen: str, now: float) -> New | None:
        """A row that is new or has changed; the connection, if it is a new one. `seen` is startup or read."""
        known = self.sockets.get(row.pair)
        if known is None:
            return self._appeared(row, None, seen, now)
        forward = _AGE[row.state] >= _AGE[known.state]
        if row.inode and row.inode == known.inode and forward:
            if row.state != known.state:
                known.state = row.state
                self._put(row.pair, known)
            return None
        identity = self._identity(row)
        if identity is not None and known.cookie:
            same = identity.cookie == known.cookie
        else:
            same = forward and not _other_inode(known, row)
        if not same:
            self._leave(row.pair, now)
            return self._appeared(row, identity, seen, now)
        known.inode, known.state = row.inode, row.state
        known.cookie = known.cookie or self._announced_as(identity)
        self._put(row.pair, known)
        return None

    def _identity(self, row: Row) -> Identity | None:
        """Whose row it is; None if that socket is gone, or has another on its addresses by now."""
        identity = self._identify(row.pair)
        if identity is None or (row.inode and identity.inode and identity.inode != row.inode):
            return None
        if _AGE.get(identity.state, 0) < _AGE[row.state]:
            return None
        ended = identity.remnant or (row.inode and not identity.inode)
        if self.announced and ended and not _in_time_wait(row.inode, row.state):
            # What is left of it can have another cookie than the one that will be announced: its pair will tell.
            return None
        return identity

    def _announced_as(self, identity: Identity | None) -> int:
        """The cookie by which a socket will be announced, 0 if it is not known.

        What is left of a connection in TIME_WAIT has another one, unless its socket had been asked for it before.
        """
        return 0 if identity is None or (self.announced and identity.remnant) else identity.cookie

    def _appeared(self, row: Row, identity: Identity | None, seen: str, now: float) -> New | None:
        announced = self.announced and _in_time_wait(row.inode, row.state)
        if announced and (not self.first or row.pair in self.closed):
            return None
        if identity is None:
            identity = self._identity(row)
        cookie = identity.cookie if identity else 0
        if announced and (identity is None or identity.remnant):
            self._unclaimed[row.pair] = (cookie or self._next_serial(), seen)
            return None
        leaving = self._leaving.pop(cookie, None)
        if leaving is not None and leaving.pair == row.pair:
            # It was left out of two reads, and is there after all.
            self._put(row.pair, leaving.socket)
            return None
        opened = 0.0 if seen == "startup" else now
        socket = Socket(self._announced_as(identity), row.inode, row.state, 0, False, opened)
        internal = self._internal(row.pair)
        if internal:
            number = self._other_half(row.pair, row.state, identity is not None and identity.state == ESTABLISHED)
            if number is not None:
                socket.number, socket.paired = number, True
                self._put(row.pair, socket)
                return None
        socket.number = cookie or self._next_serial()
        if internal and identity is not None:
            self._put_mirror(row.pair, socket)
        self._put(row.pair, socket)
        uid, cgroup = owner(row, identity)
        return New(row.pair, socket.number, seen, row.state, uid, cgroup, internal)

    def _put_mirror(self, pair: Pair, socket: Socket) -> None:
        """Know a new internal connection's other socket too, so that its row, or its end, is expected."""
        other = mirrored(pair)
        if other == pair or other in self.sockets:
            return
        identity = self._identify(other)
        if identity is not None and not identity.remnant:
            socket.paired = True
            self._put(other, Socket(identity.cookie, identity.inode, ESTABLISHED, socket.number, True, socket.opened))

    def _other_half(self, pair: Pair, state: int, open_now: bool) -> int | None:
        """The number of the connection whose other half this socket is, if that has been reported.

        `state` is that of its row, `open_now` whether the kernel says that it is established at this moment.
        """
        # Whose other end has been destroyed is not established: that is a later connection.
        number = None if open_now else self._settle(pair)
        if number is not None:
            return number
        other = mirrored(pair)
        known = self.sockets.get(other)
        if known is None or other == pair or known.paired:
            return None
        if known.state == TIME_WAIT and _AGE.get(state, 3) < _AGE[LAST_ACK]:
            # The other end of a connection in TIME_WAIT has had its FIN acknowledged: this is a later connection.
            return None
        if open_now and other in self._nameless:
            # That end was gone when it was looked up: so is this one's connection with it.
            return None
        known.paired = True
        self._put(other, known)
        return known.number

    def _leaving_half(self, pair: Pair) -> bool:
        """Whether an end is that of the other half of a connection that was reported, and has left the table unannounced."""
        other = mirrored(pair)
        for leaving in self._leaving.values():
            if leaving.pair == other and not leaving.socket.paired:
                leaving.socket.paired = True
                return True
        return False

    def gone(self, pair: Pair, now: float) -> None:
        """A pair that was absent from two reads."""
        if pair in self.sockets:
            self._leave(pair, now)

    def _leave(self, pair: Pair, now: float) -> None:
        socket = self._drop(pair)
        if self.announced:
            self._leaving[socket.cookie or pair] = _Leaving(socket, pair, now)

    # --- ends --------------------------------------------------------------------------------------------------------

    def end(self, end: End, now: float) -> New | Over | None:
        """An announced end; the connection, if no read has shown it, or that it is over, if it was reported."""
        if not end.established:
            return None
        if end.wiped:
            return self._wiped_end(end, now)
        pair = end.pair
        if self._unclaimed:
            self._claim(pair)
            self._claim(mirrored(pair))
        known = self.sockets.get(pair)
        if known is not None and known.cookie in (0, end.cookie):
            return self._over(pair, self._drop(pair), end, now)
        leaving = self._leaving.pop(end.cookie, None) or self._leaving.pop(pair, None)
        if leaving is not None:
            return self._over(pair, leaving.socket, end, now)
        internal = self._internal(pair)
        if internal:
            if self._leaving_half(pair) or self._other_half(pair, CLOSE, open_now=False) is not None:
                self._close(pair, now)
                return None
            self._owe(mirrored(pair), end.cookie, now)
        self._close(pair, now)
        return New(pair, end.cookie, "closed", CLOSE, None, 0, internal)

    def _claim(self, pair: Pair) -> None:
        """An end that can be of this pair has come: if the pair is as it was at the first read, it is that one's."""
        number, _ = self._unclaimed.get(pair, (0, ""))
        identity = self._identify(pair) if number > 0 else None
        if number < 0 or (identity is not None and identity.cookie == number):
            del self._unclaimed[pair]

    def _close(self, pair: Pair, now: float) -> None:
        """Remember a connection that ended, where a row of it in TIME_WAIT could be taken for a new one."""
        if self.first or self.remember_closed:
            self.closed[pair] = now + _TIME_WAIT_LASTS
            self._changes.close(pair)

    def _over(self, pair: Pair, socket: Socket, end: End, now: float) -> Over:
        internal = self._internal(pair)
        if internal and not socket.paired:
            self._owe(mirrored(pair), socket.number, now)
        self._close(pair, now)
        return Over(pair, socket.number, internal, end.traffic, socket.opened or None)

    def _wiped_end(self, end: End, now: float) -> New | Over | None:
        """An end whose addresses the kernel wiped: its cookie tells, or its other half, or nothing does."""
        pair = self._by_cookie(end.cookie)
        if pair is not None:
            return self._over(pair, self._drop(pair), end, now)
        leaving = self._leaving.pop(end.cookie, None)
        if leaving is not None:
            return self._over(leaving.pair, leaving.socket, end, now)
        if self._internal(end.pair) or self._owed_of(end) is not None or self._nameless_of(end) is not None:
            # Its other half may come; or the end of the socket that it may be, and then it was not that. Of the halves that
            # are owed it can be any with its port: those that it is not are announced meanwhile, with their addresses.
            self._wiped.append((now + _WIPED_PATIENCE, end))
            return None
        return _partial(end)

    def _nameless_of(self, end: End) -> Pair | None:
        """A socket without a cookie, which was gone when it was asked for one, that an end without addresses can be of."""
        for pair in self._nameless:
            if _may_be(end, pair):
                return pair
        for key in self._leaving:
            if isinstance(key, bytes) and _may_be(end, key):
                return key
        return None

    def _owed_of(self, end: End) -> Pair | None:
        """The half that has been owed for the shortest time of those that an end without addresses can be."""
        return next((pair for pair in reversed(self.owed) if _may_be(end, pair)), None)

    # --- what time brings --------------------------------------------------------------------------------------------

    def overdue(self, now: float) -> Iterator[New | Over]:
        """What was waited for and did not come: ends without addresses are reported with what is known. Also forgets."""
        while self._wiped and self._wiped[0][0] <= now:
            end = self._wiped.pop(0)[1]
            owed = self._owed_of(end)
            pair = self._nameless_of(end) if owed is None else None
            if owed is not None:
                self._settle(owed)
            elif pair is None:
                yield _partial(end)
            else:
                socket = self._drop(pair) if pair in self._nameless else self._leaving.pop(pair).socket
                yield self._over(pair, socket, end, now)
        if self._unclaimed and self._caught_up > self._first_read + _CLAIMED_WITHIN:
            yield from self._from_before(now)
        for pair in [pair for pair, halves in self.owed.items() if halves[0].until <= now]:
            self._settle(pair)
        for key in [key for key, leaving in self._leaving.items() if leaving.since <= now - self.patience]:
            del self._leaving[key]
            self.unannounced += 1
        for pair in [pair for pair, until in self.closed.items() if until <= now]:
            del self.closed[pair]

    def _from_before(self, now: float) -> Iterator[New]:
        """The connections that were in TIME_WAIT at the first read, and had been announced before we listened."""
        unclaimed, self._unclaimed = self._unclaimed, {}
        told: set[Pair] = set()
        for pair, (number, seen) in unclaimed.items():
            internal = self._internal(pair)
            if mirrored(pair) in told or (internal and self._other_half(pair, TIME_WAIT, open_now=False) is not None):
                continue
            if internal:
                told.add(pair)
            self._close(pair, now)
            yield New(pair, number, seen, TIME_WAIT, None, 0, internal)

    def caught_up(self, now: float) -> None:
        """Every end that was announced by now has been dealt with."""
        self._caught_up = now

    @property
    def waiting(self) -> bool:
        """Whether overdue() will soon have something to tell."""
        return bool(self._wiped or self._unclaimed)

    def lose(self, count: int, now: float) -> None:
        """So many announcements were lost."""
        self._lost += count
        self._lost_since = now

    @property
    def losing(self) -> bool:
        """Whether announcements were lost of which lost() has not told yet."""
        return self._lost > 0

    def lost(self, now: float) -> int:
        """How many connections were lost with their announcements, once that can be told; then they are forgotten.

        Connections that were reported before, by their rows, do not count: they left, and their announcement did not come.
        """
        if not self._lost or now < self._lost_since + 2 * _LATE:
            return 0
        late = [key for key, leaving in self._leaving.items() if leaving.since <= now - _LATE][: self._lost]
        for key in late:
            del self._leaving[key]
        count, self._lost = self._lost - len(late), 0
        return count

    # --- state -------------------------------------------------------------------------------------------------------

    def _next_serial(self) -> int:
        self.serial += 1
        return -self.serial

    def _put(self, pair: Pair, socket: Socket) -> None:
        self._store(pair, socket)
        self._changes.put(pair, socket)

    def _store(self, pair: Pair, socket: Socket) -> None:
        self._forget(pair)
        self.sockets[pair] = socket
        self._count(socket, 1)
        if not socket.cookie:
            if self.announced:
                self._nameless.add(pair)
        elif self._cookies is not None:
            self._cookies[socket.cookie] = pair

    def _drop(self, pair: Pair) -> Socket:
        socket = self._forget(pair)
        assert socket is not None
        self._changes.drop(pair)
        return socket

    def _forget(self, pair: Pair) -> Socket | None:
        socket = self.sockets.pop(pair)
        if socket is not None:
            self._count(socket, -1)
            self._nameless.discard(pair)
            if self._cookies is not None and self._cookies.get(socket.cookie) == pair:
                del self._cookies[socket.cookie]
        return socket

    def _by_cookie(self, cookie: int) -> Pair | None:
        if self._cookies is None:
            self._cookies = {socket.cookie: pair for pair, socket in self.sockets.items() if socket.cookie}
        return self._cookies.get(cookie)

    def _owe(self, pair: Pair, number: int, now: float) -> None:
        if pair == mirrored(pair):
            return
        self.owed.setdefault(pair, []).append(_Owed(number, now + self.patience))
        self._changes.owe(pair, number)

    def _settle(self, pair: Pair) -> int | None:
        halves = self.owed.get(pair)
        if halves is None:
            return None
        number = halves.pop(0).number
        if not halves:
            del self.owed[pair]
        self._changes.settle(pair)
        return number


def owner(row: Row | None, identity: Identity | None) -> tuple[int | None, int]:
    """User and cgroup of a socket; None and 0 where not known."""
    if identity is None:
        return (row.uid if row is not None else None), 0
    if identity.inode:
        return identity.uid, identity.cgroup
    return (row.uid if row is not None else None), identity.cgroup


def _other_inode(known: Socket, row: Row) -> bool:
    """Whether the inodes say that a row is not the known socket."""
    if row.inode and known.inode:
        return row.inode != known.inode
    # An owned socket leaves ESTABLISHED and CLOSE_WAIT when it is closed: without an inode this one was never accepted.
    return bool(known.inode) and row.state in (ESTABLISHED, CLOSE_WAIT)


def _in_time_wait(inode: int, state: int) -> bool:
    """Whether a row is of a connection that has ended: its socket was announced, or will be at once."""
    return inode == 0 and state in (TIME_WAIT, FIN_WAIT2)


def _may_be(end: End, pair: Pair) -> bool:
    """Whether an end without addresses can be that of this pair: its local port and its remote address remain."""
    if len(pair) != len(end.pair):
        return False
    half = len(pair) // 2
    address = end.pair[: half - 2]
    return end.pair[half - 2 : -2] == pair[half - 2 : -2] and (not any(address) or address == pair[: half - 2])


def _partial(end: End) -> New:
    return New(end.pair, end.cookie, "closed", CLOSE, None, 0, False, wiped=True)
