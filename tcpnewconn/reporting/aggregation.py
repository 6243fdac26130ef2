"""Summarizes a burst of connections in one event with their exact number. Pure: the time is given.

A connection is logged by itself, or counted in a *group*. None is dropped: entries and counts add up to all connections.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from tcpnewconn.model import Connection, Endpoint, Summary

# (direction, source address, destination address, destination port, cgroup); what the group does not share is None.
Key = tuple[str, bytes | None, bytes | None, int | None, int]

# Groups of one interval: those that share a source, and those that do not. A connection for which there is no group of the
# first kind left is counted in one of the second, and where there is none of those left, by its direction alone.
_MOST_GROUPS = 10_000
_MOST_COARSE = 11_000
# Source addresses that are counted one by one, in all groups together.
_MOST_SOURCES = 20_000
_TOP = 5


@dataclass(slots=True)
class Group:
    """Similar connections of one interval.

    The first of them are `logged` one by one, the others only make up `count`; `sources` counts those by address where the
    group shares none, `other_sources` those of addresses beyond the limit.
    """

    logged: int = 0
    count: int = 0
    sources: dict[bytes | None, int] = field(default_factory=dict)
    other_sources: int = 0


@dataclass(slots=True)
class RateLimit:
    """Counts entries in the current second, which began at `since`."""

    since: float = float("-inf")
    entries: int = 0

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

    def __init__(self, burst: int, total: int) -> None:
        self.burst = burst
        self.total = total
        # Connections that were counted without their addresses, since the caller last set this to 0.
        self.coarse = 0
        self._groups: dict[Key, Group] = {}
        self._sources = 0
        self._rate = RateLimit()

    def add(self, connection: Connection, now: float, crowded: bool = False) -> Key | None:
        """The key of the group that a connection is counted in, or None if it is to be logged by itself.

        `crowded`: no further entry can be queued, whatever the limits are. `now` in seconds of a monotonic clock.
        """
        source, destination = connection.source, connection.destination
        if not crowded:
            key = (connection.direction, source.address, destination.address, destination.port, connection.cgroup)
            group = self._group(key, _MOST_GROUPS) if self.burst else None
            if not self.burst or (group is not None and group.logged < self.burst):
                if self._rate.allows(now, self.total):
                    if group is not None:
                        group.logged += 1
                    return None
            elif group is not None:
                group.count += 1
                return key
        # A flood, or too many different ones: the sources are counted.
        key = (connection.direction, None, destination.address, destination.port, 0)
        group = self._group(key, _MOST_COARSE)
        if group is None:
            key = (connection.direction, None, None, None, 0)
            group = self._groups.setdefault(key, Group())
            self.coarse += 1
        self._count_source(group, source.address)
        group.count += 1
        return key

    def restore(self, key: Key, count: int) -> None:
        """Connections that were counted before a restart."""
        group = self._groups.setdefault(key, Group())
        group.count += count
        group.other_sources += count

    def counted(self) -> Iterator[tuple[Key, int]]:
        """The groups with connections of which no summary was written yet."""
        return ((key, group.count) for key, group in self._groups.items() if group.count)

    def flush(self) -> Iterator[Summary]:
        """The summaries of the interval that ends now, in the order in which their groups began."""
        groups, self._groups, self._sources = self._groups, {}, 0
        for key, group in groups.items():
            if group.count:
                yield _summary(key, group)

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


def _summary(key: Key, group: Group) -> Summary:
    direction, source, destination, port, cgroup = key
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
    )
