"""What is written of each event: the contract of docs/events.md, in text, JSON and the journal's fields."""

from __future__ import annotations

import json
import os
import pwd
import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tcpnewconn.attribution.owner import Units, Users
from tcpnewconn.model import (
    CONNECTED,
    Closed,
    Connection,
    Degraded,
    Endpoint,
    Event,
    Listener,
    Loss,
    PortScan,
    Recovered,
    Summary,
)
from tcpnewconn.reporting.entries import FIELDS, MESSAGE_IDS, Renderer, size_text
from tcpnewconn.reporting.sinks import Json, Text, open_sink
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


# --- the fields of each kind -----------------------------------------------------------------------------------------


def test_a_connection_has_these_fields(entry: Entry, unit: int) -> None:
    assert entry(Connection(PEER, HERE, "ingress", "read", "boot-ns-2a", 1, NOBODY, unit)) == {
        "MESSAGE": "New connection: 203.0.113.9:51544 -> 10.0.0.5:22",
        "MESSAGE_ID": "74ba465b9f4e456585146b89bb95f0dc",
        "PRIORITY": "6",
        "SOURCE_ADDRESS": "203.0.113.9",
        "SOURCE_PORT": "51544",
        "DESTINATION_ADDRESS": "10.0.0.5",
        "DESTINATION_PORT": "22",
        "NETWORK_TRANSPORT": "tcp",
        "NETWORK_TYPE": "ipv4",
        "NETWORK_DIRECTION": "ingress",
        "NETWORK_COMMUNITY_ID": "1:hmeNN9Jie1qqFe1Qb6A8CFQUUAM=",
        "USER_ID": str(NOBODY),
        "USER_NAME": "nobody",
        "OBJECT_SYSTEMD_UNIT": "ssh.service",
        "TCP_STATE": "ESTABLISHED",
        "TCPNEWCONN_SEEN": "read",
        "TCPNEWCONN_CONNECTION_ID": "boot-ns-2a",
    }


def test_one_of_ipv6_is_written_with_brackets(entry: Entry) -> None:
    fields = entry(Connection(HERE6, PEER6, "egress", "closed", "x", 7))
    assert fields["MESSAGE"] == "New connection: [2001:db8::5]:443 -> [2001:db8::9]:40001"
    assert (fields["SOURCE_ADDRESS"], fields["DESTINATION_ADDRESS"]) == ("2001:db8::5", "2001:db8::9")
    assert (fields["NETWORK_TYPE"], fields["TCP_STATE"], fields["TCPNEWCONN_SEEN"]) == ("ipv6", "CLOSE", "closed")


def test_what_is_not_known_is_left_out_and_never_a_false_0(entry: Entry) -> None:
    fields = entry(Connection(PEER, HERE, "ingress", "startup", "x", 6))
    assert fields.keys().isdisjoint({"USER_ID", "USER_NAME", "OBJECT_SYSTEMD_UNIT"})
    # A user that has no name, a cgroup that is no unit.
    fields = entry(Connection(PEER, HERE, "ingress", "read", "x", 1, 4_000_000_000, 12345))
    assert fields["USER_ID"] == "4000000000"
    assert fields.keys().isdisjoint({"USER_NAME", "OBJECT_SYSTEMD_UNIT"})
    # Root is 0, and known.
    assert entry(Connection(PEER, HERE, "ingress", "read", "x", 1, 0))["USER_NAME"] == "root"


def test_of_wiped_addresses_what_is_left_is_told(entry: Entry) -> None:
    fields = entry(Connection(Endpoint(PEER.address, None), Endpoint(None, 22), "ingress", "closed", "x", 7))
    assert fields["MESSAGE"] == "New connection: 203.0.113.9:* -> *:22"
    assert (fields["SOURCE_ADDRESS"], fields["DESTINATION_PORT"], fields["NETWORK_TYPE"]) == (
        "203.0.113.9",
        "22",
        "ipv4",
    )
    assert fields.keys().isdisjoint({"SOURCE_PORT", "DESTINATION_ADDRESS", "NETWORK_COMMUNITY_ID"})
    fields = entry(Connection(Endpoint(None, 40000), Endpoint(PEER6.address, None), "egress", "closed", "x", 7))
    assert fields["MESSAGE"] == "New connection: *:40000 -> [2001:db8::9]:*"
    assert fields["NETWORK_TYPE"] == "ipv6"


# include/net/tcp_states.h, without its TCP_.
STATES = {
    1: "ESTABLISHED",
    4: "FIN_WAIT1",
    5: "FIN_WAIT2",
    6: "TIME_WAIT",
    7: "CLOSE",
    8: "CLOSE_WAIT",
    9: "LAST_ACK",
    11: "CLOSING",
}


