"""What must be written down so that the tracker can be built again after a restart: one call per change."""

from __future__ import annotations

from tcpnewconn.model import DestroyedSocket, FourTuple
from tcpnewconn.tracking.sockets import Socket


class Changes:
    """Writes nothing down; see snapshot.py for what does."""

    def serial(self, number: int) -> None:
        """That many connections have been given a number, for want of a cookie."""

    def put(self, four_tuple: FourTuple, socket: Socket) -> None:
        """A row is of this socket."""

    def drop(self, four_tuple: FourTuple) -> None:
        """The socket of a four_tuple is in no row any more."""

    def leave(self, four_tuple: FourTuple, socket: Socket, doubtful: bool, lost: bool) -> None:
        """The announcement of a socket that is in no row is waited for; `doubtful` and `lost` as in leaving.Gone."""

    def left(self, four_tuple: FourTuple, cookie: int) -> None:
        """It has come, or is not waited for any longer."""

    def owe(self, four_tuple: FourTuple, number: int) -> None:
        """The other half of a connection is waited for."""

    def settle(self, four_tuple: FourTuple, number: int) -> None:
        """It has come, or is not waited for any longer."""

    def close(self, four_tuple: FourTuple) -> None:
        """A connection was reported when it ended."""

    def wait(self, end: DestroyedSocket, came: float, guess: FourTuple | None) -> None:
        """An end without addresses came then; taken for that of the `guess`, b"" while it waits, None where nothing tells."""

    def explained(self, cookie: int) -> None:
        """What an end without addresses was is known, or not waited for any longer."""

    def knows(self, beginning: bool, doubtful: bool) -> None:
        """Whether it is still not known what was there at the first read, and which sockets ended while nobody listened."""
