"""Turns events into entries: the fields of each event, and their values. docs/events.md is the contract."""

from __future__ import annotations

from datetime import datetime, timezone
from errno import errorcode
from typing import NamedTuple

from tcpnewconn.attribution.processes import Processes
from tcpnewconn.attribution.units import Units
from tcpnewconn.attribution.users import Users
from tcpnewconn.eventtypes import (
    Closed,
    Connection,
    Degraded,
    Event,
    Failed,
    Listener,
    Loss,
    ObservationStarted,
    ObservationStopped,
    PortScan,
    Recovered,
    Summary,
)
from tcpnewconn.model import LISTEN, STATE_NAMES, Endpoint, address_text, family
from tcpnewconn.reporting.attribution import Attribution
from tcpnewconn.reporting.community import community_id
from tcpnewconn.reporting.fields import Entry


class Kind(NamedTuple):
    """The fields that all entries of one kind of event share.

    Those that are about tcpnewconn itself, not about the network, have the type `info`; an opening has an outcome.
    """

    action: str
    message_id: str
    priority: int
    types: str
    outcome: str | None = None


KINDS: dict[type[Event], Kind] = {
    Connection: Kind("connection-opened", "74ba465b9f4e456585146b89bb95f0dc", 6, "connection,start", "success"),
    Listener: Kind("listener-opened", "2226628da8304e6994685e028202cfd5", 5, "start"),
    Summary: Kind("connections-summarized", "c4029bcd2a5841e3bdea3ca9ce1e0d47", 6, "connection,start", "success"),
    PortScan: Kind("port-scan-detected", "576316a0dc7b480ea3df1498dddde400", 4, "connection,info"),
    Loss: Kind("events-lost", "81f4c1b5bfab4e52a63aae3dec8b0438", 4, "info"),
    Degraded: Kind("source-degraded", "ac71ee2a2e8443a59039d1319c802aa2", 4, "info"),
    Recovered: Kind("source-recovered", "9bd8673752994bd08028b0299ca2c261", 6, "info"),
    Failed: Kind("connection-failed", "f2a2bc9384a24a388b7c94454c74adf4", 6, "connection,info", "failure"),
    Closed: Kind("connection-closed", "be0228f916da4937bc9055c5c372b3cd", 6, "connection,end"),
    ObservationStarted: Kind("observation-started", "a3486de517524ebf8716f2504cc51e12", 6, "info"),
    ObservationStopped: Kind("observation-stopped", "72bd65ca73e74e238df0f70dcbacb033", 6, "info"),
}
MESSAGE_IDS = {kind.action: kind.message_id for kind in KINDS.values()}


def _in_common(kind: Kind) -> Entry:
    entry = {
        "MESSAGE_ID": kind.message_id,
        "PRIORITY": str(kind.priority),
        "EVENT_ACTION": kind.action,
        "EVENT_CATEGORY": "network",
        "EVENT_TYPE": kind.types,
    }
    return entry | {"EVENT_OUTCOME": kind.outcome} if kind.outcome is not None else entry


_IN_COMMON = {event: _in_common(kind) for event, kind in KINDS.items()}


