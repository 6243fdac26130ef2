"""A kernel small enough to be exact: its sockets, its /proc/net/tcp, its cookies and its destroy notifications.

It does what was measured of the real one (Linux 6.18): cookies are given out when they are first asked for or notified, and a
timewait socket copies the cookie its full socket had *before* that; a socket that enters TIME_WAIT is notified then; closing with
SO_LINGER 0 clears addresses; a program that keeps a socket open which was reset has it notified when it lets it go; notifications
are late and out of order; a poll of the table is not atomic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from tcpnewconn import model
from tcpnewconn.model import DestroyedSocket, FourTuple, SocketInfo, Traffic, mirrored

NO_TRAFFIC = Traffic(0, 0, 0, 0, 0)
# No notification is later than that, in seconds.
_LATEST = 0.5
# For so many seconds a socket is in TIME_WAIT (TCP_TIMEWAIT_LEN, include/net/tcp.h).
_TIME_WAIT_LASTS = 60.0
# After so many seconds nobody expects one any more.
_LONG_OVER = 90.0


@dataclass(eq=False)
class Connection:
    """The connections that really happened, to be compared with the reported ones."""

    number: int = -1
    four_tuple: FourTuple = b""
    accepted: bool = True
    # Whether it was there when it was looked up.
    looked_up: bool = False
    # Whether a row of it was polled; and in how many polls it must have been seen.
    shown: bool = False
    in_rows: int = 0
    notified: int = 0
    # When the last of its notifications was received.
    last_notified: float = float("inf")
    # Whether the receive buffer was full when it was notified; or nobody received that.
    dropped: bool = False
    missed: bool = False

    def had(self, four_tuple: FourTuple) -> bool:
        """Whether this was its 4-tuple, at either of its ends."""
        return four_tuple in (self.four_tuple, mirrored(self.four_tuple))


@dataclass(eq=False)
class Socket:
    """`reset` is when its peer reset it. A `timewait` socket (struct inet_timewait_sock) was notified before, and has an end."""

    four_tuple: FourTuple
    connection: Connection
    cookie: int = 0
    reset: float = float("inf")
    inode: int = 0
    state: int = model.ESTABLISHED
    timewait: bool = False
    expires: float = float("inf")
    accepted: bool = True


class Notification(NamedTuple):
    """The notification of a destroyed socket, the 4-tuple that it had, and when it was destroyed (monotonic seconds)."""

    destroyed: DestroyedSocket
    connection: Connection
    four_tuple: FourTuple
    time: float


class Shown(NamedTuple):
    """One row of a poll, and whether its connection had ended."""

    socket: Socket
    text: str
    ended: bool


class Kernel:
    """`queue` holds the notifications that wait in the work queue, `buffer` those in the receive buffer, which has some `room`.

    `now` is the monotonic time in seconds; `dropped` counts the notifications for which there was no room.
    """

    def __init__(self, room: int = 1_000_000) -> None:
        self.sockets: dict[FourTuple, Socket] = {}
        self.connections: list[Connection] = []
        # Those that programs keep open after they were reset.
        self.kept_open: list[Socket] = []
        self.queue: list[Notification] = []
        self.buffer: list[Notification] = []
        self.now = 100.0
        self.listening = False
        # Whether the work queue does not run by itself.
        self.starved = False
        self.dropped = 0
        # When sockets lost their addresses.
        self._cleared: dict[FourTuple, float] = {}
        self._capacity = room
        self._left_out = False
        self._next_cookie = 1000
        self._next_inode = 50

    # --- what programs do --------------------------------------------------------------------------------------------

    def open(self, four_tuple: FourTuple, accepted: bool, internal: bool) -> None:
        """A connection becomes established, if its 4-tuple is free or in TIME_WAIT."""
        four_tuples = [four_tuple, mirrored(four_tuple)] if internal else [four_tuple]
        if any(one in self.sockets and not self.sockets[one].timewait for one in four_tuples):
            return
        connection = Connection(len(self.connections), four_tuple, accepted)
        self.connections.append(connection)
        for index, one in enumerate(four_tuples):
            owned = accepted or (internal and index == 0)
            self.sockets[one] = Socket(one, connection, accepted=owned, inode=self._inode() if owned else 0)

    def accept(self, four_tuple: FourTuple) -> None:
        socket = self.sockets.get(four_tuple)
        if socket is not None and not socket.accepted:
            socket.accepted, socket.inode = True, self._inode()
            socket.connection.accepted = True

    def half_close(self, four_tuple: FourTuple) -> None:
        """The program closes; its peer has not. The socket is an orphan now."""
        socket = self.sockets.get(four_tuple)
        if socket is None or socket.state != model.ESTABLISHED or not socket.accepted:
            return
        self.shut_down(four_tuple)
        socket.inode = 0

    def shut_down(self, four_tuple: FourTuple) -> None:
        """The program has no more to send, and reads on."""
        socket = self.sockets.get(four_tuple)
        if socket is None or socket.state != model.ESTABLISHED or not socket.accepted:
            return
        socket.state = model.FIN_WAIT2
        other = self.sockets.get(mirrored(four_tuple))
        if other is not None and other.connection is socket.connection and other.state == model.ESTABLISHED:
            other.state = model.CLOSE_WAIT

    def orphan_times_out(self, four_tuple: FourTuple) -> None:
        """FIN_WAIT2 becomes a timewait socket in that state, and is notified (tcp_time_wait())."""
        socket = self.sockets.get(four_tuple)
        if socket is not None and socket.state == model.FIN_WAIT2 and not socket.timewait:
            self._to_timewait(socket, model.FIN_WAIT2)

    def finish(self, four_tuple: FourTuple) -> None:
        """Both sides have closed, this one first: it enters TIME_WAIT."""
        socket = self.sockets.get(four_tuple)
        if socket is None:
            return
        other = self.sockets.get(mirrored(four_tuple))
        if other is socket or (other is not None and other.connection is not socket.connection):
            other = None
        if socket.timewait:
            socket.state, socket.expires = model.TIME_WAIT, self.now + _TIME_WAIT_LASTS
        else:
            self._to_timewait(socket, model.TIME_WAIT)
        if other is not None and not other.timewait:
            self._destroy(other)

    def passive_close(self, four_tuple: FourTuple) -> None:
        """The peer closed first, and is elsewhere: LAST_ACK, then gone."""
        socket = self.sockets.get(four_tuple)
        if socket is not None and not socket.timewait and self._peer(socket) is None:
            self._destroy(socket)

    def reset(self, four_tuple: FourTuple, linger: bool) -> None:
        """RST: from the peer, or (linger) by SO_LINGER 0 here, which clears this side's addresses."""
        socket = self.sockets.get(four_tuple)
        if socket is None or socket.timewait:
            return
        unaddressed = linger and _can_be_cleared(socket)
        peer = self._peer(socket)
        if peer is not None:
            self._destroy(peer)
        self._destroy(socket, unaddressed)

    def abort(self, four_tuple: FourTuple) -> None:
        """The peer, which may be here too, resets it; the program keeps its socket open, which is notified once it lets it go."""
        socket = self.sockets.get(four_tuple)
        if socket is None or socket.timewait or not socket.inode:
            return
        peer = self._peer(socket)
        if peer is not None:
            self._destroy(peer, _can_be_cleared(peer))
        del self.sockets[four_tuple]
        socket.reset = self.now
        self.kept_open.append(socket)

    def let_go(self, four_tuple: FourTuple | None = None, nth: int = 1) -> None:
        """A program closes the nth of the sockets that were reset on a 4-tuple, or of all."""
        ours = [one for one in self.kept_open if four_tuple in (None, one.four_tuple)]
        if ours:
            socket = ours[min(nth, len(ours)) - 1]
            self.kept_open.remove(socket)
            self._notify_of(socket)

    def refuse(self, four_tuple: FourTuple) -> None:
        """A connect that failed: notified, never established."""
        destroyed = DestroyedSocket(_cleared(four_tuple), self._cookie(), False, True, NO_TRAFFIC)
        self._notify(destroyed, Connection(), four_tuple)

    def time_wait_expires(self, four_tuple: FourTuple) -> None:
        socket = self.sockets.get(four_tuple)
        if socket is not None and socket.timewait:
            del self.sockets[four_tuple]

    # --- what can be distinguished -----------------------------------------------------------------------------------

    def cleared_lately(self, four_tuple: FourTuple) -> bool:
        """Whether a socket with this 4-tuple, or its peer, has lost its addresses within a moment; or is kept open or late."""
        cleared = max(self._cleared.get(four_tuple, -9.0), self._cleared.get(mirrored(four_tuple), -9.0))
        late = cleared > 0 and self.notifies(four_tuple)
        return (
            cleared > self.now - 1.0
            or late
            or any(socket.four_tuple in (four_tuple, mirrored(four_tuple)) for socket in self.kept_open)
        )

    def notified_in_part(self, four_tuple: FourTuple) -> bool:
        """Whether of a connection on a 4-tuple a notification was missed, and another was or can be received."""
        received = {one.connection for one in self._under_way()}
        return any(one.had(four_tuple) and one.missed and (one.notified or one in received) for one in self.connections)

    def notifies(self, four_tuple: FourTuple, but: Connection | None = None) -> bool:
        """Whether the notification of a connection on a 4-tuple is under way; but not of that one."""
        return any(one.connection.had(four_tuple) and one.connection is not but for one in self._under_way())

    def _under_way(self) -> chain[Notification]:
        return chain(self.queue, self.buffer)

    def gone_when_looked_up(self) -> list[Connection]:
        """Those that a row has shown, and that were gone before they were looked up."""
        here = {socket.connection for socket in (*self.sockets.values(), *self.kept_open) if not socket.timewait}
        return [one for one in self.connections if one.in_rows and not (one.looked_up or one in here)]

    def must_not_be_lost(self) -> bool:
        """Whether of the notifications under way some must not be lost: what is left would be taken for something else.

        That of a connection whose 4-tuple another one has by now; and of one that was gone before it was looked up, where
        another had its 4-tuple before, or another socket has lost its addresses.
        """
        if any(
            later.had(one.connection.four_tuple)
            for one in self._under_way()
            for later in self.connections[one.connection.number + 1 :]
        ):
            return True
        not_notified = [one for one in self.gone_when_looked_up() if not one.notified]
        if any(earlier.had(one.four_tuple) for one in not_notified for earlier in self.connections[: one.number]):
            return True
        return bool(not_notified) and any(one.destroyed.unaddressed for one in self._under_way())

    def expire_successors(self) -> None:
        """A timewait socket of a connection that had the 4-tuple of an earlier one: nothing shows which one it is of.

        But for an earlier one whose notifications were all received so long ago that nothing can be left of it.
        """
        for four_tuple, socket in list(self.sockets.items()):
            earlier = self.connections[: socket.connection.number]
            if socket.timewait and any(one.had(four_tuple) and not self._is_long_over(one) for one in earlier):
                del self.sockets[four_tuple]

    def _is_long_over(self, connection: Connection) -> bool:
        if connection.missed or connection.dropped or self.notifies(connection.four_tuple):
            return False
        if any(socket.connection is connection for socket in (*self.sockets.values(), *self.kept_open)):
            return False
        return connection.last_notified < self.now - _LONG_OVER

    def ended(self) -> set[FourTuple]:
        """Both 4-tuples of every connection of which there is a timewait socket."""
        ended = [four_tuple for four_tuple, socket in self.sockets.items() if socket.timewait]
        return {one for four_tuple in ended for one in (four_tuple, mirrored(four_tuple))}

    # --- what the kernel does ----------------------------------------------------------------------------------------

    def _peer(self, socket: Socket) -> Socket | None:
        """The full socket at the other end of a connection within this host."""
        other = self.sockets.get(mirrored(socket.four_tuple))
        if other is None or other is socket or other.connection is not socket.connection or other.timewait:
            return None
        return other

    def _inode(self) -> int:
        self._next_inode += 1
        return self._next_inode

    def _cookie(self) -> int:
        self._next_cookie += 1
        return self._next_cookie

    def _to_timewait(self, socket: Socket, state: int) -> None:
        before = socket.cookie
        self._notify_of(socket)
        expires = self.now + _TIME_WAIT_LASTS
        self.sockets[socket.four_tuple] = Socket(
            socket.four_tuple, socket.connection, cookie=before, state=state, timewait=True, expires=expires
        )

    def _destroy(self, socket: Socket, unaddressed: bool = False) -> None:
        del self.sockets[socket.four_tuple]
        self._notify_of(socket, unaddressed)

    def _notify_of(self, socket: Socket, unaddressed: bool = False) -> None:
        if not socket.cookie:
            socket.cookie = self._cookie()
        four_tuple = socket.four_tuple
        if unaddressed:
            self._cleared[four_tuple] = self.now
            four_tuple = _cleared(four_tuple)
        idle = max(0.0, self.now - socket.reset)
        destroyed = DestroyedSocket(four_tuple, socket.cookie, True, unaddressed, NO_TRAFFIC, idle)
        self._notify(destroyed, socket.connection, socket.four_tuple)

    def _notify(self, destroyed: DestroyedSocket, connection: Connection, four_tuple: FourTuple) -> None:
        if self.listening or self.starved:
            self.queue.append(Notification(destroyed, connection, four_tuple, self.now))
        else:
            connection.missed = True

    def deliver(self, four_tuple: FourTuple | None = None, nth: int = 1) -> None:
        """The work queue runs for the nth destroyed socket that had a 4-tuple, or of all: in whatever order."""
        ours = [index for index, one in enumerate(self.queue) if four_tuple in (None, one.four_tuple)]
        if not ours:
            return
        notification = self.queue.pop(ours[min(nth, len(ours)) - 1])
        if not self.listening:
            notification.connection.missed = True
        elif len(self.buffer) >= self._capacity:
            self.dropped += 1
            notification.connection.dropped = True
        else:
            self.buffer.append(notification)

    def run_work_queue(self) -> None:
        """The work queue has some moments to run in."""
        if not self.starved:
            self.deliver_all()

    def deliver_all(self) -> None:
        """The work queue runs until it is empty."""
        while self.queue:
            self.deliver()

    def pass_time(self, seconds: float) -> bool:
        """Deliver the notifications that would be too late; whether there are any."""
        self.now += seconds
        for four_tuple in [one for one, socket in self.sockets.items() if socket.expires <= self.now]:
            del self.sockets[four_tuple]
        latest = float("-inf") if self.starved else self.now - _LATEST
        late = bool(self.queue) and self.queue[0].time < latest
        while self.queue and self.queue[0].time < latest:
            self.deliver()
        return late

    def close_receive_buffer(self) -> None:
        """Nobody listens from now on, and what waited to be received is lost."""
        self.listening = False
        for one in self.buffer:
            one.connection.missed = True
        self.buffer.clear()

    def look_up(self, four_tuple: FourTuple) -> SocketInfo | None:
        socket = self.sockets.get(four_tuple)
        if socket is None:
            return None
        if not socket.cookie:
            socket.cookie = self._cookie()
        socket.connection.looked_up |= not socket.timewait
        return SocketInfo(socket.cookie, 0, 1000, socket.inode, socket.state, socket.timewait)

    def established(self, half: int) -> list[tuple[tuple[FourTuple, int, int, int, int], Connection]]:
        """What a dump has of every established socket in one half of the table; it gives each of them its cookie."""
        four_tuples = sorted(self.sockets)
        middle = len(four_tuples) // 2
        found = []
        for four_tuple in four_tuples[middle:] if half else four_tuples[:middle]:
            socket = self.sockets[four_tuple]
            if socket.state == model.ESTABLISHED:
                socket.cookie = socket.cookie or self._cookie()
                found.append(((four_tuple, socket.cookie, 0, 1000, socket.inode), socket.connection))
        return found

    # --- /proc/net/tcp -----------------------------------------------------------------------------------------------

    def write_table(
        self,
        path: Path,
        between: Callable[[], None],
        doubled: FourTuple | None,
        left_out: FourTuple | None,
        left_out_again: FourTuple | None,
    ) -> list[Shown]:
        """The table as one poll shows it: two pages with something happening in between; a row doubled or left out.

        A row is left out where none was in the poll before, or `again`.
        """
        four_tuples = sorted(self.sockets)
        half = len(four_tuples) // 2
        rows = [self._row(one) for one in four_tuples[:half]]
        between()
        rows += [self._row(one) for one in four_tuples[half:] if one in self.sockets]
        rows += [row for row in rows if row.socket.four_tuple == doubled]
        omitted = left_out_again if self._left_out else left_out
        missing = [row for row in rows if row.socket.four_tuple == omitted]
        self._left_out = bool(missing)
        if missing:
            rows.remove(missing[0])
        text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        for slot, row in enumerate(rows):
            text += f"{slot:4}: {row.text}\n"
        path.write_text(text)
        return rows

    def _row(self, four_tuple: FourTuple) -> Shown:
        socket = self.sockets[four_tuple]
        half = len(four_tuple) // 2
        ends = " ".join(
            f"{int.from_bytes(end[:4], 'little'):08X}:{end[4:].hex().upper()}"
            for end in (four_tuple[:half], four_tuple[half:])
        )
        uid = 1000 if socket.inode else 0
        text = f"{ends} {socket.state:02X} 00000000:00000000 00:00000000 00000000 {uid:5}        0 {socket.inode} 1"
        return Shown(socket, text, not socket.inode and socket.state in (model.TIME_WAIT, model.FIN_WAIT2))


def _can_be_cleared(socket: Socket) -> bool:
    """An orphan has nobody who could reset it; what waits to be accepted is reset when its listener closes."""
    return socket.inode > 0 or not socket.accepted


def _cleared(four_tuple: FourTuple) -> FourTuple:
    half = len(four_tuple) // 2
    return bytes(half - 2) + four_tuple[half - 2 : -2] + b"\0\0"
