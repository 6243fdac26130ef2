"""Logs what the ledger had never seen: a service and the network of a peer, a unit and its destination. Off by default.

An event is sent before it is written down as known: killed in between, an update logs it again, and never loses it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from typing import NamedTuple

from tcpnewconn.ledger.peers import OTHERS, UNNAMED, is_address, network_of

MESSAGE_ID = "a62f8b42cfd84c02a2b3d578cf352187"
ACTION = "peer-first-seen"
# Of what was seen, the newest are remembered.
_MOST_KNOWN = 200_000
_LONGEST_WAIT = 5.0  # seconds

Fields = dict[str, str]


class Limits(NamedTuple):
    """[FirstSeen]: seconds of learning, and events of one update (0: no limit)."""

    learning: float
    events: int


_NEW = """
    SELECT edge.id, direction, port, unit, process, user, container, peer, edge.first FROM edge
    JOIN service ON service.id = edge.service
    WHERE edge.id > ? AND direction IN ('ingress', 'egress') ORDER BY edge.id
"""


def log_first_seen(db: sqlite3.Connection, limits: Limits, send: Callable[[Fields], None]) -> int:
    """Send an event for each that is new since the last update; the number of those beyond the limit.

    Until the ledger has observed for the learning period, and when this is switched on, all that is there is known.
    """
    facts = dict(db.execute("SELECT name, value FROM fact WHERE name IN ('firstseen.edge', 'last')"))
    (begins,) = db.execute("SELECT min(start) FROM span WHERE kind = 'observed'").fetchone()
    silent = "firstseen.edge" not in facts or begins is None or facts.get("last", 0) - begins < limits.learning
    newest, left_off, sent = int(facts.get("firstseen.edge", 0)), 0, 0
    db.execute("BEGIN IMMEDIATE")
    try:
        for number, direction, port, unit, process, user, container, peer, first in db.execute(
            _NEW, (newest,)
        ).fetchall():
            newest = number
            if peer in (OTHERS, UNNAMED):
                continue
            subject = subject_of(direction, port, unit, peer)
            if not db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (subject, first)).rowcount or silent:
                continue
            if limits.events and sent >= limits.events:
                left_off += 1
                continue
            send(fields_of(direction, port, unit, process, user, container, peer))
            sent += 1
        db.execute("INSERT OR REPLACE INTO fact VALUES ('firstseen.edge', ?)", (newest,))
        db.execute(
            "DELETE FROM seen WHERE time < (SELECT time FROM seen ORDER BY time DESC LIMIT 1 OFFSET ?)", (_MOST_KNOWN,)
        )
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
    return left_off


def subject_of(direction: str, port: int, unit: str, peer: str) -> str:
    """The key of a peer: of a client its network, of a destination its address."""
    seen = network_of(peer) if direction == "ingress" and is_address(peer) else peer
    return f"{direction} {port} {unit} {seen}"


def fields_of(direction: str, port: int, unit: str, process: str, user: str, container: str, peer: str) -> Fields:
    """The journal's fields of one event, as docs/events.md names them."""
    side = ", ".join(part for part in (process, unit or container, f"port {port}") if part)
    who = network_of(peer) if direction == "ingress" and is_address(peer) else peer
    own = ", ".join(part for part in (process, unit or container) if part) or "this host"
    message = f"First seen: {who} -> {side}" if direction == "ingress" else f"First seen: {own} -> {who}, port {port}"
    fields = {
        "MESSAGE": message,
        "MESSAGE_ID": MESSAGE_ID,
        "PRIORITY": "5",
        "EVENT_ACTION": ACTION,
        "EVENT_CATEGORY": "network",
        "EVENT_TYPE": "info",
        "NETWORK_TRANSPORT": "tcp",
        "NETWORK_DIRECTION": direction,
        "SOURCE_ADDRESS" if direction == "ingress" else "DESTINATION_ADDRESS": peer if is_address(peer) else "",
        "DESTINATION_PORT": str(port),
        "OBJECT_SYSTEMD_UNIT": unit,
        "PROCESS_NAME": process,
        "USER_NAME": "" if user.isdecimal() else user,
        "CONTAINER_NAME": container,
    }
    return {name: value for name, value in fields.items() if value}


class ToJournal:
    """Sends to the journal. Raises OSError where there is none."""

    def __init__(self) -> None:
        self._sent = 0

    def __call__(self, fields: Fields) -> None:
        from systemd.journal import sendv

        sendv(
            *(f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in fields.items()),
            b"SYSLOG_IDENTIFIER=tcpnewconn",
        )
        self._sent += 1

    def wait(self) -> None:
        """Until journald has them, for a moment at most: of a process that is gone, systemd 252 does not know the unit (seen)."""
        if not self._sent:
            return
        from systemd import journal

        end = time.monotonic() + _LONGEST_WAIT
        with contextlib.closing(journal.Reader(journal.LOCAL_ONLY | journal.SYSTEM)) as reader:
            reader.add_match(f"_PID={os.getpid()}", f"MESSAGE_ID={MESSAGE_ID}")
            while sum(1 for _ in reader) < self._sent and time.monotonic() < end:
                reader.wait(0.1)
                reader.seek_head()
