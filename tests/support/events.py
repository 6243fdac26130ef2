"""Parses the lines of --output json, and validates each with docs/events.schema.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped,unused-ignore]

SCHEMA: dict[str, Any] = json.loads((Path(__file__).resolve().parents[2] / "docs" / "events.schema.json").read_text())
_VALIDATOR = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)

Event = dict[str, Any]


def check(event: Event) -> None:
    """Raises AssertionError with every difference from the schema."""
    problems = [f"{error.json_path}: {error.message}" for error in _VALIDATOR.iter_errors(event)]
    assert not problems, f"{event} is not what docs/events.schema.json says: {problems}"


def parsed(line: str) -> Event:
    event: Event = json.loads(line)
    check(event)
    return event


def parsed_lines(lines: Iterable[str]) -> list[Event]:
    return [parsed(line) for line in lines]


def about_connections(events: Iterable[Event]) -> list[Event]:
    """Without the events observation-started and observation-stopped."""
    return [event for event in events if not is_about_a_run(event)]


def is_about_a_run(event: Event) -> bool:
    return str(event.get("event.action", "")).startswith("observation-")
