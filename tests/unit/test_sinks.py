"""What is written of each event: the contract of docs/events.md, in the journal's fields, in JSON and as text."""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import get_args

import pytest

from tcpnewconn.attribution.units import Units
from tcpnewconn.attribution.users import Users
from tcpnewconn.health.counters import REASONS, SOURCES
from tcpnewconn.model import (
    CONNECTED,
    DETECTED_BY,
    STATE_NAMES,
    Closed,
    Connection,
    Degraded,
    Endpoint,
    Event,
    Listener,
    Loss,
    ObservationStarted,
    ObservationStopped,
    PortScan,
    Recovered,
    Summary,
)
from tcpnewconn.reporting.entries import KINDS, Renderer, size_text
from tcpnewconn.reporting.fields import FIELDS, JSON_FIRST, JSON_IP, document
from tcpnewconn.reporting.sinks import Json, Text, open_sink, printable
from tcpnewconn.tracking.direction import DIRECTIONS
from tests.support import events
from tests.support.events import SCHEMA
from tests.support.table import packed
from tests.support.terminal import TREE

PEER, HERE = Endpoint(*packed("203.0.113.9:51544")), Endpoint(*packed("10.0.0.5:22"))
PEER6, HERE6 = Endpoint(*packed("[2001:db8::9]:40001")), Endpoint(*packed("[2001:db8::5]:443"))
NINE = PEER.address or b""
NOBODY = pwd.getpwnam("nobody").pw_uid


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    """A tree of cgroups with one unit; a cgroup's id is its directory's inode number."""
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "system.slice/ssh.service").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def unit(cgroups: Path) -> int:
    return (cgroups / "system.slice/ssh.service").stat().st_ino


@pytest.fixture
def entry(cgroups: Path) -> Callable[[Event], dict[str, str]]:
    return Renderer(Units(str(cgroups)), Users()).entry


Entry = Callable[[Event], dict[str, str]]


# --- the fields of each event ----------------------------------------------------------------------------------------

OPENED = {
    "EVENT_ACTION": "connection-opened",
    "EVENT_CATEGORY": "network",
    "EVENT_TYPE": "connection,start",
    "EVENT_OUTCOME": "success",
}
INFO = {"EVENT_CATEGORY": "network", "EVENT_TYPE": "info"}
ATTRIBUTION = {"USER_ID": str(NOBODY), "USER_NAME": "nobody", "OBJECT_SYSTEMD_UNIT": "ssh.service"}
ENDPOINTS = {
    "SOURCE_ADDRESS": "203.0.113.9",
    "SOURCE_PORT": "51544",
    "DESTINATION_ADDRESS": "10.0.0.5",
    "DESTINATION_PORT": "22",
    "NETWORK_TRANSPORT": "tcp",
    "NETWORK_TYPE": "ipv4",
    "NETWORK_DIRECTION": "ingress",
    "NETWORK_COMMUNITY_ID": "1:hmeNN9Jie1qqFe1Qb6A8CFQUUAM=",
}


def test_a_connection_has_these_fields(entry: Entry, unit: int) -> None:
    assert entry(Connection(PEER, HERE, "ingress", "poll", "boot-ns-2a", 1, NOBODY, unit)) == {
        "MESSAGE": "New connection: 203.0.113.9:51544 -> 10.0.0.5:22",
        "MESSAGE_ID": "74ba465b9f4e456585146b89bb95f0dc",
        "PRIORITY": "6",
        **OPENED,
        **ENDPOINTS,
        **ATTRIBUTION,
        "NETWORK_CONNECTION_STATE": "established",
        "TCPNEWCONN_DETECTED_BY": "poll",
        "TCPNEWCONN_CONNECTION_ID": "boot-ns-2a",
    }


