"""What one host's connections add up to for a period, and for the services and peers that a filter lets through."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from tcpnewconn.ledger.peers import OTHERS, UNNAMED
from tcpnewconn.ledger.schema import Unusable
from tcpnewconn.report.observed import Observed, Span, hourly, observed
from tcpnewconn.report.period import time_text

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
ACCEPTED, OPENED = ("ingress", "internal"), ("egress", "internal")


@dataclass(frozen=True, slots=True)
class Filter:
    """The subject of a report; empty means everything. Times in Unix seconds."""

    since: float | None = None
    until: float | None = None
    units: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    processes: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    networks: tuple[Network, ...] = ()
    directions: tuple[str, ...] = ()

    def conditions(self) -> list[tuple[tuple[str, ...], tuple[str | int, ...]]]:
        """Of a service: in each, one of these columns has one of these values. A unit is that of either side of a connection
        within the host."""
        every: tuple[tuple[tuple[str, ...], tuple[str | int, ...]], ...] = (
            (("unit", "accepted_by"), self.units),
            (("user",), self.users),
            (("process",), self.processes),
            (("container",), self.containers),
            (("direction",), self.directions),
            (("port", "local_port"), self.ports),
        )
        return [(columns, given) for columns, given in every if given]

    def lets(self, peer: str) -> bool:
        """Whether a peer is in one of the networks; a network that a peer was added up in, if they overlap."""
        if not self.networks:
            return True
        if peer in (OTHERS, UNNAMED):
            return False
        try:
            own = ipaddress.ip_network(peer, strict=False)
        except ValueError:
            return False
        return any(own.version == one.version and own.overlaps(one) for one in self.networks)


class Edge(NamedTuple):
    """A service and one of its peers, in the period of the report. `known` is when the ledger first saw it."""

    direction: str
    port: int
    local_port: int
    unit: str
    process: str
    user: str
    container: str
    accepted_by: str
    peer: str
    connections: int  # with those of summaries
    summarized: int
    failed: int
    source_bytes: int
    destination_bytes: int
    first: int
    last: int
    days: int
    known: int


class Step(NamedTuple):
    """A service's connections in one step of time, which begins at `start`."""

    direction: str
    port: int
    local_port: int
    unit: str
    accepted_by: str
    start: int
    connections: int


class Listener(NamedTuple):
    """A listening socket that was logged, first and last then."""

    address: str
    port: int
    unit: str
    process: str
    user: str
    container: str
    first: int
    last: int


class Scan(NamedTuple):
    source: str
    scans: int
    ports: str
    last: int


class Source(Protocol):
    """Where the answers about one host come from: a ledger, or ClickHouse. Times in Unix seconds.

    `begins` and `ends` are the bounds of what it has; equal where that is nothing. The last three are sentences for a report:
    to which resolution a period is widened, why early days are missing, and why not every peer is named; empty: no reason.
    """

    @property
    def name(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def begins(self) -> float: ...
    @property
    def ends(self) -> float: ...
    @property
    def widened(self) -> str: ...
    @property
    def removed(self) -> str: ...
    @property
    def unnamed(self) -> str: ...

    def resolution(self, when: float) -> int:
        """The resolution of the counts at that time: an hour or a day, in seconds."""
        ...

    def edges(self, wanted: Filter, since: float, until: float) -> Iterable[Edge]:
        """Those of the services that the filter selects, whatever the peer."""
        ...

    def series(self, wanted: Filter, since: float, until: float, step: int) -> Iterable[tuple[Step, str]]:
        """Likewise by steps of so many seconds, each with its peer."""
        ...

    def added_up(self, directions: tuple[str, ...], since: float, until: float) -> int:
        """Connections of services that have no rows of their own, in these directions."""
        ...

    def listeners(self) -> Iterable[Listener]:
        """By port, address and unit."""
        ...

    def scans(self, since: float, until: float) -> Iterable[Scan]:
        """The newest first."""
        ...

    def addresses(self) -> Sequence[str]:
        """Of this host, as far as connections showed them."""
        ...

    def spans(self, since: float, until: float) -> Sequence[Span]:
        """When the service observed, in the order of their starts."""
        ...

    def lost(self, since: float, until: float) -> dict[str, int]:
        """Events, by reason."""
        ...


class Book:
    """One host's connections with a period and a filter. Raises Unusable where the source has nothing of the period."""

    def __init__(self, source: Source, wanted: Filter) -> None:
        self.source = source
        self.wanted = wanted
        self.host = source.host
        self.begins, self.ends = source.begins, source.ends
        if self.begins >= self.ends:
            raise Unusable(f"{source.name}: the ledger is empty; nothing of tcpnewconn.service was in the journal yet")
        self.since, self.until = self._period()
        if self.since >= self.until:
            whole = f"{time_text(self.begins)} to {time_text(self.ends)} UTC"
            raise Unusable(f"{source.name}: the ledger has nothing of that time; it goes from {whole}")
        self._spans = source.spans(self.since, self.until)
        self.coverage: Observed = observed(self._spans, source.lost(self.since, self.until), self.since, self.until)

    def _period(self) -> tuple[float, float]:
        """The period that was asked for, as far as the ledger goes, at the resolution that it keeps."""
        since = self.begins if self.wanted.since is None else max(self.wanted.since, self.begins)
        until = self.ends if self.wanted.until is None else min(self.wanted.until, self.ends)
        if since > self.begins:
            since -= since % self.resolution(since)
        if until < self.ends:
            until = min(until + -until % self.resolution(until - 1), self.ends)
        return max(since, self.begins), max(since, until)

    def resolution(self, when: float) -> int:
        return self.source.resolution(when)

    def edges(self, wanted: Filter | None = None, whole: bool = False) -> list[Edge]:
        """The edges that the filter selects, in the period, or in all of the ledger."""
        wanted = wanted or self.wanted
        since, until = (self.begins, self.ends) if whole else (self.since, self.until)
        return [edge for edge in self.source.edges(wanted, since, until) if wanted.lets(edge.peer)]

    def added_up(self, directions: tuple[str, ...]) -> int:
        """Connections in the period of services that have no rows of their own, in these directions; whatever the filter."""
        return self.source.added_up(directions, self.since, self.until)

    def series(self, step: int) -> list[Step]:
        """What the filter lets through, by steps of so many seconds."""
        sums: dict[Step, int] = {}
        for one, peer in self.source.series(self.wanted, self.since, self.until, step):
            if self.wanted.lets(peer):
                key = one._replace(connections=0)
                sums[key] = sums.get(key, 0) + one.connections
        return [key._replace(connections=count) for key, count in sums.items()]

    def observed_steps(self, step: int) -> dict[int, float]:
        """The share of each step that was observed, by its start."""
        return hourly(self._spans, self.since, self.until, step)

    def listeners(self) -> list[Listener]:
        wanted = self.wanted
        return [
            one
            for one in self.source.listeners()
            if _among(one.unit, wanted.units)
            and _among(one.user, wanted.users)
            and _among(one.process, wanted.processes)
            and _among(one.container, wanted.containers)
            and (not wanted.ports or one.port in wanted.ports)
        ]

    def scans(self) -> list[Scan]:
        return [one for one in self.source.scans(self.since, self.until) if self.wanted.lets(one.source)]


def _among(value: str, wanted: tuple[str, ...]) -> bool:
    return not wanted or value in wanted
