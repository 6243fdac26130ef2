"""One host's page: what goes onto it."""

from __future__ import annotations

from tcpnewconn.ledger.schema import DAY, HOUR
from tcpnewconn.report import drawing, flows, questions, tables
from tcpnewconn.report.book import ACCEPTED, Book, Edge, Step
from tcpnewconn.report.host_report import Report
from tcpnewconn.report.names import Names
from tcpnewconn.report.page import Page, Picture, Tile
from tcpnewconn.report.subject import about, accepting

_HEAT_ROWS = 30
_MOST_HOURS = 8 * 24
DIRECTION_KEY = (("in", "ingress"), ("own", "within this host"), ("out", "egress"), ("odd", "direction not known"))


def host_page(book: Book, made: Report, names: Names) -> Page:
    """The pictures and tables of the question that was asked; for the overview, the tables of every edge too."""
    selected = about(made.question, made.subject)
    edges = [edge for edge in book.edges() if selected(edge)]
    page = Page(
        f"Who talks to whom: {book.host}",
        book.since,
        book.until,
        sentence(book.coverage.text()),
        made.head,
        made.details,
        verbatim=made.verbatim,
        notes=list(made.notes),
    )
    page.tiles = _tiles(book, edges)
    hours = book.resolution(book.since) == HOUR and (book.until - book.since) <= _MOST_HOURS * HOUR
    steps = drawing.Steps(book.since, book.until, HOUR if hours else DAY)
    steps.observed = book.observed_steps(steps.step)
    series = [step for step in book.series(steps.step) if selected(step)]
    page.pictures = [
        Picture(
            "timeline",
            f"Connections per {'hour' if hours else 'day'}",
            drawing.timeline(steps, drawing.by_step(series)),
            DIRECTION_KEY,
            "Hatched: not, or not wholly, observed.",
        ),
        _map(edges),
        _heat(steps, series, "hour" if hours else "day"),
    ]
    page.tables = list(made.tables)
    if made.question == "overview":
        page.tables += [*_every_edge(edges, names), *tables.of_quiet(questions.quiet(book, 30))]
    return page


def _tiles(book: Book, edges: list[Edge]) -> list[Tile]:
    coverage = book.coverage
    clients = {(questions.client(edge), questions.client_unit(edge)) for edge in edges if edge.direction in ACCEPTED}
    destinations = {(edge.peer, edge.port) for edge in edges if edge.direction == "egress"}
    services = {(edge.port, accepting(edge)) for edge in edges if edge.direction in ACCEPTED}
    summed = any(questions.note_of(edge.peer) for edge in edges)
    sign = "≥ " if summed else ""
    return [
        Tile("connections", amount(sum(edge.connections for edge in edges))),
        Tile("services used", f"{len(services):,}"),
        Tile("clients", f"{sign}{len(clients):,}"),
        Tile("destinations", f"{sign}{len(destinations):,}"),
        Tile("failed attempts", f"{sum(edge.failed for edge in edges):,}"),
        Tile("events lost", f"{coverage.events_lost:,}", "bad" if coverage.events_lost else "good"),
        Tile("observed", coverage.percent(), "good" if coverage.share > 0.999 else "bad"),
    ]


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def amount(count: int) -> str:
    """12,961,420 -> 13.0 million: it must fit a tile."""
    return f"{count:,}" if count < 10_000_000 else f"{count / 1e6:,.1f} million"


def service_name(port: int, unit: str) -> str:
    return f"{unit} :{port}" if unit else f"port {port}"


def _map(edges: list[Edge]) -> Picture:
    left: list[flows.Link] = []
    right: list[flows.Link] = []
    for edge in edges:
        if edge.direction == "ingress":
            left.append((edge.peer, edge.unit or f"port {edge.port}", edge.connections))
        elif edge.direction == "internal":
            right.append((edge.unit or "?", f"{edge.accepted_by or 'this host'} :{edge.port}", edge.connections))
        else:
            right.append((edge.unit or "?", f"{edge.peer} :{edge.port}", edge.connections))
    return Picture(
        "map",
        "Clients, services, destinations",
        flows.flow_map([link for link in left if link[2]], [link for link in right if link[2]]),
        (("in", "accepted"), ("out", "opened")),
        "Bands are as wide as connections are many. Small ones are gathered; the tables list them.",
    )


def _heat(steps: drawing.Steps, series: list[Step], step: str) -> Picture:
    rows: dict[str, drawing.HeatRow] = {}
    for one in series:
        if one.direction in ACCEPTED:
            name = service_name(one.port, accepting(one))
            row = rows.setdefault(name, drawing.HeatRow(name))
            row.counts[one.start] = row.counts.get(one.start, 0) + one.connections
    ordered = sorted(rows.values(), key=lambda row: (-sum(row.counts.values()), row.name))
    note = "The stronger the colour, the more connections, in five steps of the logarithm. Hatched: not, or not wholly, observed."
    if len(ordered) > _HEAT_ROWS:
        note += f" The {_HEAT_ROWS} services with the most connections of {len(ordered):,}."
    return Picture("heat", f"Services by {step}", drawing.heat_map(steps, ordered[:_HEAT_ROWS]), (), note)


def _every_edge(edges: list[Edge], names: Names) -> list[tables.Table]:
    """Clients and destinations, those with the most connections first."""
    counts = ("connections", "failed", "first_time", "last_time")
    clients = tables.Table(
        "edges_in", "Clients by service", ("client", *names.columns, "port", "unit", *counts, "note")
    )
    opened = tables.Table(
        "edges_out", "Destinations by unit", ("unit", "process", "destination", *names.columns, "port", *counts, "note")
    )
    names.ask(edge.peer for edge in edges)
    for edge in sorted(edges, key=lambda edge: (-edge.connections, -edge.failed, edge.first, edge[:9])):
        row: tables.Row = {
            "port": edge.port,
            "unit": edge.unit,
            "process": edge.process,
            "connections": edge.connections,
            "failed": edge.failed,
            "first_time": edge.first,
            "last_time": edge.last,
            "note": questions.note_of(edge.peer),
        }
        if edge.direction == "ingress":
            clients.rows.append(row | {"client": edge.peer} | names.of(edge.peer))
        elif edge.direction == "internal":
            clients.rows.append(row | {"client": f"this host: {edge.unit or '?'}", "unit": edge.accepted_by})
        else:
            opened.rows.append(row | {"destination": edge.peer} | names.of(edge.peer))
    return [clients, opened]
