"""The names of the fields that are written, in the journal and in JSON. docs/events.md is the contract."""

from __future__ import annotations

from collections.abc import Callable

# Fields by their journal names. Values are text, whatever bytes they hold (surrogateescape); several are joined by commas.
Entry = dict[str, str]

# Every field and its name in JSON: that of the Elastic Common Schema or of OpenTelemetry where one of them has it.
FIELDS = {
    "MESSAGE": "message",
    "MESSAGE_ID": "message_id",
    "PRIORITY": "priority",
    "EVENT_ACTION": "event.action",
    "EVENT_CATEGORY": "event.category",
    "EVENT_TYPE": "event.type",
    "EVENT_OUTCOME": "event.outcome",
    "EVENT_START": "event.start",
    "SOURCE_ADDRESS": "source.address",
    "SOURCE_PORT": "source.port",
    "DESTINATION_ADDRESS": "destination.address",
    "DESTINATION_PORT": "destination.port",
    "NETWORK_TRANSPORT": "network.transport",
    "NETWORK_TYPE": "network.type",
    "NETWORK_DIRECTION": "network.direction",
    "NETWORK_COMMUNITY_ID": "network.community_id",
    "NETWORK_CONNECTION_STATE": "network.connection.state",
    "USER_ID": "user.id",
    "USER_NAME": "user.name",
    "OBJECT_SYSTEMD_UNIT": "object.systemd_unit",
    "OBJECT_SYSTEMD_USER_UNIT": "object.systemd_user_unit",
    "PROCESS_PID": "process.pid",
    "PROCESS_NAME": "process.name",
    "PROCESS_ENTITY_ID": "process.entity_id",
    "PROCESS_COMMAND_LINE": "process.command_line",
    "PROCESS_THREAD_ID": "process.thread.id",
    "PROCESS_THREAD_NAME": "process.thread.name",
    "CONTAINER_ID": "container.id",
    "CONTAINER_NAME": "container.name",
    "CONTAINER_RUNTIME": "container.runtime",
    "K8S_POD_UID": "k8s.pod.uid",
    "ERROR_CODE": "error.code",
    "SOURCE_BYTES": "source.bytes",
    "DESTINATION_BYTES": "destination.bytes",
    "EVENT_DURATION": "event.duration",
    "TCPNEWCONN_DETECTED_BY": "tcpnewconn.detected_by",
    "TCPNEWCONN_CONNECTION_ID": "tcpnewconn.connection_id",
    "TCPNEWCONN_NETNS": "tcpnewconn.netns",
    "TCPNEWCONN_ATTRIBUTED_BY": "tcpnewconn.attributed_by",
    "TCPNEWCONN_ACCEPTED_BY_UNIT": "tcpnewconn.accepted_by_unit",
    "TCPNEWCONN_ACCEPTED_BY_PROCESS": "tcpnewconn.accepted_by_process",
    "TCPNEWCONN_ACCEPTED_BY_CONTAINER": "tcpnewconn.accepted_by_container",
    "TCPNEWCONN_RTT_USEC": "tcpnewconn.rtt_usec",
    "TCPNEWCONN_RETRANSMITS": "tcpnewconn.retransmits",
    "TCPNEWCONN_COUNT": "tcpnewconn.count",
    "TCPNEWCONN_SOURCES": "tcpnewconn.sources",
    "TCPNEWCONN_SOURCES_EXACT": "tcpnewconn.sources_exact",
    "TCPNEWCONN_TOP_SOURCES": "tcpnewconn.top_sources",
    "TCPNEWCONN_PORTS": "tcpnewconn.ports",
    "TCPNEWCONN_REASON": "tcpnewconn.reason",
    "TCPNEWCONN_OBSERVED_UNTIL": "tcpnewconn.observed_until",
    "TCPNEWCONN_IGNORE": "tcpnewconn.ignore",
}

# Added to every journal entry. journald adds others itself, whose names begin with _.
SYSLOG_IDENTIFIER = "tcpnewconn"

# Added to every JSON line, in this order, before the fields above; the journal has its own.
JSON_FIRST = ("@timestamp", "ecs.version", "host.name")
ECS_VERSION = "8.17.0"

# Added to a JSON line beside an address: a searchable address in the Elastic Common Schema, where `address` is any text.
JSON_IP = {"SOURCE_ADDRESS": "source.ip", "DESTINATION_ADDRESS": "destination.ip"}


def _words(value: str) -> list[str]:
    return value.split(",")


def _numbers(value: str) -> list[int]:
    return [int(one) for one in value.split(",")]


def _counts(value: str) -> list[dict[str, str | int]]:
    """203.0.113.9=120,192.0.2.4=80: addresses, each with a number."""
    pairs = (one.split("=") for one in value.split(","))
    return [{"address": address, "count": int(count)} for address, count in pairs]


def _yes(value: str) -> bool:
    return value == "yes"


# How a value is written in JSON, where it is not text.
_JSON_VALUES: dict[str, Callable[[str], object]] = {
    "PRIORITY": int,
    "EVENT_CATEGORY": _words,
    "EVENT_TYPE": _words,
    "EVENT_DURATION": int,
    "SOURCE_PORT": int,
    "SOURCE_BYTES": int,
    "DESTINATION_PORT": int,
    "DESTINATION_BYTES": int,
    "PROCESS_PID": int,
    "PROCESS_THREAD_ID": int,
    "TCPNEWCONN_NETNS": int,
    "TCPNEWCONN_ATTRIBUTED_BY": _words,
    "TCPNEWCONN_RTT_USEC": int,
    "TCPNEWCONN_RETRANSMITS": int,
    "TCPNEWCONN_COUNT": int,
    "TCPNEWCONN_SOURCES": int,
    "TCPNEWCONN_SOURCES_EXACT": _yes,
    "TCPNEWCONN_TOP_SOURCES": _counts,
    "TCPNEWCONN_PORTS": _numbers,
    "TCPNEWCONN_IGNORE": _words,
}


def document(entry: Entry, time: str, host: str) -> dict[str, object]:
    """An entry as a JSON line has it; `time` in ISO 8601."""
    line: dict[str, object] = dict(zip(JSON_FIRST, (time, ECS_VERSION, host), strict=True))
    for name, value in entry.items():
        convert = _JSON_VALUES.get(name)
        # A field without a name in JSON is one that an older version wrote into the state file.
        line[FIELDS.get(name, name.lower())] = convert(value) if convert is not None else value
        if name in JSON_IP:
            line[JSON_IP[name]] = value
    return line
