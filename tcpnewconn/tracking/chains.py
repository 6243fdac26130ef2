"""Sockets by their 4-tuple, of which each can have several: the first first, the 4-tuple that was new last last."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from tcpnewconn.model import FourTuple
from tcpnewconn.tracking.socket import Socket


class Chains:
    """Each socket holds the next one of its 4-tuple: a list for each would take 80 bytes more, and nearly all have one."""

    def __init__(self) -> None:
        # The first of each 4-tuple.
        self.firsts: dict[FourTuple, Socket] = {}

    def __len__(self) -> int:
        """The number of 4-tuples."""
        return len(self.firsts)

    def __contains__(self, four_tuple: FourTuple) -> bool:
        return four_tuple in self.firsts

    def __iter__(self) -> Iterator[Socket]:
        for first in self.firsts.values():
            yield from _chain(first)

    def first(self, four_tuple: FourTuple, since: float = float("-inf")) -> Socket | None:
        """The first of a 4-tuple that entered its phase since then or later; `next` of each leads to the others."""
        one = self.firsts.get(four_tuple)
        while one is not None and one.since < since:
            one = one.next
        return one

    def of(self, four_tuple: FourTuple) -> Iterator[Socket]:
        return _chain(self.firsts.get(four_tuple))

    def add(self, socket: Socket) -> None:
        socket.next = None
        last = self.firsts.setdefault(socket.four_tuple, socket)
        while last.next is not None:
            last = last.next
        if last is not socket:
            last.next = socket

    def remove(self, socket: Socket) -> None:
        """Raises LookupError if it is not there."""
        first = self.firsts[socket.four_tuple]
        if first is socket:
            if socket.next is None:
                del self.firsts[socket.four_tuple]
                if not self.firsts:
                    # A dict keeps the memory of its largest size.
                    self.firsts = {}
            else:
                self.firsts[socket.four_tuple] = socket.next
        else:
            before = next((one for one in _chain(first) if one.next is socket), None)
            if before is None:
                raise LookupError
            before.next = socket.next
        socket.next = None

    def oldest(self, count: int) -> Iterator[Socket]:
        """Those of so many 4-tuples, from the one that has been there for the longest."""
        for first in islice(self.firsts.values(), max(0, count)):
            yield from _chain(first)


def _chain(socket: Socket | None) -> Iterator[Socket]:
    while socket is not None:
        following = socket.next
        yield socket
        socket = following