def test_every_state_that_is_reported_has_the_kernel_s_name(entry: Entry) -> None:
    for state in {*CONNECTED, 7}:
        assert entry(Connection(PEER, HERE, "ingress", "read", "x", state))["TCP_STATE"] == STATES[state]


def test_a_listener_has_these_fields(entry: Entry, unit: int) -> None:
    assert entry(Listener(HERE6, False, 0, unit)) == {
        "MESSAGE": "New listener: [2001:db8::5]:443",
        "MESSAGE_ID": "2226628da8304e6994685e028202cfd5",
        "PRIORITY": "5",
        "DESTINATION_ADDRESS": "2001:db8::5",
        "DESTINATION_PORT": "443",
        "NETWORK_TRANSPORT": "tcp",
        "NETWORK_TYPE": "ipv6",
        "USER_ID": "0",
        "USER_NAME": "root",
        "OBJECT_SYSTEMD_UNIT": "ssh.service",
        "TCP_STATE": "LISTEN",
    }
    assert entry(Listener(Endpoint(*packed("0.0.0.0:22")), True))["MESSAGE"] == "New listener: 0.0.0.0:22"


def test_a_loss_has_these_fields(entry: Entry) -> None:
    assert entry(Loss(37, "notifications", "37 ends were lost: do this")) == {
        "MESSAGE": "37 ends were lost: do this",
        "MESSAGE_ID": "81f4c1b5bfab4e52a63aae3dec8b0438",
        "PRIORITY": "4",
        "TCPNEWCONN_COUNT": "37",
        "TCPNEWCONN_REASON": "notifications",
    }


def test_a_source_that_is_missing_or_back_has_these_fields(entry: Entry) -> None:
    missing, back = entry(Degraded("proc", "cannot be read")), entry(Recovered("proc", "can be read again"))
    assert missing == {
        "MESSAGE": "cannot be read",
        "MESSAGE_ID": "ac71ee2a2e8443a59039d1319c802aa2",
        "PRIORITY": "4",
        "TCPNEWCONN_REASON": "proc",
    }
    assert back == missing | {"MESSAGE": "can be read again", "PRIORITY": "6"}


