"""Decides what is new: polls and destroyed sockets in, each connection out once.

Pure: it reads no clock and does no I/O. It asks the kernel two questions (which socket a 4-tuple is now, whether both ends of a
4-tuple are on this host) through two functions that it is given; tests give it those of a simulated kernel.

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

from collections.abc import Callable

from tcpnewconn.kernel.procnet import Poll
from tcpnewconn.model import CLOSE, DestroyedSocket, FourTuple, SocketInfo, mirrored
from tcpnewconn.state.owner import Log
from tcpnewconn.tracking.cursor import Cursor
from tcpnewconn.tracking.internal import Peers
from tcpnewconn.tracking.outcomes import ClosedSocket, NewConnection, Report
from tcpnewconn.tracking.rows import Rows
from tcpnewconn.tracking.run import Notifications, Run, Stage
from tcpnewconn.tracking.settling import Settling
from tcpnewconn.tracking.socket import Phase, Socket
from tcpnewconn.tracking.sockets import Sockets
from tcpnewconn.tracking.unaddressed import Unaddressed

# Seconds after which a notification that has not come was lost, if some were: they are some milliseconds late (measured).
_LATE = 2.0
# For so many seconds a notification is expected that is on its way. On a starved machine it can be that late; and it does come.
_ON_ITS_WAY = 10.0


class Tracker:
    """Which connections were reported. All times are monotonic, in seconds.

    `look_up` asks the kernel for the socket of a 4-tuple (None if it is gone or cannot be asked); `internal` says whether
    both ends of a 4-tuple are on this host.
    """

    def __init__(
        self,
        look_up: Callable[[FourTuple], SocketInfo | None],
        internal: Callable[[FourTuple], bool],
        report: Report,
        notifications: Notifications,
        log: Log | None = None,
        socket: int = 0,
    ) -> None:
        """`socket` as in Cursor."""
        self.cursor = Cursor(log, socket)
        self.sockets = Sockets(log)
        self.run = Run(self.sockets, notifications, log)
        self._internal = internal
        self._report = report
        self._unaddressed = Unaddressed(self.sockets, look_up, internal, log)
        self._peers = Peers(self.sockets, look_up)
        self._settling = Settling(self.run, self.sockets, self._peers, look_up, internal, report)
        self._rows = Rows(self.run, self.sockets, self._peers, self._settling, look_up, internal, report)
        # 4-tuples of destroyed sockets that polls may have shown: a row that stands there again is another socket's.
        self._vacated: set[FourTuple] = set()

    def resume(self, now: float, counter: int) -> None:
        """Continue the last run; `counter` is the kernel's count of lost notifications."""
        self.run.resume(self.cursor.resume(counter), self.sockets.largest_serial())
        self.sockets.resume(now, self.run.notified, self.run.gap)
        self._unaddressed.resume()

    def notify(self, socket: int) -> None:
        """Destroy notifications arrive from now on, where they did not; `socket` as in Cursor."""
        self.cursor.receive_from(socket)
        self.run.notify()

    # --- a poll ------------------------------------------------------------------------------------------------------

    def poll(self, poll: Poll, now: float) -> None:
        """Apply a poll; then tick."""
        run, rows = self.run, self._rows
        run.poll_begins(now)
        if run.compares:
            rows.drop_missing(poll, now)
        for four_tuple in poll.gone:
            rows.absent(four_tuple, now)
        for row in poll.rows(again=self._vacated, ended=run.stops):
            rows.row(row, now)
        self._vacated = {one for one in self._vacated if poll.absent_once(one)}
        run.poll_ends()
        self.tick(now)

    # --- a destroyed socket ------------------------------------------------------------------------------------------

    def destroyed(self, destroyed: DestroyedSocket, now: float) -> None:
        """Apply a destroyed socket. The order of the rules matters."""
        if not destroyed.established:
            return
        sockets, four_tuple = self.sockets, destroyed.four_tuple
        if destroyed.unaddressed:
            self._destroyed_unaddressed(destroyed, now)
            return
        if self._is_plain(destroyed, now):
            return
        if self.run.stage is not Stage.RUNNING and sockets.any_in(Phase.ENDED_BEFORE_START):
            self._settling.claim(four_tuple)
        dying = sockets.dying_with_cookie(destroyed.cookie)
        known = sockets.shown(four_tuple)
        if dying is not None:
            self._closed(dying, destroyed, now)
        elif known is not None and known.cookie == destroyed.cookie:
            self._closed(known, destroyed, now)
        elif sockets.has(four_tuple, Phase.DYING) and (
            dying := sockets.dying_without_cookie(four_tuple, self._since(destroyed, now))
        ):
            # Of several that had these addresses any will do, and the first is the likeliest.
            self._closed(dying, destroyed, now)
        elif known is not None and not known.cookie:
            self._closed(known, destroyed, now)
        else:
            self._never_shown(destroyed, now)

    def _is_plain(self, destroyed: DestroyedSocket, now: float) -> bool:
        """Whether nothing is known of the addresses of one, but that it may be expected: as most are. Then it is applied.

        The rules below come to the same, in three times the time.
        """
        sockets, four_tuple = self.sockets, destroyed.four_tuple
        if self.run.remembers_closed or not sockets.is_unknown(four_tuple) or self._unaddressed.has_any:
            return False
        if not self._internal(four_tuple):
            self._notified(destroyed, False, now)
            return True
        other = mirrored(four_tuple)
        if other == four_tuple or not sockets.is_unknown(other):
            return False
        expected = sockets.first(four_tuple, Phase.EXPECTED, self._since(destroyed, now))
        if expected is not None:
            sockets.forget(expected)
            self._peer_closed(destroyed, expected, now)
        else:
            self._peers.expect(four_tuple, destroyed.cookie, None, now)
            self._notified(destroyed, True, now)
        return True

    def _since(self, destroyed: DestroyedSocket, now: float) -> float:
        """A socket that came later than that cannot be of an earlier connection."""
        return self.run.window(now) - destroyed.idle

    def _never_shown(self, destroyed: DestroyedSocket, now: float) -> None:
        """A destroyed socket that no poll has shown."""
        four_tuple = destroyed.four_tuple
        if self.sockets.any_in(Phase.CLOSED) and self._settling.late(four_tuple):
            return
        internal = self._internal(four_tuple)
        if internal:
            peer = self._peers.of(four_tuple, CLOSE, None, self._since(destroyed, now))
            if peer is not None:
                self.run.close(four_tuple, now)
                self._peer_closed(destroyed, peer, now)
                return
        if self._unaddressed.taken_back(destroyed, now):
            return
        if internal and not self._unaddressed.was_peer(destroyed, now):
            self._peers.expect(four_tuple, destroyed.cookie, None, now)
        self.run.close(four_tuple, now)
        self._notified(destroyed, internal, now)

    def _peer_closed(self, destroyed: DestroyedSocket, peer: Socket, now: float) -> None:
        """The second socket of a connection within this host was destroyed; `peer` is what was known of it."""
        closed = ClosedSocket(destroyed.four_tuple, peer.number, True, destroyed, peer.opened or None)
        self._report(closed._replace(only_notified=not peer.shown), now)

    def _destroyed_unaddressed(self, destroyed: DestroyedSocket, now: float) -> None:
        """Find by its cookie which socket it was, or its peer."""
        cookie = destroyed.cookie
        known = self.sockets.dying_with_cookie(cookie) or self.sockets.shown_with_cookie(cookie)
        if known is not None:
            self._closed(known, destroyed, now)
        elif not self._unaddressed.wait(destroyed, now):
            self._notified(destroyed, False, now)

    def _notified(self, destroyed: DestroyedSocket, internal: bool, now: float) -> None:
        new = (destroyed.four_tuple, destroyed.cookie, "notification", CLOSE, None, 0, internal, destroyed, False)
        self._report(tuple.__new__(NewConnection, new), now)

    def _notified_late(self, destroyed: DestroyedSocket, internal: bool, now: float) -> None:
        """An unaddressed socket has waited: its other end is elsewhere, or was unaddressed, too."""
        four_tuple = destroyed.four_tuple
        for each in (four_tuple, mirrored(four_tuple)) if internal else ():
            self.run.close(each, now)
        self._notified(destroyed, internal, now)

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
            self._peers.expect(four_tuple, socket.number, socket.opened, now)
        self.run.close(four_tuple, now)
        if sure:
            opened, uid, cgroup = socket.opened or None, socket.uid, socket.cgroup
            self._report(ClosedSocket(four_tuple, socket.number, internal, destroyed, opened, uid, cgroup), now)

    # --- the other ends of connections with other network namespaces -----------------------------------------------------

    def shown(self, four_tuple: FourTuple) -> Socket | None:
        """The socket of a reported connection that the last polls show: a copy."""
        return self.sockets.shown(four_tuple)

    def knows(self, four_tuple: FourTuple) -> bool:
        """Whether a socket of this 4-tuple was reported, or is expected, and is not known as destroyed."""
        has = self.sockets.has
        return self.shown(four_tuple) is not None or has(four_tuple, Phase.DYING) or has(four_tuple, Phase.EXPECTED)

    def expect(self, four_tuple: FourTuple, now: float, at_once: bool = False) -> None:
        """A connection was reported by another namespace: its socket here is not, `at_once` if its notification is on its way."""
        since = self.run.window(now) + _ON_ITS_WAY if at_once else now
        self.sockets.enter(Socket(four_tuple, shown=False), Phase.EXPECTED, since)

    def take_expected(self, four_tuple: FourTuple, now: float) -> bool:
        """Whether a socket is expected; it is not any more."""
        expected = self.sockets.first(four_tuple, Phase.EXPECTED, self.run.window(now))
        if expected is not None:
            self.sockets.forget(expected)
        return expected is not None

    # --- a tick --------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Decide what is overdue, report it, and forget the sockets whose time is over."""
        window = self.run.window(now)
        for verdict in self._unaddressed.tick(now, window):
            if verdict.four_tuple is None:
                self._notified_late(verdict.socket, verdict.internal, now)
                continue
            dying = self.sockets.dying_without_cookie(verdict.four_tuple, float("-inf"))
            socket = dying or self.sockets.shown(verdict.four_tuple)
            assert socket is not None
            self._closed(socket, verdict.socket, now, sure=False)
        self._settling.tick(now)
        self.sockets.expire(now, window)
        self._settle_losses(now)
        self.run.record()

    def caught_up(self, now: float) -> None:
        """Every notification that was there by now has been applied."""
        self._settling.caught_up(now)

    @property
    def waiting(self) -> bool:
        """Whether tick() will soon have something to report."""
        return self._unaddressed.waiting or self.expects

    @property
    def expects(self) -> bool:
        """Whether there are sockets in TIME_WAIT that are not known as notified."""
        return self.sockets.any_in(Phase.ENDED_BEFORE_START)

    def not_notified(self, now: float) -> int:
        """How many sockets have been dying for long, without a notification and without a gap that explains it."""
        return len(self.sockets.dying_before(self.run.window(now), gap=False))

    def _settle_losses(self, now: float) -> None:
        """Split the lost notifications: those of sockets that polls had shown, and those of connections that were lost, too.

        The former have no row any longer, and their notification did not come.
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
        """Called twice: the next poll is the last but one, and then the last. Notifications that come after it may be missed.

        Rows in TIME_WAIT of these polls, and connections that are closed meanwhile, must therefore be known as reported. What has
        come into TIME_WAIT between them shows whether notifications are late.
        """
        self.run.stop()
