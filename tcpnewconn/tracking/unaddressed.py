"""Destroyed sockets whose addresses the kernel had cleared (cleared.py) and whose cookie was not asked for before.

The rest of the 4-tuple can match several sockets. Such a socket waits a moment, so that the notifications of the others come
first. If the notification of the matched socket comes after all, the match is undone. Within this host the other socket keeps its
addresses and shows which connection it was, but a program can keep that socket open for days. Where both were cleared, and the
connection is in TIME_WAIT, together they show it.
Records y and z are its own.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from tcpnewconn.model import ESTABLISHED, DestroyedSocket, FourTuple, SocketInfo, Traffic, mirrored, named
from tcpnewconn.state.owner import Log, Record
from tcpnewconn.tracking.cleared import can_be, of_both
from tcpnewconn.tracking.matching import is_full
from tcpnewconn.tracking.socket import Phase
from tcpnewconn.tracking.sockets import Sockets

# Seconds to wait for the notifications of other sockets.
_MOMENT = 1.0
# Sockets of each kind that are kept at most.
_MOST = 1024
# Of those that the other end of a socket can be, so many are tried: the kernel is asked for each.
_MOST_TRIED = 64

# The match of one that waits.
_UNDECIDED = b""

# json.dumps() would make an encoder for each line.
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


class Verdict(NamedTuple):
    """The result for an unaddressed socket: that of a reported connection, or without a 4-tuple, of a new one.

    `internal`: that is within this host.
    """

    socket: DestroyedSocket
    four_tuple: FourTuple | None
    internal: bool = False


class Unaddressed:
    """`look_up` and `internal` as in Tracker."""

    def __init__(
        self,
        sockets: Sockets,
        look_up: Callable[[FourTuple], SocketInfo | None],
        internal: Callable[[FourTuple], bool],
        log: Log | None,
    ) -> None:
        self._sockets = sockets
        self._look_up = look_up
        self._internal = internal
        self._log = log
        self.clear()
        if log is not None:
            log.register("yz", self)

    def clear(self) -> None:
        """Start without any socket."""
        # Each with the time of its notification, the oldest first.
        self._waiting: deque[tuple[float, DestroyedSocket]] = deque()
        # Those within this host whose other socket, which has the addresses, may be kept open; by their cookie.
        self._unknown: dict[int, tuple[float, DestroyedSocket]] = {}
        # Those matched with the socket of a 4-tuple, with the time of their notification.
        self._guesses: dict[FourTuple, tuple[float, DestroyedSocket]] = {}
        self._loaded: dict[int, tuple[DestroyedSocket, float, FourTuple | None]] = {}

    # --- the state log -------------------------------------------------------------------------------------

    def records(self) -> Iterator[str]:
        yield from (_line(*loaded) for loaded in self._loaded.values())
        yield from (_line(socket, came, guess) for guess, (came, socket) in self._guesses.items())
        yield from (_line(socket, came, None) for came, socket in self._unknown.values())
        yield from (_line(socket, came, _UNDECIDED) for came, socket in self._waiting)

    def load(self, record: Record) -> None:
        if record[0] == "z":
            self._loaded.pop(record[1], None)
            return
        _, name, cookie, traffic, came, guess = record
        socket = DestroyedSocket(named(name), int(cookie), True, True, Traffic(*map(int, traffic)))
        self._loaded.pop(socket.cookie, None)
        self._loaded[socket.cookie] = (
            socket,
            float(came),
            None if guess is None else named(guess) if guess else _UNDECIDED,
        )

    def resume(self) -> None:
        """Continue after a restart."""
        for loaded in self._loaded.values():
            self._keep(*loaded)
        self._loaded.clear()

    def _keep(self, socket: DestroyedSocket, came: float, guess: FourTuple | None) -> None:
        """One came then and is matched with the `guess`: _UNDECIDED while it waits, None if there is no match."""
        if guess is None:
            self._unknown[socket.cookie] = (came, socket)
        elif guess == _UNDECIDED:
            self._waiting.append((came, socket))
        else:
            self._guesses[guess] = (came, socket)

    def _put(self, socket: DestroyedSocket, came: float, guess: FourTuple | None) -> None:
        if guess in self._guesses:
            self._explained(self._guesses[guess][1].cookie)
        self._keep(socket, came, guess)
        if self._log is not None:
            self._log.append(_line(socket, came, guess))

    def _explained(self, cookie: int) -> None:
        if self._log is not None:
            self._log.append(f'["z",{cookie}]')

    # --- matching -------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether tick() will soon have a verdict."""
        return bool(self._waiting)

    @property
    def has_any(self) -> bool:
        """Whether a destroyed socket can be, or be the peer of, one that came unaddressed."""
        return bool(self._guesses or self._unknown)

    def wait(self, socket: DestroyedSocket, now: float) -> bool:
        """Let a socket wait for a match; False if it can be none of the known ones."""
        if not self._internal(socket.four_tuple) and next(self._sockets.name_unknown(socket), None) is None:
            return False
        self._put(socket, now, _UNDECIDED)
        return True

    def tick(self, now: float, window: float) -> Iterator[Verdict]:
        """The results for those that have waited long enough. `window` is the beginning of the correlation window."""
        while self._waiting and self._waiting[0][0] <= now - _MOMENT:
            came, socket = self._waiting.popleft()
            if self._is_expected_peer(socket, came, window):
                continue
            four_tuple = next(self._sockets.name_unknown(socket), None)
            if four_tuple is not None:
                self._put(socket, came, four_tuple)
                yield Verdict(socket, four_tuple)
                continue
            internal = self._internal(socket.four_tuple)
            found = self._with_other_end(socket) if internal else socket
            if found is None:
                self._put(socket, came, None)
                continue
            self._explained(socket.cookie)
            yield Verdict(found, None, internal)
        self._shorten(self._unknown)
        self._shorten(self._guesses)

    def _shorten(self, kept: dict[Any, tuple[float, DestroyedSocket]]) -> None:
        """Forget the oldest where there are too many."""
        for key in list(islice(kept, max(0, len(kept) - _MOST))):
            self._explained(kept.pop(key)[1].cookie)

    def _with_other_end(self, socket: DestroyedSocket) -> DestroyedSocket | None:
        """A socket with its 4-tuple, where its other end was cleared, too, and came before.

        Two that were reset, whose other ends programs keep open, look the same: but those leave nothing in TIME_WAIT.
        """
        for cookie, (came, other) in islice(reversed(self._unknown.items()), _MOST_TRIED):
            four_tuple = of_both(socket, other)
            if four_tuple is not None and self._is_in_time_wait(four_tuple):
                del self._unknown[cookie]
                self._put(other, came, mirrored(four_tuple))
                return socket._replace(four_tuple=four_tuple)
        return None

    def _is_in_time_wait(self, four_tuple: FourTuple) -> bool:
        """Whether a connection was closed in order, and either end is in TIME_WAIT."""
        ends = (self._look_up(each) for each in (four_tuple, mirrored(four_tuple)))
        return any(end is not None and end.timewait for end in ends)

    def _is_expected_peer(self, socket: DestroyedSocket, came: float, window: float) -> bool:
        """Whether one can be an expected peer; then that is expected no longer."""
        expected = self._sockets.expected_of(socket, window)
        four_tuple = next((one for one in expected if not self._has_lost_its_peer(one)), None)
        if four_tuple is None:
            return False
        peer = self._sockets.first(four_tuple, Phase.EXPECTED, window)
        assert peer is not None
        self._sockets.forget(peer)
        self._put(socket, came, four_tuple)
        return True

    def _has_lost_its_peer(self, four_tuple: FourTuple) -> bool:
        """Whether a 4-tuple has a socket now that has lost its other end."""
        info = self._look_up(four_tuple)
        if not is_full(info) or info.state == ESTABLISHED:
            return False
        return not is_full(self._look_up(mirrored(four_tuple)))

    # --- later notifications ---------------------------------------------------------------------------------------------

    def taken_back(self, socket: DestroyedSocket, now: float) -> bool:
        """Whether one was taken for a socket that is notified only now, and that a program had kept open since before."""
        guessed = self._guesses.get(socket.four_tuple)
        if guessed is None or not _was_reset_by(socket, guessed[0], now):
            return False
        del self._guesses[socket.four_tuple]
        self._put(guessed[1], now, _UNDECIDED)
        return True

    def was_peer(self, socket: DestroyedSocket, now: float) -> bool:
        """Whether the peer of one that a program had kept open came unaddressed before."""
        for cookie, (came, other) in reversed(self._unknown.items()):
            if not _was_reset_by(socket, came, now):
                return False
            if can_be(other, mirrored(socket.four_tuple)):
                del self._unknown[cookie]
                self._explained(cookie)
                return True
        return False


def _was_reset_by(socket: DestroyedSocket, time: float, now: float) -> bool:
    """Whether a socket had been reset by then, or within a moment, and is destroyed only now."""
    return now - socket.idle < time + _MOMENT


def _line(socket: DestroyedSocket, came: float, guess: FourTuple | None) -> str:
    taken = None if guess is None else guess.hex()
    return _ENCODE(["y", socket.four_tuple.hex(), socket.cookie, list(socket.traffic), round(came, 3), taken])
