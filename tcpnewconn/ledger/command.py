"""`tcpnewconn ledger`: bring the ledger up to date, or copy it."""

from __future__ import annotations

import argparse
import os
import socket
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tcpnewconn.ledger import firstseen, schema, update
from tcpnewconn.ledger.journal import Journal, NoJournal, hosts_of, of_files, of_this_host
from tcpnewconn.ledger.options import PATH
from tcpnewconn.reporting.sinks import say
from tcpnewconn.settings.config import Settings, load
from tcpnewconn.text import printable

METRICS = "/run/tcpnewconn/tcpnewconn.prom"
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
# As sysexits.h: try again later. The unit takes it for success, and the timer starts it again.
EXIT_LATER = 75


def run(options: argparse.Namespace) -> int:
    """The exit status."""
    problem = _problem(options)
    if problem:
        say(problem, 3)
        return 2
    try:
        if options.action == "copy":
            schema.copy(options.ledger or PATH, options.target)
            return 0
        return _update_all(options, load(options.config))
    except (NoJournal, schema.Unusable) as error:
        say(str(error), 3)
        return EXIT_FAILED
    except sqlite3.Error as error:
        return _cannot_write(options.ledger or PATH, str(error))
    except OSError as error:
        return _cannot_write(error.filename or options.ledger or PATH, str(error.strerror))


def _problem(options: argparse.Namespace) -> str:
    """The options that exclude each other, in one line."""
    if options.action == "copy" and not options.target:
        return "ledger copy needs a file to write, for example: tcpnewconn ledger copy /srv/web1.db"
    if options.action == "copy" and (options.directory or options.namespace):
        return "--directory and --namespace are for ledger update"
    if options.action == "update" and options.target:
        return f"ledger update takes no {options.target!r}; the ledger is given with --ledger"
    return ""


def _update_all(options: argparse.Namespace, settings: Settings) -> int:
    first_seen = firstseen.Limits(settings.learning, settings.event_limit) if settings.log else None
    # On a log server the events would be those of another host.
    limits = update.Limits(settings.keep, settings.size, settings.peers, None if options.directory else first_seen)
    if options.directory is None:
        polled = _last_poll(METRICS) if options.namespace is None else None
        path = options.ledger or PATH
        _become_owner(os.path.dirname(os.path.abspath(path)))
        host = socket.gethostname()
        return _update(path, lambda: of_this_host(options.namespace), limits, host, polled)
    hosts = hosts_of(options.directory)
    place = Path(options.ledger or os.path.dirname(PATH))
    place.mkdir(parents=True, exist_ok=True)
    worst = 0
    for host, files in hosts.items():
        worst = max(worst, _update(str(place / f"{host}.db"), _opening(files), limits, host, None))
        if worst == EXIT_INTERRUPTED:
            break
    return worst


def _become_owner(directory: str) -> None:
    """Act as the directory's owner does: what root makes there would be in the way of the timer's updates."""
    try:
        owner = os.stat(directory)
    except FileNotFoundError:
        raise schema.Unusable(f"{directory}: no such directory; systemctl start tcpnewconn-ledger makes it") from None
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)


def _opening(files: list[str]) -> Callable[[], Journal]:
    return lambda: of_files(files)


def _update(path: str, opened: Callable[[], Journal], limits: update.Limits, host: str, polled: float | None) -> int:
    shown = _Shown(path)
    try:
        outcome = update.update(path, opened, limits, host, shown.progress, polled)
    except update.Busy as error:
        say(str(error), 5)
        return 0
    except KeyboardInterrupt:
        shown.clear()
        say(f"{path}: interrupted; the next update goes on from the last batch", 5)
        return EXIT_INTERRUPTED
    finally:
        shown.clear()
    if outcome.rebuilt:
        say(f"{path}: was damaged, and is rebuilt from what the journal has: {outcome.rebuilt}", 4)
    if outcome.gap:
        say(f"{path}: entries that were not counted yet are gone from the journal; reports show the gap", 4)
    if outcome.left_off:
        say(f"{path}: {outcome.left_off} more first seen, beyond EventLimit=; see tcpnewconn report new", 5)
    if outcome.unreadable:
        say(f"{path}: {outcome.unreadable} damaged journal entries could not be read; run journalctl --verify", 4)
    if sys.stderr is not None and sys.stderr.isatty():
        say(f"{path}: {outcome.entries} entries added", 6)
    _said_nothing()
    return 0


class _Shown:
    """The progress of a long update, on a terminal."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._on = sys.stderr is not None and sys.stderr.isatty()
        self._drawn = False
        self._next = time.monotonic() + 0.5

    def progress(self, entries: int, when: float) -> None:
        if self._on and time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.2
            upto = time.strftime("%Y-%m-%d %H:%M", time.gmtime(when))
            # First: an interruption can come before the write has returned.
            self._drawn = True
            sys.stderr.write(f"\r\033[K{printable(self._path)}: {entries:,} entries read, up to {upto} UTC")
            sys.stderr.flush()

    def clear(self) -> None:
        if self._drawn:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
            self._drawn = False


def _last_poll(path: str) -> float | None:
    """When the service last polled, by its metrics; None where they are not there."""
    try:
        text = Path(path).read_text(errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "tcpnewconn_last_poll_timestamp_seconds":
            try:
                return float(value)
            except ValueError:
                return None
    return None


def _cannot_write(path: str, problem: str) -> int:
    """Say it once: the timer tries again every ten minutes."""
    message = f"{path}: cannot be written: {problem}; it is tried again at each update"
    marker = _marker()
    if marker is None or not marker.exists() or marker.read_text() != message:
        say(message, 3)
        if marker is not None:
            marker.write_text(message)
    return EXIT_LATER


def _said_nothing() -> None:
    marker = _marker()
    if marker is not None:
        marker.unlink(missing_ok=True)


def _marker() -> Path | None:
    """A file that outlives this update, and not a reboot."""
    place = os.environ.get("RUNTIME_DIRECTORY")
    return Path(place) / "cannot-write" if place else None
