"""NETLINK_SOCK_DIAG: destroy notifications of TCP sockets, looking one socket up, listing the listening ones.

The layouts are those of include/uapi/linux/inet_diag.h and include/uapi/linux/tcp.h. None of it needs a capability.
The notifications are multicast groups 1 (TCP over IPv4) and 3 (TCP over IPv6); where tcp_diag is neither built in nor loaded
nor loadable there is silently nothing (Linux asks for the module when the group is bound).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import NamedTuple

from tcpnewconn.kernel.netlink import ATTRIBUTE, HEADER, Client, attribute
from tcpnewconn.model import (
    CLOSE_WAIT,
    ESTABLISHED,
    LISTEN,
    DestroyedSocket,
    FourTuple,
    Row,
    SocketInfo,
    Traffic,
    four_tuple_of,
    unmapped,
)

NETLINK_SOCK_DIAG = 4
# FileDescriptorName= of tcpnewconn-namespaces.socket.
NAMESPACES = "namespace-notifications"
_GROUPS = 0b101  # groups 1 and 3, as a mask
_SOCK_DIAG_BY_FAMILY = 20
_INET_DIAG_INFO = 2
_INET_DIAG_CGROUP_ID = 21
_SO_RCVBUFFORCE = 33
_SO_PROTOCOL = 38
_SO_MEMINFO = 55
_SK_MEMINFO_RMEM_ALLOC, _SK_MEMINFO_DROPS = 0, 8

# The largest notification seen is 432 bytes (Linux 6.18); a message that does not fit is not one of ours.
LARGEST_NOTIFICATION = 4096
# For a burst: one notification occupies 1,283 bytes of the buffer (measured).
_RECEIVE_BUFFER = 64 * 1024 * 1024
# More than that none does.
_MOST_OCCUPIED = 2_560

_REQUEST = struct.Struct("=BBBBI")  # struct inet_diag_req_v2 up to its socket id
_SOCKET_ID = struct.Struct("=2s2s16s16sI8s")  # struct inet_diag_sockid
_MESSAGE = struct.Struct("=BBBB2s2s16s16sIQIIIII")  # struct inet_diag_msg
# The socket in a notification: family, ports, addresses and cookie, behind a struct nlmsghdr.
_SOCKET = struct.Struct("=16xB3x2s2s16s16s4xQ")
_AFTER_MESSAGE = HEADER.size + _MESSAGE.size
# The same in a message of a dump: ports, addresses, interface, cookie, uid and inode; addresses of IPv4 have four bytes.
_DUMPED4 = struct.Struct("=4x2s2s4s12x4s12xIQ12xII")
_DUMPED6 = struct.Struct("=4x2s2s16s16sIQ12xII")
_CGROUP_ID = struct.Struct("=Q")
_CGROUP_ATTRIBUTE = ATTRIBUTE.pack(ATTRIBUTE.size + _CGROUP_ID.size, _INET_DIAG_CGROUP_ID)
# The root of the tree of cgroups, which stands for "unknown" here.
_ROOT = 1
_NO_COOKIE = b"\xff" * 8
_TIMER_TIME_WAIT = 3  # net/ipv4/inet_diag.c, inet_twsk_diag_fill()

# Offsets in struct tcp_info: of tcpi_last_ack_recv, tcpi_min_rtt, tcpi_bytes_sent (and tcpi_bytes_retrans, since Linux 4.19).
_LAST_ACK, _MIN_RTT, _SENT = 56, 148, 200
# From tcpi_last_ack_recv by way of tcpi_rtt, tcpi_rcv_space, tcpi_total_retrans, tcpi_bytes_acked and tcpi_bytes_received to
# tcpi_min_rtt.
_INFO = struct.Struct("=I8xI24xII16xQQ12xI")
_INFO_SIZE = _MIN_RTT + 4
_SENT_BYTES = struct.Struct("=QQ")
_NEVER = 0xFFFFFFFF

# All of that at once, of IPv4 and in the order of every kernel that was seen: behind the socket INET_DIAG_PROTOCOL, which is one
# byte, then INET_DIAG_INFO. One call of unpack_from() in place of nine.
_USUAL = struct.Struct("=IH10xB3x2s2s16s16s4xQ20xHH4xHH56xI8xI24xII16xQQ12xI48xQQ")
_INET_DIAG_PROTOCOL, _PROTOCOL_SIZE = 10, ATTRIBUTE.size + 1
_USUAL_INFO_AT = _AFTER_MESSAGE + ATTRIBUTE.size + 4
_USUAL_INFO_SIZE = ATTRIBUTE.size + _SENT + _SENT_BYTES.size
_tuple = tuple.__new__

_ZERO_PORT = b"\0\0"
_INET, _INET6 = int(socket.AF_INET), int(socket.AF_INET6)


class Unavailable(Exception):
    """This kernel, or this container, has no destroy notifications. The text is the reason."""


def open_notifications() -> socket.socket:
    """A socket of our own that receives destroy notifications, with the largest buffer that is allowed.

    An unprivileged program is held to net.core.rmem_max. Raises Unavailable.
    """
    opened = open_socket()
    try:
        opened.bind((0, _GROUPS))
    except OSError as error:
        opened.close()
        raise Unavailable(f"no destroy notifications: {error.strerror}") from error
    return opened


def open_socket() -> socket.socket:
    """A socket in no multicast group, with the largest buffer that is allowed. Raises Unavailable."""
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
    except OSError as error:
        raise Unavailable(f"no NETLINK_SOCK_DIAG socket: {error.strerror}") from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except OSError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    return opened


class Notifications:
    """The destroy notifications of TCP sockets, one at a time.

    `peek` leaves the notification in the kernel's buffer until `consume`. A program that is killed in between finds it
    there again if the socket belongs to a process that outlives it (systemd).
    """

    def __init__(self, source: socket.socket) -> None:
        self._socket = source
        self._socket.setblocking(False)
        self._buffer = bytearray(LARGEST_NOTIFICATION)
        self.ignored = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def buffer_size(self) -> int:
        """The receive buffer, in bytes as the kernel accounts them (twice what was asked for)."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    def peek(self) -> DestroyedSocket | None:
        """The oldest, or None if there is none. A message that is no notification is dropped and counted in `ignored`."""
        while True:
            try:
                size, (port_id, _) = self._socket.recvfrom_into(self._buffer, 0, socket.MSG_PEEK)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    # Some were lost since the last call: dropped() has their number. The queued ones are still valid.
                    continue
                raise
            destroyed = parse_notification(self._buffer, size) if port_id == 0 else None
            if destroyed is not None:
                return destroyed
            self.ignored += 1
            self.consume()

    def consume(self) -> None:
        """Take the notification that `peek` showed out of the buffer."""
        while True:
            try:
                self._socket.recv_into(self._buffer, 1)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    continue
                raise
            return

    def dropped(self) -> int:
        """How many notifications the kernel could not put into the buffer since the socket was made: exact, 32 bits wide.

        It is sk_drops, which /proc/net/netlink shows in its column Drops.
        """
        return self._counter(_SK_MEMINFO_DROPS)

    def queued(self) -> int:
        """At least so many notifications are in the buffer; it can be twice as many."""
        return self._counter(_SK_MEMINFO_RMEM_ALLOC) // _MOST_OCCUPIED

    def _counter(self, which: int) -> int:
        counters = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (which + 1))
        return int(struct.unpack_from("=I", counters, 4 * which)[0])


