"""What was measured, beside what is to be reached, as a table for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. `reached` is None where there is no goal for it."""

    what: str
    measured: str
    goal: str = ""
    reached: bool | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Figures that were measured together, and what belongs beside them: a table (its first row is the heading) and remarks."""

    title: str
    figures: list[Figure] = field(default_factory=list)
    table: list[list[str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def at_most(what: str, value: float, limit: float, unit: str = "", digits: int = 2, beside: str = "") -> Figure:
    """A figure that is to be no larger than a limit; `beside` is more to be said of it."""
    measured = f"{value:.{digits}f}{unit}" + (f" ({beside})" if beside else "")
    return Figure(what, measured, f"at most {limit:g}{unit}", value <= limit)


def dumps(group: Group) -> str:
    return json.dumps(asdict(group))


def loads(text: str) -> Group:
    group = json.loads(text)
    return Group(group["title"], [Figure(**figure) for figure in group["figures"]], group["table"], group["remarks"])


def printed(group: Group) -> str:
    """The group as Markdown, aligned so that it can be read as it is."""
    parts = [f"## {group.title}"]
    if group.figures:
        rows = [["figure", "measured", "goal", ""]]
        verdicts = {True: "reached", False: "not reached", None: ""}
        rows += [[figure.what, figure.measured, figure.goal, verdicts[figure.reached]] for figure in group.figures]
        parts.append(_aligned(rows))
    if group.table:
        parts.append(_aligned(group.table))
    if group.remarks:
        parts.append("\n".join(f"- {remark}" for remark in group.remarks))
    return "\n\n".join(parts) + "\n"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