def test_one_of_ipv6_is_written_with_brackets(entry: Entry) -> None:
    fields = entry(Connection(HERE6, PEER6, "egress", "notification", "x", 7))
    assert fields["MESSAGE"] == "New connection: [2001:db8::5]:443 -> [2001:db8::9]:40001"
    assert (fields["SOURCE_ADDRESS"], fields["DESTINATION_ADDRESS"]) == ("2001:db8::5", "2001:db8::9")
    assert fields["NETWORK_TYPE"] == "ipv6"
    assert (fields["NETWORK_CONNECTION_STATE"], fields["TCPNEWCONN_DETECTED_BY"]) == ("closed", "notification")


def test_what_is_not_known_is_left_out_and_never_a_false_0(entry: Entry) -> None:
    fields = entry(Connection(PEER, HERE, "ingress", "startup", "x", 6))
    assert fields.keys().isdisjoint({"USER_ID", "USER_NAME", "OBJECT_SYSTEMD_UNIT"})
    # A user that has no name, a cgroup that is no unit.
    fields = entry(Connection(PEER, HERE, "ingress", "poll", "x", 1, 4_000_000_000, 12345))
    assert fields["USER_ID"] == "4000000000"
    assert fields.keys().isdisjoint({"USER_NAME", "OBJECT_SYSTEMD_UNIT"})
    # Root is 0, and known.
    assert entry(Connection(PEER, HERE, "ingress", "poll", "x", 1, 0))["USER_NAME"] == "root"


def test_where_addresses_were_cleared_the_rest_is_written(entry: Entry) -> None:
    fields = entry(Connection(Endpoint(PEER.address, None), Endpoint(None, 22), "ingress", "notification", "x", 7))
    assert fields["MESSAGE"] == "New connection: 203.0.113.9:* -> *:22"
    assert (fields["SOURCE_ADDRESS"], fields["DESTINATION_PORT"], fields["NETWORK_TYPE"]) == (
        "203.0.113.9",
        "22",
        "ipv4",
    )
    assert fields.keys().isdisjoint({"SOURCE_PORT", "DESTINATION_ADDRESS", "NETWORK_COMMUNITY_ID"})
    fields = entry(Connection(Endpoint(None, 40000), Endpoint(PEER6.address, None), "egress", "notification", "x", 7))
    assert fields["MESSAGE"] == "New connection: *:40000 -> [2001:db8::9]:*"
    assert fields["NETWORK_TYPE"] == "ipv6"


# The kernel's number of a state (include/net/tcp_states.h), and OpenTelemetry's network.connection.state.
STATES = {
    1: "established",
    4: "fin_wait_1",
    5: "fin_wait_2",
    6: "time_wait",
    7: "closed",
    8: "close_wait",
    9: "last_ack",
    11: "closing",
}


def test_every_state_that_is_reported_has_the_name_that_opentelemetry_gives_it(entry: Entry) -> None:
    for state in {*CONNECTED, 7}:
        fields = entry(Connection(PEER, HERE, "ingress", "poll", "x", state))
        assert fields["NETWORK_CONNECTION_STATE"] == STATES[state]


def test_a_listener_has_these_fields(entry: Entry, unit: int) -> None:
    assert entry(Listener(HERE6, False, 0, unit)) == {
        "MESSAGE": "New listener: [2001:db8::5]:443",
        "MESSAGE_ID": "2226628da8304e6994685e028202cfd5",
        "PRIORITY": "5",
        "EVENT_ACTION": "listener-opened",
        "EVENT_CATEGORY": "network",
        "EVENT_TYPE": "start",
        "DESTINATION_ADDRESS": "2001:db8::5",
        "DESTINATION_PORT": "443",
        "NETWORK_TRANSPORT": "tcp",
        "NETWORK_TYPE": "ipv6",
        "USER_ID": "0",
        "USER_NAME": "root",
        "OBJECT_SYSTEMD_UNIT": "ssh.service",
        "NETWORK_CONNECTION_STATE": "listen",
    }
    assert entry(Listener(Endpoint(*packed("0.0.0.0:22")), True))["MESSAGE"] == "New listener: 0.0.0.0:22"


