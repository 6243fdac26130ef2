"""`tcpnewconn report`: its arguments, and what they ask for."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import sys
import time

from tcpnewconn.ledger import schema
from tcpnewconn.ledger.book import Book, Filter, Network
from tcpnewconn.ledger.fleet import joined
from tcpnewconn.ledger.fleet_report import STEP, fleet_page, fleet_report, write_csv, write_json
from tcpnewconn.ledger.host_page import host_page
from tcpnewconn.ledger.names import Names, NoDatabase
from tcpnewconn.ledger.page import NoTemplates, html
from tcpnewconn.ledger.period import parse_time
from tcpnewconn.ledger.report import QUESTIONS, Report, report
from tcpnewconn.ledger.text import as_csv, as_json, text
from tcpnewconn.reporting.sinks import say
from tcpnewconn.tracking.direction import DIRECTIONS

EXIT_FAILED = 1

_EXAMPLES = """\
examples:
  tcpnewconn report                              overview: services and their clients, outgoing connections, coverage
  tcpnewconn report who 5432                     who uses port 5432, or nobody; with the coverage of that time
  tcpnewconn report who ssh.service --since=-30d who uses this unit
  tcpnewconn report to app.service               what this unit connects to
  tcpnewconn report new --since yesterday        what was never seen before
  tcpnewconn report quiet --days 30              listeners that nobody has used for 30 days
  tcpnewconn report allow app.service            what a firewall for this unit would have to allow
  tcpnewconn report --output html >report.html   a page, in one file
  tcpnewconn report --ledger web1.db db1.db      of several hosts, joined

The ledger is kept by tcpnewconn-ledger.timer. See tcpnewconn-report(1).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Answers from the ledger: who talks to whom, since when, how much."
    parser.epilog = _EXAMPLES
    parser.add_argument("question", nargs="?", choices=QUESTIONS, default="overview", help="default: overview")
    parser.add_argument("subject", nargs="?", metavar="PORT|UNIT", help="for who, to and allow")
    parser.add_argument("--output", choices=("text", "json", "csv", "html"), default="text", help="default: text")
    parser.add_argument(
        "--since", metavar="TIME", type=_time, help="as journalctl takes it: yesterday, 2026-11-01, =-7d"
    )
    parser.add_argument("--until", metavar="TIME", type=_time, help="likewise")
    parser.add_argument(
        "--ledger",
        metavar="FILE",
        nargs="+",
        action="extend",
        help=f"ledgers of one or more hosts; default: {schema.PATH}",
    )
    parser.add_argument(
        "--days", metavar="N", type=_days, default=30.0, help="with quiet: unused for so long; default: 30"
    )
    parser.add_argument(
        "--unit", metavar="UNIT", action="append", default=[], help="only this unit; may be repeated, as all filters"
    )
    parser.add_argument("--user", metavar="USER", action="append", default=[], help="only this user")
    parser.add_argument("--process", metavar="NAME", action="append", default=[], help="only this process")
    parser.add_argument(
        "--container", metavar="NAME", action="append", default=[], help="only this container, by name or id"
    )
    parser.add_argument("--port", metavar="PORT", type=_port, action="append", default=[], help="only this port")
    parser.add_argument(
        "--network", metavar="NETWORK", type=_network, action="append", default=[], help="only peers in this network"
    )
    parser.add_argument("--direction", choices=DIRECTIONS, action="append", default=[], help="only this direction")
    parser.add_argument("--all", action="store_true", help="with text: every row of a long table")
    parser.add_argument("--resolve", action="store_true", help="names of addresses, by the system's resolver")
    parser.add_argument("--mmdb", metavar="FILE", help="country and network owner, from this MaxMind database")


def run(options: argparse.Namespace) -> int:
    """The exit code."""
    problem = _problem(options)
    if problem:
        say(problem, 3)
        return 2
    ledgers = options.ledger or [schema.PATH]
    try:
        if len(ledgers) > 1 and options.question == "overview":
            return _fleet(ledgers, options)
        names = Names(options.resolve, options.mmdb)
        for at, path in enumerate(ledgers):
            with schema.reading(path) as db:
                book = Book(db, path, _filter(options))
                made = report(book, options.question, options.subject or "", names, options.since, options.days)
                _write(("\n" if at else "") + _formatted(made, book, options, names))
        return 0
    except (schema.Unusable, NoDatabase, NoTemplates) as error:
        say(str(error), 3)
        return EXIT_FAILED


def _fleet(ledgers: list[str], options: argparse.Namespace) -> int:
    with contextlib.closing(joined(ledgers, _filter(options), STEP)) as fleet:
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
    """What does not go together, in one line."""
    if options.question in ("who", "to", "allow") and not options.subject:
        what = "a port or a unit" if options.question == "who" else "a unit"
        return f"report {options.question} needs {what}, for example: tcpnewconn report {options.question} ssh.service"
    if options.question not in ("who", "to", "allow") and options.subject:
        return f"report {options.question} takes no {options.subject!r}; use a filter such as --unit or --port"
    if options.since is not None and options.until is not None and options.since >= options.until:
        return "--since is not before --until"
    if len(options.ledger or ()) > 1 and options.question != "overview" and options.output == "html":
        return "--output html of several ledgers is for the overview; use --output text, or one ledger"
    return ""


def _filter(options: argparse.Namespace) -> Filter:
    # What is new is compared with all that was there before.
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


def _time(given: str) -> float:
    try:
        return parse_time(given, time.time())
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{given!r}: {error}") from None


def _days(given: str) -> float:
    try:
        days = float(given.removesuffix("d"))
    except ValueError:
        days = -1.0
    if not 0 < days < 4000:
        raise argparse.ArgumentTypeError(f"{given!r}: not a number of days; use for example 30")
    return days


def _port(given: str) -> int:
    if not (given.isascii() and given.isdecimal() and 0 < int(given) < 65536):
        raise argparse.ArgumentTypeError(f"{given!r}: not a port; use a number from 1 to 65535")
    return int(given)


def _network(given: str) -> Network:
    try:
        return ipaddress.ip_network(given, strict=False)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{given!r}: not a network; use for example 10.0.0.0/8 or 2001:db8::1"
        ) from None
