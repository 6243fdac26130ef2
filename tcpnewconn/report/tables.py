"""Answers as tables: titles and rows, for text, CSV, JSON and the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tcpnewconn.report.allow import AllowList, network_text
from tcpnewconn.report.book import Listener, Scan
from tcpnewconn.report.names import Names
from tcpnewconn.report.period import time_text
from tcpnewconn.report.questions import Destinations, Line, New, Overview, Quiet, Users

Row = dict[str, Any]


@dataclass(slots=True)
class Table:
    """Rows with the same columns. `key` names it for programs; a column's name ends in _time where it is a Unix time."""

    key: str
    title: str
    columns: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)


_COUNTS = ("connections", "per_day", "failed", "first_time", "last_time")


def of_overview(answer: Overview) -> list[Table]:
    services = Table("services", "Services", ("port", "unit", "process", "container", "clients", *_COUNTS))
    services.rows = [_row(line, ("port", "unit", "process", "container"), "clients") for line in answer.services]
    outgoing = Table("outgoing", "Outgoing", ("unit", "process", "destinations", *_COUNTS))
    outgoing.rows = [_row(line, ("unit", "process"), "destinations") for line in answer.outgoing]
    found = [services, outgoing]
    if answer.undecided:
        undecided = Table("undecided", "Direction not known", ("port", "local_port", "peers", *_COUNTS))
        undecided.rows = [_row(line, ("port", "local_port"), "peers") for line in answer.undecided]
        found.append(undecided)
    if answer.scans:
        found.append(_scans(answer.scans))
    return found


def _scans(scans: Sequence[Scan]) -> Table:
    table = Table("scans", "Port scans", ("source", "scans", "ports", "last_time"))
    table.rows = [{"source": s.source, "scans": s.scans, "ports": s.ports, "last_time": s.last} for s in scans]
    return table


def of_users(answer: Users, names: Names) -> list[Table]:
    columns = ("client", *names.columns, "client_unit", "port", "unit", *_COUNTS, "note")
    table = Table("clients", f"Who uses {answer.subject}", columns)
    return [_of_peers(table, answer.lines, ("client", "client_unit", "port", "unit"), names)]


def of_destinations(answer: Destinations, names: Names) -> list[Table]:
    columns = ("destination", *names.columns, "port", "accepting_unit", "process", *_COUNTS, "note")
    table = Table("destinations", f"What {answer.subject} connects to", columns)
    return [_of_peers(table, answer.lines, ("destination", "port", "accepting_unit", "process"), names)]


def of_new(answer: New, names: Names) -> list[Table]:
    since = time_text(answer.since)
    listeners = Table(
        "new_listeners", f"Listeners first seen since {since}", ("address", "port", "unit", "process", "first_time")
    )
    listeners.rows = [_listener(one) for one in answer.listeners]
    found = [listeners]
    for key, title, columns, lines, peer in (
        ("new_services", "Services", ("port", "unit", "process", "container"), answer.services, None),
        ("new_peers", "Peers", ("peer", "port", "unit"), answer.peers, 0),
        ("new_destinations", "Destinations", ("unit", "destination", "port"), answer.destinations, 1),
    ):
        named = names.columns if peer is not None else ()
        table = Table(key, f"{title} first seen since {since}", (*columns, *named, "connections", "first_time", "note"))
        for line in lines:
            row = _row(line, columns, "")
            table.rows.append(row | (names.of(str(line.name[peer])) if peer is not None else {}))
        found.append(table)
    return found


def of_quiet(answer: Quiet) -> list[Table]:
    table = Table(
        "quiet",
        f"Listeners that nobody has used for {answer.days:g} days",
        ("address", "port", "unit", "process", "opened_time", "last_time", "note"),
    )
    for line in answer.lines:
        row = _row(line, ("address", "port", "unit", "process"), "")
        table.rows.append(row | {"opened_time": line.first, "last_time": line.last or None})
    return [table]


def of_allow(answer: AllowList) -> list[Table]:
    table = Table(
        "networks", f"Networks that {answer.unit} accepted from and connected to", ("side", "port", "network")
    )
    for side, by_port in (("client", answer.clients), ("destination", answer.destinations)):
        table.rows += [
            {"side": side, "port": port, "network": network_text(network)}
            for port, networks in by_port.items()
            for network in networks
        ]
    return [table]


def _listener(one: Listener) -> Row:
    return {
        "address": one.address,
        "port": one.port,
        "unit": one.unit,
        "process": one.process,
        "first_time": one.first,
    }


def _of_peers(table: Table, lines: Sequence[Line], columns: tuple[str, ...], names: Names) -> Table:
    """The table with a row for each line; the first column is an address."""
    table.rows = [_row(line, columns, "") | names.of(str(line.name[0])) for line in lines]
    return table


def _row(line: Line, names: tuple[str, ...], peers: str) -> Row:
    row: Row = dict(zip(names, line.name, strict=True))
    if peers:
        row[peers] = line.peers
        row[f"{peers}_exact"] = line.named
    return row | {
        "connections": line.connections,
        "summarized": line.summarized,
        "per_day": round(line.per_day, 2),
        "failed": line.failed,
        "source_bytes": line.source_bytes,
        "destination_bytes": line.destination_bytes,
        "first_time": line.first,
        "last_time": line.last,
        "note": line.note,
    }


def cell(table: Table, row: Row, column: str) -> str:
    """The text for a person."""
    value = row.get(column)
    if column.endswith("_time"):
        return time_text(value) if value else "never"
    if column == "port" and value == 0:
        return "others"
    if column == "per_day":
        return _per_day(float(value or 0))
    if value is None or value == "":
        return "-"
    return f"{'' if row.get(f'{column}_exact', True) else '>='}{value}"


def _per_day(value: float) -> str:
    if value >= 10:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 0.1 else f"{value:.2f}"


def heading(column: str) -> str:
    """clients -> CLIENTS, last_time -> LAST."""
    return column.removesuffix("_time").replace("_", " ").upper()


def numeric(table: Table, column: str) -> bool:
    return all(isinstance(row.get(column), int | float) for row in table.rows) and not column.endswith("_time")


Cell = Callable[[Table, Row, str], str]
