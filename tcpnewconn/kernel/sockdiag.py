"""NETLINK_SOCK_DIAG: hears of destroyed TCP sockets, looks one socket up, lists the listening ones.

The layouts are those of include/uapi/linux/inet_diag.h and include/uapi/linux/tcp.h. None of it needs a capability.
The announcements are multicast groups 1 (TCP over IPv4) and 3 (TCP over IPv6); where tcp_diag is neither built in nor loaded
nor loadable there is silently nothing (Linux asks for the module when the group is bound).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator

from tcpnewconn.model import LISTEN, DestroyedSocket, FourTuple, Row, SocketInfo, Traffic, four_tuple_of, unmapped

NETLINK_SOCK_DIAG = 4
_GROUPS = 0b101  # groups 1 and 3, as a mask
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST = 1
_NLM_F_DUMP = 0x300
_INET_DIAG_INFO = 2
_INET_DIAG_CGROUP_ID = 21
_SO_RCVBUFFORCE = 33
_SO_PROTOCOL = 38
_SO_MEMINFO = 55
_SK_MEMINFO_DROPS = 8

# The largest announcement seen is 432 bytes (Linux 6.18); a message that does not fit is not one of ours.
_LARGEST = 4096
# More than the kernel puts into one answer of a dump: 32 KiB (net/netlink/af_netlink.c, netlink_recvmsg()).
_DUMP = 65536
# What a burst needs: measured, one announcement occupies 1,283 bytes of the buffer.
_RECEIVE_BUFFER = 64 * 1024 * 1024

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port id
_REQUEST = struct.Struct("=BBBBI")  # struct inet_diag_req_v2 up to its socket id
_SOCKET_ID = struct.Struct("=2s2s16s16sI8s")  # struct inet_diag_sockid
_MESSAGE = struct.Struct("=BBBB2s2s16s16sIQIIIII")  # struct inet_diag_msg
# What an announcement tells of its socket: family, ports, addresses and cookie, behind a struct nlmsghdr.
_SOCKET = struct.Struct("=16xB3x2s2s16s16s4xQ")
_ATTRIBUTE = struct.Struct("=HH")
_AFTER_MESSAGE = _HEADER.size + _MESSAGE.size
_NO_COOKIE = b"\xff" * 8
_ONE_SECOND = struct.pack("ll", 1, 0)  # struct timeval
_TIMER_TIME_WAIT = 3  # net/ipv4/inet_diag.c, inet_twsk_diag_fill()

# Offsets in struct tcp_info: of tcpi_last_ack_recv, tcpi_min_rtt, tcpi_bytes_sent (and tcpi_bytes_retrans, since Linux 4.19).
_LAST_ACK, _MIN_RTT, _SENT = 56, 148, 200
# From tcpi_last_ack_recv by way of tcpi_rtt, tcpi_total_retrans, tcpi_bytes_acked and tcpi_bytes_received to tcpi_min_rtt.
_INFO = struct.Struct("=I8xI28xI16xQQ12xI")
_INFO_SIZE = _MIN_RTT + 4
_SENT_BYTES = struct.Struct("=QQ")
_NEVER = 0xFFFFFFFF

_ZERO_PORT = b"\0\0"
_INET, _INET6 = int(socket.AF_INET), int(socket.AF_INET6)


class Unavailable(Exception):
    """This kernel, or this container, has no announcements for us; says why."""


def open_notifications() -> socket.socket:
    """A socket of our own on which the kernel announces destroyed TCP sockets, with the largest buffer that is allowed.

    An unprivileged program is held to net.core.rmem_max. Raises Unavailable.
    """
    try:
        ends = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
    except OSError as error:
        raise Unavailable(f"no NETLINK_SOCK_DIAG socket: {error.strerror}") from error
    try:
        ends.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except OSError:
        ends.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    try:
        ends.bind((0, _GROUPS))
    except OSError as error:
        ends.close()
        raise Unavailable(f"destroyed sockets are not announced: {error.strerror}") from error
    return ends


class Notifications:
    """The announcements of destroyed sockets, one at a time.

    `peek` leaves the announcement in the kernel's buffer until `consume`: a program that is killed in between finds it
    there again, because the buffer can belong to somebody who outlives it (systemd).
    """

    def __init__(self, source: socket.socket, drops: int = 0) -> None:
        """`drops` is the value of the socket's counter of lost announcements up to which they were told."""
        self._socket = source
        self._socket.setblocking(False)
        self._buffer = bytearray(_LARGEST)
        now = self._meminfo_drops()
        # The counter has 32 bits: one that is a little lower has wrapped, one that is much lower is another socket's.
        self.drops = drops if (now - drops) & 0xFFFFFFFF < 0x80000000 else 0
        self.ignored = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def buffer_size(self) -> int:
        """The receive buffer, in bytes as the kernel accounts them (twice what was asked for)."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    def peek(self) -> DestroyedSocket | None:
        """The oldest announcement, or None if there is none. What is not an announcement is dropped and counted in `ignored`."""
        while True:
            try:
                size, (port_id, _) = self._socket.recvfrom_into(self._buffer, 0, socket.MSG_PEEK)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    # Announcements were lost since the last call: lost() says how many. What is queued is still good.
                    continue
                raise
            end = parse_notification(self._buffer[:size]) if port_id == 0 else None
            if end is not None:
                return end
            self.ignored += 1
            self.consume()

    def consume(self) -> None:
        """Take the announcement that `peek` showed out of the buffer."""
        while True:
            try:
                self._socket.recv_into(self._buffer, 1)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    continue
                raise
            return

    def lost(self) -> int:
        """How many announcements the kernel could not put into the buffer since this was last asked: exact."""
        drops = self._meminfo_drops()
        lost = (drops - self.drops) & 0xFFFFFFFF
        self.drops = drops
        return lost

    def _meminfo_drops(self) -> int:
        # sk_drops, as /proc/net/netlink shows it in its column Drops.
        counters = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_SK_MEMINFO_DROPS + 1))
        return int(struct.unpack_from("=I", counters, 4 * _SK_MEMINFO_DROPS)[0])


def parse_notification(message: bytes | bytearray) -> DestroyedSocket | None:
    """The end that an announcement tells of, or None if it is none that this program understands."""
    if len(message) < _AFTER_MESSAGE:
        return None
    length, kind, _, _, _ = _HEADER.unpack_from(message)
    if kind != _SOCK_DIAG_BY_FAMILY or not _AFTER_MESSAGE <= length <= len(message):
        return None
    family, sport, dport, source, remote, cookie = _SOCKET.unpack_from(message)
    if family == _INET:
        source, remote = source[:4], remote[:4]
    elif family == _INET6:
        source, remote = unmapped(source), unmapped(remote)
        if len(source) != len(remote):
            # One side wiped (::), the other IPv4-mapped.
            source, remote = _same_family(source, remote)
    else:
        return None
    at = _attribute(message, length, _INET_DIAG_INFO, _INFO_SIZE)
    if at is None:
        return None
    idle, rtt, retransmits, acked, received, min_rtt = _INFO.unpack_from(message, at + _LAST_ACK)
    sent = acked
    if _ATTRIBUTE.unpack_from(message, at - _ATTRIBUTE.size)[0] >= _ATTRIBUTE.size + _SENT + _SENT_BYTES.size:
        total, again = _SENT_BYTES.unpack_from(message, at + _SENT)
        sent = total - again
    # By position: by name takes three times as long.
    return DestroyedSocket(
        source + sport + remote + dport,
        cookie,
        min_rtt != _NEVER or received > 0,
        dport == _ZERO_PORT,
        Traffic(sent, acked, received, rtt, retransmits),
        idle / 1000,
    )


def _same_family(source: bytes, remote: bytes) -> tuple[bytes, bytes]:
    if not any(source):
        return b"\0" * len(remote), remote
    return source, b"\0" * len(source)


def _attribute(message: bytes | bytearray, length: int, wanted: int, least: int) -> int | None:
    """Where the payload of an attribute begins, if it is there and has at least so many bytes."""
    at = _AFTER_MESSAGE
    while at + _ATTRIBUTE.size <= length:
        size, kind = _ATTRIBUTE.unpack_from(message, at)
        if size < _ATTRIBUTE.size or at + size > length:
            return None
        if kind == wanted:
            return at + _ATTRIBUTE.size if size >= _ATTRIBUTE.size + least else None
        at += (size + 3) & ~3
    return None


class Lookup:
    """Asks the kernel about sockets. A socket that was asked about keeps its cookie into TIME_WAIT and to its announcement."""

    def __init__(self, given: socket.socket | None = None, users: bool = True) -> None:
        """Raises Unavailable.

        The kernel translates user ids into the user namespace of whoever opened the socket: in one of our own
        (PrivateUsers=) every other user is 65534, and a socket `given` by somebody outside shows them as they are.
        Without `users`, those of a socket of our own are taken for unknown.
        """
        self._users = users or given is not None
        try:
            self._socket = given or socket.socket(
                socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG
            )
            self._socket.connect((0, 0))
            _drain(self._socket)
            # The kernel answers within the request: what does not come at once will not come. (With settimeout() Python
            # polls before each call: that was 1 us of the 7 that a look-up took.)
            self._socket.setblocking(True)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ONE_SECOND)
        except OSError as error:
            raise Unavailable(f"no NETLINK_SOCK_DIAG socket: {error.strerror}") from error
        # A socket that outlives us may get the answer to a request that we were killed over: not the next number.
        self._sequence = time.monotonic_ns() & 0xFFFFFFFF

    def check(self) -> None:
        """Raise Unavailable if this kernel does not speak of TCP sockets: then it does not announce destroyed ones either.

        Both come from tcp_diag (net/core/sock_diag.c, sock_diag_broadcast_destroy_work), and asking needs no IP socket.
        """
        try:
            for _ in self._ask(socket.AF_INET, b"\0" * 40 + _NO_COOKIE, _NLM_F_REQUEST | _NLM_F_DUMP, 1 << LISTEN):
                pass
        except OSError as error:
            raise Unavailable(f"tcp_diag does not answer: {error.strerror or error}") from error

    def identity(self, four_tuple: FourTuple) -> SocketInfo | None:
        """The socket of this four_tuple, or None if it is gone or the kernel does not answer."""
        try:
            return self._identity(four_tuple)
        except OSError:
            return None

    def _identity(self, four_tuple: FourTuple) -> SocketInfo | None:
        half = len(four_tuple) // 2
        local, lport, remote, rport = (
            four_tuple[: half - 2],
            four_tuple[half - 2 : half],
            four_tuple[half:-2],
            four_tuple[-2:],
        )
        family = socket.AF_INET if half == 6 else socket.AF_INET6
        # IPv4 finds the sockets of dual-stack listeners too: the kernel looks both up in one table.
        socket_id = _SOCKET_ID.pack(lport, rport, local, remote, 0, _NO_COOKIE)
        for message, length in self._ask(family, socket_id, _NLM_F_REQUEST, 0xFFFFFFFF):
            _, state, timer, _, sport, dport, source, other, _, cookie, _, _, _, uid, inode = _MESSAGE.unpack_from(
                message, _HEADER.size
            )
            size = half - 2
            if message[_HEADER.size] == socket.AF_INET6 and size == 4:
                source, other = unmapped(source), unmapped(other)
            # If the connection is gone the kernel may answer with the listener.
            if (source[:size], sport, other[:size], dport) != (local, lport, remote, rport) or state == LISTEN:
                return None
            return SocketInfo(
                cookie, _cgroup(message, length), self._user(uid), inode, state, timer == _TIMER_TIME_WAIT
            )
        return None

    def listeners(self) -> Iterator[tuple[Row, SocketInfo]]:
        """Every listening socket. Raises OSError."""
        for family in (socket.AF_INET, socket.AF_INET6):
            for message, length in self._ask(
                family, b"\0" * 40 + _NO_COOKIE, _NLM_F_REQUEST | _NLM_F_DUMP, 1 << LISTEN
            ):
                _, state, _, _, sport, _, source, _, _, cookie, _, _, _, uid, inode = _MESSAGE.unpack_from(
                    message, _HEADER.size
                )
                address = source[:4] if family == socket.AF_INET else unmapped(source)
                four_tuple = four_tuple_of(address, int.from_bytes(sport, "big"), b"\0" * len(address), 0)
                yield (
                    Row(four_tuple, state, self._user(uid), inode),
                    SocketInfo(cookie, _cgroup(message, length), self._user(uid), inode, state, False),
                )

    def _user(self, uid: int) -> int | None:
        return uid if self._users else None

    def _ask(self, family: int, socket_id: bytes, flags: int, states: int) -> Iterator[tuple[bytes, int]]:
        """The answers to a request, each with its length. Raises OSError."""
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, states) + socket_id
        header = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, flags, self._sequence, 0)
        self._socket.send(header + body)
        size = _DUMP if flags & _NLM_F_DUMP else _LARGEST
        while True:
            answer = self._socket.recv(size)
            while len(answer) >= _HEADER.size:
                length, kind, _, sequence, _ = _HEADER.unpack_from(answer)
                if not _HEADER.size <= length <= len(answer):
                    return
                message, answer = answer[:length], answer[(length + 3) & ~3 :]
                if sequence != self._sequence:
                    continue
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR and length >= _HEADER.size + 4:
                    code = -int(struct.unpack_from("=i", message, _HEADER.size)[0])
                    raise OSError(code, os.strerror(code))
                if kind == _SOCK_DIAG_BY_FAMILY and length >= _AFTER_MESSAGE:
                    yield message, length
                    if not flags & _NLM_F_DUMP:
                        return


def _cgroup(message: bytes, length: int) -> int:
    at = _attribute(message, length, _INET_DIAG_CGROUP_ID, 8)
    # 1 is the root of the tree, which stands for "unknown" here.
    cgroup = 0 if at is None else int(struct.unpack_from("=Q", message, at)[0])
    return 0 if cgroup == 1 else cgroup


def _drain(given: socket.socket) -> None:
    """Take the answers to whoever had the socket before: an unfinished dump would let no other begin."""
    given.setblocking(False)
    try:
        while given.recv(65536):
            pass
    except BlockingIOError:
        pass


def received(descriptors: Iterable[int]) -> tuple[socket.socket | None, socket.socket | None]:
    """The sockets that somebody else opened for us (systemd, from a unit's ListenNetlink=): for announcements, for look-ups.

    They are told apart by the multicast groups that they are bound to. Raises Unavailable if one is something else.
    """
    ends = lookup = None
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
        given = socket.socket(fileno=descriptor)
        if given.family != socket.AF_NETLINK or given.getsockopt(socket.SOL_SOCKET, _SO_PROTOCOL) != NETLINK_SOCK_DIAG:
            given.detach()
            raise Unavailable(f"file descriptor {descriptor} is not a NETLINK_SOCK_DIAG socket")
        if given.getsockname()[1]:
            ends = given
        else:
            lookup = given
    return ends, lookup
