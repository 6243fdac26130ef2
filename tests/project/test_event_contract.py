"""docs/events.md and docs/events.schema.json against what the code writes: nothing is missing, and nothing is too much."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from tcpnewconn.eventtypes import (
    DETECTED_BY,
    Closed,
    Connection,
    Event,
    Listener,
    ObservationStarted,
    ObservationStopped,
    PortScan,
    Summary,
)
from tcpnewconn.health.counters import REASONS, SOURCES
from tcpnewconn.model import DIRECTIONS, STATE_NAMES, Endpoint
from tcpnewconn.reporting.entries import KINDS
from tcpnewconn.reporting.fields import ECS_VERSION, FIELDS, JSON_FIRST, JSON_IP, document
from tests.support import events, filebeat
from tests.support.events import SCHEMA
from tests.support.every_event import (
    ANYWHERE,
    HERE,
    NINE,
    NOON,
    PEER,
    Render,
    documents,
    every_event,
    renderer,
    unit_in,
)
from tests.support.table import packed
from tests.support.terminal import TREE


@pytest.fixture
def unit(tmp_path: Path) -> int:
    return unit_in(tmp_path)


@pytest.fixture
def entry(tmp_path: Path, unit: int) -> Render:
    return renderer(tmp_path, command_lines=True, netns="4026532290")


CONTRACT = (TREE / "docs" / "events.md").read_text()


def test_every_event_has_an_action_and_a_message_id_that_no_other_has(unit: int) -> None:
    assert set(KINDS) == set(get_args(Event)) == {type(event) for event in every_event(unit)}
    for column in ("action", "message_id"):
        assert len({getattr(kind, column) for kind in KINDS.values()}) == len(KINDS)


def test_the_contract_lists_the_events_that_are_written_and_no_other() -> None:
    section = CONTRACT.split("## Events\n", 1)[1].split("\n## ", 1)[0]
    lines = re.findall(r"(?m)^\|.*`[0-9a-f]{32}`.*$", section)
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines]
    assert {(row[1], row[2], row[3], row[4], int(row[6])) for row in rows} == {
        (kind.action, kind.message_id, kind.types.replace(",", "`, `"), kind.outcome or "", kind.priority)
        for kind in KINDS.values()
    }
    assert len(rows) == len(KINDS)


def test_the_messages_are_those_of_the_contract(entry: Render) -> None:
    section = CONTRACT.split("## Events\n", 1)[1].split("\n## ", 1)[0]
    top = ((NINE, 1234),)
    for event in (
        Connection(PEER, HERE, "ingress", "poll", "x", 1),
        Listener(Endpoint(*packed("0.0.0.0:22")), False),
        Summary(Endpoint(NINE, None), Endpoint(HERE.address, 80), "ingress", 0, 1234, 1, True, ()),
        Summary(ANYWHERE, Endpoint(HERE.address, 80), "ingress", 0, 1234, 812, True, top),
        PortScan(bytes([192, 0, 2, 56]), HERE.address, (80, 81, 82, 83)),
        Closed(PEER, HERE, "ingress", "x", 3_400_000, 1234, 1, 0, None),
        ObservationStarted(NOON, NOON - 2, ""),
        ObservationStopped(),
    ):
        assert f"`{entry(event)['MESSAGE']}`" in section


def test_every_field_has_its_dotted_name_and_is_explained_in_the_contract_and_no_other(
    entry: Render, unit: int
) -> None:
    for journal, dotted in FIELDS.items():
        assert re.fullmatch("[A-Z][A-Z0-9_]*", journal)
        assert dotted.upper().replace(".", "_") == journal
    # The rows of the tables that explain: journal names in the first column, JSON names in the second.
    rows = re.findall(r"(?m)^\| (`[A-Z][^|]*) \|([^|]*)\|", CONTRACT.split("## With other programs\n", 1)[0])
    explained = {name: json_names for names, json_names in rows for name in re.findall(r"`([A-Z]\w+)`", names)}
    assert explained.keys() == {*FIELDS, "SYSLOG_IDENTIFIER"}
    for name, dotted in FIELDS.items():
        assert f"`{dotted}`" in explained[name]
        if name in JSON_IP:
            assert f"`{JSON_IP[name]}`" in explained[name]
    assert {name for event in every_event(unit) for name in entry(event)} == FIELDS.keys()
    # Nor does the text speak of a field that is not written, but for those that journald adds.
    named = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)(?:=[^`]*)?`", CONTRACT))
    assert named - {*FIELDS, "SYSLOG_IDENTIFIER"} <= {"OBJECT_PID"}


def test_the_table_for_filebeat_names_every_field_as_filebeat_and_ecs_do() -> None:
    table = filebeat.table()
    assert list(table) == ["__REALTIME_TIMESTAMP", "_HOSTNAME", "SYSLOG_IDENTIFIER", *FIELDS]
    for name, row in table.items():
        assert row.filebeat == filebeat.name_of(name)
    for name, dotted in FIELDS.items():
        assert table[name].ecs == [dotted, *([JSON_IP[name]] if name in JSON_IP else [])]


def test_by_the_table_an_entry_in_filebeat_is_the_document_that_json_has(entry: Render, unit: int) -> None:
    for event in every_event(unit):
        own = document(entry(event), "2026-11-25T12:00:00.000+00:00", "web1")
        journald = {"__REALTIME_TIMESTAMP": "1795608000000000", "_HOSTNAME": "web1", "SYSLOG_IDENTIFIER": "tcpnewconn"}
        assert filebeat.ecs_document(filebeat.event(journald | entry(event))) | {"ecs.version": "8.17.0"} == own


def test_the_configuration_for_rsyslog_names_every_field_of_a_json_line() -> None:
    section = CONTRACT.split("### rsyslog\n", 1)[1].split("\n### ", 1)[0]
    names = re.findall(r"\$\.e!([\w.]+)", section) + re.findall(r'(@timestamp)|"([\w.]+)":(?:true|false)', section)
    named = {name if isinstance(name, str) else "".join(name) for name in names}
    assert named == {*FIELDS.values(), *JSON_FIRST, *JSON_IP.values()}
    assert set(re.findall(r"\$!([A-Z]\w+)", section)) == set(FIELDS)
    assert f'set $.e!ecs.version = "{ECS_VERSION}";' in section


def test_the_schema_has_the_fields_that_are_written_and_no_other(entry: Render, unit: int) -> None:
    json_names = {*FIELDS.values(), *JSON_FIRST, *JSON_IP.values()}
    assert set(SCHEMA["properties"]) == json_names == {name for line in documents(entry, unit) for name in line}
    written: dict[str, set[str]] = {}
    for line in documents(entry, unit):
        written.setdefault(str(line["event.action"]), set()).update(line)
    assert written == {
        kind.action: set(SCHEMA["$defs"][kind.action]["propertyNames"]["enum"]) for kind in KINDS.values()
    }


def test_the_schema_has_the_values_that_are_written_and_no_other() -> None:
    values = {name: field.get("enum") for name, field in SCHEMA["properties"].items()}
    assert set(values["network.connection.state"]) == set(STATE_NAMES.values())
    assert tuple(values["network.direction"]) == DIRECTIONS
    assert tuple(values["tcpnewconn.detected_by"]) == DETECTED_BY
    assert set(values["tcpnewconn.reason"]) == {*REASONS, *SOURCES}
    assert set(values["event.type"] or SCHEMA["properties"]["event.type"]["items"]["enum"]) == {
        one for kind in KINDS.values() for one in kind.types.split(",")
    }


def test_the_schema_validates_every_event(entry: Render, unit: int) -> None:
    for line in documents(entry, unit):
        events.check(json.loads(json.dumps(line)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("event.action", "opened"),
        ("event.action", None),
        ("event.type", "connection"),
        ("source.port", "51544"),
        ("source.port", 65536),
        ("source.ip", "203.0.113"),
        ("source.ip", None),
        ("user.id", 0),
        ("network.direction", "inbound"),
        ("network.connection.state", "ESTABLISHED"),
        ("tcpnewconn.detected_by", "read"),
        ("tcpnewconn.connection_id", None),
        ("message_id", "2226628da8304e6994685e028202cfd5"),
        ("message", "New connection: 203.0.113.9:51544"),
        ("priority", "6"),
        ("@timestamp", "2026-11-25 12:00:00"),
        ("tcpnewconn.count", 1),
        ("tcp.state", "ESTABLISHED"),
    ],
)
def test_the_schema_refuses_a_wrong_line(entry: Render, unit: int, name: str, value: object) -> None:
    line = documents(entry, unit)[0] | {name: value}
    if value is None:
        del line[name]
    with pytest.raises(AssertionError):
        events.check(line)
