"""Writes events: to the journal, as text for a terminal, as JSON lines. The field names are a contract: docs/events.md.

An event becomes an *entry* first, its fields under their journal names, and an entry is what every sink writes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import stat
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Protocol

from tcpnewconn.community import community_id
from tcpnewconn.model import (
    STATE_NAMES,
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
    address_text,
)
from tcpnewconn.owner import Units, Users
from tcpnewconn.snapshot import Entry

MESSAGE_IDS = {
    "connection": "74ba465b9f4e456585146b89bb95f0dc",
    "listener": "2226628da8304e6994685e028202cfd5",
    "summary": "c4029bcd2a5841e3bdea3ca9ce1e0d47",
    "scan": "576316a0dc7b480ea3df1498dddde400",
    "loss": "81f4c1b5bfab4e52a63aae3dec8b0438",
    "degraded": "ac71ee2a2e8443a59039d1319c802aa2",
    "recovered": "ac71ee2a2e8443a59039d1319c802aa2",
    "closed": "be0228f916da4937bc9055c5c372b3cd",
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
_NUMBERS = frozenset(
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
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode

_JOURNAL_SOCKET = "/run/systemd/journal/socket"


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
        return _source(event)

    def _connection(self, event: Connection) -> Entry:
        entry = _entry("connection", f"New connection: {event.source} -> {event.destination}", 6)
        entry.update(_ends(event.source, event.destination, event.direction))
        self._owner(entry, event.uid, event.cgroup)
        entry["TCP_STATE"] = STATE_NAMES[event.state]
        entry["TCPNEWCONN_SEEN"] = event.seen
        entry["TCPNEWCONN_CONNECTION_ID"] = event.id
        return entry

    def _summary(self, event: Summary) -> Entry:
        sources = address_text(event.source.address) if event.source.address is not None else _sources(event)
        destination = event.destination if event.destination.address is not None else "many destinations"
        entry = _entry("summary", f"{event.count} new connections: {sources} -> {destination}", 6)
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
        entry["NETWORK_TYPE"] = _family(event.endpoint)
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
    sent, received = (event.back, event.forth) if event.direction == "ingress" else (event.forth, event.back)
    message = (
        f"Connection closed: {event.source} -> {event.destination}, "
        f"{size_text(sent)} sent, {size_text(received)} received"
    )
    entry = _entry("closed", message, 6)
    entry.update(_ends(event.source, event.destination, event.direction))
    entry["SOURCE_BYTES"] = str(event.forth)
    entry["DESTINATION_BYTES"] = str(event.back)
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
    entry["NETWORK_TYPE"] = _family(source if source.address is not None else destination)
    entry["NETWORK_DIRECTION"] = direction
    if None not in (source.address, source.port, destination.address, destination.port):
        entry["NETWORK_COMMUNITY_ID"] = community_id(
            source.address,  # type: ignore[arg-type]
            source.port,  # type: ignore[arg-type]
            destination.address,  # type: ignore[arg-type]
            destination.port,  # type: ignore[arg-type]
        )
    return entry


def _family(end: Endpoint) -> str:
    return "ipv4" if end.address is not None and len(end.address) == 4 else "ipv6"


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


class Sink(Protocol):
    """Where entries go. `write` raises BlockingIOError while it has no room: the entry was not written, try again later.

    `pipe` is the file descriptor of the pipe that it writes into, if it does: whoever reads that may go away.
    """

    pipe: int | None

    def write(self, entry: Entry) -> None: ...


class Journal:
    """The systemd journal, by its native protocol, as systemd.journal speaks it.

    sendv() does not walk the stack as send() does (24 us a message, measured, against 4). While journald does not read, it
    would wait for it; its socket is made non-blocking, so that what is waited for is the kernel, never journald. It has that
    socket from the first entry on, which is sent only when there is room.
    """

    def __init__(self) -> None:
        from systemd.journal import sendv

        self.pipe: int | None = None
        self._sendv: Callable[..., None] = sendv
        self._own = False

    def write(self, entry: Entry) -> None:
        if not os.access(_JOURNAL_SOCKET, os.F_OK):
            # sendv() would report success (sd_journal_sendv(3)), and the entry would be lost.
            raise BlockingIOError(f"{_JOURNAL_SOCKET} is not there")
        if not self._own and not _journal_has_room():
            raise BlockingIOError(f"{_JOURNAL_SOCKET} is full")
        fields = [f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in entry.items()]
        fields.append(b"SYSLOG_IDENTIFIER=tcpnewconn")
        before = set() if self._own else _datagram_sockets()
        try:
            self._sendv(*fields)
        except BlockingIOError:
            raise
        except OSError as error:
            # ECONNREFUSED: nobody has the socket open, and it is still there.
            raise BlockingIOError(error.strerror) from error
        if not self._own:
            for descriptor in _datagram_sockets() - before:
                os.set_blocking(descriptor, False)
            self._own = True


def _journal_has_room() -> bool:
    """Whether journald's socket would take an entry at once: the kernel tells of a connected one (unix_dgram_poll())."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(_JOURNAL_SOCKET)
        except OSError:
            return False
        room = select.poll()
        room.register(asking, select.POLLOUT)
        return bool(room.poll(0))


