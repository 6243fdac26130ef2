"""Joins what several hosts have seen: an edge that both ends have seen is one, with host and unit at both.

The join is made in a temporary SQLite database, so that its memory does not grow with the fleet. Hosts are matched by the
addresses that their own connections showed; an address that several hosts have (a container bridge's) matches only
where the other end has seen the connection too.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from tcpnewconn.ledger import schema
from tcpnewconn.report.book import Book, Filter, Source
from tcpnewconn.report.observed import Observed

BOTH, OPENER, ACCEPTOR, HOST = "both ends", "opener only", "acceptor only", "one host"
_TABLES = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -131072; PRAGMA temp_store = FILE;
CREATE TABLE address (address TEXT, host INTEGER, PRIMARY KEY (address, host)) WITHOUT ROWID;
-- `other` is the host that the peer is. An address of several hosts gives a row for each of them, with one id.
CREATE TABLE edge (
    id INTEGER, direction TEXT, host INTEGER, other INTEGER, others INTEGER, port INTEGER, unit TEXT, accepted_by TEXT,
    peer TEXT, connections INTEGER, failed INTEGER, first INTEGER, last INTEGER, matched INTEGER, mate TEXT
);
"""

# From rows of `counted`: those of one host, each with an id.
_ADD = """
    INSERT INTO main.edge
    SELECT (? << 32) | id, direction, ?, address.host,
           CASE WHEN address.host IS NULL THEN 0 ELSE (SELECT count(*) FROM main.address AS a WHERE a.address = peer) END,
           port, unit, accepted_by, peer, connections, failed, first, last, 0, ''
    FROM {counted} AS counted
    LEFT JOIN main.address ON address.address = peer AND address.host != ? AND direction IN ('ingress', 'egress')
"""

# An egress edge whose peer is one of the hosts, and the ingress edges of that host which come from here to that port.
_JOIN = """
CREATE INDEX edge_in ON edge (host, other, port, connections, unit) WHERE direction = 'ingress' AND other IS NOT NULL;
CREATE INDEX edge_out ON edge (host, other, port) WHERE direction = 'egress' AND other IS NOT NULL;
UPDATE edge SET matched = 1
WHERE direction = 'ingress' AND other IS NOT NULL AND EXISTS (
    SELECT 1 FROM edge AS two WHERE two.direction = 'egress' AND two.other IS NOT NULL
    AND two.host = edge.other AND two.other = edge.host AND two.port = edge.port);
UPDATE edge SET (matched, mate) = (
    SELECT 1, two.unit FROM edge AS two WHERE two.direction = 'ingress' AND two.other IS NOT NULL
    AND two.host = edge.other AND two.other = edge.host AND two.port = edge.port ORDER BY two.connections DESC LIMIT 1)
WHERE direction = 'egress' AND other IS NOT NULL;
UPDATE edge SET matched = 0, mate = '' WHERE matched IS NULL;
-- Of the hosts that share an address, those that have seen nothing of it are not meant.
CREATE INDEX edge_shared ON edge (id) WHERE others > 1;
DELETE FROM edge WHERE others > 1 AND matched = 0 AND EXISTS (
    SELECT 1 FROM edge AS two WHERE two.others > 1 AND two.id = edge.id
    AND (two.matched = 1 OR two.rowid < edge.rowid));
UPDATE edge SET other = NULL WHERE others > 1 AND matched = 0;
"""

_LINKS = f"""
    SELECT CASE direction WHEN 'ingress' THEN other ELSE host END, CASE direction WHEN 'ingress' THEN '' ELSE unit END,
           CASE direction WHEN 'ingress' THEN host WHEN 'internal' THEN host ELSE other END,
           CASE direction WHEN 'ingress' THEN unit WHEN 'internal' THEN accepted_by ELSE mate END,
           port, peer, connections, failed, first, last,
           CASE WHEN direction = 'internal' THEN '{HOST}' WHEN matched THEN '{BOTH}'
                WHEN direction = 'ingress' THEN '{ACCEPTOR}' ELSE '{OPENER}' END AS seen_by
    FROM edge WHERE NOT (direction = 'ingress' AND matched)
"""


class Link(NamedTuple):
    """One edge of the fleet. A host is the empty text where it is none of these; `peer` is the address then."""

    opener: str
    opener_unit: str
    acceptor: str
    acceptor_unit: str
    port: int
    peer: str
    connections: int
    failed: int
    first: int
    last: int
    seen_by: str


@dataclass(slots=True)
class Host:
    name: str
    since: float
    until: float
    coverage: Observed
    first: float  # the start of the first hour or day that counts
    connections: int = 0


