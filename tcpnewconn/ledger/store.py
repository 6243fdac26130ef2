"""Writes sums into the ledger: in one transaction with the cursor up to which the journal was read."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tcpnewconn.ledger import peers
from tcpnewconn.ledger.schema import DAY, HOUR


class Service(NamedTuple):
    """The local side of connections; what is not known is the empty text, or 0."""

    direction: str
    port: int
    local_port: int
    unit: str
    process: str
    user: str
    container: str
    accepted_by: str


class Sums(NamedTuple):
    """The sums of one hour of an edge; times in seconds."""

    connections: int
    summarized: int
    failed: int
    source_bytes: int
    destination_bytes: int
    first: int
    last: int


_ADD = """
    INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (edge, start) DO UPDATE SET
        connections = connections + excluded.connections, summarized = summarized + excluded.summarized,
        failed = failed + excluded.failed, source_bytes = source_bytes + excluded.source_bytes,
        destination_bytes = destination_bytes + excluded.destination_bytes,
        first = min(first, excluded.first), last = max(last, excluded.last)
"""
_MOST_CACHED = 50_000
# A host has some addresses; one that takes a new one for each connection (IPv6 privacy) keeps the newest.
_MOST_ADDRESSES = 256
_MOST_LISTENERS = 10_000
_MOST_SCANS = 10_000


class Store:
    """The open ledger of one host. `most_peers`: of a service and day, by address; as many networks after that.

    `size`: the bytes that the ledger may have.
    """

    def __init__(self, connection: sqlite3.Connection, most_peers: int, size: int) -> None:
        self._db = connection
        self._resolution = peers.Resolution(connection, most_peers, size)
        self._services: OrderedDict[Service, int] = OrderedDict()
        self._edges: OrderedDict[tuple[int, str], int] = OrderedDict()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing of what happens inside."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            # They may name rows that are no longer there.
            self.forget()
            raise
        self._db.execute("COMMIT")

    def forget(self) -> None:
        """Drop what is known of the tables: rows were removed."""
        self._services.clear()
        self._edges.clear()
        self._resolution.forget()

    def fact(self, name: str, default: Any = None) -> Any:
        found = self._db.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return default if found is None else found[0]

    def set_fact(self, name: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))

    def add(self, sums: Iterable[tuple[Service, str, int, Sums]]) -> None:
        """Add to (service, peer, start of the hour), in the order in which they were first seen."""
        self._resolution.trim()
        rows = []
        seen: dict[int, tuple[int, int]] = {}
        for service, peer, start, added in sums:
            day = start - start % DAY
            number, others = self._service(service, day)
            kept = peers.OTHERS if others else self._resolution.peer(number, peer, day)
            edge = self._edge(number, kept, added.first)
            rows.append((edge, start, *added))
            first, last = seen.get(edge, (added.first, added.last))
            seen[edge] = (min(first, added.first), max(last, added.last))
        self._db.executemany(_ADD.format(table="hour"), rows)
        self._db.executemany(
            "UPDATE edge SET first = min(first, ?), last = max(last, ?) WHERE id = ?",
            [(first, last, edge) for edge, (first, last) in seen.items()],
        )

    def _service(self, service: Service, day: int) -> tuple[int, bool]:
        """Its number, and whether it is that of other services: a day has place for so many."""
        number = self._services.get(service)
        if number is None:
            number = _number_of(self._db, service)
        others = not self._resolution.takes_service(number, day)
        if others:
            service = other_services(service.direction)
            number = self._services.get(service) or _number_of(self._db, service)
        if number is None:
            number = _added(self._db, service)
        self._resolution.add_service(number, day)
        _cache(self._services, service, number)
        return number, others

    def _edge(self, service: int, peer: str, first: int) -> int:
        number = self._edges.get((service, peer))
        if number is None:
            found = self._db.execute("SELECT id FROM edge WHERE service = ? AND peer = ?", (service, peer)).fetchone()
            if found is None:
                made = self._db.execute("INSERT INTO edge VALUES (NULL, ?, ?, ?, ?)", (service, peer, first, first))
                number = made.lastrowid or 0
            else:
                number = found[0]
            _cache(self._edges, (service, peer), number)
        return number

    def add_listener(self, endpoint: tuple[str, int, str, str, str, str], when: int) -> None:
        """A listener was opened: address, port, unit, process, user, container."""
        self._db.execute(
            "INSERT INTO listener VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "first = min(first, excluded.first), last = max(last, excluded.last)",
            (*endpoint, when, when),
        )

    def add_scan(self, source: str, ports: str, when: int) -> None:
        self._db.execute(
            "INSERT INTO scan VALUES (?, ?, 1, ?, ?) ON CONFLICT DO UPDATE SET "
            "scans = scans + 1, ports = excluded.ports, last = max(last, excluded.last)",
            (when - when % HOUR, source, ports, when),
        )

    def add_loss(self, reason: str, events: int, when: int) -> None:
        self._db.execute(
            "INSERT INTO loss VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET events = events + excluded.events",
            (when - when % HOUR, reason, events),
        )

    def add_addresses(self, last: dict[str, int]) -> None:
        """Local addresses, each with the time of its last connection."""
        self._db.executemany(
            "INSERT INTO address VALUES (?, ?) ON CONFLICT DO UPDATE SET last = max(last, excluded.last)", last.items()
        )

    def keep_bounded(self) -> None:
        """Remove rows that belong to no day."""
        for table, most in (("address", _MOST_ADDRESSES), ("listener", _MOST_LISTENERS), ("scan", _MOST_SCANS)):
            (rows,) = self._db.execute(f"SELECT count(*) FROM {table}").fetchone()
            if rows > most:
                (oldest,) = self._db.execute(
                    f"SELECT last FROM {table} ORDER BY last DESC LIMIT 1 OFFSET ?", (most,)
                ).fetchone()
                self._db.execute(f"DELETE FROM {table} WHERE last <= ?", (oldest,))

    def recent_ids(self) -> dict[bytes, int]:
        return dict(self._db.execute("SELECT id, time FROM recent"))

    def set_recent_ids(self, ids: dict[bytes, int]) -> None:
        self._db.execute("DELETE FROM recent")
        self._db.executemany("INSERT INTO recent VALUES (?, ?)", ids.items())


def other_services(direction: str) -> Service:
    """The service that stands for those of a day beyond the ones that have rows: no port is 0."""
    return Service(direction, 0, 0, "", "", "", "", "")


def _number_of(db: sqlite3.Connection, row: Service) -> int | None:
    where = " AND ".join(f"{name} = ?" for name in row._fields)
    found = db.execute(f"SELECT id FROM service WHERE {where}", row).fetchone()
    return None if found is None else int(found[0])


def _added(db: sqlite3.Connection, row: Service) -> int:
    marks = ", ".join("?" * len(row))
    return db.execute(f"INSERT INTO service VALUES (NULL, {marks})", row).lastrowid or 0


def _cache(cache: OrderedDict[Any, int], key: Any, number: int) -> None:
    cache[key] = number
    if len(cache) > _MOST_CACHED:
        cache.popitem(last=False)
