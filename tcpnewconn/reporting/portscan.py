"""Detects port scans: one source that opened connections to many ports of this host. Pure; it blocks nothing.

Only connections that were established count: a probe of a closed port never becomes one. And only those from elsewhere: from
another host, or from another network namespace of this one.
"""

from __future__ import annotations

from collections import OrderedDict

from tcpnewconn.eventtypes import Connection, PortScan
from tcpnewconn.model import INGRESS, INTERNAL

# Sources that are watched; beyond that, the one without a connection for the longest time is dropped.
_MOST_SOURCES = 10_000


class _Source:
    """When each port was last connected to, oldest first, and when the last port scan was reported."""

    __slots__ = ("ports", "reported")

    def __init__(self) -> None:
        self.ports: OrderedDict[int, float] = OrderedDict()
        self.reported = float("-inf")


def _is_from_elsewhere(connection: Connection) -> bool:
    """Whether a connection came from outside of the network namespace that it goes to, as far as that is known."""
    if connection.direction == INGRESS:
        return True
    source, destination = connection.source.address, connection.destination.address
    # Within one namespace both ends have the same address, or are on the loopback.
    between = connection.direction == INTERNAL and connection.netns != 0 and source != destination
    return between and source is not None and source[0] != 127


class PortScans:
    """More than `ports` ports within so many seconds are a port scan; 0 ports switches it off."""

    def __init__(self, ports: int, within: float) -> None:
        self.ports = ports
        self.within = within
        # Sources that were dropped while they were watched, since the caller last set this to 0.
        self.evicted = 0
        # By address, and by network namespace: the same address there is another host's.
        self._sources: OrderedDict[tuple[bytes, int], _Source] = OrderedDict()

    def notice(self, connection: Connection, now: float) -> PortScan | None:
        """Take a new connection; the port scan that it completes, once per source and period. `now` in seconds (monotonic)."""
        address, port = connection.source.address, connection.destination.port
        if not self.ports or address is None or port is None or not _is_from_elsewhere(connection):
            return None
        key = (address, connection.netns)
        source = self._sources.get(key)
        if source is None:
            source = self._sources[key] = _Source()
            self._drop_oldest(now)
        self._sources.move_to_end(key)
        ports = source.ports
        if len(ports) == 1 and port in ports:
            # A client of one service.
            ports[port] = now
            return None
        ports[port] = now
        ports.move_to_end(port)
        while ports and next(iter(ports.values())) <= now - self.within:
            ports.popitem(last=False)
        if len(ports) <= self.ports:
            return None
        if now < source.reported + self.within:
            # Reported already: as many ports are kept as will complete the next one.
            while len(ports) > self.ports + 1:
                ports.popitem(last=False)
            return None
        source.reported = now
        return PortScan(address, connection.destination.address, tuple(sorted(ports)), connection.netns)

    def _drop_oldest(self, now: float) -> None:
        while len(self._sources) > _MOST_SOURCES:
            _, source = self._sources.popitem(last=False)
            if source.ports and next(reversed(source.ports.values())) > now - self.within:
                self.evicted += 1
