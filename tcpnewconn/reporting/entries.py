"""What an event is called in writing: its entry, the fields under their journal names. The contract is docs/events.md."""

from __future__ import annotations

from datetime import datetime, timezone

from tcpnewconn.attribution.owner import Units, Users
from tcpnewconn.model import (
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
    address_text,
)
from tcpnewconn.reporting.community import community_id

# Fields by their journal names; values are text, whatever bytes they stand for (surrogateescape).
Entry = dict[str, str]

MESSAGE_IDS = {
    "connection": "74ba465b9f4e456585146b89bb95f0dc",
    "listener": "2226628da8304e6994685e028202cfd5",
    "summary": "c4029bcd2a5841e3bdea3ca9ce1e0d47",
    "scan": "576316a0dc7b480ea3df1498dddde400",
    "loss": "81f4c1b5bfab4e52a63aae3dec8b0438",
    "degraded": "ac71ee2a2e8443a59039d1319c802aa2",
    "recovered": "9bd8673752994bd08028b0299ca2c261",
    "closed": "be0228f916da4937bc9055c5c372b3cd",
    "observation-started": "a3486de517524ebf8716f2504cc51e12",
    "observation-stopped": "72bd65ca73e74e238df0f70dcbacb033",
}

# Every field, and its name in JSON: that of the Elastic Common Schema or OpenTelemetry where they have one.
FIELDS = {
    "MESSAGE": "message",
    "MESSAGE_ID": "message_id",
    "PRIORITY": "priority",
    "SOURCE_ADDRESS": "source.address",
    "SOURCE_PORT": "source.port",
    "DESTINATION_ADDRESS": "destination.address",
    "DESTINATION_PORT": "destination.port",
    "NETWORK_TRANSPORT": "network.transport",
    "NETWORK_TYPE": "network.type",
    "NETWORK_DIRECTION": "network.direction",
    "NETWORK_COMMUNITY_ID": "network.community_id",
    "USER_ID": "user.id",
    "USER_NAME": "user.name",
    "OBJECT_SYSTEMD_UNIT": "object.systemd_unit",
    "TCP_STATE": "tcp.state",
    "SOURCE_BYTES": "source.bytes",
    "DESTINATION_BYTES": "destination.bytes",
    "EVENT_DURATION": "event.duration",
    "TCPNEWCONN_SEEN": "tcpnewconn.seen",
    "TCPNEWCONN_CONNECTION_ID": "tcpnewconn.connection_id",
    "TCPNEWCONN_COUNT": "tcpnewconn.count",
    "TCPNEWCONN_SOURCES": "tcpnewconn.sources",
    "TCPNEWCONN_SOURCES_EXACT": "tcpnewconn.sources_exact",
    "TCPNEWCONN_TOP_SOURCES": "tcpnewconn.top_sources",
    "TCPNEWCONN_PORTS": "tcpnewconn.ports",
    "TCPNEWCONN_REASON": "tcpnewconn.reason",
    "TCPNEWCONN_RTT_USEC": "tcpnewconn.rtt_usec",
    "TCPNEWCONN_RETRANSMITS": "tcpnewconn.retransmits",
}
NUMBERS = frozenset(
    (
        "PRIORITY",
        "SOURCE_PORT",
        "DESTINATION_PORT",
        "SOURCE_BYTES",
        "DESTINATION_BYTES",
        "EVENT_DURATION",
        "TCPNEWCONN_COUNT",
        "TCPNEWCONN_SOURCES",
        "TCPNEWCONN_RTT_USEC",
        "TCPNEWCONN_RETRANSMITS",
    )
)

# json.dumps() would make an encoder for each line.


class Renderer:
    """Turns events into entries; asks for the names of users and units."""

    def __init__(self, units: Units, users: Users) -> None:
        self._units = units
        self._users = users

    def entry(self, event: Event) -> Entry:
        if isinstance(event, Connection):
            return self._connection(event)
        if isinstance(event, Summary):
            return self._summary(event)
        if isinstance(event, PortScan):
            return _scan(event)
        if isinstance(event, Listener):
            return self._listener(event)
        if isinstance(event, Closed):
            return _closed(event)
        if isinstance(event, Loss):
            entry = _entry("loss", event.message, 4)
            entry["TCPNEWCONN_COUNT"] = str(event.count)
            entry["TCPNEWCONN_REASON"] = event.reason
            return entry
        if isinstance(event, Degraded | Recovered):
            return _source(event)
        return _observation(event)

    def _connection(self, event: Connection) -> Entry:
        entry = _entry("connection", f"New connection: {event.source} -> {event.destination}", 6)
        entry.update(_ends(event.source, event.destination, event.direction))
        self._owner(entry, event.uid, event.cgroup)
        entry["TCP_STATE"] = STATE_NAMES[event.state]
        entry["TCPNEWCONN_SEEN"] = event.detected_by
        entry["TCPNEWCONN_CONNECTION_ID"] = event.id
        return entry

    def _summary(self, event: Summary) -> Entry:
        sources = address_text(event.source.address) if event.source.address is not None else _sources(event)
        destination = event.destination if event.destination.address is not None else "many destinations"
        entry = _entry(
            "summary", f"{event.count} new connection{'' if event.count == 1 else 's'}: {sources} -> {destination}", 6
        )
        entry.update(_ends(event.source, event.destination, event.direction))
        if event.destination.address is None:
            # Of both families.
            del entry["NETWORK_TYPE"]
        self._owner(entry, None, event.cgroup)
        entry["TCPNEWCONN_COUNT"] = str(event.count)
        if event.source.address is None:
            entry["TCPNEWCONN_SOURCES"] = str(event.sources)
            entry["TCPNEWCONN_SOURCES_EXACT"] = "yes" if event.exact else "no"
            entry["TCPNEWCONN_TOP_SOURCES"] = " ".join(f"{address_text(one)}={count}" for one, count in event.top)
        return entry

    def _listener(self, event: Listener) -> Entry:
        entry = _entry("listener", f"New listener: {event.endpoint}", 5)
        assert event.endpoint.address is not None
        entry["DESTINATION_ADDRESS"] = address_text(event.endpoint.address)
        entry["DESTINATION_PORT"] = str(event.endpoint.port)
        entry["NETWORK_TRANSPORT"] = "tcp"
        entry["NETWORK_TYPE"] = family(event.endpoint)
        self._owner(entry, event.uid, event.cgroup)
        entry["TCP_STATE"] = "LISTEN"
        return entry

    def _owner(self, entry: Entry, uid: int | None, cgroup: int) -> None:
        if uid is not None:
            entry["USER_ID"] = str(uid)
            name = self._users.name(uid)
            if name is not None:
                entry["USER_NAME"] = name
        unit = self._units.unit(cgroup) if cgroup else None
        if unit is not None:
            entry["OBJECT_SYSTEMD_UNIT"] = unit


