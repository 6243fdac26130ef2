"""Folds a burst of connections into one event with their exact number. Pure: the time is given.

A connection is told one by one, or counted in a *group*: nothing is dropped, the sum of entries and counts is what there was.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from tcpnewconn.model import Connection, Endpoint, Summary

# (direction, source address, destination address, destination port, cgroup); what the group does not share is None.
Key = tuple[str, bytes | None, bytes | None, int | None, int]

# Groups of one interval: those that share a source, and those that do not. What finds no place in the first is counted in
# the second, and what finds none there by its direction alone.
_MOST_GROUPS = 10_000
_MOST_COARSE = 11_000
# Addresses that are counted one by one, in all groups together.
_MOST_SOURCES = 20_000
_TOP = 5


@dataclass(slots=True)
class Group:
    """Connections that are told as one: `told` one by one before, `count` not; by `sources` where those differ.

    `untold` counts connections of sources that there was no room for.
    """

    told: int = 0
    count: int = 0
    sources: dict[bytes | None, int] = field(default_factory=dict)
    untold: int = 0


@dataclass(slots=True)
class Second:
    """The second that is running: when it began, and how many entries it has had."""

    began: float = float("-inf")
    entries: int = 0

    def room(self, now: float, limit: int) -> bool:
        """Whether one more is within the limit, 0 is none; then it counts."""
        if not limit:
            return True
        if not self.began <= now < self.began + 1:
            self.began, self.entries = now, 0
        self.entries += 1
        return self.entries <= limit


class Aggregation:
    """`burst` connections of one group and interval are told one by one, and `total` in one second; 0 switches either off."""

    def __init__(self, burst: int, total: int) -> None:
        self.burst = burst
        self.total = total
        # How many connections had to be counted without telling their peers since this was last set to 0.
        self.coarse = 0
        self._groups: dict[Key, Group] = {}
        self._sources = 0
        self._second = Second()

    def fold(self, connection: Connection, now: float, crowded: bool = False) -> Key | None:
        """The key of the group that a connection was counted in, or None if it is to be told by itself.

        `crowded`: there is no room for another entry, whatever the limits say.
        """
        source, destination = connection.source, connection.destination
        if not crowded:
            key = (connection.direction, source.address, destination.address, destination.port, connection.cgroup)
            group = self._group(key, _MOST_GROUPS) if self.burst else None
            if not self.burst or (group is not None and group.told < self.burst):
                if self._second.room(now, self.total):
                    if group is not None:
                        group.told += 1
                    return None
            elif group is not None:
                group.count += 1
                return key
        # Too much of everything: who opened it is counted, not told.
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
        group.untold += count

    def counted(self) -> Iterator[tuple[Key, int]]:
        """The groups that hold connections which were not told yet."""
        return ((key, group.count) for key, group in self._groups.items() if group.count)

    def flush(self) -> Iterator[Summary]:
        """The interval is over: what was counted in it, in the order in which the groups began."""
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
            group.untold += 1


def _summary(key: Key, group: Group) -> Summary:
    direction, source, destination, port, cgroup = key
    exact = not group.untold
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
