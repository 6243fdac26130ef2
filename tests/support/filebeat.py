"""The event that Filebeat makes from a journal entry, and the table of docs/events.md that leads from there to an ECS document.

Filebeat is not in Debian. Its rules are those of its source (filebeat/input/journald: pkg/journalfield/default.go, conv.go).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import NamedTuple

from tests.support.terminal import TREE

# Fields for which Filebeat has names of its own; all others go below journald.custom.
_KNOWN = {
    "__REALTIME_TIMESTAMP": "@timestamp",
    "_HOSTNAME": "host.hostname",
    "SYSLOG_IDENTIFIER": "syslog.identifier",
    "MESSAGE": "message",
    "MESSAGE_ID": "message_id",
    "PRIORITY": "log.syslog.priority",
    "OBJECT_SYSTEMD_UNIT": "journald.object.systemd.unit",
}


class Row(NamedTuple):
    """A field in Filebeat, its names in the ECS document (none: it is not needed there), and its type there."""

    filebeat: str
    ecs: list[str]
    type: str


def name_of(field: str) -> str:
    return _KNOWN.get(field) or f"journald.custom.{field.lstrip('_').lower()}"


def event(entry: Mapping[str, str]) -> dict[str, str]:
    """The event that Filebeat makes of an entry, as `journalctl -o json` has it; names joined by dots."""
    return {name_of(field): value for field, value in entry.items()}


def table() -> dict[str, Row]:
    """The table of docs/events.md, by journal field."""
    section = (TREE / "docs" / "events.md").read_text().split("### Filebeat\n", 1)[1]
    rows = re.findall(r"(?m)^\| `(\w+)` \| `([^`]+)` \| ([^|]+) \| ([^|]*) ?\|$", section)
    return {field: Row(name, re.findall("`([^`]+)`", ecs), type_.strip()) for field, name, ecs, type_ in rows}


def _counts(value: str) -> list[dict[str, str | int]]:
    pairs = (one.split("=") for one in value.split(","))
    return [{"address": address, "count": int(count)} for address, count in pairs]


_TYPES: dict[str, Callable[[str], object]] = {
    "": str,
    "long": int,
    "list": lambda value: value.split(","),
    "list of long": lambda value: [int(one) for one in value.split(",")],
    "list of `address`=`count`": _counts,
    "boolean: `yes` is true": lambda value: {"yes": True, "no": False}[value],
}


def ecs_document(event: Mapping[str, str]) -> dict[str, object]:
    """The ECS document that the table makes from Filebeat's event; fields that it does not name are left out."""
    document: dict[str, object] = {}
    for row in table().values():
        if row.filebeat in event:
            for name in row.ecs:
                document[name] = _TYPES[row.type](event[row.filebeat])
    at = datetime.fromtimestamp(int(event["@timestamp"]) / 1e6, timezone.utc)
    return document | {"@timestamp": at.isoformat(timespec="milliseconds")}