def _datagram_sockets() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.stat(f"/proc/self/fd/{name}").st_mode):
                continue
        except FileNotFoundError:
            # The directory that is being listed.
            continue
        with socket.socket(fileno=os.dup(int(name))) as candidate:
            if candidate.family == socket.AF_UNIX and candidate.type == socket.SOCK_DGRAM:
                found.add(int(name))
    return found


class Text:
    """One line an event: UTC time with its offset, then the message."""

    def __init__(self) -> None:
        self.pipe = _output_pipe()

    def write(self, entry: Entry) -> None:
        now = datetime.now(timezone.utc).isoformat(" ", "seconds")
        print(f"{now}: {printable(entry['MESSAGE'])}", flush=True)


class Json:
    """One JSON object a line, its keys the dotted names in lower case; ports, counts and the priority are numbers."""

    def __init__(self) -> None:
        self.pipe = _output_pipe()

    def write(self, entry: Entry) -> None:
        line: dict[str, str | int] = {"@timestamp": datetime.now(timezone.utc).isoformat(timespec="milliseconds")}
        for name, value in entry.items():
            line[FIELDS[name]] = int(value) if name in _NUMBERS else value
        # Escapes every byte that is not ASCII, those that are not UTF-8 among them.
        print(_ENCODE(line), flush=True)


def _output_pipe() -> int | None:
    """Standard output, where it is the writing end of a pipe. Raises OSError where it is closed."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    import fcntl

    descriptor = sys.stdout.fileno()
    only_written = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
    return descriptor if only_written and stat.S_ISFIFO(os.fstat(descriptor).st_mode) else None


def printable(text: str) -> str:
    """A text without anything that a terminal would take for a command, or for a second line."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def under_journal(descriptor: int = 2) -> bool:
    """Whether a file descriptor is the journal's, as $JOURNAL_STREAM (systemd.exec(5)) says of stderr."""
    stream = os.environ.get("JOURNAL_STREAM", "")
    device, _, inode = stream.partition(":")
    if not (device.isdigit() and inode.isdigit()):
        return False
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (int(device), int(inode))


def say(message: str, level: int = 4) -> None:
    """Tell a person something, in one line on stderr; levels are those of syslog, which the journal understands."""
    prefix = f"<{level}>" if under_journal() else "tcpnewconn: "
    if sys.stderr is not None:
        # Where nobody can be told, that stops nothing; and nothing is left in a buffer, to fail once more at the end.
        with contextlib.suppress(OSError):
            os.write(
                sys.stderr.fileno(), f"{prefix}{printable(message)}\n".encode(sys.stderr.encoding, "backslashreplace")
            )


def open_sink(output: str) -> Sink:
    """The sink for --output; `auto` is the journal where stderr is the journal. Raises ImportError without systemd-python."""
    if output == "auto":
        output = "journal" if under_journal() else "text"
    if output == "journal":
        return Journal()
    return Text() if output == "text" else Json()
