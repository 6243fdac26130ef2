"""Reads one ledger: what it adds up to for a period, and for the services and peers that a filter lets through."""

from __future__ import annotations

import ipaddress
import sqlite3
from dataclasses import dataclass
from typing import NamedTuple

from tcpnewconn.ledger.observed import Observed, observed
from tcpnewconn.ledger.peers import OTHERS, UNNAMED
from tcpnewconn.ledger.period import time_text
from tcpnewconn.ledger.schema import DAY, HOUR, Unusable

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

    def where(self) -> tuple[str, list[str | int]]:
        """The condition on a service; a unit is that of either side of a connection within the host."""
        conditions: list[str] = []
        values: list[str | int] = []
        for columns, given in (
            (("unit", "accepted_by"), self.units),
            (("user",), self.users),
            (("process",), self.processes),
            (("container",), self.containers),
            (("direction",), self.directions),
            (("port", "local_port"), self.ports),
        ):
            if given:
                marks = ", ".join("?" * len(given))
                conditions.append("(" + " OR ".join(f"{column} IN ({marks})" for column in columns) + ")")
                values += [*given] * len(columns)
        return " AND ".join(conditions) or "1", values

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


_EDGES = """
    SELECT direction, port, local_port, unit, process, user, container, accepted_by, peer,
           sum(connections) + sum(summarized), sum(summarized), sum(failed), sum(source_bytes), sum(destination_bytes),
           min(traffic.first), max(traffic.last), count(DISTINCT start / 86400), edge.first
    FROM service JOIN edge ON edge.service = service.id JOIN traffic ON traffic.edge = edge.id
    WHERE start < ? AND start + span > ? AND {where}
    GROUP BY edge.id ORDER BY edge.id
"""


class Book:
    """One host's ledger, open for reading, with a period and a filter. Raises Unusable where it has nothing of the period."""

    def __init__(self, db: sqlite3.Connection, path: str, wanted: Filter) -> None:
        self.db = db
        self.path = path
        self.wanted = wanted
        facts = dict(db.execute("SELECT name, value FROM fact"))
        self.host = str(facts.get("host") or path)
        self.most_peers = int(facts.get("peers") or 0)
        self.removed_before = facts.get("removed_before")
        self.removed_because = facts.get("removed_because")
        self.begins, self.ends = self._bounds()
        if self.begins >= self.ends:
            raise Unusable(f"{path}: the ledger is empty; nothing of tcpnewconn.service was in the journal yet")
        self.since, self.until = self._period()
        if self.since >= self.until:
            whole = f"{time_text(self.begins)} to {time_text(self.ends)} UTC"
            raise Unusable(f"{path}: the ledger has nothing of that time; it goes from {whole}")
        self.coverage: Observed = observed(db, self.since, self.until)

    def _bounds(self) -> tuple[float, float]:
        """Of what the ledger holds: its first moment and its last."""
        since, until = self.db.execute("SELECT min(start), max(stop) FROM span").fetchone()
        if since is None:
            return 0.0, 0.0
        # A run that lasts can have begun before the days that are still kept.
        return max(since, float(self.removed_before or 0)), until

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
        """The resolution of the counts at that time: an hour or a day, in seconds."""
        (last_day,) = self.db.execute("SELECT max(start) FROM day").fetchone()
        return HOUR if last_day is None or when >= last_day + DAY else DAY

    def edges(self, wanted: Filter | None = None, whole: bool = False) -> list[Edge]:
        """The edges that the filter selects, in the period, or in all of the ledger."""
        wanted = wanted or self.wanted
        where, values = wanted.where()
        since, until = (self.begins, self.ends) if whole else (self.since, self.until)
        found = self.db.execute(_EDGES.format(where=where), (until, since, *values))
        return [edge for row in found if wanted.lets((edge := Edge(*row)).peer)]

    def added_up(self, directions: tuple[str, ...]) -> int:
        """Connections in the period of services that have no rows of their own, in these directions; whatever the filter."""
        marks = ", ".join("?" * len(directions))
        (count,) = self.db.execute(
            f"SELECT coalesce(sum(connections + summarized), 0) FROM service JOIN edge ON edge.service = service.id "
            f"JOIN traffic ON traffic.edge = edge.id "
            f"WHERE port = 0 AND peer = ? AND direction IN ({marks}) AND start < ? AND start + span > ?",
            (OTHERS, *directions, self.until, self.since),
        ).fetchone()
        return int(count)

    def series(self, step: int) -> list[Step]:
        """What the filter lets through, by steps of so many seconds."""
        where, values = self.wanted.where()
        found = self.db.execute(
            f"SELECT direction, port, local_port, unit, accepted_by, start - start % {int(step)}, peer, "
            f"sum(connections) + sum(summarized) "
            f"FROM service JOIN edge ON edge.service = service.id JOIN traffic ON traffic.edge = edge.id "
            f"WHERE start < ? AND start + span > ? AND {where} GROUP BY 1, 2, 3, 4, 5, 6, 7",
            (self.until, self.since, *values),
        )
        sums: dict[tuple[str, int, int, str, str, int], int] = {}
        for *service, peer, count in found:
            if self.wanted.lets(peer):
                key = (*service,)
                sums[key] = sums.get(key, 0) + count
        return [Step(*key, count) for key, count in sums.items()]

    def listeners(self) -> list[Listener]:
        wanted = self.wanted
        return [
            one
            for row in self.db.execute("SELECT * FROM listener ORDER BY port, address, unit")
            if _among((one := Listener(*row)).unit, wanted.units)
            and _among(one.user, wanted.users)
            and _among(one.process, wanted.processes)
            and _among(one.container, wanted.containers)
            and (not wanted.ports or one.port in wanted.ports)
        ]

    def scans(self) -> list[Scan]:
        found = self.db.execute(
            "SELECT source, sum(scans), ports, max(last) FROM scan WHERE start < ? AND start + 3600 > ? "
            "GROUP BY source ORDER BY max(last) DESC, source",
            (self.until, self.since),
        )
        return [scan for row in found if self.wanted.lets((scan := Scan(*row)).source)]

    def addresses(self) -> list[str]:
        """The addresses of this host, as far as connections showed them."""
        return [address for (address,) in self.db.execute("SELECT address FROM address ORDER BY last DESC, address")]


def _among(value: str, wanted: tuple[str, ...]) -> bool:
    return not wanted or value in wanted
