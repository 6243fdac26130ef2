"""The command line of `report`. Nothing of what answers is loaded for it."""

from __future__ import annotations

import argparse
import re
import time
from typing import TYPE_CHECKING

from tcpnewconn.ledger.options import PATH
from tcpnewconn.model import DIRECTIONS
from tcpnewconn.report.period import parse_time

if TYPE_CHECKING:
    import ipaddress

QUESTIONS = ("overview", "who", "to", "new", "quiet", "allow")

EXAMPLES = """\
questions:
  overview        services and their clients, outgoing connections, coverage
  who PORT|UNIT   who uses it, or nobody, with the coverage of that time
  to UNIT         what this unit connects to
  new             what was never seen before
  quiet           listeners that nobody has used
  allow UNIT      what a firewall for this unit would have to allow

examples:
  tcpnewconn report
  tcpnewconn report who 5432
  tcpnewconn report who ssh.service --since "30 days ago"
  tcpnewconn report to app.service --output csv
  tcpnewconn report new --since yesterday
  tcpnewconn report quiet --days 30
  tcpnewconn report allow app.service
  tcpnewconn report --network 203.0.113.0/24 --direction ingress
  tcpnewconn report --output html >report.html
  tcpnewconn report --ledger web1.db db1.db
  tcpnewconn report who 5432 --clickhouse https://clickhouse.example.org:8443 --host db1

See tcpnewconn-report(8).
"""


def add_options(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "question", nargs="?", choices=QUESTIONS, metavar="QUESTION", default="overview", help="default: overview"
    )
    to.add_argument("subject", nargs="?", metavar="PORT|UNIT", help="for who, to and allow")
    to.add_argument(
        "--output", choices=("text", "json", "csv", "html"), default="text", help="text is the default; html is a page"
    )
    to.add_argument("--since", metavar="TIME", type=_time, help="as journalctl takes it: yesterday, 2026-11-01, -7d")
    to.add_argument("--until", metavar="TIME", type=_time, help="likewise")
    to.add_argument(
        "--ledger", metavar="FILE", nargs="+", action="extend", help=f"one ledger or several; default: {PATH}"
    )
    to.add_argument("--clickhouse", metavar="URL", type=_server, help="ask this ClickHouse server, in place of ledgers")
    to.add_argument("--host", metavar="NAME", action="append", default=[], help="with --clickhouse: only of this host")
    to.add_argument("--login", metavar="FILE", help="with --clickhouse: user= and password= are in this file")
    to.add_argument("--authority", metavar="FILE", help="with --clickhouse: trust these certificates, for https")
    to.add_argument("--days", metavar="N", type=_days, default=30.0, help="with quiet: unused for so long; default: 30")
    for name, of in (("unit", "this unit"), ("user", "this user"), ("process", "this process")):
        to.add_argument(f"--{name}", metavar=name.upper(), action="append", default=[], help=f"only of {of}")
    to.add_argument("--container", metavar="NAME", action="append", default=[], help="only of this container")
    to.add_argument("--port", metavar="PORT", type=_port, action="append", default=[], help="only of this port")
    to.add_argument(
        "--network", metavar="NETWORK", type=_network, action="append", default=[], help="only peers in this network"
    )
    to.add_argument(
        "--direction", choices=DIRECTIONS, action="append", default=[], help="only this one; filters may be repeated"
    )
    # Else argparse would take the -7d of --since -7d for an option.
    to._negative_number_matcher = re.compile(r"^-\d")
    to.add_argument("--all", action="store_true", help="with text: every row of a long table")
    to.add_argument("--resolve", action="store_true", help="show names of addresses, by the system's resolver")
    to.add_argument("--mmdb", metavar="FILE", help="show country and network owner, from this MaxMind database")


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


def _server(given: str) -> str:
    from tcpnewconn.report.clickhouse_http import problem_of

    if problem := problem_of(given):
        raise argparse.ArgumentTypeError(problem)
    return given


def _port(given: str) -> int:
    if not (given.isascii() and given.isdecimal() and 0 < int(given[:6]) < 65536):
        raise argparse.ArgumentTypeError(f"{given!r}: not a port; use a number from 1 to 65535")
    return int(given)


def _network(given: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    import ipaddress

    try:
        return ipaddress.ip_network(given, strict=False)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{given!r}: not a network; use for example 10.0.0.0/8 or 2001:db8::1"
        ) from None
