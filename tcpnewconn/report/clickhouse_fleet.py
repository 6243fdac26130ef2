"""Hosts' events in ClickHouse as members of a fleet: all hosts in two answers, however many they are."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from tcpnewconn.report.book import Filter
from tcpnewconn.report.clickhouse import PEER, Events, HostEvents, where
from tcpnewconn.report.fleet import Rows


def members(events: Events, wanted: Filter, step: int) -> list[HostMember]:
    """All hosts, for fleet.joined(), which reads them in this order."""
    reading = _InTurn(events, wanted, step)
    return [HostMember(events.source(host), reading) for host in events.hosts]


class _InTurn:
    """The edges of all hosts in one answer, host by host, and their series in another."""

    def __init__(self, events: Events, wanted: Filter, step: int) -> None:
        self._events = events
        self._step = step
        self._wanted = wanted
        self._period = (
            0.0 if wanted.since is None else wanted.since,
            float(2**32 - 1) if wanted.until is None else wanted.until,
        )
        self._series: dict[str, dict[tuple[str, int], int]] | None = None
        self._edges: Iterator[tuple[str, Iterator[list[Any]]]] | None = None
        self._next: tuple[str, Iterator[list[Any]]] | None = None

    def series(self, host: str) -> dict[tuple[str, int], int]:
        if self._series is None:
            self._series = {}
            condition, values = where(self._wanted, *self._period)
            peer = PEER if self._wanted.networks else "''"
            for name, direction, start, of, count in self._events.of_hosts(
                f"SELECT host, direction, intDiv(toUnixTimestamp(hour), {self._step}) * {self._step} AS start, {peer} AS of, "
                f"sum(connections) + sum(summarized) FROM edges_now WHERE {{hosts}} AND {condition} "
                "GROUP BY host, direction, start, of",
                **values,
            ):
                if self._wanted.lets(of):
                    sums = self._series.setdefault(name, {})
                    sums[direction, int(start)] = sums.get((direction, int(start)), 0) + int(count)
        return self._series.get(host, {})

    def edges(self, host: str) -> Iterator[list[Any]]:
        """Those of this host; hosts are asked for in the order of their names, and after the series."""
        if self._edges is None:
            condition, values = where(self._wanted, *self._period)
            found = self._events.of_hosts(
                f"SELECT host, direction, port, unit, accepted_by, {PEER}, sum(connections) + sum(summarized), sum(failed), "
                "min(toUnixTimestamp(hour) + first) AS f, max(toUnixTimestamp(hour) + last) "
                f"FROM edges_now WHERE {{hosts}} AND {condition} GROUP BY host, direction, port, unit, accepted_by, peer "
                "ORDER BY host, f, direction, port, unit, accepted_by, peer",
                **values,
            )
            self._edges = itertools.groupby(found, key=lambda row: str(row[0]))
            self._next = next(self._edges, None)
        if self._next is not None and self._next[0] == host:
            yield from (row for row in self._next[1] if self._wanted.lets(row[5]))
            self._next = next(self._edges, None)


@dataclass(frozen=True, slots=True)
class HostMember:
    """One host's events, as a fleet.Member."""

    source: HostEvents
    reading: _InTurn

    @property
    def name(self) -> str:
        return self.source.name

    def opened(self) -> AbstractContextManager[HostEvents]:
        return nullcontext(self.source)

    @contextmanager
    def counted(self, db: sqlite3.Connection, wanted: Filter, since: float, until: float) -> Iterator[Rows]:
        # Before the edges: a connection carries one answer at a time.
        self.reading.series(self.source.host)
        db.execute(
            "CREATE TEMP TABLE counted (id INTEGER PRIMARY KEY, direction TEXT, port INTEGER, unit TEXT, accepted_by TEXT, "
            "peer TEXT, connections INTEGER, failed INTEGER, first INTEGER, last INTEGER)"
        )
        try:
            db.execute("BEGIN")
            db.executemany(
                "INSERT INTO temp.counted VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (row[1:] for row in self.reading.edges(self.source.host)),
            )
            db.execute("COMMIT")
            yield Rows("temp.counted")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
            db.execute("DROP TABLE temp.counted")

    def series(
        self, db: sqlite3.Connection, wanted: Filter, since: float, until: float, step: int
    ) -> Iterator[tuple[str, int, int]]:
        for (direction, start), count in self.reading.series(self.source.host).items():
            yield direction, start, count