def test_a_loss_has_these_fields(entry: Entry) -> None:
    assert entry(Loss(37, "notifications", "37 notifications were lost: do this")) == {
        "MESSAGE": "37 notifications were lost: do this",
        "MESSAGE_ID": "81f4c1b5bfab4e52a63aae3dec8b0438",
        "PRIORITY": "4",
        "EVENT_ACTION": "events-lost",
        **INFO,
        "TCPNEWCONN_COUNT": "37",
        "TCPNEWCONN_REASON": "notifications",
    }


def test_a_source_that_is_missing_has_these_fields_and_one_that_is_back_an_id_of_its_own(entry: Entry) -> None:
    assert entry(Degraded("proc", "cannot be read")) == {
        "MESSAGE": "cannot be read",
        "MESSAGE_ID": "ac71ee2a2e8443a59039d1319c802aa2",
        "PRIORITY": "4",
        "EVENT_ACTION": "source-degraded",
        **INFO,
        "TCPNEWCONN_REASON": "proc",
    }
    assert entry(Recovered("notifications", "received again")) == {
        "MESSAGE": "received again",
        "MESSAGE_ID": "9bd8673752994bd08028b0299ca2c261",
        "PRIORITY": "6",
        "EVENT_ACTION": "source-recovered",
        **INFO,
        "TCPNEWCONN_REASON": "notifications",
    }


def test_a_closed_event_has_these_fields_and_the_attribution_of_its_connection(entry: Entry, unit: int) -> None:
    assert entry(Closed(PEER, HERE, "ingress", "boot-ns-2a", 3_400_000, 1234, 25_000, 2, 1.5, NOBODY, unit)) == {
        "MESSAGE": "Connection closed: 203.0.113.9:51544 -> 10.0.0.5:22, 1.2 kB sent, 3.4 MB received",
        "MESSAGE_ID": "be0228f916da4937bc9055c5c372b3cd",
        "PRIORITY": "6",
        "EVENT_ACTION": "connection-closed",
        "EVENT_CATEGORY": "network",
        "EVENT_TYPE": "connection,end",
        **ENDPOINTS,
        **ATTRIBUTION,
        "SOURCE_BYTES": "3400000",
        "DESTINATION_BYTES": "1234",
        "EVENT_DURATION": "1500000000",
        "TCPNEWCONN_RTT_USEC": "25000",
        "TCPNEWCONN_RETRANSMITS": "2",
        "TCPNEWCONN_CONNECTION_ID": "boot-ns-2a",
    }


def test_sent_and_received_are_this_host_s_view_and_an_unknown_duration_is_left_out(entry: Entry) -> None:
    fields = entry(Closed(HERE, PEER, "egress", "x", 10, 2000, 0, 0, None))
    assert fields["MESSAGE"].endswith(", 10 B sent, 2.0 kB received")
    assert (fields["SOURCE_BYTES"], fields["DESTINATION_BYTES"]) == ("10", "2000")
    assert fields.keys().isdisjoint({"EVENT_DURATION", *ATTRIBUTION})


def test_a_summary_has_the_fields_that_its_connections_share(entry: Entry, unit: int) -> None:
    shared = {
        "MESSAGE_ID": "c4029bcd2a5841e3bdea3ca9ce1e0d47",
        "PRIORITY": "6",
        "EVENT_ACTION": "connections-summarized",
        "EVENT_CATEGORY": "network",
        "EVENT_TYPE": "connection,start",
        "EVENT_OUTCOME": "success",
        "DESTINATION_ADDRESS": "10.0.0.5",
        "DESTINATION_PORT": "22",
        "NETWORK_TRANSPORT": "tcp",
        "NETWORK_TYPE": "ipv4",
        "NETWORK_DIRECTION": "ingress",
        "OBJECT_SYSTEMD_UNIT": "ssh.service",
        "TCPNEWCONN_COUNT": "1234",
    }
    one = Summary(Endpoint(PEER.address, None), HERE, "ingress", unit, 1234, 0, True, ())
    assert entry(one) == shared | {
        "MESSAGE": "1234 new connections: 203.0.113.9 -> 10.0.0.5:22",
        "SOURCE_ADDRESS": "203.0.113.9",
    }
    many = Summary(Endpoint(None, None), HERE, "ingress", unit, 1234, 2, True, ((NINE, 1200), (b"\xc0\0\2\4", 34)))
    assert entry(many) == shared | {
        "MESSAGE": "1234 new connections: 2 sources -> 10.0.0.5:22",
        "TCPNEWCONN_SOURCES": "2",
        "TCPNEWCONN_SOURCES_EXACT": "yes",
        "TCPNEWCONN_TOP_SOURCES": "203.0.113.9=1200,192.0.2.4=34",
    }


