"""The report of several hosts: their coverage, and the links between them and to the outside."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any, TextIO

from tcpnewconn.ledger.schema import DAY
from tcpnewconn.report import drawing, flows
from tcpnewconn.report.fleet import BOTH, HOST, Fleet, Link, merged_coverage
from tcpnewconn.report.host_page import DIRECTION_KEY, amount, sentence
from tcpnewconn.report.host_report import Report
from tcpnewconn.report.page import Page, Picture, Tile
from tcpnewconn.report.period import time_text
from tcpnewconn.report.tables import Row, Table

STEP = DAY
_MOST_LINKS = 2_000
_COLUMNS = (
    "opener",
    "opener_unit",
    "acceptor",
    "acceptor_unit",
    "port",
    "connections",
    "failed",
    "first_time",
    "last_time",
    "seen_by",
)


def fleet_report(fleet: Fleet, most: int = _MOST_LINKS) -> Report:
    """The links with the most connections, as many as a table shows."""
    since, until = min(host.since for host in fleet.hosts), max(host.until for host in fleet.hosts)
    made = Report(f"{len(fleet.hosts)} host{'' if len(fleet.hosts) == 1 else 's'}", "overview", "", since, until, None)
    counted = fleet.counted()
    links = sum(number for number, _ in counted.values())
    made.head = [
        f"{sum(count for _, count in counted.values())} connections in {links} links: "
        + ", ".join(f"{number} seen by {seen}" for seen, (number, _) in sorted(counted.items())),
        f"Coverage: {merged_coverage(fleet.hosts)}",
    ]
    hosts = Table("hosts", "Hosts", ("host", "observed", "lost", "connections", "since_time", "until_time", "coverage"))
    hosts.rows = [
        {
            "host": host.name,
            "observed": host.coverage.percent(),
            "lost": host.coverage.events_lost,
            "connections": host.connections,
            "since_time": host.since,
            "until_time": host.until,
            "coverage": host.coverage.text(),
        }
        for host in fleet.hosts
    ]
    table = Table("links", "Links", _COLUMNS)
    table.rows = [row_of(link) for link in fleet.links(most)]
    made.tables = [table, hosts]
    made.notes = [f"not read: {problem}" for problem in fleet.problems]
    if links > len(table.rows):
        made.notes.append(f"{links - len(table.rows)} more links; --output csv or json has all of them.")
    made.notes.append(
        "A link that only one end has seen: the other end is not among these hosts, is behind NAT, or did not observe."
    )
    return made


def row_of(link: Link) -> Row:
    """A host that is none of these is named by its address."""
    one_end = link.seen_by not in (BOTH, HOST)
    return {
        "opener": link.opener or link.peer,
        "opener_unit": link.opener_unit,
        "acceptor": link.acceptor or link.peer,
        "acceptor_unit": link.acceptor_unit,
        "port": link.port,
        "connections": link.connections,
        "failed": link.failed,
        "first_time": link.first,
        "last_time": link.last,
        "seen_by": link.seen_by,
        "managed": bool(link.opener and link.acceptor) or not one_end,
    }


def write_csv(fleet: Fleet, out: TextIO) -> None:
    """Every link, one at a time."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for link in fleet.links():
        row = row_of(link)
        writer.writerow([_plain(column, row[column]) for column in _COLUMNS])


def _plain(column: str, value: Any) -> Any:
    return time_text(value).replace(" ", "T") + "Z" if column.endswith("_time") else value


def write_json(fleet: Fleet, made: Report, out: TextIO) -> None:
    """One object, with every link."""
    head = {"hosts": made.tables[1].rows, "head": made.head, "notes": made.notes}
    out.write(json.dumps(head)[:-1] + ', "links": [\n')
    for at, link in enumerate(fleet.links()):
        out.write((",\n" if at else "") + json.dumps(row_of(link)))
    out.write("\n]}\n")


def fleet_page(fleet: Fleet, made: Report) -> Page:
    coverage = sentence(merged_coverage(fleet.hosts))
    page = Page(f"Who talks to whom: {made.host}", made.since, made.until, coverage, made.head[:1], notes=made.notes)
    counted = fleet.counted()
    whole = sum(host.coverage.complete for host in fleet.hosts)
    lost = sum(host.coverage.events_lost for host in fleet.hosts)
    page.tiles = [
        Tile("hosts", f"{len(fleet.hosts):,}"),
        Tile("connections", amount(sum(count for _, count in counted.values()))),
        Tile("links", f"{sum(number for number, _ in counted.values()):,}"),
        Tile("links seen by both ends", f"{counted.get(BOTH, (0, 0))[0]:,}"),
        Tile("hosts observed without a gap", f"{whole:,}", "good" if whole == len(fleet.hosts) else "bad"),
        Tile("events lost", f"{lost:,}", "bad" if lost else "good"),
    ]
    steps = drawing.Steps(made.since, made.until, STEP)
    # A day is whole where every host observed; the hosts' table says which did not.
    share = min((host.coverage.share for host in fleet.hosts), default=0.0)
    steps.observed = dict.fromkeys(steps.starts, share)
    left, right = _flows(fleet)
    page.pictures = [
        Picture(
            "timeline",
            "Connections per day",
            drawing.timeline(steps, fleet.series),
            DIRECTION_KEY,
            "As each host has seen them: one between two of these hosts is ingress at one and egress at the other.",
        ),
        Picture(
            "map",
            "Openers, accepting hosts, destinations outside",
            flows.flow_map(left, right),
            (("in", "accepted by one of the hosts"), ("out", "opened to the outside")),
            "Bands are as wide as connections are many. Small ones are gathered; the tables list them.",
        ),
    ]
    page.tables = made.tables
    return page


def _flows(fleet: Fleet) -> tuple[list[flows.Link], list[flows.Link]]:
    """(opener, accepting host and unit, connections), and (host and unit, address outside, connections)."""
    left: dict[tuple[str, str], int] = {}
    right: dict[tuple[str, str], int] = {}
    for link in _largest(fleet):
        if link.acceptor:
            key = (_end(link.opener, link.opener_unit) or "outside", _end(link.acceptor, link.acceptor_unit))
            left[key] = left.get(key, 0) + link.connections
        else:
            key = (_end(link.opener, link.opener_unit), f"{link.peer} :{link.port}")
            right[key] = right.get(key, 0) + link.connections
    return [(*key, count) for key, count in left.items() if count], [
        (*key, count) for key, count in right.items() if count
    ]


def _largest(fleet: Fleet) -> Iterator[Link]:
    return fleet.links(100_000)


def _end(host: str, unit: str) -> str:
    return f"{host} {unit}".strip() if host else ""
