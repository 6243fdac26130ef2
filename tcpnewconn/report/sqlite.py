"""One host's ledger, in SQLite, as a source of answers, and as a member of a fleet."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tcpnewconn.ledger import schema
from tcpnewconn.ledger.peers import OTHERS
from tcpnewconn.ledger.schema import DAY, HOUR
from tcpnewconn.report.book import Edge, Filter, Listener, Scan, Step
from tcpnewconn.report.fleet import Rows
from tcpnewconn.report.observed import Span
from tcpnewconn.report.period import day_text

_EDGES = """
    SELECT direction, port, local_port, unit, process, user, container, accepted_by, peer,
           sum(connections) + sum(summarized), sum(summarized), sum(failed), sum(source_bytes), sum(destination_bytes),
           min(traffic.first), max(traffic.last), count(DISTINCT start / 86400), edge.first
    FROM service JOIN edge ON edge.service = service.id JOIN traffic ON traffic.edge = edge.id
    WHERE start < ? AND start + span > ? AND {where}
    GROUP BY edge.id ORDER BY edge.id
"""

# `lets` is a function of the fleet's database.
_COUNTED = """(
    SELECT min(e.id) AS id, direction, port, unit, accepted_by, peer, sum(connections) AS connections,
           sum(failed) AS failed, min(t.first) AS first, max(t.last) AS last
    FROM (
        SELECT edge, sum(connections) + sum(summarized) AS connections, sum(failed) AS failed, min(first) AS first,
               max(last) AS last FROM one.day WHERE start < ? AND start >= ? GROUP BY edge
        UNION ALL
        SELECT edge, sum(connections) + sum(summarized), sum(failed), min(first), max(last)
        FROM one.hour WHERE start < ? AND start >= ? GROUP BY edge
    ) AS t JOIN one.edge AS e ON e.id = t.edge JOIN one.service AS s ON s.id = e.service
    WHERE {where}
    GROUP BY {together}
)"""
# Services differ in process, user or container too; where none does so alone, an edge stands for itself, which is faster.
_DISTINCT = """
    SELECT count(*) = (SELECT count(*) FROM (SELECT DISTINCT direction, port, unit, accepted_by FROM one.service))
    FROM one.service
"""
_SERIES = """
    SELECT direction, t.start - t.start % ?, sum(connections) + sum(summarized)
    FROM {source} AS t JOIN one.edge AS e ON e.id = t.edge JOIN one.service AS s ON s.id = e.service
    WHERE t.start < ? AND t.start >= ? AND {where} GROUP BY 1, 2
