"""Brings a ledger up to date with the journal: batch by batch, each in one transaction with the journal's cursor."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tcpnewconn.ledger import coverage, firstseen, retention, schema
from tcpnewconn.ledger.journal import Journal
from tcpnewconn.ledger.repeats import Repeats
from tcpnewconn.ledger.schema import DAY
from tcpnewconn.ledger.store import Store
from tcpnewconn.ledger.tally import Tally

# Entries of one transaction: 0.4 s of work that a kill repeats, and 20 MB of memory where every one is another edge.
BATCH = 20_000
_PROGRESS = 2_000
_CHECKED_EVERY = DAY


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a ledger: seconds, bytes, and peers by address for each service and day."""

    days: float = 90 * DAY
    size: int = 64 << 20
    peers: int = 250
    first_seen: firstseen.Limits | None = None


@dataclass(slots=True)
class Outcome:
    """The result of an update. `gap`: the entries after the last update were no longer in the journal."""

    entries: int = 0
    gap: bool = False
    rebuilt: str = ""
    unreadable: int = 0
    # Events of what was first seen that were beyond the limit.
    left_off: int = 0


class Busy(Exception):
    """Another update is at work on this ledger."""


# (entries so far, time of the last one)
Progress = Callable[[int, float], None]


def update(
    path: str, opened: Callable[[], Journal], limits: Limits, host: str, progress: Progress, polled: float | None = None
) -> Outcome:
    """Add what is new in the journal. `polled`: when the running service last polled, read before the journal is opened.

    A damaged ledger is put aside and made again from what the journal has. Raises Busy, schema.Unusable,
    journal.NoJournal, and sqlite3.OperationalError where it cannot be written.
    """
    with _alone(path) as ours:
        try:
            return _update(path, opened, limits, host, progress, polled)
        except (schema.Damaged, sqlite3.DatabaseError) as error:
            # A file that SQLite cannot read may be another's, given by mistake: it is put aside where it was made here.
            if isinstance(error, sqlite3.OperationalError) or not ours:
                raise
            aside = _put_aside(path)
            outcome = _update(path, opened, limits, host, progress, polled)
            outcome.rebuilt = f"{error}; it is now {aside}"
            return outcome


def _update(
    path: str, opened: Callable[[], Journal], limits: Limits, host: str, progress: Progress, polled: float | None
) -> Outcome:
    db = schema.create_or_open(path)
    try:
        outcome = _read(db, path, opened, limits, progress, polled)
        store = Store(db, limits.peers, limits.size)
        with store.transaction():
            store.set_fact("host", host)
            store.set_fact("updated", time.time())
            store.set_fact("peers", limits.peers)
        if limits.first_seen is not None:
            sender = firstseen.ToJournal()
            outcome.left_off = firstseen.log_first_seen(db, limits.first_seen, sender)
            sender.wait()
        if time.time() >= store.fact("checked", 0) + _CHECKED_EVERY:
            (said,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if said != "ok":
                raise schema.Damaged(f"{path}: {said}")
            store.set_fact("checked", time.time())
        schema.checkpoint(db, path)
    finally:
        schema.close(db, path)
    return outcome


def _read(
    db: sqlite3.Connection,
    path: str,
    opened: Callable[[], Journal],
    limits: Limits,
    progress: Progress,
    polled: float | None,
) -> Outcome:
    store = Store(db, limits.peers, limits.size)
    covered = coverage.load(db)
    tally = Tally(
        covered, Repeats(store.fact("repeats.run", b""), store.recent_ids(), store.fact("repeats.until", 0.0))
    )
    journal = opened()
    outcome = Outcome()
    last = store.fact("last")
    try:
        add, count = tally.add, 0
        for entry, microseconds in journal.entries(store.fact("cursor")):
            if count == 0 and journal.gone:
                outcome.gap = True
                run = entry.get("_SYSTEMD_INVOCATION_ID", tally.repeats.run).decode("ascii", "replace")
                covered.gap(microseconds / 1e6, run, "not in the journal any more")
            add(entry, microseconds)
            count += 1
            if count % _PROGRESS == 0:
                progress(count, microseconds / 1e6)
                if tally.entries >= BATCH:
                    last = microseconds / 1e6
                    _save(db, store, tally, journal.cursor(), last)
                    retention.keep(db, store, min(last, time.time()), limits.days, limits.size)
                    schema.checkpoint(db, path)
        if tally.entries:
            last = microseconds / 1e6
        # The cursor is that of the last entry, also where the reader has come to the end.
        if polled is not None:
            covered.polled(polled)
        if tally.entries or polled is not None:
            _save(db, store, tally, journal.cursor() if tally.entries else None, last)
        if last is not None:
            retention.keep(db, store, min(last, time.time()), limits.days, limits.size)
        outcome.entries, outcome.unreadable = count, journal.unreadable
    finally:
        journal.close()
    return outcome


def _save(db: sqlite3.Connection, store: Store, tally: Tally, cursor: str | None, last: float | None) -> None:
    with store.transaction():
        tally.save(store)
        tally.coverage.save(db)
        if cursor is not None:
            store.set_fact("cursor", cursor)
            store.set_fact("last", last)


@contextmanager
def _alone(path: str) -> Iterator[bool]:
    """Hold the ledger for this update; whether there was one that was made here."""
    made = os.path.exists(f"{path}.lock")
    # Everybody who may read the ledger may hold its lock, see schema.reading().
    os.close(os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640))
    descriptor = os.open(f"{path}.update", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{path}: another update is at work on it") from None
        yield made
    finally:
        os.close(descriptor)


def _put_aside(path: str) -> str:
    aside = f"{path}.damaged"
    os.replace(path, aside)
    for suffix in ("-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.replace(path + suffix, aside + suffix)
    return aside
