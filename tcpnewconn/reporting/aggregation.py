"""Summarizes a burst of connections, or of failed attempts, in one event with their exact number. Pure: the time is given.

A connection is logged by itself, or counted in a *group*. None is dropped: entries and counts add up to all connections.
Records g, f and h of the state log are its own.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator

from tcpnewconn.eventtypes import Connection, Failed, Summary
from tcpnewconn.model import Endpoint
from tcpnewconn.state.log import StateLog
from tcpnewconn.state.owner import Record

# (direction, source address, destination address, destination port, cgroup, network namespace); what the group does not share is
# None.
Key = tuple[str, bytes | None, bytes | None, int | None, int, int]

# Groups of one interval: those that share a source, and those that do not. A connection for which there is no group of the
# first kind left is counted in one of the second, and where there is none of those left, by its direction alone.
_MOST_GROUPS = 10_000
_MOST_COARSE = 11_000
# Source addresses that are counted one by one, in all groups together.
_MOST_SOURCES = 20_000
_TOP = 5
# Of a group whose connections have several users, or whose user is not known; and the same for its error.
_SEVERAL = -1


class Group:
    """Similar connections of one interval.

    The first of them are `logged` one by one, the others only make up `count`; `sources` counts those by address where the
    group shares none, `other_sources` those of addresses beyond the limit. `uid` and `error` are those of the first that was
    counted, as long as all have the same. `number` is that in the state log, below zero where it has none.
    """

    __slots__ = ("count", "error", "logged", "number", "other_sources", "sources", "uid")

    def __init__(self, count: int = 0, other_sources: int = 0, number: int = -1) -> None:
        self.logged = 0
        self.count = count
        self.sources: dict[bytes | None, int] = {}
        self.other_sources = other_sources
        self.uid = self.error = _SEVERAL
        self.number = number


class RateLimit:
    """Counts entries in the current second, which began at `since`."""

    def __init__(self) -> None:
        self.since = float("-inf")
        self.entries = 0

    def allows(self, now: float, limit: int) -> bool:
        """Whether one more entry is within the limit per second (0: no limit); if so, it is counted."""
        if not limit:
            return True
        if not self.since <= now < self.since + 1:
            self.since, self.entries = now, 0
        self.entries += 1
        return self.entries <= limit


class Aggregation:
    """Logs `burst` connections of one group and interval one by one, and `total` in one second; 0 means no limit."""

    def __init__(self, burst: int, total: int, log: StateLog | None = None) -> None:
        self.burst = burst
        self.total = total
        self._log = log
        # Connections that were counted without their addresses, since the caller last set this to 0.
        self.coarse = 0
        self._groups: dict[Key, Group] = {}
        self._sources = 0
        self._rate = RateLimit()
        # How many groups have a number in the state log.
        self._numbered = 0
        self._keys: dict[int, Key] = {}
        if log is not None:
            log.register("gfh", self, everywhere=True)

    def add(self, connection: Connection | Failed, now: float, crowded: bool = False) -> Key | None:
        """The key of the group that a connection is counted in, or None if it is to be logged by itself.

        `crowded`: no further entry can be queued, whatever the limits are. `now` in seconds of a monotonic clock.
        """
        source, destination = connection.source, connection.destination
        netns = connection.netns
        if not crowded:
            key = _key(connection)
            group = self._group(key, _MOST_GROUPS) if self.burst else None
            if not self.burst or (group is not None and group.logged < self.burst):
                if self._rate.allows(now, self.total):
                    if group is not None:
                        group.logged += 1
                    return None
            elif group is not None:
                self._count(key, group, connection)
                return key
        # A flood, or too many different ones: the sources are counted.
        key = (connection.direction, None, destination.address, destination.port, 0, netns)
        group = self._group(key, _MOST_COARSE)
        if group is None:
            key = (connection.direction, None, None, None, 0, 0)
            group = self._groups.setdefault(key, Group())
            self.coarse += 1
        self._count_source(group, source.address)
        self._count(key, group, connection)
        return key

    def group_of(self, connection: Connection) -> Group | None:
        """The group that a connection was counted in which has just been added; None if it was logged by itself.

        One more of the same kind is counted there in any case: so many are logged already.
        """
        if not self.burst:
            return None
        group = self._groups.get(_key(connection))
        return group if group is not None and group.count and group.logged >= self.burst else None

    def another(self, group: Group) -> None:
        """Count one more in the group of a similar one."""
        group.count += 1
        if self._log is not None:
            self._log.append(f'["f",{group.number}]')

    def _count(self, key: Key, group: Group, connection: Connection | Failed) -> None:
        uid = connection.uid if connection.uid is not None else _SEVERAL
        error = connection.error if isinstance(connection, Failed) else _SEVERAL
        if not group.count:
            group.uid, group.error = uid, error
        else:
            if group.uid != uid:
                group.uid = _SEVERAL
            if group.error != error:
                group.error = _SEVERAL
        group.count += 1
        if self._log is not None:
            number = group.number
            if number < 0:
                number = group.number = self._numbered
                self._numbered += 1
                self._log.append(_line(number, key, 0))
            self._log.append(f'["f",{number}]')

    def flush(self) -> Iterator[Summary]:
        """The summaries of the interval that ends now, in the order in which their groups began."""
        return (_summary(key, group) for key, group in self._over())

    def flush_failed(self) -> Iterator[Failed]:
        """The same, of failed attempts."""
        return (_failed(key, group) for key, group in self._over())

    def _over(self) -> Iterator[tuple[Key, Group]]:
        """The groups that were counted in the interval that ends now."""
        groups, self._groups, self._sources = self._groups, {}, 0
        if self._numbered and self._log is not None:
            self._numbered = 0
            self._log.append('["h"]')
        return ((key, group) for key, group in groups.items() if group.count)

    # --- what outlives a restart -------------------------------------------------------------------------------------

    def records(self) -> Iterator[str]:
        counted = [(key, group) for key, group in self._groups.items() if group.count]
        self._numbered = len(counted)
        for number, (_, group) in enumerate(counted):
            group.number = number
        return (_line(group.number, key, group.count) for key, group in counted)

    def load(self, record: Record) -> None:
        """Connections that were counted before a restart. Their sources are not on record."""
        if record[0] == "g":
            _, number, direction, source, destination, port, cgroup, count, *other = record
            source, destination = (None if one is None else bytes.fromhex(one) for one in (source, destination))
            netns = int(other[0]) if other else 0
            key = (str(direction), source, destination, None if port is None else int(port), int(cgroup), netns)
            self._numbered = max(self._numbered, int(number) + 1)
            self._keys[int(number)] = key
            self._groups[key] = Group(count=int(count), other_sources=int(count), number=int(number))
        elif record[0] == "f":
            group = self._groups[self._keys[record[1]]]
            group.count += 1
            group.other_sources += 1
        else:
            self.clear()

    def clear(self) -> None:
        self._groups.clear()
        self._numbered = 0
        self._keys.clear()

    def _group(self, key: Key, most: int) -> Group | None:
        group = self._groups.get(key)
        if group is None and len(self._groups) < most:
            group = self._groups[key] = Group()
        return group

    def _count_source(self, group: Group, address: bytes | None) -> None:
        if address in group.sources:
            group.sources[address] += 1
        elif self._sources < _MOST_SOURCES:
            group.sources[address] = 1
            self._sources += 1
        else:
            group.other_sources += 1


def _key(connection: Connection | Failed) -> Key:
    """The key of the group of those that share all that a group can."""
    source, destination = connection.source, connection.destination
    ends = (source.address, destination.address, destination.port)
    return (connection.direction, *ends, connection.cgroup, connection.netns)


def _summary(key: Key, group: Group) -> Summary:
    direction, source, destination, port, cgroup, netns = key
    exact = not group.other_sources
    sources = group.sources
    if exact and len(sources) == 1:
        # They share it after all.
        ((source, _),) = sources.items()
        sources = {}
    top = heapq.nlargest(_TOP, sources.items(), key=lambda item: item[1])
    return Summary(
        source=Endpoint(source, None),
        destination=Endpoint(destination, port),
        direction=direction,
        cgroup=cgroup,
        count=group.count,
        sources=len(sources),
        exact=exact,
        top=tuple((address, count) for address, count in top if address is not None),
        uid=group.uid if group.uid != _SEVERAL else None,
        netns=netns,
    )


def _failed(key: Key, group: Group) -> Failed:
    direction, source, destination, port, cgroup, netns = key
    uid = group.uid if group.uid != _SEVERAL else None
    return Failed(
        Endpoint(source, None),
        Endpoint(destination, port),
        direction,
        max(0, group.error),
        uid,
        cgroup,
        ("connect",) if uid is not None or cgroup else (),
        None,
        group.count,
        netns,
    )


def _line(number: int, key: Key, count: int) -> str:
    """The record of a group. Of one in the host's own namespace it ends with its count."""
    direction, source, destination, port, cgroup, netns = key
    addresses = [None if address is None else address.hex() for address in (source, destination)]
    record = ["g", number, direction, *addresses, port, cgroup, count, *([netns] if netns else [])]
    return json.dumps(record, separators=(",", ":"))
