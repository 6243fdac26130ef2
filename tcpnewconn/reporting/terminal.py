"""Additions for a person at a terminal: a line at the start, a line at the end, and more on each line."""

from __future__ import annotations

import contextlib
import os
import sys

from tcpnewconn.reporting.fields import Entry
from tcpnewconn.settings.values import format_span
from tcpnewconn.text import printable

# Where a terminal does not say how wide it is, such as a serial console.
_USUAL_WIDTH = 80


def attended() -> bool:
    """Whether a person watches: both the events and what is written on stderr go to a terminal."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr))


def greeting(interval: float, notifications: bool) -> str:
    """The line at the start: seconds between two polls, whether destroy notifications arrive, how to stop."""
    if notifications:
        return f"Polling every {format_span(interval)} and receiving destroy notifications; Ctrl+C stops."
    return (
        f"Polling every {format_span(interval)} without destroy notifications: connections that open and close between "
        "two polls are not seen; Ctrl+C stops."
    )


def farewell(count: int, seconds: float) -> str:
    """The line at the end: how many connections were logged, in how many seconds."""
    span = format_span(round(seconds)) if seconds >= 0.5 else "less than 1s"
    return f"{count:,} {'connection' if count == 1 else 'connections'} in {span}."


def tell(line: str) -> None:
    """Write a line on stderr, over the ^C that a terminal shows where Ctrl+C was pressed."""
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), f"\r{line}\n".encode(sys.stderr.encoding, "backslashreplace"))


def width(descriptor: int) -> int:
    """Columns of a terminal, as it is now."""
    try:
        return os.get_terminal_size(descriptor).columns or _USUAL_WIDTH
    except OSError:
        return _USUAL_WIDTH


def extended(line: str, entry: Entry, columns: int) -> str:
    """The line of an entry, and behind it its direction, unit and user, as many of them as fit."""
    user = entry.get("USER_NAME") or ("USER_ID" in entry and f"uid {entry['USER_ID']}")
    between = "  "
    for part in (entry.get("NETWORK_DIRECTION"), entry.get("OBJECT_SYSTEMD_UNIT"), user):
        if part:
            longer = f"{line}{between}{printable(part)}"
            if len(longer) > columns:
                break
            line, between = longer, " "
    return line
