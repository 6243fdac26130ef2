"""The sockets that the last polls show, packed: a busy host has hundreds of thousands.

A 4-tuple has one at most. It takes 80 bytes, where an object would take 250.
"""

from __future__ import annotations

from collections.abc import Iterator

from tcpnewconn.model import DestroyedSocket, FourTuple
from tcpnewconn.tracking.cleared import Index
from tcpnewconn.tracking.socket import (
    Many,
    Socket,
    cookie_and_ends,
    inode_and_state,
    largest_serial,
    line,
    lines_of_many,
    packed,
    unpacked,
)

# So many are many: they are written to the state log together.
_MANY = 1000


class Shown:
    """By 4-tuple, in packed form."""

    def __init__(self) -> None:
        self.by_four_tuple: dict[FourTuple, bytes] = {}
        # Each open connection counts twice: see cookie_and_ends().
        self._ends = 0
        # By cookie, which only unaddressed sockets must be found by: None until the first of those.
        self._cookies: dict[int, FourTuple] | None = None
        # Those that were gone when they were looked up, so that their cookie is not known.
        self._without_cookie = Index()

    def __len__(self) -> int:
        return len(self.by_four_tuple)

    @property
    def open(self) -> int:
        """How many connections are open; those within this host count once."""
        return self._ends // 2

    def is_as(self, four_tuple: FourTuple, inode: int, state: int) -> bool:
        """Whether the one of a 4-tuple has this inode and this state."""
        text = self.by_four_tuple.get(four_tuple)
        return text is not None and inode_and_state(text) == (inode, state)

    def get(self, four_tuple: FourTuple) -> Socket | None:
        """A copy."""
        text = self.by_four_tuple.get(four_tuple)
        return None if text is None else unpacked(four_tuple, text)

    def __iter__(self) -> Iterator[Socket]:
        """One by one: they may change phase meanwhile, and all at once would take ten times the memory."""
        for four_tuple in list(self.by_four_tuple):
            if (socket := self.get(four_tuple)) is not None:
                yield socket

    def with_cookie(self, cookie: int) -> Socket | None:
        if self._cookies is None:
            self._cookies = {one.cookie: one.four_tuple for one in self if one.cookie}
        four_tuple = self._cookies.get(cookie)
        return None if four_tuple is None else self.get(four_tuple)

    def is_without_cookie(self, four_tuple: FourTuple) -> bool:
        return four_tuple in self._without_cookie

    def without_cookie(self, socket: DestroyedSocket) -> Iterator[FourTuple]:
        """Those without a cookie that an unaddressed socket can be, the newest first."""
        return self._without_cookie.of(socket)

    def largest_serial(self) -> int:
        """The largest serial number; 0 if none has one."""
        return largest_serial(self.by_four_tuple.values())

    # --- changes -----------------------------------------------------------------------------------------------------

    def put(self, socket: Socket) -> None:
        """Add one, in the place of the one with its 4-tuple."""
        four_tuple = socket.four_tuple
        self.remove(four_tuple)
        text = self.by_four_tuple[four_tuple] = packed(socket)
        cookie, ends = cookie_and_ends(text)
        self._ends += ends
        if not cookie:
            self._without_cookie.add(four_tuple)
        elif self._cookies is not None:
            self._cookies[cookie] = four_tuple

    def put_many(self, many: Many) -> None:
        """Of a hundred thousand, one by one takes a fifth longer (measured)."""
        for four_tuple in self.by_four_tuple.keys() & many.packed:
            self.remove(four_tuple)
        self.by_four_tuple |= many.packed
        self._cookies = None
        self._ends += many.ends
        for four_tuple in many.without_cookie:
            self._without_cookie.add(four_tuple)

    def remove(self, four_tuple: FourTuple) -> bool:
        """Remove the one of a 4-tuple; whether there was one."""
        text = self.by_four_tuple.pop(four_tuple, None)
        if text is None:
            return False
        cookie, ends = cookie_and_ends(text)
        self._ends -= ends
        if not cookie:
            self._without_cookie.discard(four_tuple)
        elif self._cookies is not None and self._cookies.get(cookie) == four_tuple:
            del self._cookies[cookie]
        return True

    def forget_which_were_gone(self) -> None:
        """From now on those without a cookie count as any other."""
        self._without_cookie = Index()

    def records(self) -> Iterator[str]:
        """All of them, for the state log."""
        if len(self) >= _MANY:
            return lines_of_many(self.by_four_tuple)
        return (line(unpacked(*one)) for one in self.by_four_tuple.items())