def test_a_summary_of_connections_that_share_nothing_says_so(entry: Entry) -> None:
    fields = entry(Summary(Endpoint(None, None), Endpoint(None, None), "egress", 0, 9, 1, False, ()))
    assert fields["MESSAGE"] == "9 new connections: at least 1 source -> many destinations"
    assert fields["TCPNEWCONN_SOURCES_EXACT"] == "no"
    assert fields.keys().isdisjoint({"NETWORK_TYPE", "SOURCE_ADDRESS", "DESTINATION_ADDRESS", "DESTINATION_PORT"})
    assert "TCPNEWCONN_TOP_SOURCES" not in fields


def test_a_port_scan_has_these_fields(entry: Entry) -> None:
    assert entry(PortScan(NINE, HERE.address, (80, 81, 8080))) == {
        "MESSAGE": "Port scan: 203.0.113.9 -> 10.0.0.5 on ports 80,81,8080",
        "MESSAGE_ID": "576316a0dc7b480ea3df1498dddde400",
        "PRIORITY": "4",
        "EVENT_ACTION": "port-scan-detected",
        "EVENT_CATEGORY": "network",
        "EVENT_TYPE": "connection,info",
        "SOURCE_ADDRESS": "203.0.113.9",
        "DESTINATION_ADDRESS": "10.0.0.5",
        "NETWORK_TRANSPORT": "tcp",
        "NETWORK_TYPE": "ipv4",
        "NETWORK_DIRECTION": "ingress",
        "TCPNEWCONN_PORTS": "80,81,8080",
    }
    # Of a connection whose local address the kernel had cleared.
    assert entry(PortScan(NINE, None, (1, 2)))["MESSAGE"] == "Port scan: 203.0.113.9 -> * on ports 1,2"


# 2026-11-25 12:00:00 UTC
NOON = 1_795_608_000.0


def test_the_start_of_the_observation_says_until_when_it_had_gone_before_and_what_is_ignored(entry: Entry) -> None:
    started = {
        "MESSAGE_ID": "a3486de517524ebf8716f2504cc51e12",
        "PRIORITY": "6",
        "EVENT_ACTION": "observation-started",
        **INFO,
    }
    first = entry(ObservationStarted(NOON, None, ""))
    assert first == started | {"MESSAGE": "Observing TCP connections since 2026-11-25 12:00:00 UTC"}
    assert entry(ObservationStarted(NOON, NOON - 2, "127.0.0.0/8 egress:[2001:db8::/32]:443")) == started | {
        "MESSAGE": "Observing TCP connections since 2026-11-25 12:00:00 UTC; before that until 11:59:58",
        "TCPNEWCONN_OBSERVED_UNTIL": "2026-11-25T11:59:58.000+00:00",
        "TCPNEWCONN_IGNORE": "127.0.0.0/8,egress:[2001:db8::/32]:443",
    }
    on_another_day = entry(ObservationStarted(NOON, NOON - 86400.5, ""))
    assert on_another_day["MESSAGE"].endswith("12:00:00 UTC; before that until 2026-11-24 11:59:59 UTC")
    assert on_another_day["TCPNEWCONN_OBSERVED_UNTIL"] == "2026-11-24T11:59:59.500+00:00"


