"""When the service observed and when not, from its own entries.

It observed from an `observation-started` until an `observation-stopped`, or, where it ended without one, until the time that
the next start gives, or else until the last entry of that run. Where the journal had no longer what was not read yet, there
is a gap. Times are Unix times in seconds; a clock that is set back gives spans that overlap, of which a reader takes the union.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

# Ignore= of a run whose start is not in the journal.
UNKNOWN_IGNORE = "?"
# An entry is stamped after the moment that it tells of.
_SLACK = 1.0
_MOST_SPANS = 5_000

OBSERVED, DEGRADED, GAP = "observed", "degraded", "gap"


@dataclass(slots=True)
class Span:
    """A time of one kind; `row` is its id in the ledger once it is there."""

    kind: str
    start: float
    stop: float
    detail: str
    row: int | None = None


@dataclass(slots=True)
class Coverage:
    """The coverage up to the entry read last. `run` is the service's invocation id."""

    run: str = ""
    observed: Span | None = None
    degraded: dict[str, Span] = field(default_factory=dict)
    # The last moment of which entries were read.
    last: float | None = None
    ignore: str = UNKNOWN_IGNORE
    changed: list[Span] = field(default_factory=list)

    def entry(self, when: float, run: str) -> None:
        """Any entry of the service but a start or a stop: it observed then."""
        span = self.observed
        if span is None and run == self.run:
            # The last words of a run that has stopped observing.
            pass
        elif span is not None and run == self.run and when >= span.start:
            span.stop = max(span.stop, when)
        else:
            if run != self.run:
                self.ignore = UNKNOWN_IGNORE
            self._close()
            self._open(when, run, self.ignore)
        self.last = when

    def started(self, when: float, run: str, until: float | None, ignore: str) -> None:
        """The service observes from now on; the run before observed until then, where that is known."""
        if until is not None and self.last is not None and until <= when + _SLACK:
            until = min(until, when)
            before = self.observed
            start = self.last if before is None else before.stop
            if before is not None and before.stop < until and start <= before.stop:
                before.stop = until
            elif start < until:
                self.changed.append(Span(OBSERVED, start, until, self.ignore))
        self._close()
        self._open(when, run, ignore)
        self.last = when

    def stopped(self, when: float) -> None:
        if self.observed is not None and when >= self.observed.start:
            self.observed.stop = when
        self._close()
        self.last = when

    def source_degraded(self, source: str, when: float) -> None:
        if source not in self.degraded:
            self.degraded[source] = Span(DEGRADED, when, when, source)

    def source_recovered(self, source: str, when: float) -> None:
        span = self.degraded.pop(source, None)
        if span is not None:
            span.stop = max(span.stop, when)
            self.changed.append(span)

    def gap(self, when: float, run: str, why: str) -> None:
        """Entries that were not read yet are gone from the journal; the first one after them is of this time."""
        if self.last is not None:
            before = self.last if self.observed is None else max(self.last, self.observed.stop)
            self.changed.append(Span(GAP, min(before, when), max(before, when), why))
        ignore = self.ignore if run == self.run else UNKNOWN_IGNORE
        self._close()
        self.observed = None
        self._open(when, run, ignore)

    def polled(self, when: float) -> None:
        """The running service has polled the kernel then (its metrics say so), and all of its entries were read."""
        if self.observed is not None and when > self.observed.stop:
            self.observed.stop = when

    def _open(self, when: float, run: str, ignore: str) -> None:
        self.run, self.ignore = run, ignore
        self.observed = Span(OBSERVED, when, when, ignore)

    def _close(self) -> None:
        if self.observed is not None:
            self.changed.append(self.observed)
            for source in list(self.degraded):
                self.source_recovered(source, self.observed.stop)
        self.observed = None

    def save(self, db: sqlite3.Connection) -> None:
        """Write what has changed, in the caller's transaction."""
        now = self.observed.stop if self.observed is not None else None
        for span in self.degraded.values():
            if now is not None:
                span.stop = max(span.stop, now)
        pending = [*self.changed, *self.degraded.values(), *([self.observed] if self.observed else [])]
        self.changed.clear()
        for span in pending:
            row = (span.kind, span.start, span.stop, span.stop - span.start, span.detail)
            if span.row is None:
                span.row = db.execute("INSERT INTO span VALUES (NULL, ?, ?, ?, ?, ?)", row).lastrowid
            else:
                db.execute("UPDATE span SET kind=?, start=?, stop=?, seconds=?, detail=? WHERE id=?", (*row, span.row))
        opened = self.observed.row if self.observed is not None else None
        facts = {
            "run": self.run,
            "ignore": self.ignore,
            "last": self.last,
            "observed": opened,
            "degraded": ",".join(str(span.row) for span in self.degraded.values()),
        }
        db.executemany("INSERT OR REPLACE INTO fact VALUES (?, ?)", [(f"coverage.{k}", v) for k, v in facts.items()])
        _keep_bounded(db)


def load(db: sqlite3.Connection) -> Coverage:
    """The state that save() wrote last."""
    facts = dict(db.execute("SELECT name, value FROM fact WHERE name LIKE 'coverage.%'"))
    if not facts:
        return Coverage()
    spans = {}
    for row in [facts["coverage.observed"], *filter(None, facts["coverage.degraded"].split(","))]:
        found = db.execute("SELECT kind, start, stop, detail FROM span WHERE id = ?", (row,)).fetchone()
        if found is not None:
            kind, start, stop, detail = found
            spans[int(row)] = Span(kind, start, stop, detail, int(row))
    opened = facts["coverage.observed"]
    return Coverage(
        run=facts["coverage.run"],
        ignore=facts["coverage.ignore"],
        last=facts["coverage.last"],
        observed=spans.get(opened) if opened is not None else None,
        degraded={span.detail: span for span in spans.values() if span.kind == DEGRADED},
    )


def _keep_bounded(db: sqlite3.Connection) -> None:
    """Join neighbours of one kind and detail, the oldest first: what was observed between them stays exact in their sum."""
    for kind in (OBSERVED, DEGRADED, GAP):
        (rows,) = db.execute("SELECT count(*) FROM span WHERE kind = ?", (kind,)).fetchone()
        if rows <= _MOST_SPANS:
            continue
        oldest = db.execute(
            "SELECT id, start, stop, seconds, detail FROM span WHERE kind = ? ORDER BY start LIMIT ?",
            (kind, rows - _MOST_SPANS // 2),
        ).fetchall()
        kept: list[list[float | int | str]] = []
        for number, start, stop, seconds, detail in oldest:
            if kept and kept[-1][4] == detail:
                kept[-1][2] = max(float(kept[-1][2]), stop)
                kept[-1][3] = float(kept[-1][3]) + seconds
            else:
                kept.append([number, start, stop, seconds, detail])
        db.executemany("DELETE FROM span WHERE id = ?", [(row[0],) for row in oldest])
        db.executemany(
            "INSERT INTO span VALUES (?, ?, ?, ?, ?, ?)",
            [(number, kind, start, stop, seconds, detail) for number, start, stop, seconds, detail in kept],
        )
