"""At which resolution a peer is kept: its address, its network, or "others"; and which services have rows of their own.

The first so many peers of a service and day stand by their addresses. What comes after them is added up by network (/24,
/64), the first so many of these too, and after that as others. Where a day has more peers or services than the ledger's
size has place for, new ones are others at once: connection counts stay exact, the ledger stays bounded.
"""

from __future__ import annotations

import ipaddress
import sqlite3
from collections import OrderedDict
from dataclasses import dataclass

from tcpnewconn.ledger.schema import DAY

OTHERS, UNNAMED = "others", "unnamed"
PREFIXES = {4: 24, 6: 64}
_MOST_CACHED = 20_000
# Bytes of the ledger's size for each peer of a day (24 rows of 50 bytes, its name, its share of the indexes) and for each
# service: a day always fits.
_BYTES_OF_EDGE, _BYTES_OF_SERVICE = 2048, 8192


def network_of(address: str) -> str:
    """The network that an address is added up in: 203.0.113.9 -> 203.0.113.0/24."""
    if ":" not in address:
        return f"{address.rpartition('.')[0]}.0/24"
    return str(ipaddress.ip_network(f"{address.partition('%')[0]}/64", strict=False))


def is_address(peer: str) -> bool:
    return peer not in (OTHERS, UNNAMED) and "/" not in peer


@dataclass(slots=True)
class _Day:
    """The peers and services that a day has rows of."""

    edges: int
    services: set[int]


class Resolution:
    """The peers that are named, of each service and day that was asked for. `most`: of a service; `size`: of the ledger."""

    def __init__(self, connection: sqlite3.Connection, most: int, size: int) -> None:
        self._db = connection
        self._most = most
        self._most_edges, self._most_services = size // _BYTES_OF_EDGE, size // _BYTES_OF_SERVICE
        # (service, start of the day) -> addresses, networks
        self._named: OrderedDict[tuple[int, int], tuple[set[str], set[str]]] = OrderedDict()
        self._days: dict[int, _Day] = {}

    def forget(self) -> None:
        self._named.clear()
        self._days.clear()

    def trim(self) -> None:
        """Stay bounded. Not while something is added that is not in the tables yet."""
        while len(self._named) > _MOST_CACHED:
            self._named.popitem(last=False)
        while len(self._days) > 10:
            del self._days[min(self._days)]

    def takes_service(self, number: int | None, day: int) -> bool:
        """Whether a service has rows of its own on this day. None: it is not in the tables yet."""
        services = self._day(day).services
        return number in services or len(services) < self._most_services

    def add_service(self, number: int, day: int) -> None:
        self._day(day).services.add(number)

    def _day(self, day: int) -> _Day:
        found = self._days.get(day)
        if found is None:
            # Those that came later too, where the clock was set back: no more than there is place for.
            counts = dict(
                self._db.execute("SELECT service, count(*) FROM edge WHERE last >= ? GROUP BY service", (day,))
            )
            found = self._days[day] = _Day(sum(counts.values()), set(counts))
        return found

    def peer(self, service: int, peer: str, day: int) -> str:
        """How a peer of this service is kept on this day."""
        if not is_address(peer):
            return peer
        named = self._named.get((service, day))
        if named is None:
            named = self._named[service, day] = self._load(service, day)
        addresses, networks = named
        if peer in addresses:
            return peer
        today = self._day(day)
        full = today.edges >= self._most_edges
        if len(addresses) < self._most and not full:
            addresses.add(peer)
            today.edges += 1
            return peer
        network = network_of(peer)
        if network in networks:
            return network
        if len(networks) < self._most and not full:
            networks.add(network)
            today.edges += 1
            return network
        return OTHERS

    def _load(self, service: int, day: int) -> tuple[set[str], set[str]]:
        addresses: set[str] = set()
        networks: set[str] = set()
        for (peer,) in self._db.execute(
            "SELECT DISTINCT peer FROM edge WHERE service = ? AND last >= ? AND EXISTS "
            "(SELECT 1 FROM traffic WHERE edge = edge.id AND start >= ? AND start < ?)",
            (service, day, day, day + DAY),
        ):
            if is_address(peer):
                addresses.add(peer)
            elif "/" in peer:
                networks.add(peer)
        return addresses, networks
