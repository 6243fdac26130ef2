"""What must be written down so that the tracker can be built again after a restart: one call per change."""

from __future__ import annotations

from tcpnewconn.model import End, Pair
from tcpnewconn.sockets import Socket


class Changes:
    """Writes nothing down; see snapshot.py for what does."""

    def serial(self, number: int) -> None:
        """That many connections have been given a number, for want of a cookie."""

    def put(self, pair: Pair, socket: Socket) -> None:
        """A row is of this socket."""

    def drop(self, pair: Pair) -> None:
        """The socket of a pair is in no row any more."""

    def leave(self, pair: Pair, socket: Socket, doubtful: bool, lost: bool) -> None:
        """The announcement of a socket that is in no row is waited for; `doubtful` and `lost` as in leaving.Gone."""

    def left(self, pair: Pair, cookie: int) -> None:
        """It has come, or is not waited for any longer."""

    def owe(self, pair: Pair, number: int) -> None:
        """The other half of a connection is waited for."""

    def settle(self, pair: Pair, number: int) -> None:
        """It has come, or is not waited for any longer."""

    def close(self, pair: Pair) -> None:
        """A connection was reported when it ended."""

    def wait(self, end: End, came: float, guess: Pair | None) -> None:
        """An end without addresses came then; taken for that of the `guess`, b"" while it waits, None where nothing tells."""

    def explained(self, cookie: int) -> None:
        """What an end without addresses was is known, or not waited for any longer."""

    def knows(self, beginning: bool, doubtful: bool) -> None:
        """Whether it is still not known what was there at the first read, and which sockets ended while nobody listened."""
