"""The values that flow from the sources: 4-tuples, rows, destroyed sockets, calls. What is reported of them: eventtypes.py.

A 4-tuple names one socket: its local address and port, then its remote address and port, packed in network byte order
(12 bytes for IPv4, 36 for IPv6). An IPv4-mapped IPv6 address (::ffff:a.b.c.d) is packed as the IPv4 address it is. The
other socket of a connection within this host has the same 4-tuple with its halves exchanged.

They are named tuples: frozen dataclasses take four times as long to make. And the module dataclasses imports inspect: that and
the code that it makes take 2 MiB and 20 ms. The service does not import it (tests/unit/test_pythons.py).
"""

from __future__ import annotations

import socket
import struct
from typing import Literal, NamedTuple

FourTuple = bytes
# Its size in bytes, of IPv4 and of IPv6.
SIZES = (12, 36)
# In place of the number of a network namespace.
NOT_KNOWN = -1
_IPV4, _IPV6 = struct.Struct("!4sH4sH"), struct.Struct("!16sH16sH")
# Of a value that is made with every connection: namedtuple.__new__() takes twice as long (measured).
_tuple = tuple.__new__

# The direction of a connection, from this host's point of view.
INGRESS, EGRESS, INTERNAL, UNKNOWN = DIRECTIONS = ("ingress", "egress", "internal", "unknown")

# include/net/tcp_states.h
ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, TIME_WAIT = 1, 2, 3, 4, 5, 6
CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING, NEW_SYN_RECV = 7, 8, 9, 10, 11, 12

# As OpenTelemetry names them (network.connection.state), after RFC 9293. The kernel has two states for a received SYN.
STATE_NAMES = {
    ESTABLISHED: "established",
    SYN_SENT: "syn_sent",
    SYN_RECV: "syn_received",
    FIN_WAIT1: "fin_wait_1",
    FIN_WAIT2: "fin_wait_2",
    TIME_WAIT: "time_wait",
    CLOSE: "closed",
    CLOSE_WAIT: "close_wait",
    LAST_ACK: "last_ack",
    LISTEN: "listen",
    CLOSING: "closing",
    NEW_SYN_RECV: "syn_received",
}

# The states of a socket whose connection was established: with any of these it is, or was, a connection.
CONNECTED = frozenset({ESTABLISHED, FIN_WAIT1, FIN_WAIT2, TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING})

# The prefix of IPv4-mapped IPv6 addresses (RFC 4291, 2.5.5.2).
MAPPED = b"\0" * 10 + b"\xff\xff"


def unmapped(address: bytes) -> bytes:
    """A packed address, an IPv4-mapped IPv6 one as the IPv4 address it stands for."""
    return address[12:] if len(address) == 16 and address.startswith(MAPPED) else address


def four_tuple_of(local: bytes, local_port: int, remote: bytes, remote_port: int) -> FourTuple:
    """The 4-tuple of a socket; both addresses packed, of one family once unmapped."""
    return b"%b%b%b%b" % (local, local_port.to_bytes(2, "big"), remote, remote_port.to_bytes(2, "big"))


def named(text: str) -> FourTuple:
    """The 4-tuple that a record of the state log names. Raises ValueError where it is none."""
    four_tuple = bytes.fromhex(text)
    if len(four_tuple) not in SIZES:
        raise ValueError(f"{len(four_tuple)} bytes are no 4-tuple")
    return four_tuple


def mirrored(four_tuple: FourTuple) -> FourTuple:
    """The 4-tuple of the socket at the connection's other end."""
    half = len(four_tuple) // 2
    return four_tuple[half:] + four_tuple[:half]