@dataclass(slots=True)
class Fleet:
    """The joined ledgers; to be closed. `problems` names the files that could not be read."""

    db: sqlite3.Connection
    place: tempfile.TemporaryDirectory[str]
    hosts: list[Host] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    series: dict[tuple[str, int], int] = field(default_factory=dict)
    _counted: dict[str, tuple[int, int]] | None = None

    def links(self, most: int | None = None) -> Iterator[Link]:
        """Those with the most connections first."""
        names = [host.name for host in self.hosts]
        limit = -1 if most is None else most
        for row in self.db.execute(f"{_LINKS} ORDER BY connections DESC, edge.rowid LIMIT ?", (limit,)):
            opener, acceptor = row[0], row[2]
            yield Link(
                "" if opener is None else names[opener],
                row[1],
                "" if acceptor is None else names[acceptor],
                *row[3:],
            )

    def counted(self) -> dict[str, tuple[int, int]]:
        """Links and their connections by who has seen them."""
        if self._counted is None:
            found = self.db.execute(f"SELECT seen_by, count(*), sum(connections) FROM ({_LINKS}) GROUP BY seen_by")
            self._counted = {seen: (links, connections) for seen, links, connections in found}
        return self._counted

    def close(self) -> None:
        self.db.close()
        self.place.cleanup()


class Rows(NamedTuple):
    """A table or a query in parentheses, and the values of its marks."""

    sql: str
    values: Sequence[float | str] = ()


class Member(Protocol):
    """Where one host's connections come from: a ledger's file, or ClickHouse."""

    @property
    def name(self) -> str: ...

    def opened(self) -> AbstractContextManager[Source]:
        """Raises schema.Unusable."""
        ...

    def counted(
        self, db: sqlite3.Connection, wanted: Filter, since: float, until: float
    ) -> AbstractContextManager[Rows]:
        """`id, direction, port, unit, accepted_by, peer, connections, failed, first, last` of each edge, in the fleet's `db`.

        Its hours or days start in the period; peers that `wanted` does not let through are left out.
        """
        ...

    def series(
        self, db: sqlite3.Connection, wanted: Filter, since: float, until: float, step: int
    ) -> Iterable[tuple[str, int, int]]:
        """(direction, start of the step, connections) of the same; while `counted` is open."""
        ...


def joined(members: Iterable[Member], wanted: Filter, step: int) -> Fleet:
    """Read and join all of them. Raises schema.Unusable where none can be read."""
    place = tempfile.TemporaryDirectory(prefix="tcpnewconn-")
    db = sqlite3.connect(f"file:{place.name}/fleet.db", uri=True, isolation_level=None)
    fleet = Fleet(db, place)
    try:
        db.executescript(_TABLES)
        db.create_function("lets", 1, wanted.lets, deterministic=True)
        usable: list[tuple[int, Member]] = []
        for member in members:
            try:
                usable.append((_add_host(fleet, member, wanted), member))
            except schema.Unusable as error:
                fleet.problems.append(str(error))
        for number, member in usable:
            _add_edges(fleet, number, member, wanted, step)
        if not fleet.hosts:
            raise schema.Unusable(fleet.problems[0])
        db.executescript(_JOIN)
    except BaseException:
        fleet.close()
        raise
    return fleet


def _add_host(fleet: Fleet, member: Member, wanted: Filter) -> int:
    """Its addresses come before any edge, so that the host of every peer is known."""
    number = len(fleet.hosts)
    with member.opened() as source:
        book = Book(source, wanted)
        rows = [(address, number) for address in source.addresses()]
        fleet.db.executemany("INSERT OR IGNORE INTO address VALUES (?, ?)", rows)
        first = book.since - book.since % book.resolution(book.since)
        fleet.hosts.append(Host(book.host, book.since, book.until, book.coverage, first))
    return number


def _add_edges(fleet: Fleet, number: int, member: Member, wanted: Filter, step: int) -> None:
    host, db = fleet.hosts[number], fleet.db
    with member.counted(db, wanted, host.first, host.until) as counted:
        try:
            db.execute("BEGIN")
            before = db.execute("SELECT coalesce(max(rowid), 0) FROM main.edge").fetchone()[0]
            db.execute(_ADD.format(counted=counted.sql), (number, number, *counted.values, number))
            for direction, start, count in member.series(db, wanted, host.first, host.until, step):
                fleet.series[direction, start] = fleet.series.get((direction, start), 0) + count
                host.connections += count
            db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            db.execute("ROLLBACK")
            db.execute("DELETE FROM main.edge WHERE rowid > ?", (before,))
            fleet.problems.append(f"{member.name}: {error}")


def merged_coverage(hosts: list[Host]) -> str:
    """One line for all hosts."""
    least = min(hosts, key=lambda host: host.coverage.share)
    lost = sum(host.coverage.events_lost for host in hosts)
    whole = sum(host.coverage.complete for host in hosts)
    text = f"{whole} of {len(hosts)} hosts observed without a gap, {lost} events lost"
    if not least.coverage.complete:
        text += f"; the least observed, {least.name}: {least.coverage.text()}"
    return text
