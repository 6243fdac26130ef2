"""What must be written down so that the tracker can be built again after a restart: one call per change."""

from __future__ import annotations

from tcpnewconn.model import Pair
from tcpnewconn.sockets import Socket


class Changes:
    """Writes nothing down; see snapshot.py for what does."""

    def put(self, pair: Pair, socket: Socket) -> None:
        """A row is of this socket."""

    def drop(self, pair: Pair) -> None:
        """The socket of a pair is in no row any more."""

    def leave(self, pair: Pair, socket: Socket) -> None:
        """The announcement of a socket that is in no row is waited for."""

    def left(self, pair: Pair, cookie: int) -> None:
        """It has come, or is not waited for any longer."""

    def owe(self, pair: Pair, number: int) -> None:
        """The other half of a connection is waited for."""

    def settle(self, pair: Pair, number: int) -> None:
        """It has come, or is not waited for any longer."""

    def close(self, pair: Pair) -> None:
        """A connection was reported when it ended."""