def test_a_closed_event_has_these_fields(entry: Entry) -> None:
    assert entry(Closed(PEER, HERE, "ingress", "boot-ns-2a", 3_400_000, 1234, 25_000, 2, 1.5)) == {
        "MESSAGE": "Connection closed: 203.0.113.9:51544 -> 10.0.0.5:22, 1.2 kB sent, 3.4 MB received",
        "MESSAGE_ID": "be0228f916da4937bc9055c5c372b3cd",
        "PRIORITY": "6",
        "SOURCE_ADDRESS": "203.0.113.9",
        "SOURCE_PORT": "51544",
        "DESTINATION_ADDRESS": "10.0.0.5",
        "DESTINATION_PORT": "22",
        "NETWORK_TRANSPORT": "tcp",
        "NETWORK_TYPE": "ipv4",
        "NETWORK_DIRECTION": "ingress",
        "NETWORK_COMMUNITY_ID": "1:hmeNN9Jie1qqFe1Qb6A8CFQUUAM=",
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
    assert "EVENT_DURATION" not in fields


def test_a_summary_has_the_fields_that_its_connections_share(entry: Entry, unit: int) -> None:
    shared = {
        "MESSAGE_ID": "c4029bcd2a5841e3bdea3ca9ce1e0d47",
        "PRIORITY": "6",
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
        "TCPNEWCONN_TOP_SOURCES": "203.0.113.9=1200 192.0.2.4=34",
    }


def test_a_summary_of_what_shares_nothing_says_so(entry: Entry) -> None:
    fields = entry(Summary(Endpoint(None, None), Endpoint(None, None), "egress", 0, 9, 1, False, ()))
    assert fields["MESSAGE"] == "9 new connections: at least 1 source -> many destinations"
    assert (fields["TCPNEWCONN_SOURCES_EXACT"], fields["TCPNEWCONN_TOP_SOURCES"]) == ("no", "")
    assert fields.keys().isdisjoint({"NETWORK_TYPE", "SOURCE_ADDRESS", "DESTINATION_ADDRESS", "DESTINATION_PORT"})


def test_a_port_scan_has_these_fields(entry: Entry) -> None:
    assert entry(PortScan(NINE, HERE.address, (80, 81, 8080))) == {
        "MESSAGE": "Port scan: 203.0.113.9 -> 10.0.0.5 on ports 80,81,8080",
        "MESSAGE_ID": "576316a0dc7b480ea3df1498dddde400",
        "PRIORITY": "4",
        "SOURCE_ADDRESS": "203.0.113.9",
        "DESTINATION_ADDRESS": "10.0.0.5",
        "NETWORK_TRANSPORT": "tcp",
        "NETWORK_TYPE": "ipv4",
        "NETWORK_DIRECTION": "ingress",
        "TCPNEWCONN_PORTS": "80,81,8080",
        "TCPNEWCONN_COUNT": "3",
    }
    # One that kept its addresses to itself.
    assert entry(PortScan(NINE, None, (1, 2)))["MESSAGE"] == "Port scan: 203.0.113.9 -> * on ports 1,2"


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


# --- the contract ----------------------------------------------------------------------------------------------------

CONTRACT = (TREE / "docs" / "events.md").read_text()


def test_the_message_ids_are_the_contract_s() -> None:
    rows = re.findall(
        r"(?m)^\| ([a-z /]+?)(?: \([^|]*)? \| `([0-9a-f]{32})` \|", CONTRACT.replace("port scan notice", "scan")
    )
    assert {kind: number for kinds, number in rows for kind in kinds.split(" / ")} == MESSAGE_IDS


def test_every_field_is_in_the_contract_and_has_its_dotted_name() -> None:
    for journal, dotted in FIELDS.items():
        assert re.fullmatch("[A-Z][A-Z0-9_]*", journal)
        assert dotted.upper().replace(".", "_") == journal
        if journal not in ("MESSAGE", "PRIORITY"):
            assert re.search(rf"`{journal}`|\b{journal} ", CONTRACT), f"{journal} is not in docs/events.md"


def test_no_event_has_another_field(entry: Entry, unit: int) -> None:
    events = (
        Connection(PEER, HERE, "ingress", "read", "x", 1, NOBODY, unit),
        Closed(PEER, HERE, "ingress", "x", 1, 2, 3, 4, 5.0),
        Listener(HERE, False),
        Loss(1, "journal", "y"),
        Degraded("proc", "y"),
        Summary(Endpoint(None, None), HERE, "ingress", unit, 3, 1, True, ((NINE, 3),)),
        PortScan(NINE, HERE.address, (22, 23)),
    )
    assert {name for event in events for name in entry(event)} == FIELDS.keys()


# --- text and JSON ---------------------------------------------------------------------------------------------------

Output = pytest.CaptureFixture[str]


def test_text_is_the_time_in_utc_with_its_offset_and_the_message(
    entry: Entry, capfd: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "XXX-9")
    time.tzset()
    before = datetime.now(timezone.utc).replace(microsecond=0)
    Text().write(entry(Connection(PEER, HERE, "ingress", "read", "x", 1)))
    monkeypatch.undo()
    time.tzset()
    written = capfd.readouterr().out
    match = re.fullmatch(
        r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00): New connection: 203\.0\.113\.9:51544 -> 10\.0\.0\.5:22\n", written
    )
    assert match is not None, written
    assert before <= datetime.fromisoformat(match[1]) <= datetime.now(timezone.utc)


def test_json_is_one_object_a_line_with_dotted_keys_and_numbers(entry: Entry, unit: int, capfd: Output) -> None:
    sink = Json()
    sink.write(entry(Connection(PEER, HERE, "ingress", "read", "boot-ns-2a", 1, NOBODY, unit)))
    sink.write(entry(Closed(PEER, HERE, "ingress", "boot-ns-2a", 3_400_000, 1234, 25_000, 2, 1.5)))
    sink.write(entry(Loss(37, "notifications", "lost")))
    connection, closed, loss = (json.loads(line) for line in capfd.readouterr().out.splitlines())
    at = datetime.fromisoformat(connection.pop("@timestamp"))
    assert at.utcoffset() == timedelta(0)
    assert connection == {
        "message": "New connection: 203.0.113.9:51544 -> 10.0.0.5:22",
        "message_id": "74ba465b9f4e456585146b89bb95f0dc",
        "priority": 6,
        "source.address": "203.0.113.9",
        "source.port": 51544,
        "destination.address": "10.0.0.5",
        "destination.port": 22,
        "network.transport": "tcp",
        "network.type": "ipv4",
        "network.direction": "ingress",
        "network.community_id": "1:hmeNN9Jie1qqFe1Qb6A8CFQUUAM=",
        # An identifier, as in the Elastic Common Schema.
        "user.id": str(NOBODY),
        "user.name": "nobody",
        "object.systemd_unit": "ssh.service",
        "tcp.state": "ESTABLISHED",
        "tcpnewconn.seen": "read",
        "tcpnewconn.connection_id": "boot-ns-2a",
    }
    assert closed["source.bytes"] == 3_400_000
    assert closed["destination.bytes"] == 1234
    assert closed["event.duration"] == 1_500_000_000
    assert closed["tcpnewconn.rtt_usec"] == 25_000
    assert closed["tcpnewconn.retransmits"] == 2
    assert loss["tcpnewconn.count"] == 37


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
