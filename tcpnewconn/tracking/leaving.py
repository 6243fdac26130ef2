"""Sockets of reported connections that have left the table, and whose announcement has not come yet.

It comes some milliseconds later; or after days, where the peer has reset the connection and a program holds the socket: it is
announced when the program lets it go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from tcpnewconn.model import DestroyedSocket, FourTuple, mirrored
from tcpnewconn.tracking.changes import Changes
from tcpnewconn.tracking.remains import Index
from tcpnewconn.tracking.sockets import Socket

# How many four_tuples are kept: 15 MiB of them. Whoever has more sockets that were reset and lets none of them go has some told twice.
_MOST = 32_768
# How many are forgotten at once.
_AT_ONCE = 1024


@dataclass(slots=True, eq=False)
class Gone:
    """A socket that has left the table, `since` a time in seconds.

    `doubtful` where its announcement may have come while nobody listened, or is taken for `lost`: of those not very many are
    waited for for long.
    """

    socket: Socket
    four_tuple: FourTuple
    since: float
    doubtful: bool = False
    lost: bool = False


class Leaving:
    """Each four_tuple can have had several, the first first."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._named: dict[int, Gone] = {}
        self._pairs: dict[FourTuple, list[Gone]] = {}
        # The four_tuples of those whose cookie is not known.
        self._nameless = Index()

    def __iter__(self) -> Iterator[Gone]:
        for several in self._pairs.values():
            yield from several

    def restore(self, gone: Gone) -> None:
        """One that was waited for before a restart."""
        self._pairs.setdefault(gone.four_tuple, []).append(gone)
        if gone.socket.cookie:
            self._named[gone.socket.cookie] = gone
        else:
            self._nameless.add(gone.four_tuple)

    def add(self, gone: Gone) -> None:
        self.restore(gone)
        self._changes.leave(gone.four_tuple, gone.socket, gone.doubtful, gone.lost)
        if len(self._pairs) >= _MOST + _AT_ONCE:
            for four_tuple in list(islice(self._pairs, _AT_ONCE)):
                for oldest in list(self._pairs[four_tuple]):
                    self.remove(oldest)

    def remove(self, gone: Gone) -> None:
        """Its announcement has come, or is not waited for any longer."""
        several = self._pairs[gone.four_tuple]
        several.remove(gone)
        if gone.socket.cookie:
            del self._named[gone.socket.cookie]
        if all(other.socket.cookie for other in several):
            self._nameless.discard(gone.four_tuple)
        if not several:
            del self._pairs[gone.four_tuple]
        self._changes.left(gone.four_tuple, gone.socket.cookie)

    def pair_up(self, gone: Gone) -> None:
        """The other half of one has shown itself."""
        self.remove(gone)
        gone.socket.paired = True
        self.add(gone)

    def lose(self, gone: Gone, now: float) -> None:
        """Take the announcement of one for lost."""
        self.remove(gone)
        gone.doubtful, gone.lost, gone.since = True, True, now
        self.add(gone)

    def named(self, cookie: int) -> Gone | None:
        """The one with this cookie."""
        return self._named.get(cookie)

    def nameless(self, four_tuple: FourTuple, since: float) -> Gone | None:
        """The first of this four_tuple whose cookie is not known, if it has been leaving since then or later."""
        several = self._pairs.get(four_tuple)
        if several is None:
            return None
        return next((gone for gone in several if gone.since >= since and not gone.socket.cookie), None)

    def half(self, four_tuple: FourTuple, since: float) -> Gone | None:
        """The other half of a four_tuple, where that was neither seen nor announced, and has been leaving since then or later."""
        several = self._pairs.get(mirrored(four_tuple), ())
        return next((gone for gone in several if gone.since >= since and not gone.socket.paired), None)

    def had(self, four_tuple: FourTuple, inode: int) -> bool:
        """Whether one of this four_tuple had this inode."""
        return any(gone.socket.inode == inode for gone in self._pairs.get(four_tuple, ()))

    def can_be(self, four_tuple: FourTuple, cookie: int) -> bool:
        """Whether what is left of a socket, whose cookie is 0 where it is not known, can be of one of these."""
        return any(not cookie or gone.socket.cookie in (0, cookie) for gone in self._pairs.get(four_tuple, ()))

    def nameless_of(self, end: DestroyedSocket) -> Iterator[FourTuple]:
        """The four_tuples of those without a cookie that an end without addresses can be of."""
        return self._nameless.of(end)

    def before(self, time: float, doubtful: bool) -> list[Gone]:
        """Those that have been leaving for longer."""
        return [gone for gone in self if gone.since <= time and gone.doubtful == doubtful]
