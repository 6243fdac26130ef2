"""Which socket each row of a poll is of: a known one, as it is now; the peer of a known one; or a new one.

The order of the rules matters, and cannot be reduced: see matching.py for what each of them asks.
"""

from __future__ import annotations

from collections.abc import Callable

from tcpnewconn.kernel.procnet import Poll
from tcpnewconn.model import TIME_WAIT, FourTuple, Row, SocketInfo, mirrored
from tcpnewconn.tracking.internal import Peers
from tcpnewconn.tracking.matching import attribution, can_be, in_time_wait, is_full, is_of
from tcpnewconn.tracking.outcomes import NewConnection, Report
from tcpnewconn.tracking.run import Run, Stage
from tcpnewconn.tracking.settling import Settling
from tcpnewconn.tracking.socket import Phase, Socket
from tcpnewconn.tracking.sockets import Sockets


class Rows:
    """`look_up`, `internal` and `report` as in Tracker."""

    def __init__(
        self,
        run: Run,
        sockets: Sockets,
        peers: Peers,
        settling: Settling,
        look_up: Callable[[FourTuple], SocketInfo | None],
        internal: Callable[[FourTuple], bool],
        report: Report,
    ) -> None:
        self._run = run
        self._sockets = sockets
        self._peers = peers
        self._settling = settling
        self._look_up = look_up
        self._internal = internal
        self._report = report

    def row(self, row: Row, now: float) -> None:
        """A row that is new or has changed."""
        run, four_tuple = self._run, row.four_tuple
        if row.inode and self._sockets.is_shown_as(four_tuple, row.inode, row.state):
            return
        known = self._sockets.shown(four_tuple)
        if known is None and run.notified and in_time_wait(row) and run.stage is not Stage.STARTING:
            if run.stops:
                self._ended_before_stop(row, now)
            return
        if known is not None and row.inode and row.inode == known.inode and can_be(row, known):
            known.state = row.state
            self._sockets.show(known)
            return
        current = self._look_up(four_tuple)
        info = current if is_of(row, current, run.notified) else None
        if known is None:
            self._appeared(row, info, now)
        elif self._is_known(row, known, info, current):
            known.inode, known.state = row.inode, row.state
            if info is not None and not (run.notified and info.timewait):
                known.cookie = known.cookie or info.cookie
            self._sockets.show(known)
        elif info is None and current is not None and current.cookie == known.cookie:
            # The known one has taken the place of the one that the row is of.
            self._appeared(row, None, now, replaced=True)
        else:
            self._die(known, now)
            self._appeared(row, info, now)

    def _ended_before_stop(self, row: Row, now: float) -> None:
        """Notifications may be missed soon: a row in TIME_WAIT must be known as reported, or as not yet notified."""
        four_tuple, last = row.four_tuple, self._run.stage is Stage.LAST
        if self._sockets.has(four_tuple, Phase.ENDED_BEFORE_START) or (
            last and self._sockets.has(four_tuple, Phase.CLOSED)
        ):
            return
        info = self._look_up(four_tuple) if last or row.state != TIME_WAIT else None
        if row.state != TIME_WAIT and is_full(info):
            return
        if last:
            self._settling.ended_before_start(four_tuple, info.cookie if info else 0, now)
        else:
            self._run.close(four_tuple, now)

    def _is_known(self, row: Row, known: Socket, info: SocketInfo | None, current: SocketInfo | None) -> bool:
        """Whether a row is of the known socket."""
        if info is not None and known.cookie:
            return info.cookie == known.cookie
        if is_full(info) and self._sockets.was_gone_when_looked_up(row.four_tuple):
            # The known one did not exist any more when it was looked up: only its timewait socket can still be there.
            return False
        if is_full(current) and current.cookie == known.cookie:
            # It is not of that one, as is_of() says.
            return False
        return can_be(row, known)

    def _appeared(self, row: Row, info: SocketInfo | None, now: float, replaced: bool = False) -> None:
        """A row of another socket than the known one of its 4-tuple; `replaced` if it does not have that any more."""
        run, four_tuple = self._run, row.four_tuple
        cookie = info.cookie if info else 0
        if run.notified and in_time_wait(row):
            if run.stage is not Stage.STARTING:
                return
            if not is_full(info):
                self._settling.ended_before_start(four_tuple, cookie, now)
                return
        dying = self._sockets.dying_with_cookie(cookie)
        if dying is not None and dying.four_tuple == four_tuple:
            # Two polls left it out, and it still exists.
            self._sockets.show(dying)
            return
        if info is None and row.inode and self._sockets.dying_with_inode(four_tuple, row.inode):
            return
        uid, cgroup = attribution(row, info)
        opened = 0.0 if run.detected_by == "startup" else now
        socket = Socket(four_tuple, None, 0, cookie, row.inode, row.state, False, opened, uid, cgroup)
        internal = self._internal(four_tuple)
        peer = self._peers.of(four_tuple, row.state, info, run.window(now)) if internal else None
        if peer is not None:
            socket.number, socket.paired = peer.number, True
            self._keep(socket, replaced, now)
            return
        socket.number = cookie or run.next_serial()
        if internal and info is not None and four_tuple != mirrored(four_tuple):
            self._show_mirror(socket, now)
        self._keep(socket, replaced, now)
        self._report(NewConnection(four_tuple, socket.number, run.detected_by, row.state, uid, cgroup, internal), now)

    def _keep(self, socket: Socket, replaced: bool, now: float) -> None:
        if not replaced:
            self._sockets.show(socket)
        elif self._run.notified:
            self._sockets.enter(socket, Phase.DYING, now)

    def _show_mirror(self, socket: Socket, now: float) -> None:
        """Know a new internal connection's other socket too, so that its row, or its notification, is expected."""
        other = mirrored(socket.four_tuple)
        info = self._look_up(other)
        if not is_full(info):
            return
        known = self._sockets.shown(other)
        if known is not None:
            if known.cookie in (0, info.cookie):
                return
            self._die(known, now)
        socket.paired = True
        self._sockets.show(self._peers.mirror(socket, info))

    # --- sockets without a row -------------------------------------------------------------------------------------------

    def absent(self, four_tuple: FourTuple, now: float) -> None:
        """A 4-tuple that was absent from two polls."""
        known = self._sockets.shown(four_tuple)
        if known is not None and not self._is_there(known):
            self._die(known, now)

    def drop_missing(self, poll: Poll, now: float) -> None:
        """After a restart: sockets that were SHOWN before and are in neither of two polls, or were closed in between."""
        unheard = self._run.notified and self._run.gap
        for known in self._sockets.all_shown():
            there = poll.recent(known.four_tuple) or self._is_there(known)
            if (unheard and in_time_wait(known)) or not there:
                self._die(known, now)

    def _is_there(self, known: Socket) -> bool:
        """Whether the kernel has a socket that no poll shows: it can have come during one, and be left out of the next."""
        if not self._run.notified or not known.cookie:
            return False
        info = self._look_up(known.four_tuple)
        return is_full(info) and info.cookie == known.cookie

    def _die(self, socket: Socket, now: float) -> None:
        if self._run.notified:
            socket.gap = self._run.gap
            self._sockets.enter(socket, Phase.DYING, now)
        else:
            self._sockets.forget(socket)
