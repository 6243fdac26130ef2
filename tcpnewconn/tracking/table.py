"""The sockets of reported connections, as rows have shown them, with all that they must be found by."""

from __future__ import annotations

from collections.abc import Iterator

from tcpnewconn.model import TIME_WAIT, DestroyedSocket, FourTuple
from tcpnewconn.tracking.changes import Changes
from tcpnewconn.tracking.remains import Index
from tcpnewconn.tracking.sockets import Socket, Sockets


class Table:
    """By their four_tuple."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._sockets = Sockets()
        self._halves = 0
        # Pairs by their cookie, which only ends without addresses must be found by: None until the first of those.
        self._cookies: dict[int, FourTuple] | None = None
        # Those that were gone when they were asked for their cookie.
        self._nameless = Index()

    def __contains__(self, four_tuple: FourTuple) -> bool:
        return four_tuple in self._sockets

    def __iter__(self) -> Iterator[FourTuple]:
        return iter(self._sockets)

    def items(self) -> Iterator[tuple[FourTuple, Socket]]:
        return self._sockets.items()

    @property
    def open(self) -> int:
        """How many connections are open; those within this host counted once."""
        return self._halves // 2

    def restore(self, sockets: Sockets, nameless: bool) -> None:
        """Those of before a restart; whether those without a cookie were `nameless`, or could not be asked for one."""
        self._sockets = sockets
        for four_tuple, socket in sockets.items():
            self._count(socket, 1)
            if nameless and not socket.cookie:
                self._nameless.add(four_tuple)

    def get(self, four_tuple: FourTuple) -> Socket | None:
        """A copy: a change to it counts once it is put."""
        return self._sockets.get(four_tuple)

    def put(self, four_tuple: FourTuple, socket: Socket) -> None:
        self._forget(four_tuple)
        self._sockets[four_tuple] = socket
        self._count(socket, 1)
        if not socket.cookie:
            self._nameless.add(four_tuple)
        elif self._cookies is not None:
            self._cookies[socket.cookie] = four_tuple
        self._changes.put(four_tuple, socket)

    def drop(self, four_tuple: FourTuple) -> Socket:
        socket = self._forget(four_tuple)
        assert socket is not None
        self._changes.drop(four_tuple)
        return socket

    def pair_up(self, four_tuple: FourTuple, socket: Socket) -> None:
        """The other end of one has shown itself."""
        socket.paired = True
        self.put(four_tuple, socket)

    def nameless(self, four_tuple: FourTuple) -> bool:
        """Whether one was gone when it was asked for its cookie."""
        return four_tuple in self._nameless

    def nameless_of(self, end: DestroyedSocket) -> Iterator[FourTuple]:
        """Those without a cookie that an end without addresses can be of."""
        return self._nameless.of(end)

    def by_cookie(self, cookie: int) -> FourTuple | None:
        if self._cookies is None:
            self._cookies = {socket.cookie: four_tuple for four_tuple, socket in self._sockets.items() if socket.cookie}
        return self._cookies.get(cookie)

    def _count(self, socket: Socket, sign: int) -> None:
        if socket.state != TIME_WAIT:
            self._halves += sign * (1 if socket.paired else 2)

    def _forget(self, four_tuple: FourTuple) -> Socket | None:
        socket = self._sockets.pop(four_tuple)
        if socket is not None:
            self._count(socket, -1)
            if not socket.cookie:
                self._nameless.discard(four_tuple)
            elif self._cookies is not None and self._cookies.get(socket.cookie) == four_tuple:
                del self._cookies[socket.cookie]
        return socket
