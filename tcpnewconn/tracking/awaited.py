"""The sockets whose notification is awaited, and that no poll shows: the dying and the expected ones.

They are found by their 4-tuple (chains.py); the dying ones by their cookie, too; and both by what is left of a 4-tuple whose
addresses the kernel has cleared (cleared.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from tcpnewconn.model import DestroyedSocket, FourTuple, mirrored
from tcpnewconn.tracking.chains import Chains
from tcpnewconn.tracking.cleared import Index
from tcpnewconn.tracking.socket import Socket


class Dying(Chains):
    """Those that are dying. `by_cookie` has each whose cookie is known."""

    def __init__(self) -> None:
        super().__init__()
        self.by_cookie: dict[int, Socket] = {}
        # Those that were gone when they were looked up, so that their cookie is not known.
        self._without_cookie = Index()

    def add(self, socket: Socket) -> None:
        super().add(socket)
        if socket.cookie:
            self.by_cookie[socket.cookie] = socket
        else:
            self._without_cookie.add(socket.four_tuple)

    def remove(self, socket: Socket) -> None:
        super().remove(socket)
        if socket.cookie:
            del self.by_cookie[socket.cookie]
        if all(one.cookie for one in self.of(socket.four_tuple)):
            self._without_cookie.discard(socket.four_tuple)

    def without_cookie(self, four_tuple: FourTuple, since: float) -> Socket | None:
        """The first of a 4-tuple that is without a cookie, and has been dying since then or later."""
        one = self.first(four_tuple)
        while one is not None and (one.since < since or one.cookie):
            one = one.next
        return one

    def peer(self, four_tuple: FourTuple, since: float) -> Socket | None:
        """The first at the other end that has been dying since then or later, and whose peer was not seen."""
        one = self.first(mirrored(four_tuple))
        while one is not None and (one.since < since or one.paired):
            one = one.next
        return one

    def name_unknown(self, socket: DestroyedSocket) -> Iterator[FourTuple]:
        """Those without a cookie that an unaddressed socket can be, the newest first."""
        return self._without_cookie.of(socket)


class Expected(Chains):
    """Those that are expected."""

    def __init__(self) -> None:
        super().__init__()
        self._index = Index()

    def add(self, socket: Socket) -> None:
        super().add(socket)
        self._index.add(socket.four_tuple)

    def remove(self, socket: Socket) -> None:
        super().remove(socket)
        if socket.four_tuple not in self:
            self._index.discard(socket.four_tuple)

    def name_unknown(self, socket: DestroyedSocket, since: float) -> Iterator[FourTuple]:
        """Those expected since then or later that an unaddressed socket can be."""
        return (one for one in self._index.of(socket) if any(each.since >= since for each in self.of(one)))