def parse_notification(message: bytes | bytearray, size: int | None = None) -> DestroyedSocket | None:
    """The destroyed socket of a notification, or None if this program does not understand it; `size` bytes of it are there."""
    size = len(message) if size is None else size
    if size >= _USUAL.size:
        (
            length,
            kind,
            family,
            sport,
            dport,
            source,
            remote,
            cookie,
            protocol_size,
            protocol,
            info_size,
            info,
            idle,
            rtt,
            space,
            retransmits,
            acked,
            received,
            min_rtt,
            sent,
            again,
        ) = _USUAL.unpack_from(message)
        if (
            family == _INET
            and kind == _SOCK_DIAG_BY_FAMILY
            and protocol == _INET_DIAG_PROTOCOL
            and protocol_size == _PROTOCOL_SIZE
            and info == _INET_DIAG_INFO
            and info_size >= _USUAL_INFO_SIZE
            and _USUAL_INFO_AT + info_size <= length <= size
        ):
            # namedtuple.__new__() takes twice as long.
            return _tuple(
                DestroyedSocket,
                (
                    source[:4] + sport + remote[:4] + dport,
                    cookie,
                    # The round trip may never have been measured: SYN cookies without timestamps, no byte, and a reset. The space
                    # is set once a socket is established (tcp_init_transfer(), net/ipv4/tcp_input.c).
                    min_rtt != _NEVER or received > 0 or space > 0,
                    dport == _ZERO_PORT,
                    _tuple(Traffic, (sent - again, acked, received, rtt, retransmits)),
                    idle / 1000,
                ),
            )
    return _parse_any(message, size)