def test_the_end_of_the_observation_has_these_fields(entry: Entry) -> None:
    assert entry(ObservationStopped()) == {
        "MESSAGE": "Stopped observing TCP connections",
        "MESSAGE_ID": "72bd65ca73e74e238df0f70dcbacb033",
        "PRIORITY": "6",
        "EVENT_ACTION": "observation-stopped",
        **INFO,
    }


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1234, "1.2 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (3_400_000, "3.4 MB"),
        (999_949_999, "999.9 MB"),
        (10**9, "1.0 GB"),
        (10**12, "1.0 TB"),
        (2**64 - 1, "18446744.1 TB"),
    ],
)
def test_sizes_are_written_for_people(count: int, text: str) -> None:
    assert size_text(count) == text


# --- the contract: docs/events.md and docs/events.schema.json -----------------------------------------------------------

CONTRACT = (TREE / "docs" / "events.md").read_text()


def every_event(unit: int) -> list[Event]:
    """Each kind of event with every field that it can have, and with as few as it can have."""
    anywhere = Endpoint(None, None)
    return [
        Connection(PEER, HERE, "ingress", "poll", "x", 1, NOBODY, unit),
        Connection(Endpoint(None, 1), Endpoint(PEER6.address, None), "egress", "notification", "x", 7),
        Connection(PEER6, HERE6, "unknown", "startup", "x", 6),
        Closed(PEER, HERE, "ingress", "x", 1, 2, 3, 4, 5.0, NOBODY, unit),
        Closed(Endpoint(PEER.address, None), Endpoint(None, 22), "internal", "x", 0, 0, 0, 0, None),
        Listener(HERE, False, NOBODY, unit),
        Listener(HERE6, True),
        Summary(Endpoint(NINE, None), HERE, "ingress", unit, 3, 1, True, ()),
        Summary(anywhere, HERE, "ingress", unit, 5, 2, True, ((NINE, 3), (HERE6.address or b"", 2))),
        Summary(anywhere, anywhere, "egress", 0, 1, 1, False, ()),
        PortScan(NINE, HERE.address, (22, 23)),
        PortScan(NINE, None, (22, 23)),
        *(Loss(1, reason, "x") for reason in REASONS),
        *(Degraded(source, "x") for source in SOURCES),
        *(Recovered(source, "x") for source in SOURCES),
        ObservationStarted(NOON, NOON - 2, "10.0.0.0/8 :9100"),
        ObservationStarted(NOON, None, ""),
        ObservationStopped(),
    ]


def documents(entry: Entry, unit: int) -> list[dict[str, object]]:
    return [document(entry(event), "2026-11-25T12:00:00.000+00:00", "web1") for event in every_event(unit)]


def test_every_event_has_an_action_and_a_message_id_that_no_other_has(unit: int) -> None:
    assert set(KINDS) == set(get_args(Event)) == {type(event) for event in every_event(unit)}
    for column in ("action", "message_id"):
        assert len({getattr(kind, column) for kind in KINDS.values()}) == len(KINDS)


