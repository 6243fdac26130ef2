"""At which resolution a peer is kept: its address, its network, or "others".

The first so many peers of a service and day stand by their addresses. What comes after them is added up by network (/24,
/64), the first so many of these too, and after that as others: connection counts stay exact, the ledger stays bounded.
"""

from __future__ import annotations

import ipaddress
import sqlite3
from collections import OrderedDict

from tcpnewconn.ledger.schema import DAY

OTHERS, UNNAMED = "others", "unnamed"
PREFIXES = {4: 24, 6: 64}
_MOST_DAYS = 20_000


def network_of(address: str) -> str:
    """The network that an address is added up in: 203.0.113.9 -> 203.0.113.0/24."""
    if ":" not in address:
        return f"{address.rpartition('.')[0]}.0/24"
    return str(ipaddress.ip_network(f"{address.partition('%')[0]}/64", strict=False))


def is_address(peer: str) -> bool:
    return peer not in (OTHERS, UNNAMED) and "/" not in peer


class Resolution:
    """The peers that are named, of each service and day that was asked for."""

    def __init__(self, connection: sqlite3.Connection, most: int) -> None:
        self._db = connection
        self._most = most
        # (service, start of the day) -> addresses, networks
        self._named: OrderedDict[tuple[int, int], tuple[set[str], set[str]]] = OrderedDict()

    def forget(self) -> None:
        self._named.clear()

    def trim(self) -> None:
        """Stay bounded. Not while something is added that is not in the tables yet."""
        while len(self._named) > _MOST_DAYS:
            self._named.popitem(last=False)

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
        if len(addresses) < self._most:
            addresses.add(peer)
            return peer
        network = network_of(peer)
        if network in networks:
            return network
        if len(networks) < self._most:
            networks.add(network)
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
