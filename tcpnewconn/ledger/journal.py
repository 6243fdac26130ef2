"""Reads the service's entries from the journal, from a cursor on: of this host, of a namespace, or of a directory's hosts.

Only entries whose trusted `_SYSTEMD_UNIT` is the service's: any program can send the other fields. Of a process that was
killed before journald came to its last entries, systemd 252 knows the user (`_UID`, from the kernel) and not the unit. So
entries of no unit count too, if they are of the user that the service runs as; nothing else does.

Measured (systemd 257, 42 fields an entry): all fields as bytes 5.5 us an entry; ten fields by name 8.6; with Reader's
converters 20.5.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

UNIT = "tcpnewconn.service"
# That of the unit's drop-in journal-namespace.conf, off by default.
NAMESPACE = "tcpnewconn"
# sd-journal.h: SD_JOURNAL_INCLUDE_DEFAULT_NAMESPACE, which the Python module does not name.
_WITH_DEFAULT_NAMESPACE = 1 << 6
_REMOTE = "remote-"


class NoJournal(Exception):
    """There is nothing to read, or it cannot be read."""


class Journal:
    """The entries after a cursor, each once. `gone`: the cursor's own entry was no longer there."""

    def __init__(self, reader: Any, unit: str = UNIT) -> None:
        self._reader = reader
        self._unit = unit
        self.gone = False
        self.unreadable = 0

    def entries(self, cursor: str | None) -> Iterator[tuple[dict[str, Any], int]]:
        """Each entry's fields, in bytes, and its time in microseconds."""
        reader = self._reader
        self._match()
        step, fields, realtime = reader._next, reader._get_all, reader._get_realtime
        more = True
        if cursor is None:
            reader.seek_head()
            more = step()
        else:
            reader.seek_cursor(cursor)
            more = step()
            if more and reader.test_cursor(cursor):
                more = step()
            else:
                self.gone = more
        unit = self._unit.encode()
        while more:
            try:
                entry = fields()
                if entry.get("_SYSTEMD_UNIT", unit) == unit:
                    yield entry, realtime()
            except OSError:
                # Damaged there; the reader goes on behind it.
                self.unreadable += 1
            more = step()

    def _match(self) -> None:
        """The service's entries, and its user's: root's are those of too many."""
        reader = self._reader
        reader.add_match(f"_SYSTEMD_UNIT={self._unit}")
        reader.seek_tail()
        user = None
        with contextlib.suppress(OSError):
            user = reader._get_all().get("_UID") if reader._previous() else None
        if isinstance(user, bytes) and user.isdigit() and user != b"0":
            reader.add_disjunction()
            reader.add_match(f"_UID={user.decode()}")

    def cursor(self) -> str:
        """Of the entry that came last."""
        return str(self._reader._get_cursor())

    def close(self) -> None:
        self._reader.close()


def of_this_host(namespace: str | None = None) -> Journal:
    """The system's journal and, where there is one, the service's own namespace; or the namespace that is given.

    As in journalctl, a "+" before a namespace adds it to the default one. Raises NoJournal.
    """
    journal = _systemd()
    given = namespace or f"+{NAMESPACE}"
    flags = journal.LOCAL_ONLY | journal.SYSTEM | (_WITH_DEFAULT_NAMESPACE if given.startswith("+") else 0)
    try:
        return Journal(journal.Reader(flags=flags, namespace=given.removeprefix("+")))
    except OSError as error:
        raise NoJournal(f"the journal, namespace {given}: {error.strerror}") from error


def of_files(files: list[str]) -> Journal:
    """The journal that these files are, of one host. Raises NoJournal."""
    try:
        return Journal(_systemd().Reader(files=files))
    except OSError as error:
        raise NoJournal(f"{files[0]}: {error.strerror}") from error


def hosts_of(directory: str) -> dict[str, list[str]]:
    """The journal files of each host in a directory, as systemd-journal-remote and journald name them.

    remote-NAME.journal and remote-NAME@....journal are of the host that NAME says, by the certificate it came with; what an
    entry says of its host does not count. Other files are of the host whose machine id their directory is named after.
    """
    found: dict[str, list[str]] = {}
    if not os.path.isdir(directory):
        raise NoJournal(f"{directory}: not a directory")
    for path in sorted(Path(directory).rglob("*.journal")):
        if path.name.startswith(_REMOTE):
            host = path.name[len(_REMOTE) :].removesuffix(".journal").partition("@")[0]
        else:
            host = path.resolve().parent.name
        found.setdefault(host, []).append(str(path))
    if not found:
        raise NoJournal(f"{directory}: holds no journal file (*.journal)")
    return found


def _systemd() -> Any:
    try:
        from systemd import journal
    except ImportError as error:
        raise NoJournal("the journal needs systemd's Python module; install python3-systemd") from error
    return journal
