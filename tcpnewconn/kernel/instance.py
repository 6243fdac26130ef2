"""The tracefs instance that tcpnewconn-trace.service makes, as tcpnewconn.service sees it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from tcpnewconn.kernel.procfile import content
from tcpnewconn.kernel.rings import Decode, Rings
from tcpnewconn.text import printable

_Record = TypeVar("_Record")

# Where tcpnewconn.service sees the instance (BindReadOnlyPaths=).
DIRECTORY = "/run/tcpnewconn-trace/instance"
# Beside it: why tcpnewconn-trace.service made none.
REASON = "missing"
# Beside it too: the events that it defined.
WANTED = "events"


class Position(NamedTuple):
    """How far an instance was read: when it was defined (when_defined()), and how many of its records were returned."""

    defined: int
    returned: int


class TraceMissing(Exception):
    """There is no trace. The message is one line for an administrator: why."""


def opened(directory: str, clock: Callable[[], int], decode: Decode[_Record]) -> Rings[_Record]:
    """The rings of an instance. Raises TraceMissing."""
    try:
        return Rings(f"{directory}/per_cpu", clock, decode)
    except OSError as error:
        raise TraceMissing(f"{error.filename}: {error.strerror}") from None


def text_of(path: str) -> str:
    """The contents of a file of the instance, or beside it; empty if it is not there."""
    try:
        return content(path).decode("ascii", "replace")
    except OSError:
        return ""


def wanted(directory: str = DIRECTORY) -> list[str]:
    """The events that the oneshot has defined or enabled."""
    return text_of(f"{directory}/../{WANTED}").split()


def when_defined(directory: str) -> int:
    """When it did, as its file has it; 0 while there is none."""
    try:
        return os.stat(f"{directory}/../{WANTED}").st_mtime_ns
    except OSError:
        return 0


def is_on(directory: str) -> bool:
    return text_of(f"{directory}/tracing_on").strip() == "1"


def why_missing(directory: str) -> str:
    reason = text_of(f"{directory}/../{REASON}").strip()
    return printable(reason) if reason else "tcpnewconn-trace.service does not run: systemctl status tcpnewconn-trace"