def _parse_any(message: bytes | bytearray, size: int) -> DestroyedSocket | None:
    if size < _AFTER_MESSAGE:
        return None
    length, kind, _, _, _ = HEADER.unpack_from(message)
    if kind != _SOCK_DIAG_BY_FAMILY or not _AFTER_MESSAGE <= length <= size:
        return None
    family, sport, dport, source, remote, cookie = _SOCKET.unpack_from(message)
    if family == _INET:
        source, remote = source[:4], remote[:4]
    elif family == _INET6:
        source, remote = unmapped(source), unmapped(remote)
        if len(source) != len(remote):
            # One side cleared (::), the other IPv4-mapped.
            source, remote = _same_family(source, remote)
    else:
        return None
    at = attribute(message, _AFTER_MESSAGE, length, _INET_DIAG_INFO, _INFO_SIZE)
    if at is None:
        return None
    idle, rtt, space, retransmits, acked, received, min_rtt = _INFO.unpack_from(message, at + _LAST_ACK)
    # By position: by name takes three times as long.
    return DestroyedSocket(
        source + sport + remote + dport,
        cookie,
        min_rtt != _NEVER or received > 0 or space > 0,
        dport == _ZERO_PORT,
        Traffic(_sent(message, at, acked), acked, received, rtt, retransmits),
        idle / 1000,
    )


def _sent(message: bytes | bytearray, at: int, acked: int) -> int:
    """Bytes of payload sent, each once, of the struct tcp_info at `at`; before Linux 4.19 what was acknowledged."""
    if ATTRIBUTE.unpack_from(message, at - ATTRIBUTE.size)[0] < ATTRIBUTE.size + _SENT + _SENT_BYTES.size:
        return acked
    total, again = _SENT_BYTES.unpack_from(message, at + _SENT)
    return int(total - again)


def _same_family(source: bytes, remote: bytes) -> tuple[bytes, bytes]:
    if not any(source):
        return b"\0" * len(remote), remote
    return source, b"\0" * len(source)


class Lookup:
    """Asks the kernel about sockets. One that was asked about keeps its cookie into TIME_WAIT and its destroy notification."""

    def __init__(self, given: socket.socket | None = None, users: bool = True) -> None:
        """Raises Unavailable.

        The kernel translates user ids into the user namespace of the process that opened the socket. In a namespace of its
        own (PrivateUsers=) every other user is 65534; a socket `given` from outside has the real ids. Without `users`, the
        ids from a socket that this program opened count as unknown.
        """
        self._users = users or given is not None
        try:
            self._client = Client(NETLINK_SOCK_DIAG, given)
        except OSError as error:
            raise Unavailable(f"no NETLINK_SOCK_DIAG socket: {error.strerror}") from error

    def check(self) -> None:
        """Raise Unavailable if this kernel does not answer about TCP sockets: then it does not notify of destroyed ones either.

        Both come from tcp_diag (net/core/sock_diag.c, sock_diag_broadcast_destroy_work), and asking needs no IP socket.
        """
        try:
            for _ in self._dump_listening(_INET):
                pass
        except OSError as error:
            raise Unavailable(f"tcp_diag does not answer: {error.strerror or error}") from error

    def socket_info(self, four_tuple: FourTuple) -> SocketInfo | None:
        """The socket of this 4-tuple, or None if it is gone or the kernel does not answer."""
        found = self._found(four_tuple)
        if found is None:
            return None
        message, length = found
        _, state, timer, _, _, _, _, _, _, cookie, _, _, _, uid, inode = _MESSAGE.unpack_from(message, HEADER.size)
        return SocketInfo(cookie, _cgroup(message, length), self._user(uid), inode, state, timer == _TIMER_TIME_WAIT)

    def opened_here(self, four_tuple: FourTuple) -> bool | None:
        """Whether the open socket of this 4-tuple opened its connection, or accepted it; None where that is undecided.

        Before any FIN, one byte acknowledged beyond the payload is the SYN of the side that opened.
        """
        found = self._found(four_tuple, 1 << (_INET_DIAG_INFO - 1))
        if found is None or found[0][HEADER.size + 1] not in (ESTABLISHED, CLOSE_WAIT):
            return None
        message, length = found
        at = attribute(message, _AFTER_MESSAGE, length, _INET_DIAG_INFO, _INFO_SIZE)
        if at is None:
            return None
        _, _, _, _, acked, _, _ = _INFO.unpack_from(message, at + _LAST_ACK)
        sent = _sent(message, at, acked)
        if acked - sent == 1:
            return True
        return False if acked == sent == 0 else None

    def _found(self, four_tuple: FourTuple, extensions: int = 0) -> tuple[bytes, int] | None:
        """The answer, and its length, that describes the socket of a 4-tuple."""
        half = len(four_tuple) // 2
        local, lport, remote, rport = (
            four_tuple[: half - 2],
            four_tuple[half - 2 : half],
            four_tuple[half:-2],
            four_tuple[-2:],
        )
        # IPv4 finds the sockets of dual-stack listeners too: the kernel looks both up in one table.
        family = _INET if half == 6 else _INET6
        socket_id = _SOCKET_ID.pack(lport, rport, local, remote, 0, _NO_COOKIE)
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, extensions, 0, 0xFFFFFFFF) + socket_id
        try:
            for message, length in self._client.ask(_SOCK_DIAG_BY_FAMILY, body):
                if length < _AFTER_MESSAGE:
                    return None
                _, state, _, _, sport, dport, source, other, *_ = _MESSAGE.unpack_from(message, HEADER.size)
                size = half - 2
                if message[HEADER.size] == _INET6 and size == 4:
                    source, other = unmapped(source), unmapped(other)
                # If the connection is gone the kernel may answer with the listener.
                if (source[:size], sport, other[:size], dport) != (local, lport, remote, rport) or state == LISTEN:
                    return None
                return message, length
        except OSError:
            pass
        return None

    def listeners(self) -> Iterator[tuple[Row, SocketInfo]]:
        """Every listening socket. Raises OSError."""
        for family in (_INET, _INET6):
            for message, length in self._dump_listening(family):
                if length < _AFTER_MESSAGE:
                    continue
                _, state, _, _, sport, _, source, _, _, cookie, _, _, _, uid, inode = _MESSAGE.unpack_from(
                    message, HEADER.size
                )
                address = source[:4] if family == _INET else unmapped(source)
                four_tuple = four_tuple_of(address, int.from_bytes(sport, "big"), b"\0" * len(address), 0)
                yield (
                    Row(four_tuple, state, self._user(uid), inode),
                    SocketInfo(cookie, _cgroup(message, length), self._user(uid), inode, state, False),
                )

    def established(self) -> Iterator[tuple[FourTuple, int, int, int | None, int]]:
        """4-tuple, cookie, cgroup, user and inode of every established socket, as socket_info() has them. Raises OSError.

        Each of them is given its cookie. One that is bound to an interface is left out: socket_info() does not find it either.
        """
        cgroup_at = 0
        for family, unpack in ((_INET, _DUMPED4.unpack_from), (_INET6, _DUMPED6.unpack_from)):
            for message, length in self._dump(family, ESTABLISHED):
                if length < _AFTER_MESSAGE:
                    continue
                sport, dport, source, remote, interface, cookie, uid, inode = unpack(message, HEADER.size)
                if interface:
                    continue
                if family == _INET6:
                    source, remote = unmapped(source), unmapped(remote)
                # Nearly always where it was in the message before.
                if message[cgroup_at - ATTRIBUTE.size : cgroup_at] != _CGROUP_ATTRIBUTE or cgroup_at + 8 > length:
                    cgroup_at = attribute(message, _AFTER_MESSAGE, length, _INET_DIAG_CGROUP_ID, 8) or 0
                cgroup = _CGROUP_ID.unpack_from(message, cgroup_at)[0] if cgroup_at else 0
                four_tuple = source + sport + remote + dport
                yield four_tuple, cookie, 0 if cgroup == _ROOT else cgroup, uid if self._users else None, inode

    def _dump_listening(self, family: int) -> Iterator[tuple[bytes, int]]:
        return self._dump(family, LISTEN)

    def _dump(self, family: int, state: int) -> Iterator[tuple[bytes, int]]:
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << state) + b"\0" * 40 + _NO_COOKIE
        return self._client.ask(_SOCK_DIAG_BY_FAMILY, body, dump=True)

    def _user(self, uid: int) -> int | None:
        return uid if self._users else None


