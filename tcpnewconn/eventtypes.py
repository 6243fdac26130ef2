"""The events that are reported: named tuples, as in model.py."""

from __future__ import annotations

from typing import Literal, NamedTuple

from tcpnewconn.model import Caller, Endpoint, Missing


class Connection(NamedTuple):
    """A new connection, to be reported once. `id` is the same however often it is logged.

    `uid` (None where not known) and `cgroup` (0) are those of the local side, within this host of the side that opened it; `by`
    says where they come from: `socket` (the socket itself), `connect` or `accept` (who called it), `listener`. `caller` called
    connect() or accept() there, `accepted` accepted a connection within this host. `missing`: why no caller is known.
    `netns` is the inode number of net/tcp of the network namespace that it is in, 0 for the host's, NOT_KNOWN where it is another
    one that is not known.
    """

    source: Endpoint
    destination: Endpoint
    direction: str
    detected_by: str
    id: str
    state: int
    uid: int | None = None
    cgroup: int = 0
    by: tuple[str, ...] = ()
    caller: Caller | None = None
    accepted: Caller | None = None
    missing: Missing | None = None
    netns: int = 0


class Listener(NamedTuple):
    """A socket that has begun to accept connections; with `startup`, one that did so before the first start.

    `netns` as in Connection.
    """

    endpoint: Endpoint
    startup: bool
    uid: int | None = None
    cgroup: int = 0
    netns: int = 0


class Closed(NamedTuple):
    """A reported connection is closed.

    Payload bytes that the source and the destination sent, the smoothed round trip time in microseconds, retransmitted
    segments, and the duration in seconds: None where the opening was not seen. The rest is as in Connection.
    """

    source: Endpoint
    destination: Endpoint
    direction: str
    id: str
    source_bytes: int
    destination_bytes: int
    rtt: int
    retransmits: int
    seconds: float | None
    uid: int | None = None
    cgroup: int = 0
    by: tuple[str, ...] = ()
    caller: Caller | None = None
    accepted: Caller | None = None
    netns: int = 0


class Failed(NamedTuple):
    """An attempt to open a connection that failed: who tried, and the errno (0 where the kernel says none).

    With a `count` it stands for so many, and has what they share. `netns` as in Connection.
    """

    source: Endpoint
    destination: Endpoint
    direction: str
    error: int
    uid: int | None = None
    cgroup: int = 0
    by: tuple[str, ...] = ()
    caller: Caller | None = None
    count: int | None = None  # type: ignore[assignment]  # a tuple has a method of this name
    netns: int = 0


class Summary(NamedTuple):
    """Connections that were not logged one by one: how many, and what they share; the rest of the endpoints is None.

    `sources` is the number of different sources if they share none, a lower bound unless `exact`; `top` those with the
    most connections, each with their number. `netns` as in Connection. `uid` is None where they have several, or it is not known.
    """

    source: Endpoint
    destination: Endpoint
    direction: str
    cgroup: int
    count: int  # type: ignore[assignment]
    sources: int
    exact: bool
    top: tuple[tuple[bytes, int], ...]
    uid: int | None = None
    netns: int = 0


class PortScan(NamedTuple):
    """One source has opened connections to several ports of this host, in ascending order. `netns` as in Connection."""

    source: bytes
    destination: bytes | None
    ports: tuple[int, ...]
    netns: int = 0


# How a connection was detected: open at the first start, in a poll of /proc, by the destroy notification of its socket,
# or by the trace alone.
DETECTED_BY = ("startup", "poll", "notification", "trace")
# The reasons of a loss.
Reason = Literal["notifications", "malformed", "aggregation", "journal", "port-scan", "attribution", "namespaces"]
# Where connections are seen; who opens and accepts them.
Source = Literal["proc", "notifications", "trace"]
# The origin of an attribution: the socket itself, the caller of connect() or accept(), the listening socket.
ATTRIBUTED_BY = ("socket", "connect", "accept", "listener")


class Loss(NamedTuple):
    """A loss: how many events could not be observed or logged, of what kind (`reason`), where, and what to do."""

    count: int  # type: ignore[assignment]
    reason: Reason
    message: str


class Degraded(NamedTuple):
    """A source is missing: which, and what that means."""

    source: Source
    message: str


class Recovered(NamedTuple):
    """A source that was missing is back."""

    source: Source
    message: str


class ObservationStarted(NamedTuple):
    """The service observes from now on.

    `since` and `until` are Unix times in seconds: of this start, and of the last moment that the run before observed (None
    where there was none, or it is not known). `ignore` is Ignore= as it is set, its rules separated by blanks.
    """

    since: float
    until: float | None
    ignore: str


class ObservationStopped(NamedTuple):
    """The service was stopped, and observes no longer."""


Event = (
    Connection
    | Summary
    | PortScan
    | Listener
    | Closed
    | Failed
    | Loss
    | Degraded
    | Recovered
    | ObservationStarted
    | ObservationStopped
)
