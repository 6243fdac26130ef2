"""The report as text for a terminal, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from tcpnewconn.report.host_report import Report
from tcpnewconn.report.observed import Observed
from tcpnewconn.report.period import time_text
from tcpnewconn.report.tables import Table, cell, heading, numeric
from tcpnewconn.text import printable

_MOST_LINES = 40


def text(report: Report, whole: bool) -> str:
    """`whole`: all rows, not the first ones alone."""
    lines = [
        f"{report.host}: TCP connections from {time_text(report.since)} to {time_text(report.until)} UTC",
        *([f"Coverage: {report.coverage.text()}"] if report.coverage is not None else []),
        *report.head,
        *(f"  {line}" for line in report.details),
    ]
    # Lines of their own are not repeated as a table.
    for table in report.tables if not report.verbatim else ():
        lines += ["", f"{table.title}{'' if table.rows else ': none'}"]
        lines += _table(table, whole)
    lines += ["", *report.verbatim] if report.verbatim else []
    lines += ["", *(f"Note: {note}" for note in report.notes)] if report.notes else []
    return "\n".join(printable(line).rstrip() for line in lines) + "\n"


def _table(table: Table, whole: bool) -> list[str]:
    shown = table.rows if whole else table.rows[:_MOST_LINES]
    if not shown:
        return []
    # A column that is empty everywhere says nothing.
    columns = [column for column in table.columns if any(cell(table, row, column) not in ("-", "") for row in shown)]
    cells = [[printable(cell(table, row, column)) for column in columns] for row in shown]
    widths = [max(len(heading(column)), *(len(row[at]) for row in cells)) for at, column in enumerate(columns)]
    right = [numeric(table, column) for column in columns]
    lines = []
    for row in [[heading(column) for column in columns], *cells]:
        parts = [
            part.rjust(width) if to else part.ljust(width) for part, width, to in zip(row, widths, right, strict=True)
        ]
        lines.append("  " + "  ".join(parts))
    if len(shown) < len(table.rows):
        lines.append(f"  ... and {len(table.rows) - len(shown)} more; --all shows them")
    return lines


def as_csv(report: Report) -> str:
    """One table after the other, an empty line between them; times in ISO 8601, UTC."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for at, table in enumerate(report.tables):
        if at:
            out.write("\n")
        columns = [column for column in _all_columns(table) if not column.endswith("_exact")]
        writer.writerow(columns)
        for row in table.rows:
            writer.writerow([_plain(column, row.get(column)) for column in columns])
    return out.getvalue()


def _all_columns(table: Table) -> list[str]:
    """Those that are shown, and those that rows have besides."""
    return list(dict.fromkeys((*table.columns, *(name for row in table.rows[:1] for name in row))))


def _plain(column: str, value: Any) -> Any:
    if value is None:
        return ""
    if column.endswith("_time"):
        return time_text(value).replace(" ", "T") + "Z"
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        # A spreadsheet would take it for a formula.
        return f"'{value}"
    return value


def as_json(report: Report) -> str:
    """One object; times as Unix seconds and names as they are."""
    found: dict[str, Any] = {
        "host": report.host,
        "since": report.since,
        "until": report.until,
        "coverage": _coverage(report.coverage),
        "head": report.head,
        "notes": report.notes,
        "verbatim": report.verbatim,
    }
    for table in report.tables:
        found[table.key] = table.rows
    return json.dumps(found, indent=1) + "\n"


def _coverage(coverage: Observed | None) -> dict[str, Any] | None:
    if coverage is None:
        return None
    return {
        "observed_seconds": coverage.seconds,
        "share": coverage.share,
        "lost": coverage.lost,
        "degraded_seconds": coverage.degraded,
        "ignored": coverage.ignored,
        "untraced_seconds": coverage.untraced,
        "calls_lost": coverage.calls_lost,
        "ignore_unknown": coverage.ignore_unknown,
        "gaps": [{"start": start, "stop": stop, "reason": why} for start, stop, why in coverage.gaps],
        "complete": coverage.complete,
    }
