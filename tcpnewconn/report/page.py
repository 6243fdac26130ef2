"""The report as a page: one file that asks nothing of any other place. Jinja fills the template, and escapes every name."""

from __future__ import annotations

import base64
import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tcpnewconn import __version__
from tcpnewconn.report.period import time_text
from tcpnewconn.report.tables import Table, cell, heading, numeric

_ASSETS = Path(__file__).parent / "assets"
# A table of more rows is cut, and says so: the page stays one that opens.
_MOST_ROWS = 5_000


class NoTemplates(Exception):
    """Jinja is not there."""


@dataclass(slots=True)
class Picture:
    """Inline SVG, drawn here with every name escaped. `key` is (class, what it means)."""

    id: str
    title: str
    svg: str
    key: tuple[tuple[str, str], ...] = ()
    note: str = ""


@dataclass(slots=True)
class Tile:
    name: str
    value: str
    kind: str = ""


@dataclass(slots=True)
class Page:
    title: str
    since: float
    until: float
    coverage: str
    head: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    verbatim: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def html(page: Page) -> str:
    """Raises NoTemplates."""
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError:
        raise NoTemplates("--output html needs Jinja; install python3-jinja2, or use --output text") from None
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False)
    template = environment.from_string((_ASSETS / "page.html.j2").read_text(encoding="utf-8"))
    style = (_ASSETS / "page.css").read_text(encoding="utf-8")
    script = (_ASSETS / "page.js").read_text(encoding="utf-8")
    html: str = template.render(
        version=__version__,
        made=time_text(time.time()),
        title=page.title,
        since=time_text(page.since),
        until=time_text(page.until),
        coverage=page.coverage,
        head=page.head,
        details=page.details,
        tiles=page.tiles,
        pictures=[
            {"id": one.id, "title": one.title, "svg": Markup(one.svg), "key": one.key, "note": one.note}
            for one in page.pictures
        ],
        tables=[_table(table) for table in page.tables],
        verbatim="\n".join(page.verbatim),
        notes=page.notes,
        style=Markup(style),
        style_hash=_hash(style),
        script=Markup(script),
        script_hash=_hash(script),
    )
    return html


def _table(table: Table) -> dict[str, Any]:
    shown = table.rows[:_MOST_ROWS]
    columns = [c for c in table.columns if any(cell(table, row, c) not in ("-", "") for row in shown)]
    numbers = {column: numeric(table, column) for column in columns}
    rows = []
    for row in shown:
        cells = []
        for column in columns:
            value = row.get(column)
            number = numbers[column]
            sortable = (value or 0) if number or column.endswith("_time") else None
            cells.append({"text": cell(table, row, column), "value": sortable, "number": number})
        rows.append(cells)
    left_off = len(table.rows) - len(shown)
    return {
        "key": table.key,
        "title": f"{table.title} ({len(table.rows):,})" if table.rows else table.title,
        "columns": [{"name": heading(column).capitalize(), "number": numbers[column]} for column in columns],
        "rows": rows,
        "left_off": f"{left_off:,} more rows are not shown; tcpnewconn report --output csv has all."
        if left_off
        else "",
    }


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
