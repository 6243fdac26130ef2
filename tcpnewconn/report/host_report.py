"""Puts the report of one host together: the answer to a question, its coverage, its tables and notes."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any

from tcpnewconn.model import DIRECTIONS
from tcpnewconn.report import allow, questions, tables
from tcpnewconn.report.book import Book
from tcpnewconn.report.names import Names, resolvers
from tcpnewconn.report.observed import Observed
from tcpnewconn.report.period import time_text


@dataclass(slots=True)
class Report:
    """The content of every form of output. `head` is the answer in a few lines; `details` are those of its coverage."""

    host: str
    question: str
    subject: str
    since: float
    until: float
    coverage: Observed | None
    head: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    tables: list[tables.Table] = field(default_factory=list)
    verbatim: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def host_report(book: Book, question: str, subject: str, names: Names, since: float | None, days: float) -> Report:
    """`subject` is a port or a unit; `since` is for what is new, `days` for what is quiet."""
    made = Report(book.host, question, subject, book.since, book.until, book.coverage)
    made.details = book.coverage.details()
    if question == "overview":
        _overview(book, made)
    elif question == "who":
        users = questions.who_uses(book, subject)
        names.ask(str(line.name[0]) for line in users.lines)
        made.head, made.tables = [users.verdict], tables.of_users(users, names)
    elif question == "to":
        found = questions.destinations_of(book, subject)
        names.ask(str(line.name[0]) for line in found.lines)
        made.head, made.tables = [found.verdict], tables.of_destinations(found, names)
    elif question == "new":
        new = questions.new_since(book, book.since if since is None else max(since, book.begins))
        names.ask(str(part) for line in (*new.peers, *new.destinations) for part in line.name)
        made.tables, made.notes = tables.of_new(new, names), new.notes
    elif question == "quiet":
        quiet = questions.quiet(book, days)
        made.tables, made.notes = tables.of_quiet(quiet), quiet.notes
    else:
        # Of another host's ledger, this host's resolvers say nothing.
        allowed = allow.allow_list(book, subject, resolvers() if book.host == socket.gethostname() else ())
        share = allowed.refused / allowed.connections if allowed.connections else 0.0
        made.head = [
            f"Allow list for {subject}: it would have refused {allowed.refused} of {allowed.connections} connections "
            f"({share * 100:.2f} %)"
        ]
        made.tables = tables.of_allow(allowed)
        made.verbatim = [*allow.drop_in(allowed), "", *allow.nftables(allowed)]
    made.notes += _notes(book, made, names)
    return made


def _overview(book: Book, made: Report) -> None:
    answer = questions.overview(book)
    made.tables = tables.of_overview(answer)
    scans = sum(scan.scans for scan in answer.scans)
    made.head = [
        f"{answer.connections} connections, {answer.summarized} of them in summaries of bursts; {answer.failed} failed "
        f"attempts, {scans} port scan{'' if scans == 1 else 's'}, {book.coverage.events_lost} events lost"
    ]


def _notes(book: Book, made: Report, names: Names) -> list[str]:
    notes = []
    if names.note:
        notes.append(names.note)
    wanted = book.wanted
    if (wanted.since is not None and wanted.since > made.since + 1) or (
        wanted.until is not None and wanted.until + 1 < made.until
    ):
        notes.append(book.source.widened)
    if wanted.since is not None and wanted.since < book.begins:
        notes.append(f"The ledger begins {time_text(book.begins)}.")
    if book.source.removed:
        notes.append(book.source.removed)
    if book.added_up(DIRECTIONS):
        notes.append(
            "Some days had more services than the ledger's size has place for: the rest is added up as others."
        )
    rows: list[dict[str, Any]] = [row for table in made.tables for row in table.rows]
    if any(row.get("clients_exact", row.get("destinations_exact", True)) is False for row in rows) or any(
        row.get("note") in questions.NOTES.values() for row in rows
    ):
        notes.append(book.source.unnamed)
    return notes
