"""Connections within this host: which two sockets are peers."""

from __future__ import annotations

from collections.abc import Callable

from tcpnewconn.model import CLOSE, ESTABLISHED, LAST_ACK, TIME_WAIT, FourTuple, SocketInfo, mirrored
from tcpnewconn.tracking.matching import PROGRESS, is_full
from tcpnewconn.tracking.socket import Phase, Socket
from tcpnewconn.tracking.sockets import Sockets


class Peers:
    """Matches the two sockets of a connection within this host; `look_up` as in Tracker."""

    def __init__(self, sockets: Sockets, look_up: Callable[[FourTuple], SocketInfo | None]) -> None:
        self._sockets = sockets
        self._look_up = look_up

    def expect(self, four_tuple: FourTuple, number: int, opened: float | None, now: float) -> None:
        """One socket of a reported connection was destroyed: expect its peer, which was not seen yet.

        `opened` is that of the socket; None where no poll has shown it.
        """
        other = mirrored(four_tuple)
        if other != four_tuple:
            peer = Socket(other, None, number, opened=opened or 0.0, shown=opened is not None)
            self._sockets.enter(peer, Phase.EXPECTED, now)

    def mirror(self, socket: Socket, info: SocketInfo) -> Socket:
        """The peer of a socket, as the kernel describes it."""
        return Socket(
            mirrored(socket.four_tuple),
            None,
            socket.number,
            info.cookie,
            info.inode,
            ESTABLISHED,
            True,
            socket.opened,
            info.uid if info.inode else None,
            info.cgroup,
        )

    def of(self, four_tuple: FourTuple, state: int, info: SocketInfo | None, since: float) -> Socket | None:
        """What is known of the reported connection whose other socket this is; None if there is none. It is paired then.

        `state` is that of its row, CLOSE if it was destroyed; `info` is the kernel's answer about it now. A socket that waits for
        its peer counts if it has waited since `since` or later. The order of the rules matters.
        """
        other = mirrored(four_tuple)
        if state == CLOSE or self._can_have_lost_its_peer(state, info, other):
            dying = self._sockets.dying_peer(four_tuple, since)
            if dying is not None:
                dying.paired = True
                self._sockets.enter(dying, Phase.DYING, dying.since)
                return dying
            expected = self._sockets.first(four_tuple, Phase.EXPECTED, since)
            if expected is not None:
                self._sockets.forget(expected)
                return expected
        known = self._sockets.shown(other)
        if known is None or other == four_tuple or known.paired:
            return None
        if known.state == TIME_WAIT and PROGRESS.get(state, 3) < PROGRESS[LAST_ACK]:
            # The other end of a connection in TIME_WAIT has had its FIN acknowledged: this is a later connection.
            return None
        if info is None and known.cookie and self._is_there(known) and is_full(self._look_up(four_tuple)):
            # That end has another one.
            return None
        if info is not None and self._is_replaced(known, info.state == ESTABLISHED):
            return None
        known.paired = True
        self._sockets.show(known)
        return known

    def _is_there(self, known: Socket) -> bool:
        info = self._look_up(known.four_tuple)
        return is_full(info) and info.cookie == known.cookie

    def _can_have_lost_its_peer(self, state: int, info: SocketInfo | None, other: FourTuple) -> bool:
        """Whether the peer of a socket can have been destroyed: then it is not established, and its peer has no full socket."""
        if ESTABLISHED in (state, info and info.state):
            return False
        return info is None or not is_full(self._look_up(other))

    def _is_replaced(self, known: Socket, established: bool) -> bool:
        """Whether a 4-tuple has another socket than the known one now; or, if its peer is `established`, none."""
        info = self._look_up(known.four_tuple)
        if not is_full(info):
            return established
        return info.cookie != known.cookie