def _entry(kind: str, message: str, priority: int) -> Entry:
    return {"MESSAGE": message, "MESSAGE_ID": MESSAGE_IDS[kind], "PRIORITY": str(priority)}


def _sources(event: Summary) -> str:
    return f"{'' if event.exact else 'at least '}{event.sources} source{'' if event.sources == 1 else 's'}"


def _scan(event: PortScan) -> Entry:
    ports = ",".join(str(port) for port in event.ports)
    source, destination = Endpoint(event.source, None), Endpoint(event.destination, None)
    at = "*" if event.destination is None else address_text(event.destination)
    entry = _entry("scan", f"Port scan: {address_text(event.source)} -> {at} on ports {ports}", 4)
    entry.update(_ends(source, destination, "ingress"))
    entry["TCPNEWCONN_PORTS"] = ports
    entry["TCPNEWCONN_COUNT"] = str(len(event.ports))
    return entry


def _closed(event: Closed) -> Entry:
    # Sent and received are this host's view.
    sent, received = (
        (event.destination_bytes, event.source_bytes)
        if event.direction == "ingress"
        else (event.source_bytes, event.destination_bytes)
    )
    message = (
        f"Connection closed: {event.source} -> {event.destination}, "
        f"{size_text(sent)} sent, {size_text(received)} received"
    )
    entry = _entry("closed", message, 6)
    entry.update(_ends(event.source, event.destination, event.direction))
    entry["SOURCE_BYTES"] = str(event.source_bytes)
    entry["DESTINATION_BYTES"] = str(event.destination_bytes)
    if event.seconds is not None:
        entry["EVENT_DURATION"] = str(int(event.seconds * 1e9))
    entry["TCPNEWCONN_RTT_USEC"] = str(event.rtt)
    entry["TCPNEWCONN_RETRANSMITS"] = str(event.retransmits)
    entry["TCPNEWCONN_CONNECTION_ID"] = event.id
    return entry


def _source(event: Degraded | Recovered) -> Entry:
    degraded = isinstance(event, Degraded)
    entry = _entry("degraded" if degraded else "recovered", event.message, 4 if degraded else 6)
    entry["TCPNEWCONN_REASON"] = event.source
    return entry


def _observation(event: ObservationStarted | ObservationStopped) -> Entry:
    if isinstance(event, ObservationStopped):
        return _entry("observation-stopped", "Stopped observing TCP connections", 6)
    since = _time_text(event.since)
    if event.until is None:
        return _entry("observation-started", f"Observing TCP connections since {since}", 6)
    return _entry(
        "observation-started",
        f"Observing TCP connections since {since}; before that until {_time_text(event.until)}",
        6,
    )


def _time_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _ends(source: Endpoint, destination: Endpoint, direction: str) -> Entry:
    entry = {}
    if source.address is not None:
        entry["SOURCE_ADDRESS"] = address_text(source.address)
    if source.port is not None:
        entry["SOURCE_PORT"] = str(source.port)
    if destination.address is not None:
        entry["DESTINATION_ADDRESS"] = address_text(destination.address)
    if destination.port is not None:
        entry["DESTINATION_PORT"] = str(destination.port)
    entry["NETWORK_TRANSPORT"] = "tcp"
    entry["NETWORK_TYPE"] = family(source, destination)
    entry["NETWORK_DIRECTION"] = direction
    if None not in (source.address, source.port, destination.address, destination.port):
        entry["NETWORK_COMMUNITY_ID"] = community_id(
            source.address,  # type: ignore[arg-type]
            source.port,  # type: ignore[arg-type]
            destination.address,  # type: ignore[arg-type]
            destination.port,  # type: ignore[arg-type]
        )
    return entry


def family(*ends: Endpoint) -> str:
    """Of the first that has an address."""
    address = next((end.address for end in ends if end.address is not None), b"")
    return "ipv4" if len(address) == 4 else "ipv6"


def size_text(count: int) -> str:
    """A number of bytes for people: 999 B, 1.2 kB, 3.4 MB (powers of 1000)."""
    if count < 1000:
        return f"{count} B"
    size = float(count)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"
