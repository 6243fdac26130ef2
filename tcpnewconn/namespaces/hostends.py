"""The host's ends of connections with other namespaces: what the host's observer is not to report, or reports with another ID."""

from __future__ import annotations

from typing import TypeVar

from tcpnewconn.eventtypes import Closed, Connection
from tcpnewconn.model import FourTuple, SocketInfo
from tcpnewconn.namespaces import ends
from tcpnewconn.observing.observer import Observer

# So many open connections are remembered whose closed events are to repeat what was reported of them.
_MOST_REMEMBERED = 65_536

_Value = TypeVar("_Value")


class HostEnds:
    """`observer` is the host's. Times are monotonic, in seconds."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        # When the host's tracker last began to expect a socket.
        self._expected = float("-inf")
        # What was reported of a connection: by the 4-tuple that the host expects; by the ID that its observer gave.
        self._reported: dict[FourTuple, Connection] = {}
        self._closing: dict[str, Connection] = {}

    def resume(self, now: float) -> None:
        """Sockets can have been expected before a restart."""
        self._expected = now

    def matter(self, now: float) -> bool:
        """Whether an event of the host can be one of them, even when no other namespace is known any more."""
        return bool(self._closing) or self._expected >= self._observer.tracker.run.window(now)

    def open(self, four_tuple: FourTuple) -> SocketInfo | None:
        """A socket of the host, if it is open."""
        info = self._observer.lookups.socket(four_tuple)
        return info if info is not None and not info.timewait else None

    def expect(self, four_tuple: FourTuple, now: float, at_once: bool = False) -> None:
        """As Tracker.expect()."""
        self._expected = now
        self._observer.tracker.expect(four_tuple, now, at_once)

    def reported(self, four_tuple: FourTuple, connection: Connection) -> None:
        """This was reported of a connection with an open socket of the host, which is expected."""
        if self._observer.events.closed:
            _remember(self._reported, four_tuple, connection)

    def came(self, four_tuple: FourTuple, event: Connection) -> None:
        """An expected one came, as this event."""
        reported = self._reported.pop(four_tuple, None)
        if reported is not None:
            self.joined(event, reported)

    def joined(self, event: Connection, connection: Connection) -> None:
        """An event of the host was reported as this connection."""
        if self._observer.events.closed:
            _remember(self._closing, event.id, connection)

    def closed(self, event: Closed) -> Closed:
        """The closed event of a connection, as it is to be reported."""
        connection = self._closing.pop(event.id, None)
        return event if connection is None else ends.closed_as(event, connection)


def _remember(where: dict[_Value, Connection], key: _Value, connection: Connection) -> None:
    where[key] = connection
    if len(where) > _MOST_REMEMBERED:
        del where[next(iter(where))]
