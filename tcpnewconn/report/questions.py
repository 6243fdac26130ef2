"""The questions that administrators ask, and their answers from one host's ledger. How an answer looks is no concern here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tcpnewconn.ledger.peers import OTHERS, UNNAMED, is_address, network_of
from tcpnewconn.ledger.schema import DAY
from tcpnewconn.model import UNKNOWN
from tcpnewconn.report.book import ACCEPTED, OPENED, Book, Edge, Listener, Scan
from tcpnewconn.report.observed import touching
from tcpnewconn.report.period import span_text, time_text
from tcpnewconn.report.subject import about, accepting


@dataclass(slots=True)
class Line:
    """Edges added up. `named` is False where peers were added up by network or more: `peers` is a lower bound then."""

    name: tuple[Any, ...]
    peers: int = 0
    named: bool = True
    connections: int = 0
    summarized: int = 0
    failed: int = 0
    source_bytes: int = 0
    destination_bytes: int = 0
    first: int = 0
    last: int = 0
    per_day: float = 0.0
    note: str = ""


@dataclass(slots=True)
class Overview:
    services: list[Line] = field(default_factory=list)  # (port, unit, process, container)
    outgoing: list[Line] = field(default_factory=list)  # (unit, process)
    undecided: list[Line] = field(default_factory=list)  # (port, local port)
    scans: list[Scan] = field(default_factory=list)
    connections: int = 0
    summarized: int = 0
    failed: int = 0


@dataclass(slots=True)
class Users:
    """The users of a port or a unit: (client, client's unit, port, unit)."""

    subject: str
    lines: list[Line]
    verdict: str


@dataclass(slots=True)
class Destinations:
    """The destinations of a unit: (peer, port, accepting unit, process)."""

    subject: str
    lines: list[Line]
    verdict: str


@dataclass(slots=True)
class New:
    """Things that the ledger had never seen before: lines are (kind, text)."""

    since: float
    listeners: list[Listener]
    services: list[Line]  # (port, unit, process, container)
    peers: list[Line]  # (peer, port, unit)
    destinations: list[Line]  # (unit, peer, port)
    notes: list[str]


@dataclass(slots=True)
class Quiet:
    """Listeners that nobody has used since: (address, port, unit, process); `last` is 0 where never in the ledger."""

    days: float
    lines: list[Line]
    notes: list[str]


def overview(book: Book) -> Overview:
    answer = Overview(scans=book.scans())
    edges = book.edges()
    accepted = [edge for edge in edges if edge.direction in ACCEPTED]
    opened = [edge for edge in edges if edge.direction in OPENED]
    answer.services = _lines(accepted, lambda edge: (edge.port, accepting(edge), *_accepting_side(edge)), book)
    answer.outgoing = _lines(opened, lambda edge: (edge.unit, edge.process), book)
    answer.undecided = _lines(
        [edge for edge in edges if edge.direction == UNKNOWN], lambda edge: (edge.port, edge.local_port), book
    )
    for edge in edges:
        answer.connections += edge.connections
        answer.summarized += edge.summarized
        answer.failed += edge.failed
    return answer


def who_uses(book: Book, subject: str) -> Users:
    """`subject` is a port or a unit of this host."""
    port = int(subject) if subject.isdecimal() else None
    lines = _lines(
        [edge for edge in filter(about("who", subject), book.edges()) if edge.connections],
        lambda edge: (client(edge), client_unit(edge), edge.local_port or edge.port, accepting(edge)),
        book,
    )
    for line in lines:
        line.note = note_of(str(line.name[0]))
    return Users(subject, lines, _verdict(book, subject, port, lines, "used", "uses"))


def destinations_of(book: Book, unit: str) -> Destinations:
    edges = filter(about("to", unit), book.edges())
    lines = _lines(edges, lambda edge: (edge.peer, edge.port, edge.accepted_by, edge.process), book)
    for line in lines:
        line.note = note_of(str(line.name[0]))
    if lines:
        said = f"{unit}: {len(lines)} destination{'' if len(lines) == 1 else 's'}"
    else:
        said = f"{unit} connected to nothing since {time_text(book.since)}"
    return Destinations(unit, lines, f"{said}; {_evidence(book, None, (*OPENED, UNKNOWN))}")


def new_since(book: Book, since: float) -> New:
    """`since` at the resolution of the ledger: what was first seen in it, or after it."""
    before: list[Edge] = []
    after: list[Edge] = []
    for edge in book.edges(whole=True):
        (after if edge.known >= since else before).append(edge)
    known_services = {_service_key(edge) for edge in before}
    answer = New(since, [one for one in book.listeners() if one.first >= since], [], [], [], [])
    answer.services = _lines(
        [e for e in after if e.direction in ACCEPTED and _service_key(e) not in known_services],
        lambda e: (e.port, accepting(e), *_accepting_side(e)),
        book,
    )
    answer.peers = _lines(_unknown(after, before, ("ingress",)), lambda e: (e.peer, e.port, accepting(e)), book)
    answer.destinations = _lines(
        _unknown(after, before, ("egress", "internal")), lambda e: (e.unit, e.peer, e.port), book
    )
    for line in answer.peers:
        line.note = note_of(str(line.name[0]))
    for line in answer.destinations:
        line.note = note_of(str(line.name[1]))
    if any("/" in edge.peer for edge in (*before, *after)):
        answer.notes.append(
            "Of days with many peers the ledger keeps networks: a new address in a known network is not listed."
        )
    hidden = sum(edge.connections for edge in before if edge.peer in (OTHERS, UNNAMED))
    if hidden:
        answer.notes.append(
            f"{hidden} connections before that had unnamed peers: one that is listed may have been among them."
        )
    if book.begins > since - DAY:
        answer.notes.append(f"The ledger begins {time_text(book.begins)}: what is listed may have been there before.")
    return answer


def quiet(book: Book, days: float) -> Quiet:
    """Listeners without a connection in the last so many days of the ledger."""
    limit = book.ends - days * DAY
    used: dict[int, list[Edge]] = {}
    for edge in book.edges(dataclasses.replace(book.wanted, directions=()), whole=True):
        if edge.direction in ACCEPTED and edge.connections:
            used.setdefault(edge.port, []).append(edge)
        elif edge.direction == UNKNOWN:
            for port in {edge.port, edge.local_port}:
                used.setdefault(port, []).append(edge)
    lines = []
    for listener in book.listeners():
        last = max((e.last for e in used.get(listener.port, []) if _of(e, listener)), default=0)
        if last < limit and listener.last < limit:
            name = (listener.address, listener.port, listener.unit, listener.process)
            ignored = touching(book.coverage.ignored, listener.port, (*ACCEPTED, UNKNOWN))
            note = f"not logged by Ignore={' '.join(ignored)}" if ignored else ""
            lines.append(Line(name, first=listener.first, last=last, note=note))
    lines.sort(key=lambda line: (line.last, line.name))
    notes = [
        "A listener is logged when it is opened, not when it is closed: check with ss -tln that it is still there."
    ]
    if book.begins > limit:
        notes.append(f"The ledger begins {time_text(book.begins)}, less than {days:g} days before its end.")
    return Quiet(days, lines, notes)


def _accepting_side(edge: Edge) -> tuple[str, str]:
    """Its process and container. Within the host the entry names those of the side that opened it."""
    return ("", "") if edge.direction == "internal" else (edge.process, edge.container)


def client(edge: Edge) -> str:
    return "this host" if edge.direction == "internal" else edge.peer


def client_unit(edge: Edge) -> str:
    return edge.unit if edge.direction == "internal" else ""


def _service_key(edge: Edge) -> tuple[int, str]:
    return (edge.port, accepting(edge)) if edge.direction in ACCEPTED else (-1, "")


def _unknown(after: list[Edge], before: list[Edge], directions: tuple[str, ...]) -> list[Edge]:
    """Edges of peers that were not there before; what was added up in a network may have been any address of it."""
    known = {(edge.peer, edge.port, edge.unit) for edge in before if edge.direction in directions}
    inside = {(network_of(peer), port, unit) for peer, port, unit in known if is_address(peer)}
    found = []
    for edge in after:
        if edge.direction not in directions or edge.peer in (OTHERS, UNNAMED):
            continue
        own = (edge.peer, edge.port, edge.unit)
        around = (network_of(edge.peer), edge.port, edge.unit) if is_address(edge.peer) else own
        if own not in known and around not in known and own not in inside:
            found.append(edge)
    return found


def _of(edge: Edge, listener: Listener) -> bool:
    """Whether a connection to this port can have been this listener's: of its unit, where both are known."""
    unit = accepting(edge)
    return not unit or not listener.unit or unit == listener.unit


NOTES = {OTHERS: "peers added up", UNNAMED: "peers that summaries do not name", "/": "peers added up by network"}


def note_of(peer: str) -> str:
    """The note about a peer that is no address."""
    return NOTES.get("/" if "/" in peer else peer, "")


def _lines(edges: Iterable[Edge], name: Callable[[Edge], tuple[Any, ...]], book: Book) -> list[Line]:
    """Edges added up by their names, those with the most connections first."""
    found: dict[tuple[Any, ...], Line] = {}
    peers: dict[tuple[Any, ...], set[tuple[str, str]]] = {}
    for edge in edges:
        key = name(edge)
        line = found.get(key)
        if line is None:
            line = found[key] = Line(key, first=edge.first, last=edge.last)
            peers[key] = set()
        peers[key].add((client(edge), client_unit(edge)))
        line.named = line.named and (is_address(edge.peer) or edge.direction == "internal")
        line.connections += edge.connections
        line.summarized += edge.summarized
        line.failed += edge.failed
        line.source_bytes += edge.source_bytes
        line.destination_bytes += edge.destination_bytes
        line.first = min(line.first, edge.first)
        line.last = max(line.last, edge.last)
    days = max((book.until - book.since) / DAY, 1 / 24)
    for key, line in found.items():
        line.peers = len(peers[key])
        line.per_day = line.connections / days
    return sorted(found.values(), key=lambda line: (-line.connections, -line.failed, str(line.name)))


def _evidence(book: Book, port: int | None, directions: tuple[str, ...]) -> str:
    """The coverage behind a verdict."""
    text = book.coverage.text(port, directions)
    added_up = book.added_up(directions)
    return f"{text}, {added_up} connections of services that were added up" if added_up else text


def _verdict(book: Book, subject: str, port: int | None, lines: list[Line], past: str, present: str) -> str:
    what = f"port {subject}" if port is not None else subject
    coverage = _evidence(book, port, (*ACCEPTED, UNKNOWN))
    if not lines:
        return f"Nobody {past} {what} since {time_text(book.since)}; {coverage}"
    last = max(line.last for line in lines)
    named = all(line.named for line in lines)
    clients = len({(line.name[0], line.name[1]) for line in lines})
    amount = f"{'' if named else 'At least '}{clients} client{'' if clients == 1 else 's'} {past} {what}"
    quiet_for = book.until - last
    since = (
        f", nobody since {time_text(last)} ({span_text(quiet_for)})"
        if quiet_for >= DAY
        else f", last {time_text(last)}"
    )
    return f"{amount}{since}; {coverage}"
