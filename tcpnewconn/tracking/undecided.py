"""Connections within this host whose opener is not known from listeners, ports, or the one destroyed socket.

They wait a moment for the destroy notification of the other socket: one of the two usually decides. Record q is its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from tcpnewconn.model import CLOSE, DestroyedSocket, Traffic, named
from tcpnewconn.state.owner import Log, Record
from tcpnewconn.tracking.outcomes import NewConnection

# Seconds to wait for the other socket's notification, which is some milliseconds late (measured).
_MOMENT = 1.0


class Undecided:
    """By the number of the connection, in the order in which they came."""

    def __init__(self, log: Log | None) -> None:
        self._log = log
        self._waiting: dict[int, tuple[float, NewConnection]] = {}
        if log is not None:
            log.register("q", self)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def wait(self, new: NewConnection, now: float) -> None:
        self._waiting[new.number] = (now, new)
        if self._log is not None:
            self._log.append(_line(now, new))

    def take(self, number: int) -> NewConnection | None:
        """The connection with this number, if it waits: it does no longer."""
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            return None
        if self._log is not None:
            self._log.append(f'["q",{number}]')
        return waiting[1]

    def overdue(self, now: float, last: bool) -> Iterator[NewConnection]:
        """Those that have waited long enough; all of them if these are the `last`."""
        while self._waiting:
            number, (came, _) = next(iter(self._waiting.items()))
            if came > now - _MOMENT and not last:
                return
            new = self.take(number)
            assert new is not None
            yield new

    def records(self) -> Iterator[str]:
        return (_line(came, new) for came, new in self._waiting.values())

    def load(self, record: Record) -> None:
        if len(record) == 2:
            del self._waiting[record[1]]
            return
        _, number, name, cookie, traffic, came = record
        four_tuple = named(name)
        destroyed = DestroyedSocket(four_tuple, int(cookie), True, False, Traffic(*map(int, traffic)))
        new = NewConnection(four_tuple, int(number), "notification", CLOSE, None, 0, True, destroyed)
        self._waiting[new.number] = (float(came), new)

    def clear(self) -> None:
        self._waiting.clear()


def _line(came: float, new: NewConnection) -> str:
    assert new.destroyed is not None
    return json.dumps(
        ["q", new.number, new.four_tuple.hex(), new.destroyed.cookie, list(new.destroyed.traffic), round(came, 3)],
        separators=(",", ":"),
    )
