"""The fields of each event's entry, as docs/events.md describes them."""

from __future__ import annotations

import re
import time
from datetime import datetime
from pathlib import Path

import pytest

from tcpnewconn.eventtypes import (
    Closed,
    Connection,
    Degraded,
    Failed,
    Listener,
    Loss,
    ObservationStarted,
    ObservationStopped,
    PortScan,
    Recovered,
    Summary,
)
from tcpnewconn.model import CONNECTED, Caller, Endpoint
from tcpnewconn.reporting.entries import size_text
from tests.support.every_event import (
    ACCEPT,
    ANYWHERE,
    CONNECT,
    HERE,
    HERE6,
    ID,
    MACHINE,
    NINE,
    NOBODY,
    NOON,
    PEER,
    PEER6,
    POD,
    SYNC,
    Render,
    renderer,
    unit_in,
)
from tests.support.table import packed


@pytest.fixture
def unit(tmp_path: Path) -> int:
    return unit_in(tmp_path)


@pytest.fixture
def entry(tmp_path: Path, unit: int) -> Render:
    return renderer(tmp_path)


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


def test_a_connection_has_these_fields(entry: Render, unit: int) -> None:
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


def test_one_of_ipv6_is_written_with_brackets(entry: Render) -> None:
    fields = entry(Connection(HERE6, PEER6, "egress", "notification", "x", 7))
    assert fields["MESSAGE"] == "New connection: [2001:db8::5]:443 -> [2001:db8::9]:40001"
    assert (fields["SOURCE_ADDRESS"], fields["DESTINATION_ADDRESS"]) == ("2001:db8::5", "2001:db8::9")
    assert fields["NETWORK_TYPE"] == "ipv6"
    assert (fields["NETWORK_CONNECTION_STATE"], fields["TCPNEWCONN_DETECTED_BY"]) == ("closed", "notification")


def test_an_unknown_value_is_left_out_and_never_a_false_0(entry: Render) -> None:
    fields = entry(Connection(PEER, HERE, "ingress", "startup", "x", 6))
    assert fields.keys().isdisjoint({"USER_ID", "USER_NAME", "OBJECT_SYSTEMD_UNIT"})
    # A user that has no name, a cgroup that is no unit.
    fields = entry(Connection(PEER, HERE, "ingress", "poll", "x", 1, 4_000_000_000, 12345))
    assert fields["USER_ID"] == "4000000000"
    assert fields.keys().isdisjoint({"USER_NAME", "OBJECT_SYSTEMD_UNIT"})
    # Root is 0, and known.
    assert entry(Connection(PEER, HERE, "ingress", "poll", "x", 1, 0))["USER_NAME"] == "root"


def test_where_addresses_were_cleared_the_rest_is_written(entry: Render) -> None:
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


def test_every_state_that_is_reported_has_the_name_that_opentelemetry_gives_it(entry: Render) -> None:
    for state in {*CONNECTED, 7}:
        fields = entry(Connection(PEER, HERE, "ingress", "poll", "x", state))
        assert fields["NETWORK_CONNECTION_STATE"] == STATES[state]


def test_a_listener_has_these_fields(entry: Render, unit: int) -> None:
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


def test_a_loss_has_these_fields(entry: Render) -> None:
    assert entry(Loss(37, "notifications", "37 notifications were lost: do this")) == {
        "MESSAGE": "37 notifications were lost: do this",
        "MESSAGE_ID": "81f4c1b5bfab4e52a63aae3dec8b0438",
        "PRIORITY": "4",
        "EVENT_ACTION": "events-lost",
        **INFO,
        "TCPNEWCONN_COUNT": "37",
        "TCPNEWCONN_REASON": "notifications",
    }


def test_a_source_that_is_missing_has_these_fields_and_one_that_is_back_an_id_of_its_own(entry: Render) -> None:
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


def test_a_closed_event_has_these_fields_and_the_attribution_of_its_connection(entry: Render, unit: int) -> None:
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


def test_sent_and_received_are_this_host_s_view_and_an_unknown_duration_is_left_out(entry: Render) -> None:
    fields = entry(Closed(HERE, PEER, "egress", "x", 10, 2000, 0, 0, None))
    assert fields["MESSAGE"].endswith(", 10 B sent, 2.0 kB received")
    assert (fields["SOURCE_BYTES"], fields["DESTINATION_BYTES"]) == ("10", "2000")
    assert fields.keys().isdisjoint({"EVENT_DURATION", *ATTRIBUTION})


def test_a_summary_has_the_fields_that_its_connections_share(entry: Render, unit: int) -> None:
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
    many = Summary(ANYWHERE, HERE, "ingress", unit, 1234, 2, True, ((NINE, 1200), (b"\xc0\0\2\4", 34)))
    assert entry(many) == shared | {
        "MESSAGE": "1234 new connections: 2 sources -> 10.0.0.5:22",
        "TCPNEWCONN_SOURCES": "2",
        "TCPNEWCONN_SOURCES_EXACT": "yes",
        "TCPNEWCONN_TOP_SOURCES": "203.0.113.9=1200,192.0.2.4=34",
    }