def _cgroup(message: bytes, length: int) -> int:
    at = attribute(message, _AFTER_MESSAGE, length, _INET_DIAG_CGROUP_ID, 8)
    cgroup = 0 if at is None else int(_CGROUP_ID.unpack_from(message, at)[0])
    return 0 if cgroup == _ROOT else cgroup


class Received(NamedTuple):
    """The sockets that systemd opened (ListenNetlink= of a unit)."""

    notifications: socket.socket | None = None
    lookup: socket.socket | None = None
    # For the notifications of other network namespaces.
    namespaces: socket.socket | None = None


def received(descriptors: Iterable[int], names: Sequence[str] = ()) -> Received:
    """The sockets of these descriptors, whose names are FileDescriptorName= of their units.

    The multicast groups that they are bound to distinguish those of tcpnewconn.socket. Raises Unavailable if one is none of them.
    """
    found = Received()
    for descriptor, name in zip(descriptors, chain(names, repeat(""))):  # noqa: B905
        os.set_inheritable(descriptor, False)
        given = socket.socket(fileno=descriptor)
        if given.family != socket.AF_NETLINK or given.getsockopt(socket.SOL_SOCKET, _SO_PROTOCOL) != NETLINK_SOCK_DIAG:
            given.detach()
            raise Unavailable(f"file descriptor {descriptor} is not a NETLINK_SOCK_DIAG socket")
        if name == NAMESPACES:
            found = found._replace(namespaces=given)
        elif given.getsockname()[1]:
            found = found._replace(notifications=given)
        else:
            found = found._replace(lookup=given)
    return found
