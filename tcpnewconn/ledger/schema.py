"""The ledger's file: its tables, how it is opened for writing, and how it is opened for reading by others.

One SQLite database in WAL mode for each host. An *edge* is a service of this host and one of its peers; a *service* is a
direction, a port, and the unit, process, user and container of the local side. Times are Unix times in seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

VERSION = 1
HOUR, DAY = 3600, 86400

_COUNTS = """
    edge INTEGER NOT NULL, start INTEGER NOT NULL, connections INTEGER NOT NULL, summarized INTEGER NOT NULL,
    failed INTEGER NOT NULL, source_bytes INTEGER NOT NULL, destination_bytes INTEGER NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (edge, start)
"""

_TABLES = f"""
CREATE TABLE fact (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
-- What is not known is the empty text. `local_port` is of connections whose direction is unknown, else 0.
CREATE TABLE service (
    id INTEGER PRIMARY KEY, direction TEXT NOT NULL, port INTEGER NOT NULL, local_port INTEGER NOT NULL,
    unit TEXT NOT NULL, process TEXT NOT NULL, user TEXT NOT NULL, container TEXT NOT NULL, accepted_by TEXT NOT NULL,
    UNIQUE (direction, port, local_port, unit, process, user, container, accepted_by)
);
-- `peer` is an address, a network (address/length), 'others', or 'unnamed' (of summaries that do not say who).
CREATE TABLE edge (
    id INTEGER PRIMARY KEY, service INTEGER NOT NULL, peer TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    UNIQUE (service, peer)
);
CREATE TABLE hour ({_COUNTS}) WITHOUT ROWID;
CREATE TABLE day ({_COUNTS}) WITHOUT ROWID;
CREATE INDEX hour_start ON hour (start);
CREATE INDEX day_start ON day (start);
CREATE VIEW traffic AS SELECT *, {HOUR} AS span FROM hour UNION ALL SELECT *, {DAY} AS span FROM day;
CREATE TABLE listener (
    address TEXT NOT NULL, port INTEGER NOT NULL, unit TEXT NOT NULL, process TEXT NOT NULL, user TEXT NOT NULL,
    container TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (address, port, unit, process, user, container)
) WITHOUT ROWID;
CREATE TABLE scan (
    start INTEGER NOT NULL, source TEXT NOT NULL, scans INTEGER NOT NULL, ports TEXT NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (start, source)
) WITHOUT ROWID;
CREATE TABLE loss (
    start INTEGER NOT NULL, reason TEXT NOT NULL, events INTEGER NOT NULL, PRIMARY KEY (start, reason)
) WITHOUT ROWID;
-- `kind` is 'observed' (`detail`: Ignore= in force), 'degraded' (`detail`: the source) or 'gap' (`detail`: why).
-- `seconds` is less than stop - start where neighbours were joined to stay bounded.
CREATE TABLE span (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, start REAL NOT NULL, stop REAL NOT NULL, seconds REAL NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX span_kind ON span (kind, start);
-- Addresses of this host, from the local end of its connections.
CREATE TABLE address (address TEXT PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;
-- Ids of the last connections before a start of the service, which may log them again.
CREATE TABLE recent (id BLOB PRIMARY KEY, time INTEGER NOT NULL) WITHOUT ROWID;
-- Reported as first seen, or known when that was switched on.
CREATE TABLE seen (subject TEXT PRIMARY KEY, time INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {VERSION};
"""


class Unusable(Exception):
    """A file that is no ledger, or of a version that this program does not know."""


class Damaged(Unusable):
    """A file that SQLite cannot read."""


def create_or_open(path: str) -> sqlite3.Connection:
    """The ledger for writing; made if there is none. Raises Unusable, and sqlite3.OperationalError as it comes (full disk)."""
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    try:
        # Before the tables: it holds for a new file only. A year's ledger that shrinks gives its pages back.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        # See reading(): pages move into the main file under a lock only.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            connection.executescript(f"BEGIN IMMEDIATE;{_TABLES}COMMIT;")
        else:
            _check(connection, path)
    except sqlite3.OperationalError:
        connection.close()
        raise
    except sqlite3.DatabaseError as error:
        connection.close()
        raise Damaged(f"{path}: {error}") from error
    except Unusable:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: str) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"fact", "edge", "hour", "day", "span"} <= tables:
        raise Unusable(f"{path}: not a ledger")
    if version != VERSION:
        raise Unusable(f"{path}: a ledger of version {version}; this program knows version {VERSION}")


@contextlib.contextmanager
def reading(path: str) -> Iterator[sqlite3.Connection]:
    """The ledger for reading, by anybody who may read the file, whether or not it is being updated.

    Who may not write beside the file can read a database in WAL mode only while its writer has it open. Without a writer
    the file alone is whole, and is read as one that does not change; a lock keeps the next writer from moving pages into it.
    Raises Unusable.
    """
    if not os.path.exists(path):
        raise Unusable(f"{path}: there is no ledger; systemctl start tcpnewconn-ledger makes that of this host")
    if not os.access(path, os.R_OK):
        raise Unusable(f"{path}: cannot be read; become root, or a member of the group systemd-journal")
    with contextlib.ExitStack() as stack:
        connection = None
        try:
            connection = _connect(path, "mode=ro")
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            if connection is not None:
                connection.close()
            stack.enter_context(locked(path, fcntl.LOCK_SH))
            connection = _connect(path, "immutable=1")
        except sqlite3.DatabaseError as error:
            raise Damaged(f"{path}: {error}; the next update rebuilds it") from error
        stack.callback(connection.close)
        try:
            _check(connection, path)
            # One state of it for all questions.
            connection.execute("BEGIN")
            yield connection
        except sqlite3.DatabaseError as error:
            raise Damaged(f"{path}: {error}; the next update rebuilds it") from error


def _connect(path: str, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{urllib.parse.quote(os.path.abspath(path))}?{how}", uri=True, isolation_level=None)


def attach(connection: sqlite3.Connection, path: str) -> None:
    """Attach a ledger that reading() holds open, as `one`."""
    file = f"file:{urllib.parse.quote(os.path.abspath(path))}"
    try:
        connection.execute("ATTACH ? AS one", (f"{file}?mode=ro",))
        connection.execute("SELECT 1 FROM one.sqlite_master").fetchone()
    except sqlite3.OperationalError:
        if any(name == "one" for _, name, _ in connection.execute("PRAGMA database_list")):
            connection.execute("DETACH one")
        connection.execute("ATTACH ? AS one", (f"{file}?immutable=1",))


def checkpoint(connection: sqlite3.Connection, path: str) -> None:
    """Move what was committed into the main file. It waits for readers of the main file alone."""
    with locked(path, fcntl.LOCK_EX):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def close(connection: sqlite3.Connection, path: str) -> None:
    """Close it after writing; SQLite moves the rest into the main file."""
    with locked(path, fcntl.LOCK_EX):
        connection.close()


@contextlib.contextmanager
def locked(path: str, how: int) -> Iterator[None]:
    """Hold the lock beside the file. Where there is none, as beside a copy, nobody writes."""
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def copy(path: str, target: str) -> None:
    """A consistent copy in one file, without what an update only needs for itself. Raises Unusable."""
    scratch = f"{target}.new"
    Path(scratch).unlink(missing_ok=True)
    with reading(path) as ledger:
        ledger.execute("COMMIT")
        ledger.execute("VACUUM INTO ?", (scratch,))
    copied = sqlite3.connect(scratch, isolation_level=None)
    try:
        copied.executescript("PRAGMA journal_mode = DELETE; DELETE FROM recent; DELETE FROM seen; VACUUM;")
    finally:
        copied.close()
    os.replace(scratch, target)
