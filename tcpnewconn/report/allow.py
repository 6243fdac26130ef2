"""An allow list for a unit, from what was seen: a systemd drop-in and an nftables set.

IPAddressDeny= and IPAddressAllow= filter both directions and every protocol, not TCP alone: clients, destinations, localhost
and resolvers belong in the list. UDP is not observed, so the drop-in is always printed commented out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field

from tcpnewconn.ledger.peers import OTHERS, UNNAMED
from tcpnewconn.model import DIRECTIONS
from tcpnewconn.report.book import Book, Edge
from tcpnewconn.report.period import time_text
from tcpnewconn.report.subject import accepting

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(slots=True)
class AllowList:
    """Networks that a unit accepted from and connected to; how much of the past they would have refused, and doubts."""

    unit: str
    clients: dict[int, list[Network]] = field(default_factory=dict)  # by local port
    destinations: dict[int, list[Network]] = field(default_factory=dict)  # by remote port
    resolvers: list[Network] = field(default_factory=list)
    connections: int = 0
    refused: int = 0
    reasons: list[str] = field(default_factory=list)

    def networks(self) -> list[Network]:
        return _collapsed(one for found in (*self.clients.values(), *self.destinations.values()) for one in found)


def allow_list(book: Book, unit: str, resolvers: Iterable[str] = ()) -> AllowList:
    """`resolvers`: addresses of the host's name servers, which the unit asks over UDP."""
    answer = AllowList(unit, resolvers=_collapsed(ipaddress.ip_network(one) for one in resolvers))
    clients: dict[int, list[Network]] = {}
    destinations: dict[int, list[Network]] = {}
    added_up = 0
    for edge in book.edges():
        for side, port in _sides(edge, unit):
            answer.connections += edge.connections
            if edge.peer in (OTHERS, UNNAMED):
                answer.refused += edge.connections
            elif edge.direction != "internal":
                added_up += edge.connections if "/" in edge.peer else 0
                (clients if side == "client" else destinations).setdefault(port, []).append(
                    ipaddress.ip_network(edge.peer, strict=False)
                )
    answer.clients = {port: _collapsed(found) for port, found in sorted(clients.items())}
    answer.destinations = {port: _collapsed(found) for port, found in sorted(destinations.items())}
    others = "other than the resolvers below" if answer.resolvers else "resolvers, NTP and the like"
    answer.reasons = [f"UDP is not observed: {others} must be added by hand"]
    if answer.refused:
        answer.reasons.append(
            f"{answer.refused} of {answer.connections} connections had unnamed peers: they would be refused"
        )
    if added_up:
        answer.reasons.append(
            f"{added_up} connections had peers that are kept by network: the list allows whole networks"
        )
    hidden = book.added_up(DIRECTIONS)
    if hidden:
        answer.reasons.append(f"{hidden} connections are of services that were added up: they may be of this unit")
    if not book.coverage.complete:
        answer.reasons.append(f"coverage since {time_text(book.since)} is incomplete: {book.coverage.text()}")
    if not answer.connections:
        answer.reasons.append(f"{unit} had no connection in the ledger")
    return answer


def _sides(edge: Edge, unit: str) -> list[tuple[str, int]]:
    """The unit's role in a connection: a client of this port, or its server."""
    sides = []
    if edge.direction in ("ingress", "internal") and accepting(edge) == unit:
        sides.append(("client", edge.port))
    if edge.direction in ("egress", "internal") and edge.unit == unit:
        sides.append(("destination", edge.port))
    if edge.direction == "unknown" and edge.unit == unit:
        sides += [("client", edge.local_port), ("destination", edge.port)]
    return sides


def _collapsed(networks: Iterable[Network]) -> list[Network]:
    own = list(networks)
    four = [one for one in own if isinstance(one, ipaddress.IPv4Network)]
    six = [one for one in own if isinstance(one, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]


def network_text(network: Network) -> str:
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def drop_in(answer: AllowList) -> list[str]:
    """The lines of the drop-in, each commented out, with the reasons first."""
    lines = [
        f"# /etc/systemd/system/{answer.unit}.d/10-allow.conf, from {answer.connections} connections. Commented out, because:"
    ]
    lines += [f"#   {reason}." for reason in answer.reasons]
    lines += ["#[Service]", "#IPAddressDeny=any", "#IPAddressAllow=localhost"]
    for what, by_port in (("clients of port", answer.clients), ("destinations, port", answer.destinations)):
        for port, networks in by_port.items():
            lines.append(f"# {what} {port}")
            lines += [f"#IPAddressAllow={network_text(network)}" for network in networks]
    if answer.resolvers:
        lines.append("# resolvers of this host, from /etc/resolv.conf")
        lines += [f"#IPAddressAllow={network_text(network)}" for network in answer.resolvers]
    return lines


def nftables(answer: AllowList) -> list[str]:
    """The lines of sets for nftables: (address . port) for TCP, one for each direction and family; commented out likewise."""
    lines = ["# For nftables, TCP only. Commented out for the same reasons; use the sets in rules of your own."]
    name = "".join(character if character.isalnum() else "_" for character in answer.unit)
    for what, key, by_port in (("clients", "saddr", answer.clients), ("destinations", "daddr", answer.destinations)):
        for family, version in (("ipv4", 4), ("ipv6", 6)):
            found = [
                f"{network_text(n)} . {port}" for port, own in by_port.items() for n in own if n.version == version
            ]
            if found:
                lines.append(f"#set {name}_{what}_{family} {{")
                ip = "ip" if version == 4 else "ip6"
                lines.append(f"#    type {family}_addr . inet_service; flags interval;   # {ip} {key} . tcp dport")
                lines.append(f"#    elements = {{ {', '.join(found)} }}")
                lines.append("#}")
    return lines