def test_the_contract_lists_the_events_that_are_written_and_no_other() -> None:
    section = CONTRACT.split("## Events\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip(" `") for cell in row.split("|")[1:-1]] for row in re.findall(r"(?m)^\| .*`.*$", section)]
    assert {(row[1], row[2], row[3], row[4], int(row[6])) for row in rows} == {
        (kind.action, kind.message_id, kind.types.replace(",", "`, `"), kind.outcome or "", kind.priority)
        for kind in KINDS.values()
    }
    assert len(rows) == len(KINDS)


def test_the_messages_are_those_of_the_contract(entry: Entry) -> None:
    section = CONTRACT.split("## Events\n", 1)[1].split("\n## ", 1)[0]
    top = ((NINE, 1234),)
    for event in (
        Connection(PEER, HERE, "ingress", "poll", "x", 1),
        Listener(Endpoint(*packed("0.0.0.0:22")), False),
        Summary(Endpoint(NINE, None), Endpoint(HERE.address, 80), "ingress", 0, 1234, 1, True, ()),
        Summary(Endpoint(None, None), Endpoint(HERE.address, 80), "ingress", 0, 1234, 812, True, top),
        PortScan(bytes([192, 0, 2, 56]), HERE.address, (80, 81, 82, 83)),
        Closed(PEER, HERE, "ingress", "x", 3_400_000, 1234, 1, 0, None),
        ObservationStarted(NOON, NOON - 2, ""),
        ObservationStopped(),
    ):
        assert f"`{entry(event)['MESSAGE']}`" in section


def test_every_field_has_its_dotted_name_and_is_explained_in_the_contract_and_no_other(entry: Entry, unit: int) -> None:
    for journal, dotted in FIELDS.items():
        assert re.fullmatch("[A-Z][A-Z0-9_]*", journal)
        assert dotted.upper().replace(".", "_") == journal
    # The first column of each table that has a field there.
    rows = re.findall(r"(?m)^\| (`[^|]*?) \|", CONTRACT.split("## Events\n", 1)[1])
    explained = {name for row in rows for name in re.findall(r"`([A-Z][A-Z0-9_]*)`", row)}
    assert explained == {*FIELDS, "SYSLOG_IDENTIFIER"}
    assert {name for event in every_event(unit) for name in entry(event)} == FIELDS.keys()
    # Nor does the text speak of a field that is not written, but for those that journald adds.
    named = {word for word in re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)(?:=[^`]*)?`", CONTRACT)}
    assert named - {*FIELDS, "SYSLOG_IDENTIFIER"} <= {"OBJECT_PID", "OBJECT_UID"}


def test_the_schema_has_the_fields_that_are_written_and_no_other(entry: Entry, unit: int) -> None:
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


def test_the_schema_validates_every_event(entry: Entry, unit: int) -> None:
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
def test_the_schema_refuses_a_wrong_line(entry: Entry, unit: int, name: str, value: object) -> None:
    line = documents(entry, unit)[0] | {name: value}
    if value is None:
        del line[name]
    with pytest.raises(AssertionError):
        events.check(line)


# --- text and JSON ---------------------------------------------------------------------------------------------------

Output = pytest.CaptureFixture[str]


def test_text_is_the_time_in_utc_with_its_offset_and_the_message(
    entry: Entry, capfd: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "XXX-9")
    time.tzset()
    before = datetime.now(timezone.utc).replace(microsecond=0)
    Text().write(entry(Connection(PEER, HERE, "ingress", "poll", "x", 1)))
    monkeypatch.undo()
    time.tzset()
    written = capfd.readouterr().out
    match = re.fullmatch(
        r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00): New connection: 203\.0\.113\.9:51544 -> 10\.0\.0\.5:22\n", written
    )
    assert match is not None, written
    assert before <= datetime.fromisoformat(match[1]) <= datetime.now(timezone.utc)


def written_json(entry: Entry, capfd: Output, *given: Event) -> list[events.Event]:
    sink = Json()
    for event in given:
        sink.write(entry(event))
    return events.parsed_lines(capfd.readouterr().out.splitlines())


def test_json_is_one_ecs_document_a_line(entry: Entry, unit: int, capfd: Output) -> None:
    before = datetime.now(timezone.utc)
    [line] = written_json(entry, capfd, Connection(PEER, HERE, "ingress", "poll", "boot-ns-2a", 1, NOBODY, unit))
    at = datetime.fromisoformat(line.pop("@timestamp"))
    assert at.utcoffset() == timedelta(0)
    assert before - timedelta(milliseconds=1) <= at <= datetime.now(timezone.utc)
    assert line == {
        "ecs.version": "8.17.0",
        "host.name": socket.gethostname(),
        "message": "New connection: 203.0.113.9:51544 -> 10.0.0.5:22",
        "message_id": "74ba465b9f4e456585146b89bb95f0dc",
        "priority": 6,
        "event.action": "connection-opened",
        "event.category": ["network"],
        "event.type": ["connection", "start"],
        "event.outcome": "success",
        "source.address": "203.0.113.9",
        "source.ip": "203.0.113.9",
        "source.port": 51544,
        "destination.address": "10.0.0.5",
        "destination.ip": "10.0.0.5",
        "destination.port": 22,
        "network.transport": "tcp",
        "network.type": "ipv4",
        "network.direction": "ingress",
        "network.community_id": "1:hmeNN9Jie1qqFe1Qb6A8CFQUUAM=",
        "network.connection.state": "established",
        # An identifier, as in the Elastic Common Schema.
        "user.id": str(NOBODY),
        "user.name": "nobody",
        "object.systemd_unit": "ssh.service",
        "tcpnewconn.detected_by": "poll",
        "tcpnewconn.connection_id": "boot-ns-2a",
    }


def test_in_json_numbers_are_numbers_lists_arrays_and_yes_and_no_booleans(entry: Entry, capfd: Output) -> None:
    anywhere = Endpoint(None, None)
    closed, exact, most, scan, loss, started = written_json(
        entry,
        capfd,
        Closed(PEER, HERE, "ingress", "boot-ns-2a", 3_400_000, 1234, 25_000, 2, 1.5),
        Summary(anywhere, HERE, "ingress", 0, 9, 2, True, ((NINE, 7), (PEER6.address or b"", 2))),
        Summary(anywhere, HERE, "ingress", 0, 9, 2, False, ((NINE, 7),)),
        PortScan(NINE, None, (22, 8080)),
        Loss(37, "notifications", "lost"),
        ObservationStarted(NOON, None, "127.0.0.0/8 :9100"),
    )
    assert (closed["source.bytes"], closed["destination.bytes"]) == (3_400_000, 1234)
    assert closed["event.duration"] == 1_500_000_000
    assert (closed["tcpnewconn.rtt_usec"], closed["tcpnewconn.retransmits"]) == (25_000, 2)
    assert (exact["tcpnewconn.sources"], exact["tcpnewconn.sources_exact"]) == (2, True)
    assert exact["tcpnewconn.top_sources"] == [
        {"address": "203.0.113.9", "count": 7},
        {"address": "2001:db8::9", "count": 2},
    ]
    assert most["tcpnewconn.sources_exact"] is False
    assert scan["tcpnewconn.ports"] == [22, 8080]
    assert loss["tcpnewconn.count"] == 37
    assert started["tcpnewconn.ignore"] == ["127.0.0.0/8", ":9100"]


def test_an_entry_that_an_older_version_left_in_the_state_file_is_written_too(capfd: Output) -> None:
    Json().write({"MESSAGE": "New connection: a -> b", "TCP_STATE": "ESTABLISHED"})
    line = json.loads(capfd.readouterr().out)
    assert (line["message"], line["tcp_state"]) == ("New connection: a -> b", "ESTABLISHED")


NASTY = [
    "one\nNew connection: forged",
    "\r\n",
    "\x1b[2J\x07",
    "\x85\u2028\u2029",
    "\udcff\udc80",
    "\u202eright to left",
    "\x00",
]


@pytest.mark.parametrize("value", NASTY)
def test_nobody_can_forge_a_line_or_steer_a_terminal(value: str, capfd: Output) -> None:
    fields = {"MESSAGE": f"New {value}", "PRIORITY": "6", "USER_NAME": value}
    Text().write(fields)
    (text,) = capfd.readouterr().out.splitlines(keepends=True)
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    Json().write(fields)
    (line,) = capfd.readouterr().out.splitlines(keepends=True)
    assert line.isascii()
    assert line[:-1].isprintable()
    assert json.loads(line)["user.name"] == value


def test_what_is_printable_stays_as_it_is() -> None:
    assert printable("Grüße: 10.0.0.5:22 → done") == "Grüße: 10.0.0.5:22 → done"
    assert printable("a\nb\x1b\udcff") == "a\\nb\\x1b\\udcff"


def test_every_output_has_its_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert {output: type(open_sink(output)).__name__ for output in ("auto", "text", "json", "journal")} == {
        "auto": "Text",
        "text": "Text",
        "json": "Json",
        "journal": "Journal",
    }
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    assert type(open_sink("auto")).__name__ == "Journal"
