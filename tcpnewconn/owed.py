"""Connections within this host that were reported by one of their sockets, of which the other is *owed*: it has not shown itself.

It comes as a row, or is announced: soon, or, where its peer has reset it and its program holds it, after days. Where the
addresses are translated on the way (iptables REDIRECT) it never comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from tcpnewconn.changes import Changes
from tcpnewconn.model import End, Pair
from tcpnewconn.remains import Index

# How many are waited for longer than is usual.
_MOST = 1024


@dataclass(slots=True)
class _Half:
    number: int
    since: float


class Owed:
    """By the pair of the socket that is owed; a pair can be owed several times, for connections that followed each other."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._pairs: dict[Pair, list[_Half]] = {}
        self._index = Index()

    def __iter__(self) -> Iterator[tuple[Pair, int]]:
        """Each pair with the number of its connection."""
        return ((pair, half.number) for pair, halves in self._pairs.items() for half in halves)

    def restore(self, pair: Pair, number: int, now: float) -> None:
        """One that was owed before a restart."""
        self._pairs.setdefault(pair, []).append(_Half(number, now))
        self._index.add(pair)

    def add(self, pair: Pair, number: int, now: float) -> None:
        self.restore(pair, number, now)
        self._changes.owe(pair, number)

    def take(self, pair: Pair, since: float) -> int | None:
        """The number of a connection whose half this is, if one has been owed since then or later: it is not any more."""
        for half in self._pairs.get(pair, ()):
            if half.since >= since:
                self._settle(pair, half)
                return half.number
        return None

    def of(self, end: End, since: float) -> Iterator[Pair]:
        """Those that an end without addresses can be, if they have been owed since then or later."""
        return (pair for pair in self._index.of(end) if self._pairs[pair][-1].since >= since)

    def forget(self, since: float) -> None:
        """Of those that have been owed for longer, wait no more for the oldest, where they are very many."""
        for pair in list(islice(self._pairs, max(0, len(self._pairs) - _MOST))):
            for half in [half for half in self._pairs[pair] if half.since < since]:
                self._settle(pair, half)

    def _settle(self, pair: Pair, half: _Half) -> None:
        halves = self._pairs[pair]
        halves.remove(half)
        if not halves:
            del self._pairs[pair]
            self._index.discard(pair)
        self._changes.settle(pair, half.number)
