"""Connections within this host that were reported by one of their sockets, of which the other is *owed*: it has not shown itself.

It comes as a row, or is announced: soon, or, where its peer has reset it and its program holds it, after days. Where the
addresses are translated on the way (iptables REDIRECT) it never comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from tcpnewconn.model import DestroyedSocket, FourTuple
from tcpnewconn.tracking.changes import Changes
from tcpnewconn.tracking.remains import Index

# How many are waited for longer than is usual.
_MOST = 1024


@dataclass(slots=True)
class _Half:
    number: int
    since: float


class Owed:
    """By the four_tuple of the socket that is owed; a four_tuple can be owed several times, for connections that followed each other."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._pairs: dict[FourTuple, list[_Half]] = {}
        self._index = Index()

    def __iter__(self) -> Iterator[tuple[FourTuple, int]]:
        """Each four_tuple with the number of its connection."""
        return ((four_tuple, half.number) for four_tuple, halves in self._pairs.items() for half in halves)

    def restore(self, four_tuple: FourTuple, number: int, now: float) -> None:
        """One that was owed before a restart."""
        self._pairs.setdefault(four_tuple, []).append(_Half(number, now))
        self._index.add(four_tuple)

    def add(self, four_tuple: FourTuple, number: int, now: float) -> None:
        self.restore(four_tuple, number, now)
        self._changes.owe(four_tuple, number)

    def take(self, four_tuple: FourTuple, since: float) -> int | None:
        """The number of a connection whose half this is, if one has been owed since then or later: it is not any more."""
        for half in self._pairs.get(four_tuple, ()):
            if half.since >= since:
                self._settle(four_tuple, half)
                return half.number
        return None

    def of(self, end: DestroyedSocket, since: float) -> Iterator[FourTuple]:
        """Those that an end without addresses can be, if they have been owed since then or later."""
        return (four_tuple for four_tuple in self._index.of(end) if self._pairs[four_tuple][-1].since >= since)

    def forget(self, since: float) -> None:
        """Of those that have been owed for longer, wait no more for the oldest, where they are very many."""
        for four_tuple in list(islice(self._pairs, max(0, len(self._pairs) - _MOST))):
            for half in [half for half in self._pairs[four_tuple] if half.since < since]:
                self._settle(four_tuple, half)

    def _settle(self, four_tuple: FourTuple, half: _Half) -> None:
        halves = self._pairs[four_tuple]
        halves.remove(half)
        if not halves:
            del self._pairs[four_tuple]
            self._index.discard(four_tuple)
        self._changes.settle(four_tuple, half.number)