def test_a_summary_of_connections_that_share_nothing_says_so(entry: Render) -> None:
    fields = entry(Summary(ANYWHERE, ANYWHERE, "egress", 0, 9, 1, False, ()))
    assert fields["MESSAGE"] == "9 new connections: at least 1 source -> many destinations"
    assert fields["TCPNEWCONN_SOURCES_EXACT"] == "no"
    assert fields.keys().isdisjoint({"NETWORK_TYPE", "SOURCE_ADDRESS", "DESTINATION_ADDRESS", "DESTINATION_PORT"})
    assert "TCPNEWCONN_TOP_SOURCES" not in fields


def test_a_port_scan_has_these_fields(entry: Render) -> None:
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


def test_the_start_of_the_observation_says_until_when_it_had_gone_before_and_what_is_ignored(entry: Render) -> None:
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


def test_the_end_of_the_observation_has_these_fields(entry: Render) -> None:
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


# --- who opened it, who accepted it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("late", ["monotonic", "time"])
def test_a_start_is_the_same_each_time_where_the_cpu_was_busy_between_two_clocks(
    late: str, entry: Render, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Connection(HERE, PEER, "egress", "notification", "x", 7, NOBODY, SYNC, ("connect",), CONNECT, None)
    clock, busy_before = 100.0, ""

    def read(name: str, since: float) -> float:
        nonlocal clock
        clock += 0.5 if name == busy_before else 0.000001
        return since + clock

    monkeypatch.setattr(time, "monotonic", lambda: read("monotonic", 0.0))
    monkeypatch.setattr(time, "time", lambda: read("time", 1_000_000.0))
    first = datetime.fromisoformat(entry(opened)["EVENT_START"])
    busy_before = late
    assert datetime.fromisoformat(entry(opened)["EVENT_START"]) == first
    # The clock was set: that is another thing.
    busy_before = ""
    monkeypatch.setattr(time, "time", lambda: read("time", 1_000_000.2))
    after = datetime.fromisoformat(entry(opened)["EVENT_START"])
    assert (after - first).total_seconds() == pytest.approx(0.2, abs=0.001)


def test_a_recorded_connection_says_who_opened_it_and_who_accepted_it(entry: Render) -> None:
    fields = entry(
        Connection(HERE, PEER, "internal", "notification", "x", 7, NOBODY, SYNC, ("connect",), CONNECT, ACCEPT)
    )
    started = fields.pop("EVENT_START")
    entity = fields.pop("PROCESS_ENTITY_ID")
    assert re.fullmatch(r"[0-9a-f]{32}", entity)
    assert abs(datetime.fromisoformat(started).timestamp() - (time.time() - time.monotonic() + 20.0)) < 0.1
    assert started.endswith("+00:00")
    assert {
        name: value for name, value in fields.items() if name not in {*OPENED, *ENDPOINTS, "MESSAGE", "MESSAGE_ID"}
    } == {
        "PRIORITY": "6",
        "USER_ID": str(NOBODY),
        "USER_NAME": "nobody",
        "OBJECT_SYSTEMD_UNIT": "user@1000.service",
        "OBJECT_SYSTEMD_USER_UNIT": "sync.service",
        "PROCESS_PID": "4711",
        "PROCESS_NAME": "curl",
        "PROCESS_THREAD_ID": "4712",
        "PROCESS_THREAD_NAME": "Socket Thread",
        "TCPNEWCONN_ATTRIBUTED_BY": "connect",
        "TCPNEWCONN_ACCEPTED_BY_UNIT": f"crio-{ID}.scope",
        "TCPNEWCONN_ACCEPTED_BY_PROCESS": "curl",
        "TCPNEWCONN_ACCEPTED_BY_CONTAINER": ID,
        "NETWORK_CONNECTION_STATE": "closed",
        "TCPNEWCONN_DETECTED_BY": "notification",
        "TCPNEWCONN_CONNECTION_ID": "x",
    }


def test_a_command_line_is_written_only_where_that_is_asked_for(tmp_path: Path) -> None:
    event = Connection(HERE, PEER, "egress", "poll", "x", 1, NOBODY, SYNC, ("connect",), CONNECT)
    for wanted in (False, True):
        (tmp_path / str(wanted)).mkdir()
        fields = renderer(tmp_path / str(wanted), command_lines=wanted)(event)
        assert fields["PROCESS_NAME"] == "curl"
        assert fields.get("PROCESS_COMMAND_LINE") == ("curl --user me:\\x1bsecret http://x/" if wanted else None)


def test_the_network_namespace_is_written_where_it_is_not_the_host_s(tmp_path: Path, entry: Render) -> None:
    (tmp_path / "other").mkdir()
    other = renderer(tmp_path / "other", netns="4026532290")
    for event in (
        Connection(HERE, PEER, "egress", "poll", "x", 1),
        Closed(HERE, PEER, "egress", "x", 1, 2, 3, 4, 5.0),
        Failed(HERE, PEER, "egress", 111),
        Summary(ANYWHERE, HERE, "ingress", 0, 5, 2, True, ()),
        Listener(HERE, False),
    ):
        assert other(event)["TCPNEWCONN_NETNS"] == "4026532290"
        assert "TCPNEWCONN_NETNS" not in entry(event)


@pytest.mark.parametrize("cgroup", [POD, MACHINE])
def test_a_user_of_a_container_has_no_name(entry: Render, cgroup: int) -> None:
    fields = entry(Connection(PEER, HERE, "ingress", "poll", "x", 1, NOBODY, cgroup, ("socket",)))
    assert fields["USER_ID"] == str(NOBODY)
    assert "USER_NAME" not in fields
    for event in (
        Listener(HERE, False, NOBODY, cgroup),
        Summary(ANYWHERE, HERE, "ingress", cgroup, 5, 2, True, (), NOBODY),
    ):
        assert "USER_NAME" not in entry(event)


def test_a_container_is_what_its_cgroup_says(entry: Render) -> None:
    fields = entry(Connection(PEER, HERE, "ingress", "poll", "x", 1, NOBODY, POD, ("socket",)))
    assert {name: fields[name] for name in fields if name.startswith(("CONTAINER", "K8S"))} == {
        "CONTAINER_ID": ID,
        "CONTAINER_RUNTIME": "cri-o",
        "K8S_POD_UID": "01234567-89ab-cdef-0123-456789abcdef",
    }
    fields = entry(Connection(PEER, HERE, "ingress", "poll", "x", 1, NOBODY, MACHINE, ("socket",)))
    assert (fields["CONTAINER_NAME"], fields["CONTAINER_RUNTIME"]) == ("web", "systemd-nspawn")


def test_accept_says_nothing_of_when_it_was_opened(entry: Render) -> None:
    fields = entry(Connection(PEER, HERE, "ingress", "notification", "x", 7, NOBODY, POD, ("accept",), ACCEPT))
    assert fields["PROCESS_PID"] == "4711"
    assert "EVENT_START" not in fields


def test_of_a_process_that_may_be_another_only_what_was_recorded_is_written(entry: Render) -> None:
    # Before that process had started; after that thread had gone.
    for caller in (CONNECT._replace(time=5.0), CONNECT._replace(thread_id=4713)):
        fields = entry(Connection(HERE, PEER, "egress", "poll", "x", 1, NOBODY, SYNC, ("connect",), caller))
        assert fields["PROCESS_THREAD_NAME"] == "Socket Thread"
        assert fields.keys().isdisjoint({"PROCESS_PID", "PROCESS_NAME", "PROCESS_ENTITY_ID"})


def test_what_several_callers_share_is_written_and_no_more(entry: Render) -> None:
    fields = entry(
        Connection(HERE, PEER, "egress", "poll", "x", 1, NOBODY, SYNC, ("connect",), Caller("connect", NOBODY))
    )
    assert fields["TCPNEWCONN_ATTRIBUTED_BY"] == "connect"
    assert not [name for name in fields if name.startswith("PROCESS_") or name == "EVENT_START"]


def test_names_that_could_steer_a_terminal_are_written_as_escapes(entry: Render) -> None:
    caller = CONNECT._replace(thread_name="\x1b[2J\nbad\udcff")
    fields = entry(Connection(HERE, PEER, "egress", "poll", "x", 1, NOBODY, SYNC, ("connect",), caller))
    assert fields["PROCESS_THREAD_NAME"] == r"\x1b[2J\nbad\udcff"


def test_a_failed_attempt_says_who_tried_and_why_it_failed(entry: Render) -> None:
    fields = entry(Failed(HERE, PEER, "egress", 111, NOBODY, SYNC, ("connect",), CONNECT))
    assert fields["MESSAGE"] == "Connection failed: 10.0.0.5:22 -> 203.0.113.9:51544"
    assert (fields["EVENT_ACTION"], fields["EVENT_OUTCOME"]) == ("connection-failed", "failure")
    assert (fields["ERROR_CODE"], fields["USER_NAME"], fields["PROCESS_NAME"]) == ("ECONNREFUSED", "nobody", "curl")
    assert "TCPNEWCONN_COUNT" not in fields
    # The kernel says no error where its program has given up.
    assert "ERROR_CODE" not in entry(Failed(HERE, PEER, "egress", 0))


def test_failed_attempts_are_summarized(entry: Render) -> None:
    fields = entry(Failed(Endpoint(HERE.address, None), PEER, "egress", 111, NOBODY, SYNC, ("connect",), None, 1234))
    assert fields["MESSAGE"] == "1234 connections failed: 10.0.0.5 -> 203.0.113.9:51544"
    assert (fields["TCPNEWCONN_COUNT"], fields["ERROR_CODE"], fields["USER_NAME"]) == ("1234", "ECONNREFUSED", "nobody")
    assert entry(Failed(ANYWHERE, ANYWHERE, "egress", 0, count=1))["MESSAGE"] == (
        "1 connection failed: many sources -> many destinations"
    )
