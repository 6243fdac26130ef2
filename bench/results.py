"""Measured values beside their goals, as a table in Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Result:
    """One measured value. `reached` is None where it has no goal."""

    what: str
    measured: str
    goal: str = ""
    reached: bool | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Values that were measured together, with a table (its first row is the heading) and remarks."""

    title: str
    results: list[Result] = field(default_factory=list)
    table: list[list[str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def at_most(what: str, value: float, limit: float, unit: str = "", digits: int = 2, beside: str = "") -> Result:
    """A value with an upper limit; `beside` is printed in brackets behind it."""
    measured = f"{value:.{digits}f}{unit}" + (f" ({beside})" if beside else "")
    return Result(what, measured, f"at most {limit:g}{unit}", value <= limit)


def dumps(group: Group) -> str:
    return json.dumps(asdict(group))


def loads(text: str) -> Group:
    group = json.loads(text)
    return Group(group["title"], [Result(**result) for result in group["results"]], group["table"], group["remarks"])


def printed(group: Group) -> str:
    """The group as Markdown, with aligned columns."""
    parts = [f"## {group.title}"]
    if group.results:
        rows = [["measurement", "result", "goal", ""]]
        verdicts = {True: "reached", False: "not reached", None: ""}
        rows += [[result.what, result.measured, result.goal, verdicts[result.reached]] for result in group.results]
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
