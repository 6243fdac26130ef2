"""The results of tracking: a connection to report, and a destroyed socket of a reported connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tcpnewconn.model import DestroyedSocket, FourTuple


class NewConnection(NamedTuple):
    """A connection to be reported, by one of its sockets. `detected_by` is startup, poll, notification or trace.

    `destroyed` is the socket of the notification that it was detected by. `replaced`: another one has its addresses by now.
    """

    four_tuple: FourTuple
    number: int
    detected_by: str
    state: int
    uid: int | None
    cgroup: int
    internal: bool
    destroyed: DestroyedSocket | None = None
    replaced: bool = False

    @property
    def incomplete(self) -> bool:
        """Whether the kernel had cleared the addresses: the remote port is zero then, and the local address may be."""
        return self.destroyed is not None and not any(self.four_tuple[-2:])


class ClosedSocket(NamedTuple):
    """A socket of a reported connection was destroyed.

    `opened` as in Socket, None where that was not seen; uid and cgroup are the socket's. It is `only_notified` where no poll
    has shown the connection, and this is the second of its sockets.
    """

    four_tuple: FourTuple
    number: int
    internal: bool
    destroyed: DestroyedSocket
    opened: float | None = None
    uid: int | None = None
    cgroup: int = 0
    only_notified: bool = False


# Is called with each outcome and its time (monotonic seconds), in order.
Report = Callable[[NewConnection | ClosedSocket, float], None]