"""


class Ledger:
    """A ledger that is open for reading. A book.Source."""

    widened = "The ledger keeps hours for a week, and days before: the period is widened to whole ones."

    def __init__(self, db: sqlite3.Connection, path: str) -> None:
        self._db = db
        self.name = path
        facts = dict(db.execute("SELECT name, value FROM fact"))
        self.host = str(facts.get("host") or path)
        before = float(facts.get("removed_before") or 0)
        self.removed = (
            f"Days before {day_text(before)} were removed, to keep the ledger within its size."
            if facts.get("removed_because") == "size"
            else ""
        )
        self.unnamed = (
            f"Beyond {int(facts.get('peers') or 0)} peers of a service and day, peers are added up by network (/24, /64) and "
            "then as others: connection counts are exact, numbers of clients with >= are at least that."
        )
        since, until = db.execute("SELECT min(start), max(stop) FROM span").fetchone()
        # A run that lasts can have begun before the days that are still kept.
        self.begins = 0.0 if since is None else max(float(since), before)
        self.ends = 0.0 if since is None else float(until)

    def resolution(self, when: float) -> int:
        (last_day,) = self._db.execute("SELECT max(start) FROM day").fetchone()
        return HOUR if last_day is None or when >= last_day + DAY else DAY

    def edges(self, wanted: Filter, since: float, until: float) -> Iterator[Edge]:
        condition, values = where(wanted)
        for row in self._db.execute(_EDGES.format(where=condition), (until, since, *values)):
            yield Edge(*row)

    def series(self, wanted: Filter, since: float, until: float, step: int) -> Iterator[tuple[Step, str]]:
        condition, values = where(wanted)
        found = self._db.execute(
            f"SELECT direction, port, local_port, unit, accepted_by, start - start % {int(step)}, peer, "
            f"sum(connections) + sum(summarized) "
            f"FROM service JOIN edge ON edge.service = service.id JOIN traffic ON traffic.edge = edge.id "
            f"WHERE start < ? AND start + span > ? AND {condition} GROUP BY 1, 2, 3, 4, 5, 6, 7",
            (until, since, *values),
        )
        for direction, port, local_port, unit, accepted_by, start, peer, count in found:
            yield Step(direction, port, local_port, unit, accepted_by, start, count), peer

    def added_up(self, directions: tuple[str, ...], since: float, until: float) -> int:
        marks = ", ".join("?" * len(directions))
        (count,) = self._db.execute(
            f"SELECT coalesce(sum(connections + summarized), 0) FROM service JOIN edge ON edge.service = service.id "
            f"JOIN traffic ON traffic.edge = edge.id "
            f"WHERE port = 0 AND peer = ? AND direction IN ({marks}) AND start < ? AND start + span > ?",
            (OTHERS, *directions, until, since),
        ).fetchone()
        return int(count)

    def listeners(self) -> Iterator[Listener]:
        for row in self._db.execute("SELECT * FROM listener ORDER BY port, address, unit"):
            yield Listener(*row)

    def scans(self, since: float, until: float) -> Iterator[Scan]:
        found = self._db.execute(
            "SELECT source, sum(scans), ports, max(last) FROM scan WHERE start < ? AND start + 3600 > ? "
            "GROUP BY source ORDER BY max(last) DESC, source",
            (until, since),
        )
        for row in found:
            yield Scan(*row)

    def addresses(self) -> list[str]:
        return [address for (address,) in self._db.execute("SELECT address FROM address ORDER BY last DESC, address")]

    def spans(self, since: float, until: float) -> list[Span]:
        found = self._db.execute(
            "SELECT kind, start, stop, seconds, detail FROM span WHERE stop > ? AND start < ? ORDER BY start",
            (since, until),
        )
        return [Span(*row) for row in found]

    def lost(self, since: float, until: float) -> dict[str, int]:
        found = self._db.execute(
            f"SELECT reason, sum(events) FROM loss WHERE start < ? AND start + {HOUR} > ? GROUP BY reason",
            (until, since),
        )
        return dict(found.fetchall())


def where(wanted: Filter) -> tuple[str, list[str | int]]:
    """The condition on a service, and its values."""
    conditions: list[str] = []
    values: list[str | int] = []
    for columns, given in wanted.conditions():
        marks = ", ".join("?" * len(given))
        conditions.append("(" + " OR ".join(f"{column} IN ({marks})" for column in columns) + ")")
        values += [*given] * len(columns)
    return " AND ".join(conditions) or "1", values


@dataclass(frozen=True, slots=True)
class LedgerFile:
    """The ledger in a file, as a fleet.Member."""

    name: str

    @contextmanager
    def opened(self) -> Iterator[Ledger]:
        with schema.reading(self.name) as db:
            yield Ledger(db, self.name)

    @contextmanager
    def counted(self, db: sqlite3.Connection, wanted: Filter, since: float, until: float) -> Iterator[Rows]:
        condition, values = where(wanted)
        if wanted.networks:
            condition += " AND lets(e.peer)"
        with schema.reading(self.name):
            schema.attach(db, self.name)
            try:
                (distinct,) = db.execute(_DISTINCT).fetchone()
                together = "e.id" if distinct else "direction, port, unit, accepted_by, peer"
                yield Rows(_COUNTED.format(where=condition, together=together), (until, since, until, since, *values))
            finally:
                db.execute("DETACH one")

    def series(
        self, db: sqlite3.Connection, wanted: Filter, since: float, until: float, step: int
    ) -> Iterator[tuple[str, int, int]]:
        condition, values = where(wanted)
        if wanted.networks:
            condition += " AND lets(e.peer)"
        for source in ("one.day", "one.hour"):
            yield from db.execute(_SERIES.format(source=source, where=condition), (step, until, since, *values))
