"""A kernel small enough to be exact: its sockets, its /proc/net/tcp, its cookies and its announcements.

It does what was measured of the real one (Linux 6.18): cookies are given out when they are first asked for or announced,
and TIME_WAIT copies the cookie its socket had *before* that; a socket that enters TIME_WAIT is announced then; closing with
SO_LINGER 0 wipes addresses; a program that holds a socket which was reset has it announced when it lets it go; announcements are
late and out of order; a read of the table is not atomic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tcpnewconn import model
from tcpnewconn.model import DestroyedSocket, FourTuple, SocketInfo, Traffic, four_tuple_of, mirrored

HERE = bytes([10, 0, 0, 5])
LOOPBACK = bytes([127, 0, 0, 1])
NO_TRAFFIC = Traffic(0, 0, 0, 0, 0)


@dataclass(eq=False)
class Connection:
    """What really happened, to be compared with what was reported."""

    number: int = -1
    four_tuple: FourTuple = b""
    accepted: bool = True
    # Whether it was there when it was looked up.
    named: bool = False
    # Whether a row of it was read; and in how many reads it must have been seen.
    shown: bool = False
    in_rows: int = 0
    announced: int = 0
    # Whether there was no room for an announcement of it; or nobody to hear it.
    dropped: bool = False
    missed: bool = False

    def had(self, four_tuple: FourTuple) -> bool:
        """Whether these were its addresses, of either of its ends."""
        return four_tuple in (self.four_tuple, mirrored(self.four_tuple))


@dataclass(eq=False)
class Socket:
    four_tuple: FourTuple
    connection: Connection
    cookie: int = 0
    aborted: float = float("inf")
    inode: int = 0
    state: int = model.ESTABLISHED
    minisock: bool = False  # struct inet_timewait_sock: announced already
    accepted: bool = True


class Shown(NamedTuple):
    """One row of a read, and whether its connection had ended."""

    connection: Connection
    text: str
    ended: bool


class Kernel:
    """`destroyed` holds the announcements that wait in the work queue, `buffer` those in the receive buffer."""

    def __init__(self, room: int = 1_000_000) -> None:
        self.sockets: dict[FourTuple, Socket] = {}
        self.connections: list[Connection] = []
        # Those that programs hold after they were reset.
        self.held: list[Socket] = []
        # When four_tuples lost their addresses.
        self.wiped: dict[FourTuple, float] = {}
        self.destroyed: list[tuple[DestroyedSocket, Connection, float]] = []
        self.buffer: list[tuple[DestroyedSocket, Connection]] = []
        self._left_out = False
        self.now = 0.0
        self.listening = False
        self.dropped = 0
        self._room = room
        self._next_cookie = 1000
        self._next_inode = 50

    # --- what programs do --------------------------------------------------------------------------------------------

    def open(self, four_tuple: FourTuple, accepted: bool, internal: bool) -> Connection | None:
        """A connection becomes established; its four_tuple was free, or in TIME_WAIT."""
        four_tuples = [four_tuple, mirrored(four_tuple)] if internal else [four_tuple]
        if any(one in self.sockets and not self.sockets[one].minisock for one in four_tuples):
            return None
        connection = Connection(len(self.connections), four_tuple, accepted)
        self.connections.append(connection)
        for index, one in enumerate(four_tuples):
            owned = accepted or (internal and index == 0)
            self.sockets[one] = Socket(one, connection, accepted=owned, inode=self._inode() if owned else 0)
        return connection

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
        """FIN_WAIT2 becomes a minisock of that state, and is announced (tcp_time_wait())."""
        socket = self.sockets.get(four_tuple)
        if socket is not None and socket.state == model.FIN_WAIT2 and not socket.minisock:
            self._to_minisock(socket, model.FIN_WAIT2)

    def finish(self, four_tuple: FourTuple) -> None:
        """Both sides have closed, this one first: it enters TIME_WAIT."""
        socket = self.sockets.get(four_tuple)
        if socket is None:
            return
        other = self.sockets.get(mirrored(four_tuple))
        if other is socket or (other is not None and other.connection is not socket.connection):
            other = None
        if socket.minisock:
            socket.state = model.TIME_WAIT
        else:
            self._to_minisock(socket, model.TIME_WAIT)
        if other is not None and not other.minisock:
            self._destroy(other)

    def passive_close(self, four_tuple: FourTuple) -> None:
        """The peer closed first, and is elsewhere: LAST_ACK, then gone."""
        socket = self.sockets.get(four_tuple)
        if socket is not None and not socket.minisock and not self._other_here(socket):
            self._destroy(socket)

    def reset(self, four_tuple: FourTuple, linger: bool) -> None:
        """RST: from the peer, or (linger) by SO_LINGER 0 here, which wipes this side's addresses."""
        socket = self.sockets.get(four_tuple)
        if socket is None or socket.minisock:
            return
        linger = linger and _wipes(socket)
        if self._other_here(socket):
            self._destroy(self.sockets[mirrored(four_tuple)])
        self._destroy(socket, wiped=linger)

    def aborted(self, four_tuple: FourTuple) -> None:
        """The peer, which may be here too, resets it; the program holds its end, which is announced once it lets go."""
        socket = self.sockets.get(four_tuple)
        if socket is None or socket.minisock or not socket.inode:
            return
        if self._other_here(socket):
            other = self.sockets[mirrored(four_tuple)]
            self._destroy(other, wiped=_wipes(other))
        del self.sockets[four_tuple]
        socket.aborted = self.now
        self.held.append(socket)

    def wiped_lately(self, four_tuple: FourTuple) -> bool:
        """Whether an end that had these addresses lost them within a moment, or the other end of one that did is held or late."""
        wiped = max(self.wiped.get(four_tuple, -9.0), self.wiped.get(mirrored(four_tuple), -9.0))
        late = wiped > 0 and self.announces(four_tuple)
        return (
            wiped > self.now - 1.0
            or late
            or any(socket.four_tuple in (four_tuple, mirrored(four_tuple)) for socket in self.held)
        )

    def heard_in_part(self, four_tuple: FourTuple) -> bool:
        """Whether of a connection on these addresses an announcement was missed, and another was or can be heard."""
        heard = {connection for _, connection in self._announced()}
        return any(one.had(four_tuple) and one.missed and (one.announced or one in heard) for one in self.connections)

    def let_go(self, index: int) -> None:
        """A program closes one of the sockets that were reset."""
        if self.held:
            self._announce_socket(self.held.pop(index % len(self.held)), wiped=False)

    def refused(self, four_tuple: FourTuple) -> None:
        """A connect that failed: announced, never established."""
        self._announce(DestroyedSocket(_wiped(four_tuple), self._cookie(), False, True, NO_TRAFFIC), Connection())

    def time_wait_expires(self, four_tuple: FourTuple) -> None:
        socket = self.sockets.get(four_tuple)
        if socket is not None and socket.minisock:
            del self.sockets[four_tuple]

    def announces(self, four_tuple: FourTuple, but: Connection | None = None) -> bool:
        """Whether the announcement of a connection on these addresses is under way; but not of that one."""
        return any(one.had(four_tuple) and one is not but for _, one in self._announced())

    def _announced(self) -> Iterator[tuple[DestroyedSocket, Connection]]:
        yield from ((end, connection) for end, connection, _ in self.destroyed)
        yield from self.buffer

    def nameless(self) -> list[Connection]:
        """Those that a row has shown, and that were gone before they were looked up."""
        here = {socket.connection for socket in (*self.sockets.values(), *self.held) if not socket.minisock}
        return [one for one in self.connections if one.in_rows and not (one.named or one in here)]

    def in_between(self) -> bool:
        """Whether of what is announced at this moment some must not be lost: what is left would be taken for something else.

        The end of a connection whose addresses another one had by now; and of one that was gone before it was looked up, where
        another had its addresses before, or another end has lost its addresses.
        """
        if any(
            later.had(one.four_tuple) for _, one in self._announced() for later in self.connections[one.number + 1 :]
        ):
            return True
        unannounced = [one for one in self.nameless() if not one.announced]
        if any(earlier.had(one.four_tuple) for one in unannounced for earlier in self.connections[: one.number]):
            return True
        return bool(unannounced) and any(end.wiped for end, _ in self._announced())

    def expire_successors(self) -> None:
        """What is left of a connection that had the addresses of an earlier one: nothing says whose it is."""
        for four_tuple, socket in list(self.sockets.items()):
            earlier = self.connections[: socket.connection.number]
            if socket.minisock and any(other.had(four_tuple) for other in earlier):
                del self.sockets[four_tuple]

    def ended(self) -> set[FourTuple]:
        """Both four_tuples of every connection that is in TIME_WAIT, or FIN_WAIT2 as a remnant."""
        return {
            one
            for four_tuple, socket in self.sockets.items()
            if socket.minisock
            for one in (four_tuple, mirrored(four_tuple))
        }

    def deaf(self) -> None:
        """Nobody listens from now on, and what waited to be heard is lost."""
        self.listening = False
        for _, connection in self.buffer:
            connection.missed = True
        self.buffer.clear()

    # --- what the kernel does ----------------------------------------------------------------------------------------

    def _other_here(self, socket: Socket) -> bool:
        other = self.sockets.get(mirrored(socket.four_tuple))
        return (
            other is not None and other is not socket and other.connection is socket.connection and not other.minisock
        )

    def _inode(self) -> int:
        self._next_inode += 1
        return self._next_inode

    def _cookie(self) -> int:
        self._next_cookie += 1
        return self._next_cookie

    def _to_minisock(self, socket: Socket, state: int) -> None:
        before = socket.cookie
        self._announce_socket(socket, wiped=False)
        minisock = Socket(socket.four_tuple, socket.connection, cookie=before, state=state, minisock=True)
        self.sockets[socket.four_tuple] = minisock

    def _destroy(self, socket: Socket, wiped: bool = False) -> None:
        del self.sockets[socket.four_tuple]
        self._announce_socket(socket, wiped)

    def _announce_socket(self, socket: Socket, wiped: bool) -> None:
        if not socket.cookie:
            socket.cookie = self._cookie()
        if wiped:
            self.wiped[socket.four_tuple] = self.now
        four_tuple = _wiped(socket.four_tuple) if wiped else socket.four_tuple
        idle = max(0.0, self.now - socket.aborted)
        self._announce(DestroyedSocket(four_tuple, socket.cookie, True, wiped, NO_TRAFFIC, idle), socket.connection)

    def _announce(self, end: DestroyedSocket, connection: Connection) -> None:
        if self.listening:
            self.destroyed.append((end, connection, self.now))
        else:
            connection.missed = True

    def work(self, index: int) -> None:
        """The work queue runs for one of the destroyed sockets, in whatever order."""
        if not self.destroyed:
            return
        end, connection, _ = self.destroyed.pop(index % len(self.destroyed))
        if not self.listening:
            connection.missed = True
        elif len(self.buffer) >= self._room:
            self.dropped += 1
            connection.dropped = True
        else:
            self.buffer.append((end, connection))

    def work_all(self) -> None:
        """The work queue runs until it is empty."""
        while self.destroyed:
            self.work(0)

    def hurry(self) -> bool:
        """No announcement is later than half a second; whether some would have been."""
        late = bool(self.destroyed) and self.destroyed[0][2] < self.now - 0.5
        while self.destroyed and self.destroyed[0][2] < self.now - 0.5:
            self.work(0)
        return late

    def identify(self, four_tuple: FourTuple) -> SocketInfo | None:
        socket = self.sockets.get(four_tuple)
        if socket is None:
            return None
        if not socket.cookie:
            socket.cookie = self._cookie()
        socket.connection.named |= not socket.minisock
        return SocketInfo(socket.cookie, 0, 1000, socket.inode, socket.state, socket.minisock)

    # --- /proc/net/tcp -----------------------------------------------------------------------------------------------

    def write_table(self, path: Path, noise: int, between: Callable[[], None]) -> list[Shown]:
        """The table as one read shows it: two pages with something happening in between; a row doubled or left out."""
        four_tuples = sorted(self.sockets)
        first, second = four_tuples[: len(four_tuples) // 2], four_tuples[len(four_tuples) // 2 :]
        rows = [self._row(four_tuple) for four_tuple in first]
        between()
        rows += [self._row(four_tuple) for four_tuple in second if four_tuple in self.sockets]
        if rows and noise % 4 == 1:
            rows.append(rows[noise % len(rows)])
        elif rows and noise % 4 == 2 and not self._left_out:
            # Never from two reads in a row.
            self._left_out = True
            rows.pop(noise % len(rows))
        else:
            self._left_out = False
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
        return Shown(socket.connection, text, not socket.inode and socket.state in (model.TIME_WAIT, model.FIN_WAIT2))


def _wipes(socket: Socket) -> bool:
    """An orphan has nobody who could reset it; what waits to be accepted is reset when its listener closes."""
    return socket.inode > 0 or not socket.accepted


def _wiped(four_tuple: FourTuple) -> FourTuple:
    half = len(four_tuple) // 2
    return bytes(half - 2) + four_tuple[half - 2 : -2] + b"\0\0"


def remote_pair(number: int) -> FourTuple:
    """One of a few four_tuples with another host."""
    return four_tuple_of(HERE, 80, bytes([203, 0, 113, number % 2]), 40000 + number % 3)


def internal_pair(number: int) -> FourTuple:
    return four_tuple_of(LOOPBACK, 50000 + number % 3, LOOPBACK, 8080)
