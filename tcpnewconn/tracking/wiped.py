"""Announced ends whose addresses the kernel wiped (SO_LINGER 0), and whose cookie nobody had asked for: which socket was it?

What remains of its four_tuple can be that of several sockets, so it waits a moment for those to be announced that it is not. If it is
taken for one that is announced later after all, it is taken back. The other end of a connection within this host is not wiped:
that one tells of the connection, but a program can hold it for days.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

from tcpnewconn.model import ESTABLISHED, DestroyedSocket, FourTuple, SocketInfo, mirrored
from tcpnewconn.tracking.changes import Changes
from tcpnewconn.tracking.leaving import Leaving
from tcpnewconn.tracking.owed import Owed
from tcpnewconn.tracking.remains import may_be
from tcpnewconn.tracking.sameness import lives
from tcpnewconn.tracking.table import Table

# Seconds for which others are waited for.
_MOMENT = 1.0
# How many of each kind are kept at most.
_MOST = 1024


class Verdict(NamedTuple):
    """What an end was: that of this four_tuple, which was reported; or, without a four_tuple, a connection's only trace."""

    end: DestroyedSocket
    four_tuple: FourTuple | None


class Wiped:
    """`identify` and `internal` as in Tracker; `patience` in seconds."""

    def __init__(
        self,
        table: Table,
        owed: Owed,
        leaving: Leaving,
        changes: Changes,
        identify: Callable[[FourTuple], SocketInfo | None],
        internal: Callable[[FourTuple], bool],
        patience: float,
    ) -> None:
        self._table = table
        self._owed = owed
        self._leaving = leaving
        self._changes = changes
        self._identify = identify
        self._internal = internal
        self._patience = patience
        # With the time that each came, the first first.
        self._waiting: deque[tuple[float, DestroyedSocket]] = deque()
        # Those within this host whose other end, which has its addresses, may be held; by their cookie.
        self._unknown: dict[int, tuple[float, DestroyedSocket]] = {}
        # What was taken for the end of a four_tuple, with the time that it came.
        self._guesses: dict[FourTuple, tuple[float, DestroyedSocket]] = {}

    def __iter__(self) -> Iterator[tuple[DestroyedSocket, float, FourTuple | None]]:
        """Each with the time that it came and what it was taken for, as Changes.wait() has them."""
        yield from ((end, came, guess) for guess, (came, end) in self._guesses.items())
        yield from ((end, came, None) for came, end in self._unknown.values())
        yield from ((end, came, b"") for came, end in self._waiting)

    def restore(self, end: DestroyedSocket, came: float, guess: FourTuple | None) -> None:
        """One that was waited with before a restart."""
        if guess is None:
            self._unknown[end.cookie] = (came, end)
        elif guess:
            self._guesses[guess] = (came, end)
        else:
            self._waiting.append((came, end))

    def _put(self, end: DestroyedSocket, came: float, guess: FourTuple | None) -> None:
        if guess in self._guesses:
            self._changes.explained(self._guesses[guess][1].cookie)
        self.restore(end, came, guess)
        self._changes.wait(end, came, guess)

    @property
    def waiting(self) -> bool:
        """Whether overdue() will soon have something to tell."""
        return bool(self._waiting)

    def wait(self, end: DestroyedSocket, now: float) -> bool:
        """Wait for what an end can be of; False if that is nothing that is known."""
        nameless = chain(self._leaving.nameless_of(end), self._table.nameless_of(end))
        if not self._internal(end.four_tuple) and next(nameless, None) is None:
            return False
        self._put(end, now, b"")
        return True

    def overdue(self, now: float) -> Iterator[Verdict]:
        """Those that nothing has explained in time."""
        while self._waiting and self._waiting[0][0] <= now - _MOMENT:
            since, end = self._waiting.popleft()
            if self._is_half(end, since, now):
                continue
            elif (four_tuple := self._nameless(end)) is not None:
                self._put(end, since, four_tuple)
                yield Verdict(end, four_tuple)
            elif not self._internal(end.four_tuple):
                self._changes.explained(end.cookie)
                yield Verdict(end, None)
            else:
                self._put(end, since, None)
        self._shorten(self._unknown)
        self._shorten(self._guesses)

    def _shorten(self, kept: dict[Any, tuple[float, DestroyedSocket]]) -> None:
        """Forget the oldest where there are too many."""
        for key in list(islice(kept, max(0, len(kept) - _MOST))):
            self._changes.explained(kept.pop(key)[1].cookie)

    def _nameless(self, end: DestroyedSocket) -> FourTuple | None:
        return next(chain(self._leaving.nameless_of(end), self._table.nameless_of(end)), None)

    def _is_half(self, end: DestroyedSocket, came: float, now: float) -> bool:
        """Whether an end can be that of a half that is owed; then that is not owed any more."""
        since = now - self._patience
        four_tuple = next(
            (four_tuple for four_tuple in self._owed.of(end, since) if not self._bereft(four_tuple)), None
        )
        if four_tuple is None:
            return False
        self._owed.take(four_tuple, since)
        self._put(end, came, four_tuple)
        return True

    def _bereft(self, four_tuple: FourTuple) -> bool:
        """Whether a four_tuple has a socket now that has lost its other end."""
        identity = self._identify(four_tuple)
        if not lives(identity) or identity.state == ESTABLISHED:
            return False
        return not lives(self._identify(mirrored(four_tuple)))

    # --- what came later ---------------------------------------------------------------------------------------------

    def taken_back(self, end: DestroyedSocket, now: float) -> bool:
        """Whether one was taken for an end that has come now, and that a program had held since before."""
        guessed = self._guesses.get(end.four_tuple)
        if guessed is None or not _held(end, guessed[0], now):
            return False
        del self._guesses[end.four_tuple]
        self._put(guessed[1], now, b"")
        return True

    def was_other_end(self, end: DestroyedSocket, now: float) -> bool:
        """Whether the other end of one that a program had held came without its addresses before."""
        for cookie, (came, other) in reversed(self._unknown.items()):
            if not _held(end, came, now):
                return False
            if may_be(other, mirrored(end.four_tuple)):
                del self._unknown[cookie]
                self._changes.explained(cookie)
                return True
        return False


def _held(end: DestroyedSocket, since: float, now: float) -> bool:
    """Whether an end had been reset by then, or within a moment, and is announced only now."""
    return now - end.idle < since + _MOMENT
