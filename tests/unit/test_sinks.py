"""How an entry is written: as text and as JSON. (The journal: test_journal.py.)"""

from __future__ import annotations

import json
import re
import socket
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tcpnewconn.eventtypes import Closed, Connection, Event, Loss, ObservationStarted, PortScan, Summary
from tcpnewconn.reporting.sinks import Json, Text
from tests.support import events
from tests.support.every_event import (
    ANYWHERE,
    HERE,
    NINE,
    NINE6,
    NOBODY,
    NOON,
    PEER,
    Render,
    renderer,
    unit_in,
)


@pytest.fixture
def unit(tmp_path: Path) -> int:
    return unit_in(tmp_path)


@pytest.fixture
def entry(tmp_path: Path, unit: int) -> Render:
    return renderer(tmp_path)


Output = pytest.CaptureFixture[str]


def test_text_is_the_time_in_utc_with_its_offset_and_the_message(
    entry: Render, capfd: Output, monkeypatch: pytest.MonkeyPatch
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


def written_json(entry: Render, capfd: Output, *given: Event) -> list[events.Event]:
    sink = Json()
    for event in given:
        sink.write(entry(event))
    return events.parsed_lines(capfd.readouterr().out.splitlines())


def test_json_is_one_ecs_document_a_line(entry: Render, unit: int, capfd: Output) -> None:
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


def test_in_json_numbers_are_numbers_lists_arrays_and_yes_and_no_booleans(entry: Render, capfd: Output) -> None:
    closed, exact, most, scan, loss, started = written_json(
        entry,
        capfd,
        Closed(PEER, HERE, "ingress", "boot-ns-2a", 3_400_000, 1234, 25_000, 2, 1.5),
        Summary(ANYWHERE, HERE, "ingress", 0, 9, 2, True, ((NINE, 7), (NINE6, 2))),
        Summary(ANYWHERE, HERE, "ingress", 0, 9, 2, False, ((NINE, 7),)),
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
    Json().write({"MESSAGE": "New connection: a -> b", "TCP" + "_STATE": "ESTABLISHED"})
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
