"""`tcpnewconn report`: its arguments, and what they ask for."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from tcpnewconn.ledger import schema
from tcpnewconn.ledger.options import PATH
from tcpnewconn.report.book import Book, Filter
from tcpnewconn.report.fleet import Member, joined
from tcpnewconn.report.fleet_report import STEP, fleet_page, fleet_report, write_csv, write_json
from tcpnewconn.report.host_page import host_page
from tcpnewconn.report.host_report import Report, host_report
from tcpnewconn.report.names import Names, NoDatabase
from tcpnewconn.report.options import QUESTIONS
from tcpnewconn.report.page import NoTemplates, html
from tcpnewconn.report.sqlite import LedgerFile
from tcpnewconn.report.text import as_csv, as_json, text
from tcpnewconn.reporting.sinks import say

EXIT_FAILED = 1


def run(options: argparse.Namespace) -> int:
    """The exit status."""
    _take_the_question(options)
    problem = _problem(options)
    if problem:
        say(problem, 3)
        return 2
    try:
        with contextlib.ExitStack() as stack:
            members = _members(options, stack)
            if len(members) > 1 and options.question == "overview":
                return _fleet(members, options)
            if len(members) > 1 and options.output == "html":
                say("--output html of several hosts is for the overview; use --output text, or one host", 3)
                return 2
            names = Names(options.resolve, options.mmdb)
            answered = 0
            for member in members:
                try:
                    with member.opened() as source:
                        book = Book(source, _filter(options))
                        made = host_report(
                            book, options.question, options.subject or "", names, options.since, options.days
                        )
                        _write(("\n" if answered else "") + _formatted(made, book, options, names))
                        answered += 1
                except schema.Unusable as error:
                    # Of several hosts, one without an answer does not keep the others from theirs.
                    if len(members) == 1:
                        raise
                    say(str(error), 4)
        return 0 if answered else EXIT_FAILED
    except (schema.Unusable, NoDatabase, NoTemplates) as error:
        say(str(error), 3)
        return EXIT_FAILED


def _members(options: argparse.Namespace, stack: contextlib.ExitStack) -> Sequence[Member]:
    """The hosts that are asked about. Raises schema.Unusable."""
    if not options.clickhouse:
        return [LedgerFile(path) for path in options.ledger or [PATH]]
    from tcpnewconn.report.clickhouse import Events
    from tcpnewconn.report.clickhouse_fleet import members
    from tcpnewconn.report.clickhouse_http import Server, login

    server = stack.enter_context(
        contextlib.closing(Server(options.clickhouse, login(options.login), options.authority))
    )
    return members(Events(server, options.host), _filter(options), STEP)


def _take_the_question(options: argparse.Namespace) -> None:
    """Of `--ledger web1.db who 5432` the last two are no files: argparse takes all that follows for the option's."""
    given = options.ledger or []
    at = next((at for at, word in enumerate(given) if at and word in QUESTIONS and not os.path.exists(word)), None)
    if at is not None and options.question == "overview" and len(given) - at <= 2:
        options.question, options.subject = given[at], given[at + 1] if len(given) - at == 2 else options.subject
        options.ledger = given[:at]


def _fleet(members: Sequence[Member], options: argparse.Namespace) -> int:
    with contextlib.closing(joined(members, _filter(options), STEP)) as fleet:
        for problem in fleet.problems:
            say(problem, 4)
        made = fleet_report(fleet)
        if options.output == "csv":
            write_csv(fleet, sys.stdout)
        elif options.output == "json":
            write_json(fleet, made, sys.stdout)
        else:
            _write(html(fleet_page(fleet, made)) if options.output == "html" else text(made, options.all))
        sys.stdout.flush()
    return 0


def _formatted(made: Report, book: Book, options: argparse.Namespace, names: Names) -> str:
    if options.output == "html":
        return html(host_page(book, made, names))
    if options.output == "json":
        return as_json(made)
    if options.output == "csv":
        return as_csv(made)
    return text(made, options.all)


def _write(output: str) -> None:
    sys.stdout.write(output)
    sys.stdout.flush()


def _problem(options: argparse.Namespace) -> str:
    """The options that exclude each other, in one line."""
    if options.question in ("who", "to", "allow") and not options.subject:
        what = "a port or a unit" if options.question == "who" else "a unit"
        return f"report {options.question} needs {what}, for example: tcpnewconn report {options.question} ssh.service"
    if options.question not in ("who", "to", "allow") and options.subject:
        return f"report {options.question} takes no {options.subject!r}; use a filter such as --unit or --port"
    if options.since is not None and options.until is not None and options.since >= options.until:
        return "--since is not before --until"
    if len(options.ledger or ()) > 1 and options.question != "overview" and options.output == "html":
        return "--output html of several ledgers is for the overview; use --output text, or one ledger"
    if options.clickhouse and options.ledger:
        return "--clickhouse and --ledger exclude each other"
    if not options.clickhouse and (options.host or options.login or options.authority):
        return "--host, --login and --authority are for --clickhouse"
    return ""


def _filter(options: argparse.Namespace) -> Filter:
    # "new" compares with the whole ledger before.
    since = None if options.question == "new" else options.since
    return Filter(
        since,
        options.until,
        tuple(options.unit),
        tuple(options.user),
        tuple(options.process),
        tuple(options.container),
        tuple(options.port),
        tuple(options.network),
        tuple(options.direction),
    )
