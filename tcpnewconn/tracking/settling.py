"""Sockets in TIME_WAIT at the first poll: were they notified before the program received notifications, or will they be?

And those that have come into TIME_WAIT between the last two polls: were they notified while the program still listened?
"""

from __future__ import annotations

from collections.abc import Callable

from tcpnewconn.model import CLOSE, TIME_WAIT, FourTuple, SocketInfo, mirrored
from tcpnewconn.tracking.internal import Peers
from tcpnewconn.tracking.outcomes import NewConnection, Report
from tcpnewconn.tracking.run import Run, Stage
from tcpnewconn.tracking.socket import Phase, Socket
from tcpnewconn.tracking.sockets import Sockets

# Seconds within which those are notified that had not been before. On a starved machine it can take longer: see late().
_WITHIN = 0.2


class Settling:
    """`look_up`, `internal` and `report` as in Tracker."""

    def __init__(
        self,
        run: Run,
        sockets: Sockets,
        peers: Peers,
        look_up: Callable[[FourTuple], SocketInfo | None],
        internal: Callable[[FourTuple], bool],
        report: Report,
    ) -> None:
        self._run = run
        self._sockets = sockets
        self._peers = peers
        self._look_up = look_up
        self._internal = internal
        self._report = report
        self._caught_up = float("-inf")

    def ended_before_start(self, four_tuple: FourTuple, cookie: int, now: float) -> None:
        """A row in TIME_WAIT at the first poll, or new in it at the last; the cookie is 0 where it is not known."""
        if self._sockets.has(four_tuple, Phase.CLOSED) or self._sockets.can_be_dying(four_tuple, cookie):
            return
        before = self._sockets.first(four_tuple, Phase.ENDED_BEFORE_START)
        if before is not None:
            self._sockets.forget(before)
        number = cookie or self._run.next_serial()
        self._sockets.enter(Socket(four_tuple, None, number), Phase.ENDED_BEFORE_START, now)

    def claim(self, four_tuple: FourTuple) -> None:
        """A destroyed socket can be of this 4-tuple, or be its peer: if the 4-tuple is as it was at the poll, it is.

        If another has its place by then, the notification can be of either. It is taken for the other's: at a first start, many
        more have been notified before than have not. If it was its own, the one that the poll showed is reported once more.
        """
        for one in (four_tuple, mirrored(four_tuple)):
            socket = self._sockets.first(one, Phase.ENDED_BEFORE_START)
            if socket is not None and (socket.number < 0 or self._has_its_place(socket)):
                self._sockets.forget(socket)

    def late(self, four_tuple: FourTuple) -> bool:
        """Whether a destroyed socket is one that was reported without waiting any longer for its notification, or is its peer.

        It is if what was in TIME_WAIT then still has its place.
        """
        for one in (four_tuple, mirrored(four_tuple)):
            socket = self._sockets.first(one, Phase.CLOSED)
            if socket is not None and socket.number > 0 and self._has_its_place(socket):
                return True
        return False

    def _has_its_place(self, socket: Socket) -> bool:
        """Whether what was in TIME_WAIT at a poll still is: a later connection on its 4-tuple would have another cookie."""
        info = self._look_up(socket.four_tuple)
        return info is not None and info.cookie == socket.number

    def caught_up(self, now: float) -> None:
        """Every notification that was there by now has been applied."""
        self._caught_up = now

    def tick(self, now: float) -> None:
        """Report those that had been notified before, once that is known.

        After the last poll that is left to the next run: it is too late then to wait for those that are notified late.
        """
        if self._run.stage is Stage.LAST:
            return
        unclaimed = list(self._sockets.all_in(Phase.ENDED_BEFORE_START))
        if unclaimed and self._caught_up > unclaimed[-1].since + _WITHIN:
            self._sockets.forget_all(Phase.ENDED_BEFORE_START)
            reported: set[FourTuple] = set()
            for socket in unclaimed:
                self._report_ended(socket, reported, now)
            unclaimed = []
        if not unclaimed:
            self._run.settled()

    def _report_ended(self, socket: Socket, reported: set[FourTuple], now: float) -> None:
        four_tuple = socket.four_tuple
        internal = self._internal(four_tuple)
        self._sockets.enter(socket, Phase.CLOSED, now)
        window = self._run.window(now)
        is_peer = internal and self._peers.of(four_tuple, CLOSE, None, window) is not None
        if is_peer or mirrored(four_tuple) in reported:
            return
        if internal:
            reported.add(four_tuple)
        replaced = socket.number > 0 and not self._has_its_place(socket)
        detected_by = self._run.first_detected_by
        new = NewConnection(four_tuple, socket.number, detected_by, TIME_WAIT, None, 0, internal, None, replaced)
        self._report(new, now)