class Endpoint(NamedTuple):
    """One end of a connection. A part that the kernel had cleared is None (an unaddressed socket)."""

    address: bytes | None
    port: int | None

    def __str__(self) -> str:
        """As people write it: 10.0.0.5:22, [2001:db8::1]:443; an unknown part is *."""
        return self.with_text(None if self.address is None else address_text(self.address))

    def with_text(self, address: str | None) -> str:
        """The same, where the text of the address is known."""
        port = "*" if self.port is None else self.port
        if address is None:
            return f"*:{port}"
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def address_text(address: bytes) -> str:
    """A packed address as text: 10.0.0.5, 2001:db8::1."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def family(*endpoints: Endpoint) -> str:
    """ipv4 or ipv6: that of the first endpoint whose address is known."""
    for endpoint in endpoints:
        if endpoint.address is not None:
            return "ipv4" if len(endpoint.address) == 4 else "ipv6"
    return "ipv6"


def endpoints(four_tuple: FourTuple) -> tuple[Endpoint, Endpoint]:
    """The local and the remote endpoint of a 4-tuple."""
    if len(four_tuple) == _IPV4.size:
        address, port, other_address, other_port = _IPV4.unpack(four_tuple)
    else:
        address, port, other_address, other_port = _IPV6.unpack(four_tuple)
    return _tuple(Endpoint, (address, port)), _tuple(Endpoint, (other_address, other_port))


class Row(NamedTuple):
    """One socket as a poll of /proc shows it. An inode of 0 and a uid of None mean that the kernel does not know."""

    four_tuple: FourTuple
    state: int
    uid: int | None
    inode: int


class SocketInfo(NamedTuple):
    """One socket as sock_diag describes it.

    The cookie is 64 bits wide and not used again before the next boot. The cgroup is the inode number of the socket's
    cgroup directory, 0 where the kernel does not say. A connection in TIME_WAIT has only a `timewait` socket (struct
    inet_timewait_sock), which has a cookie of its own unless its full socket had been asked for one before.
    """

    cookie: int
    cgroup: int
    uid: int | None
    inode: int
    state: int
    timewait: bool


class Traffic(NamedTuple):
    """The traffic of a socket: bytes each way, the smoothed round trip time in microseconds, retransmitted segments.

    `sent` is payload, each byte once; `acked` also has the SYN and the FIN that were acknowledged, `received` the FIN.
    """

    sent: int
    acked: int
    received: int
    rtt: int
    retransmits: int


class DestroyedSocket(NamedTuple):
    """One socket as the kernel's destroy notification describes it.

    The 4-tuple is as the kernel has it: of an `unaddressed` socket it has cleared the addresses, and what it has counted. The
    remote port is zero then, and the local address, unless they are known from the other socket. `established`: the socket was
    that of a connection. Its peer has acknowledged nothing for `idle` seconds.
    """

    four_tuple: FourTuple
    cookie: int
    established: bool
    unaddressed: bool
    traffic: Traffic
    idle: float = 0.0

    def opened_here(self) -> bool | None:
        """Whether this socket opened its connection, or accepted it; None where that is undecided.

        Acknowledged beyond the payload are the FIN and, for the side that opened, the SYN. Measured for ten ways to close
        (Linux 6.18): 2 for an opener and 1 for an acceptor after an orderly close, 1 and 0 after an abort; bytes that were
        not acknowledged lower it.
        """
        beyond = self.traffic.acked - self.traffic.sent
        if beyond == 2:
            return True
        if beyond == 0 and not self.traffic.sent and not self.unaddressed:
            return False
        return None

    def opened_by(self, other: DestroyedSocket) -> bool | None:
        """Whether the other socket of the same connection opened it, or this one; None where that is undecided.

        An acceptor's peer acknowledges what it received, FIN included, and no more; an opener's also the SYN.
        """
        if other.traffic.acked > self.traffic.received:
            return True
        if self.traffic.acked > other.traffic.received:
            return False
        return None

    def likely_opened_here(self) -> bool:
        """The likelier answer where the other socket is not known: it was reset, and no FIN was acknowledged."""
        return self.traffic.acked > self.traffic.sent


class Origin(NamedTuple):
    """The origin of a call: user and cgroup of the socket, and the thread that called. Many calls share one.

    The user is None where not known. `cgroup_names` are the names of the cgroup's directory and of its parents, the innermost
    first, as far as they were recorded: "" is the root's, and the last; none where the cgroup is not known. `netns` is the inode
    number of the kernel's own NETLINK_ROUTE socket in the network namespace (kernel/namespaces.py). Thread id and name are those
    in the host's PID namespace; no name where it is not known.
    """

    uid: int | None
    cgroup: int
    cgroup_names: tuple[str, ...]
    netns: int
    thread_id: int
    thread_name: str | None


class Call(NamedTuple):
    """One connect() or accept() as the kernel's trace recorded it, in the context of who called it.

    `by` is `connect` or `accept`. `time` is CLOCK_MONOTONIC, in seconds. The 4-tuple is that of the socket that was connected,
    or of the new one that accept() returned.
    """

    by: str
    time: float
    four_tuple: FourTuple
    origin: Origin

    @property
    def netns(self) -> int:
        """As in Origin."""
        return self.origin.netns


class Thread(NamedTuple):
    """A thread as /proc shows it. Uncertain values are None, a cgroup 0.

    It has been there since `since` (CLOCK_MONOTONIC, in seconds), and maybe longer. `netns` and `cgroup_names` as in Origin.
    """

    since: float
    netns: int
    uid: int | None
    cgroup: int
    cgroup_names: tuple[str, ...]
    name: str


class FailedAttempt(NamedTuple):
    """A connect() whose connection was never established, as the kernel's trace recorded its end.

    `time` and `netns` as in Call. `error` is the errno that the kernel left in the socket, 0 where there is none.
    """

    time: float
    four_tuple: FourTuple
    netns: int
    error: int


# Why it is not known who called connect() or accept(): there is no trace, none was recorded, several can be it, some were lost.
Missing = Literal["no-trace", "not-recorded", "ambiguous", "overwritten"]


class Caller(NamedTuple):
    """The caller of connect() or accept(). Uncertain values are None, a cgroup 0.

    `by` is `connect`, `accept`, or `listener` where only the listening socket is known. `time` as in Call.
    """

    by: str
    uid: int | None = None
    cgroup: int = 0
    thread_id: int | None = None
    thread_name: str | None = None
    time: float | None = None