class Renderer:
    """Turns events into entries."""

    def __init__(
        self, units: Units, users: Users, processes: Processes | None = None, netns: str | None = None
    ) -> None:
        """`netns` is the network namespace that is observed, where it is not the host's."""
        self.attribution = Attribution(units, users, processes, netns)

    def entry(self, event: Event) -> Entry:
        if isinstance(event, Connection):
            return self._connection(event)
        if isinstance(event, Closed):
            return self._closed(event)
        if isinstance(event, Summary):
            return self._summary(event)
        if isinstance(event, Failed):
            return self._failed(event)
        if isinstance(event, Listener):
            return self._listener(event)
        if isinstance(event, PortScan):
            return _port_scan(event)
        if isinstance(event, ObservationStarted):
            return _observation_started(event)
        if isinstance(event, ObservationStopped):
            return _entry(event, "Stopped observing TCP connections")
        entry = _entry(event, event.message)
        if isinstance(event, Loss):
            entry["TCPNEWCONN_COUNT"] = str(event.count)
            entry["TCPNEWCONN_REASON"] = event.reason
        else:
            entry["TCPNEWCONN_REASON"] = event.source
        return entry

    def _connection(self, event: Connection) -> Entry:
        entry = _entry(event)
        between = _add_endpoints(entry, event.source, event.destination, event.direction)
        entry["MESSAGE"] = f"New connection: {between}"
        self.attribution.add_owner(entry, event.uid, event.cgroup)
        self.attribution.add_caller(entry, event)
        _add_namespace(entry, event.netns)
        entry["NETWORK_CONNECTION_STATE"] = STATE_NAMES[event.state]
        entry["TCPNEWCONN_DETECTED_BY"] = event.detected_by
        entry["TCPNEWCONN_CONNECTION_ID"] = event.id
        return entry

    def _closed(self, event: Closed) -> Entry:
        # The message has this host's point of view.
        sent, received = event.source_bytes, event.destination_bytes
        if event.direction == "ingress":
            sent, received = received, sent
        entry = _entry(event)
        between = _add_endpoints(entry, event.source, event.destination, event.direction)
        entry["MESSAGE"] = f"Connection closed: {between}, {size_text(sent)} sent, {size_text(received)} received"
        self.attribution.add_owner(entry, event.uid, event.cgroup)
        self.attribution.add_caller(entry, event)
        _add_namespace(entry, event.netns)
        entry["SOURCE_BYTES"] = str(event.source_bytes)
        entry["DESTINATION_BYTES"] = str(event.destination_bytes)
        if event.seconds is not None:
            entry["EVENT_DURATION"] = str(int(event.seconds * 1e9))
        entry["TCPNEWCONN_RTT_USEC"] = str(event.rtt)
        entry["TCPNEWCONN_RETRANSMITS"] = str(event.retransmits)
        entry["TCPNEWCONN_CONNECTION_ID"] = event.id
        return entry

    def _summary(self, event: Summary) -> Entry:
        sources = address_text(event.source.address) if event.source.address is not None else _sources_text(event)
        destination = event.destination if event.destination.address is not None else "many destinations"
        noun = "connection" if event.count == 1 else "connections"
        entry = _entry(event, f"{event.count} new {noun}: {sources} -> {destination}")
        _add_endpoints(entry, event.source, event.destination, event.direction)
        if event.destination.address is None:
            # Of both families.
            del entry["NETWORK_TYPE"]
        self.attribution.add_owner(entry, event.uid, event.cgroup)
        _add_namespace(entry, event.netns)
        entry["TCPNEWCONN_COUNT"] = str(event.count)
        if event.source.address is None:
            entry["TCPNEWCONN_SOURCES"] = str(event.sources)
            entry["TCPNEWCONN_SOURCES_EXACT"] = "yes" if event.exact else "no"
            if event.top:
                entry["TCPNEWCONN_TOP_SOURCES"] = ",".join(f"{address_text(one)}={count}" for one, count in event.top)
        return entry

    def _listener(self, event: Listener) -> Entry:
        entry = _entry(event, f"New listener: {event.endpoint}")
        assert event.endpoint.address is not None
        entry["DESTINATION_ADDRESS"] = address_text(event.endpoint.address)
        entry["DESTINATION_PORT"] = str(event.endpoint.port)
        entry["NETWORK_TRANSPORT"] = "tcp"
        entry["NETWORK_TYPE"] = family(event.endpoint)
        self.attribution.add_owner(entry, event.uid, event.cgroup)
        _add_namespace(entry, event.netns)
        entry["NETWORK_CONNECTION_STATE"] = STATE_NAMES[LISTEN]
        return entry

    def _failed(self, event: Failed) -> Entry:
        if event.count is None:
            message = f"Connection failed: {event.source} -> {event.destination}"
        else:
            source = address_text(event.source.address) if event.source.address is not None else "many sources"
            destination = event.destination if event.destination.address is not None else "many destinations"
            noun = "connection" if event.count == 1 else "connections"
            message = f"{event.count} {noun} failed: {source} -> {destination}"
        entry = _entry(event, message)
        _add_endpoints(entry, event.source, event.destination, event.direction)
        if event.source.address is None and event.destination.address is None:
            # Of both families.
            del entry["NETWORK_TYPE"]
        self.attribution.add_owner(entry, event.uid, event.cgroup)
        self.attribution.add_caller(entry, event)
        _add_namespace(entry, event.netns)
        if event.error:
            entry["ERROR_CODE"] = errorcode.get(event.error, str(event.error))
        if event.count is not None:
            entry["TCPNEWCONN_COUNT"] = str(event.count)
        return entry


def _entry(event: Event, message: str = "") -> Entry:
    return {"MESSAGE": message, **_IN_COMMON[type(event)]}


def _add_endpoints(entry: Entry, source: Endpoint, destination: Endpoint, direction: str) -> str:
    """Add the fields of two endpoints; returns both as people write them. The text of an address is made once: that is slow."""
    from_text = to_text = None
    if source.address is not None:
        entry["SOURCE_ADDRESS"] = from_text = address_text(source.address)
    if source.port is not None:
        entry["SOURCE_PORT"] = str(source.port)
    if destination.address is not None:
        entry["DESTINATION_ADDRESS"] = to_text = address_text(destination.address)
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
    return f"{source.with_text(from_text)} -> {destination.with_text(to_text)}"


def _add_namespace(entry: Entry, netns: int) -> None:
    if netns:
        entry["TCPNEWCONN_NETNS"] = str(max(0, netns))


def _sources_text(event: Summary) -> str:
    return f"{'' if event.exact else 'at least '}{event.sources} source{'' if event.sources == 1 else 's'}"


def _port_scan(event: PortScan) -> Entry:
    ports = ",".join(str(port) for port in event.ports)
    scanned = "*" if event.destination is None else address_text(event.destination)
    entry = _entry(event, f"Port scan: {address_text(event.source)} -> {scanned} on ports {ports}")
    _add_endpoints(entry, Endpoint(event.source, None), Endpoint(event.destination, None), "ingress")
    _add_namespace(entry, event.netns)
    entry["TCPNEWCONN_PORTS"] = ports
    return entry


def _observation_started(event: ObservationStarted) -> Entry:
    since = datetime.fromtimestamp(event.since, timezone.utc)
    message = f"Observing TCP connections since {since:%Y-%m-%d %H:%M:%S} UTC"
    until = None
    if event.until is not None:
        until = datetime.fromtimestamp(event.until, timezone.utc)
        # The day stands there once.
        text = f"{until:%H:%M:%S}" if until.date() == since.date() else f"{until:%Y-%m-%d %H:%M:%S} UTC"
        message += f"; before that until {text}"
    entry = _entry(event, message)
    if until is not None:
        entry["TCPNEWCONN_OBSERVED_UNTIL"] = until.isoformat(timespec="milliseconds")
    if event.ignore:
        entry["TCPNEWCONN_IGNORE"] = ",".join(event.ignore.split())
    return entry


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
