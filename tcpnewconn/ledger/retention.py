"""How long the ledger keeps what: hours for a week, days for as long as set, and no more bytes than set.

Where it has more bytes, the oldest hours become days first; then the oldest days are removed. Of one day there are never more
than its size has place for (peers.py)."""

from __future__ import annotations

import sqlite3

from tcpnewconn.ledger.schema import DAY
from tcpnewconn.ledger.store import Store

HOURS_KEPT = 7 * DAY

_ROLL_UP = f"""
    INSERT INTO day
    SELECT edge, start - start % {DAY}, sum(connections), sum(summarized), sum(failed), sum(source_bytes),
           sum(destination_bytes), min(first), max(last)
    FROM hour WHERE start < ? GROUP BY edge, start - start % {DAY}
    ON CONFLICT (edge, start) DO UPDATE SET
        connections = connections + excluded.connections, summarized = summarized + excluded.summarized,
        failed = failed + excluded.failed, source_bytes = source_bytes + excluded.source_bytes,
        destination_bytes = destination_bytes + excluded.destination_bytes,
        first = min(first, excluded.first), last = max(last, excluded.last)
"""


def keep(db: sqlite3.Connection, store: Store, now: float, days: float, most_bytes: int) -> None:
    """Make days of old hours, and remove what is too old or too much; all in one transaction.

    `now` is the time of the last entry, or the clock's if that is earlier. It counts for at most one day more than in the
    update before: a clock that is wrong by years, for some hours, removes nothing.
    """
    with store.transaction():
        before = store.fact("now")
        now = now if before is None else min(now, before + DAY)
        store.set_fact("now", now)
        first_hour = int(now - HOURS_KEPT)
        _make_days(db, first_hour - first_hour % DAY)
        _remove_before(db, store, int(now - days) // DAY * DAY, "age")
        store.keep_bounded()
        while _bytes(db) > most_bytes and _made_smaller(db, store):
            pass
        store.forget()
    db.execute("PRAGMA incremental_vacuum").fetchall()


def _made_smaller(db: sqlite3.Connection, store: Store) -> bool:
    """Whether there was something to do without: the newest day stays as it is."""
    (hour,) = db.execute("SELECT min(start) FROM hour").fetchone()
    oldest, newest = db.execute("SELECT min(start), max(start) FROM traffic").fetchone()
    if oldest is None:
        return False
    if hour is not None and hour // DAY < newest // DAY:
        _make_days(db, hour // DAY * DAY + DAY)
        return True
    if oldest // DAY < newest // DAY:
        _remove_before(db, store, oldest // DAY * DAY + DAY, "size")
        return True
    return False


def _make_days(db: sqlite3.Connection, before: int) -> None:
    """Add up the hours before this start of a day."""
    db.execute(_ROLL_UP, (before,))
    db.execute("DELETE FROM hour WHERE start < ?", (before,))


def _remove_before(db: sqlite3.Connection, store: Store, first: int, why: str) -> None:
    removed = 0
    for table in ("hour", "day"):
        removed += db.execute(f"DELETE FROM {table} WHERE start < ?", (first,)).rowcount
    db.execute("DELETE FROM loss WHERE start < ?", (first,))
    db.execute("DELETE FROM scan WHERE start < ?", (first,))
    db.execute("DELETE FROM span WHERE stop < ?", (first,))
    if removed:
        db.execute(
            "DELETE FROM edge WHERE id NOT IN (SELECT edge FROM hour) AND id NOT IN (SELECT edge FROM day)",
        )
        db.execute("DELETE FROM service WHERE id NOT IN (SELECT service FROM edge)")
        store.set_fact("removed_before", first)
        store.set_fact("removed_because", why)


def _bytes(db: sqlite3.Connection) -> int:
    """The size of the tables, without pages that are free again."""
    (pages,), (free,), (size,) = (
        db.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
