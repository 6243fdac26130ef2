"""The map: clients on the left, services in the middle, destinations on the right; bands are as wide as connections are many.

It shows a period, so nothing flickers. What is small is gathered, so that every label can be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from tcpnewconn.report.drawing import opening, shortened

Link = tuple[str, str, int]

_MOST = 14
_GAP, _LEAST, _THINNEST, _BAND_HEIGHT = 6.0, 15.0, 1.0, 420.0
_BOX = 12
# Where the boxes of the three columns stand; labels are outside of the outer ones and right of the middle ones.
_X = (250, 494, 738)


@dataclass(slots=True)
class Node:
    name: str
    count: int = 0
    y: float = 0.0
    height: float = 0.0
    # Where the next band starts, on either side.
    used: list[float] = field(default_factory=lambda: [0.0, 0.0])


def gathered(counts: dict[str, int], most: int, what: str) -> dict[str, str]:
    """Each name's own, or that of the rest: "37 more clients"."""
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    if len(ordered) <= most:
        return {name: name for name in ordered}
    rest = f"{len(ordered) - most + 1:,} more {what}"
    return {name: name if at < most - 1 else rest for at, name in enumerate(ordered)}


def flow_map(left: Sequence[Link], right: Sequence[Link]) -> str:
    """`left`: (client, service, connections); `right`: (service, destination, connections)."""
    services: dict[str, int] = {}
    for _, service, count in left:
        services[service] = services.get(service, 0) + count
    for service, _, count in right:
        services[service] = services.get(service, 0) + count
    middle = gathered(services, _MOST + 4, "services")
    clients = gathered(_sums(left, 0), _MOST, "clients")
    destinations = gathered(_sums(right, 1), _MOST, "destinations")
    inward = _joined((clients[one], middle[two], count) for one, two, count in left)
    outward = _joined((middle[one], destinations[two], count) for one, two, count in right)
    columns = (
        _column([(one, count) for one, _, count in inward]),
        _column([(two, count) for _, two, count in inward], [(one, count) for one, _, count in outward]),
        _column([(two, count) for _, two, count in outward]),
    )
    # One scale for all of it: a band is as wide at its one end as at its other.
    scale = _BAND_HEIGHT / max(1, *(sum(node.count for node in column.values()) for column in columns))
    height = max(_place(column, scale) for column in columns)
    parts = [
        opening(
            height,
            "map",
            "Clients, services and destinations",
            f"{len(inward)} bands in, {len(outward)} bands out; the tables below list all",
        ),
    ]
    parts += _bands(inward, columns[0], columns[1], (_X[0] + _BOX, _X[1]), scale, "in")
    parts += _bands(outward, columns[1], columns[2], (_X[1] + _BOX, _X[2]), scale, "out")
    for at, column in enumerate(columns):
        parts += _boxes(column, at)
    return "".join([*parts, "</svg>"])


def _sums(links: Sequence[Link], end: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for link in links:
        name = str(link[end])
        found[name] = found.get(name, 0) + link[2]
    return found


def _joined(links: Iterable[Link]) -> list[Link]:
    found: dict[tuple[str, str], int] = {}
    for one, two, count in links:
        found[one, two] = found.get((one, two), 0) + count
    return sorted(((*key, count) for key, count in found.items()), key=lambda link: -link[2])


def _column(*sides: list[tuple[str, int]]) -> dict[str, Node]:
    """Nodes by name; as high as the higher of their two sides."""
    found: dict[str, Node] = {}
    for side in sides:
        sums: dict[str, int] = {}
        for name, count in side:
            sums[name] = sums.get(name, 0) + count
        for name, count in sums.items():
            node = found.setdefault(name, Node(name))
            node.count = max(node.count, count)
    return dict(sorted(found.items(), key=lambda item: (" more " in item[0], -item[1].count, item[0])))


def _place(column: dict[str, Node], scale: float) -> float:
    """Give each node its place; the height of the column."""
    y = 4.0
    for node in column.values():
        node.y, node.height = y, max(_LEAST, node.count * scale)
        y += node.height + _GAP
    return y


def _bands(
    links: Sequence[Link], from_: dict[str, Node], to: dict[str, Node], x: tuple[int, int], scale: float, kind: str
) -> list[str]:
    parts = []
    x1, x2 = x
    half = (x1 + x2) / 2
    for one, two, count in sorted(links, key=lambda link: (from_[link[0]].y, to[link[1]].y)):
        source, target = from_[one], to[two]
        wide = max(_THINNEST, count * scale)
        y1, y2 = source.y + _offset(source, 1, wide), target.y + _offset(target, 0, wide)
        path = (
            f"M{x1} {y1:.1f}C{half:.0f} {y1:.1f} {half:.0f} {y2:.1f} {x2} {y2:.1f}V{y2 + wide:.1f}"
            f"C{half:.0f} {y2 + wide:.1f} {half:.0f} {y1 + wide:.1f} {x1} {y1 + wide:.1f}Z"
        )
        title = escape(f"{one} → {two}: {count:,}")
        parts.append(f'<path class="band {kind}" d="{path}"><title>{title}</title></path>')
    return parts


def _offset(node: Node, side: int, wide: float) -> float:
    """Where the next band begins at this side of a node; many thin ones share its end."""
    at = node.used[side]
    node.used[side] += wide
    return max(0.0, min(at, node.height - wide))


def _boxes(column: dict[str, Node], at: int) -> list[str]:
    parts = []
    for node in column.values():
        x, anchor = (_X[at] - 6, "end") if at == 0 else (_X[at] + _BOX + 6, "start")
        parts.append(
            f'<rect class="box" x="{_X[at]}" y="{node.y:.1f}" width="{_BOX}" height="{node.height:.1f}">'
            f"<title>{escape(node.name)}: {node.count:,}</title></rect>"
        )
        kind = "label over" if at == 1 else "label"
        parts.append(
            f'<text class="{kind}" x="{x}" y="{node.y + min(node.height, 40) / 2 + 4:.1f}" text-anchor="{anchor}">'
            f'{escape(shortened(node.name, 30))} <tspan class="count">{node.count:,}</tspan></text>'
        )
    return parts
