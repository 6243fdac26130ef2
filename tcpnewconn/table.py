"""The sockets of reported connections, as rows have shown them, with all that they must be found by."""

from __future__ import annotations

from collections.abc import Iterator

from tcpnewconn.changes import Changes
from tcpnewconn.model import TIME_WAIT, End, Pair
from tcpnewconn.remains import Index
from tcpnewconn.sockets import Socket, Sockets


class Table:
    """By their pair."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._sockets = Sockets()
        self._halves = 0
        # Pairs by their cookie, which only ends without addresses must be found by: None until the first of those.
        self._cookies: dict[int, Pair] | None = None
        # Those that were gone when they were asked for their cookie.
        self._nameless = Index()

    def __contains__(self, pair: Pair) -> bool:
        return pair in self._sockets

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._sockets)

    def items(self) -> Iterator[tuple[Pair, Socket]]:
        return self._sockets.items()

    @property
    def open(self) -> int:
        """How many connections are open; those within this host counted once."""
        return self._halves // 2

    def restore(self, sockets: Sockets, nameless: bool) -> None:
        """Those of before a restart; whether those without a cookie were `nameless`, or could not be asked for one."""
        self._sockets = sockets
        for pair, socket in sockets.items():
            self._count(socket, 1)
            if nameless and not socket.cookie:
                self._nameless.add(pair)

    def get(self, pair: Pair) -> Socket | None:
        """A copy: a change to it counts once it is put."""
        return self._sockets.get(pair)

    def put(self, pair: Pair, socket: Socket) -> None:
        self._forget(pair)
        self._sockets[pair] = socket
        self._count(socket, 1)
        if not socket.cookie:
            self._nameless.add(pair)
        elif self._cookies is not None:
            self._cookies[socket.cookie] = pair
        self._changes.put(pair, socket)

    def drop(self, pair: Pair) -> Socket:
        socket = self._forget(pair)
        assert socket is not None
        self._changes.drop(pair)
        return socket

    def pair_up(self, pair: Pair, socket: Socket) -> None:
        """The other end of one has shown itself."""
        socket.paired = True
        self.put(pair, socket)

    def nameless(self, pair: Pair) -> bool:
        """Whether one was gone when it was asked for its cookie."""
        return pair in self._nameless

    def nameless_of(self, end: End) -> Iterator[Pair]:
        """Those without a cookie that an end without addresses can be of."""
        return self._nameless.of(end)

    def by_cookie(self, cookie: int) -> Pair | None:
        if self._cookies is None:
            self._cookies = {socket.cookie: pair for pair, socket in self._sockets.items() if socket.cookie}
        return self._cookies.get(cookie)

    def _count(self, socket: Socket, sign: int) -> None:
        if socket.state != TIME_WAIT:
            self._halves += sign * (1 if socket.paired else 2)

    def _forget(self, pair: Pair) -> Socket | None:
        socket = self._sockets.pop(pair)
        if socket is not None:
            self._count(socket, -1)
            if not socket.cookie:
                self._nameless.discard(pair)
            elif self._cookies is not None and self._cookies.get(socket.cookie) == pair:
                del self._cookies[socket.cookie]
        return socket
