"""Connections between two network namespaces whose other end is still to be seen: each waits a moment for it. Pure.

A short one is seen when its sockets are destroyed: two notifications, in two sockets of this program, some milliseconds apart.
Record j is its own: the event of a connection; with its id and numbers, its closed event; with its id alone, that it waits no
longer; with its id, the 4-tuple of its other end and its namespace, that it was reported alone, with null, that this is over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from tcpnewconn.eventtypes import DETECTED_BY, Closed, Connection
from tcpnewconn.model import CLOSE, EGRESS, INGRESS, UNKNOWN, Caller, Endpoint, FourTuple, named
from tcpnewconn.observing.connections import closed_of
from tcpnewconn.state.owner import Log, Record

# Seconds to wait. Until a process shows which namespace an id is of, its notifications wait for 1 s (notified.py).
_MOMENT = 1.5
# So many wait at most: 15 MB of them.
_MOST = 10_000
# Seconds for which it is remembered that one was reported alone, whose other end can be in a namespace that nobody knows yet.
_REMEMBERED = 120.0

_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


class _One(NamedTuple):
    event: Connection
    # Of the socket at the other end.
    other_end: FourTuple
    came: float
    closed: Closed | None = None


class Held:
    """By the id of their event, in the order in which they came. Times are monotonic, in seconds."""

    def __init__(self, log: Log | None) -> None:
        self._log = log
        self._held: dict[str, _One] = {}
        self._by_end: dict[FourTuple, list[str]] = {}
        # The other ends of those that were reported alone: with the namespace and the id of the event, and when.
        self._alone: dict[FourTuple, tuple[int, str, float]] = {}
        # When the last of them was reported by another namespace than the host's.
        self._last_alone = float("-inf")
        if log is not None:
            log.register("j", self)

    def __bool__(self) -> bool:
        return bool(self._held)

    def hold(self, event: Connection, other_end: FourTuple, now: float) -> None:
        """Wait for the other end of a connection, a socket of this 4-tuple in another namespace."""
        one = _One(event, other_end, now)
        self._add(one)
        if self._log is not None:
            self._log.append(_line(one))

    def close(self, closed: Closed) -> bool:
        """Take the closed event of a connection, if that waits."""
        one = self._held.get(closed.id)
        if one is None:
            return False
        self._held[closed.id] = one._replace(closed=closed)
        if self._log is not None:
            self._log.append(_closed_line(closed))
        return True

    def of(self, four_tuple: FourTuple, netns: int) -> Iterator[Connection]:
        """The connections whose other end can be this socket of this namespace."""
        events = [self._held[name].event for name in self._by_end.get(four_tuple, ())]
        return (event for event in events if event.netns != netns)

    def take(self, event: Connection) -> Closed | None:
        """A connection waits no longer. Returns its closed event."""
        return self._take(event.id)[1]

    def reported_alone(self, event: Connection, other_end: FourTuple, now: float) -> None:
        """A connection was reported; its other end, in whichever namespace it is, is not to be."""
        self._remember(other_end, event.netns, event.id, now)
        if self._log is not None:
            self._log.append(_ENCODE(["j", event.id, other_end.hex(), event.netns]))

    def take_reported(self, four_tuple: FourTuple, netns: int, now: float) -> bool:
        """Whether one was reported alone whose other end is this socket of this namespace: that is remembered no longer."""
        reported = self._alone.get(four_tuple)
        if reported is None or reported[0] == netns or reported[2] < now - _REMEMBERED:
            return False
        del self._alone[four_tuple]
        if self._log is not None:
            self._log.append(_ENCODE(["j", reported[1], four_tuple.hex(), None]))
        return True

    def concern_host(self, now: float) -> bool:
        """Whether a socket of the host can be the other end of one that waits, or was reported alone."""
        return bool(self._held) or self._last_alone >= now - _REMEMBERED

    def _remember(self, other_end: FourTuple, netns: int, name: str, now: float) -> None:
        self._alone.pop(other_end, None)
        if netns:
            self._last_alone = now
        self._alone[other_end] = (netns, name, now)
        if len(self._alone) > _MOST:
            del self._alone[next(iter(self._alone))]

    def overdue(self, now: float, last: bool) -> Iterator[tuple[Connection, Closed | None]]:
        """Those that have waited long enough, or are too many; all of them if these are the `last`."""
        while self._held:
            name, one = next(iter(self._held.items()))
            if one.came > now - _MOMENT and not last and len(self._held) <= _MOST:
                return
            yield self._take(name)

    def _add(self, one: _One) -> None:
        self._held[one.event.id] = one
        self._by_end.setdefault(one.other_end, []).append(one.event.id)

    def _take(self, name: str) -> tuple[Connection, Closed | None]:
        if self._log is not None:
            self._log.append(_ENCODE(["j", name]))
        one = self._remove(name)
        return one.event, one.closed

    def _remove(self, name: str) -> _One:
        one = self._held.pop(name)
        names = self._by_end[one.other_end]
        names.remove(name)
        if not names:
            del self._by_end[one.other_end]
        return one

    # --- what outlives a restart -------------------------------------------------------------------------------------

    def resume(self, now: float) -> None:
        """Continue after a restart. Those that are closed wait again: whose the next notification is, is not known at once.

        The others do not: killed every second, the service would never report them.
        """
        for name, one in self._held.items():
            again = one.event.state == CLOSE or one.came > now
            self._held[name] = one._replace(came=now if again else one.came)
        alone = list(self._alone.items())
        for other_end, (netns, name, _) in alone:
            self._remember(other_end, netns, name, now)

    def clear(self) -> None:
        self._held.clear()
        self._by_end.clear()
        self._alone.clear()
        self._last_alone = float("-inf")

    def records(self) -> Iterator[str]:
        for one in self._held.values():
            yield _line(one)
            if one.closed is not None:
                yield _closed_line(one.closed)
        for other_end, (netns, name, _) in self._alone.items():
            yield _ENCODE(["j", name, other_end.hex(), netns])

    def load(self, record: Record) -> None:
        name = str(record[1])
        if len(record) == 2:
            self._remove(name)
        elif len(record) == 4 and record[3] is None:
            # It can have been one too many before.
            self._alone.pop(named(record[2]), None)
        elif len(record) == 4:
            self._remember(named(record[2]), int(record[3]), name, 0.0)
        elif len(record) == 7:
            one = self._held[name]
            sent, received, rtt, retransmits = map(int, record[2:6])
            seconds = None if record[6] is None else float(record[6])
            self._held[name] = one._replace(closed=closed_of(one.event, sent, received, rtt, retransmits, seconds))
        else:
            other_end = named(record[2])
            if name in self._held:
                raise ValueError(f"{name} twice")
            self._add(_One(_loaded(name, *record[4:]), other_end, float(record[3])))


def _line(one: _One) -> str:
    source, destination, direction, detected_by, name, *rest = one.event
    ends = _written(source), _written(destination)
    return _ENCODE(["j", name, one.other_end.hex(), round(one.came, 3), *ends, direction, detected_by, *rest])


def _closed_line(closed: Closed) -> str:
    """What it says and its connection does not."""
    numbers = closed.source_bytes, closed.destination_bytes, closed.rtt, closed.retransmits, closed.seconds
    return _ENCODE(["j", closed.id, *numbers])


def _written(end: Endpoint) -> list[object]:
    return [None if end.address is None else end.address.hex(), end.port]


def _endpoint(address: str | None, port: int | None) -> Endpoint:
    return Endpoint(None if address is None else bytes.fromhex(address), None if port is None else int(port))


def _loaded(
    name: str,
    source: list[Any],
    destination: list[Any],
    direction: str,
    detected_by: str,
    state: int,
    uid: int | None,
    cgroup: int,
    by: list[str],
    caller: list[Any] | None,
    accepted: list[Any] | None,
    missing: Any,
    netns: int,
) -> Connection:
    if direction not in (EGRESS, INGRESS, UNKNOWN) or detected_by not in DETECTED_BY:
        raise ValueError(f"{direction} and {detected_by} are of no connection that waits")
    return Connection(
        _endpoint(*source),
        _endpoint(*destination),
        direction,
        detected_by,
        name,
        int(state),
        None if uid is None else int(uid),
        int(cgroup),
        tuple(map(str, by)),
        None if caller is None else Caller(*caller),
        None if accepted is None else Caller(*accepted),
        missing,
        int(netns),
    )
