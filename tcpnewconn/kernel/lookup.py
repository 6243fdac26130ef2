"""Asks the kernel about TCP sockets (NETLINK_SOCK_DIAG): one by its addresses, those that listen, all that are established.

None of it needs a capability.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from tcpnewconn.kernel.inetdiag import (
    AFTER_MESSAGE,
    INET,
    INET6,
    INET_DIAG_INFO,
    MESSAGE,
    SOCK_DIAG_BY_FAMILY,
    acknowledged,
)
from tcpnewconn.kernel.netlink import ATTRIBUTE, HEADER, Client, attribute
from tcpnewconn.kernel.sockdiag import NETLINK_SOCK_DIAG, Unavailable
from tcpnewconn.model import CLOSE_WAIT, ESTABLISHED, LISTEN, FourTuple, Row, SocketInfo, four_tuple_of, unmapped

_INET_DIAG_CGROUP_ID = 21
_REQUEST = struct.Struct("=BBBBI")  # struct inet_diag_req_v2 up to its socket id
_SOCKET_ID = struct.Struct("=2s2s16s16sI8s")  # struct inet_diag_sockid
# The socket in a message of a dump, behind a struct nlmsghdr: ports, addresses, interface, cookie, uid and inode; addresses of
# IPv4 have four bytes.
_DUMPED4 = struct.Struct("=4x2s2s4s12x4s12xIQ12xII")
_DUMPED6 = struct.Struct("=4x2s2s16s16sIQ12xII")
_CGROUP_ID = struct.Struct("=Q")
_CGROUP_ATTRIBUTE = ATTRIBUTE.pack(ATTRIBUTE.size + _CGROUP_ID.size, _INET_DIAG_CGROUP_ID)
# The root of the tree of cgroups, which stands for "unknown" here.
_ROOT = 1
_NO_COOKIE = b"\xff" * 8
_TIMER_TIME_WAIT = 3  # net/ipv4/inet_diag.c, inet_twsk_diag_fill()


class Lookup:
    """One socket that was asked about keeps its cookie into TIME_WAIT and its destroy notification."""

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
            for _ in self._dump_listening(INET):
                pass
        except OSError as error:
            raise Unavailable(f"tcp_diag does not answer: {error.strerror or error}") from error

    def socket_info(self, four_tuple: FourTuple) -> SocketInfo | None:
        """The socket of this 4-tuple, or None if it is gone or the kernel does not answer."""
        found = self._found(four_tuple)
        if found is None:
            return None
        message, length = found
        _, state, timer, _, _, _, _, _, _, cookie, _, _, _, uid, inode = MESSAGE.unpack_from(message, HEADER.size)
        return SocketInfo(cookie, _cgroup(message, length), self._user(uid), inode, state, timer == _TIMER_TIME_WAIT)

    def opened_here(self, four_tuple: FourTuple) -> bool | None:
        """Whether the open socket of this 4-tuple opened its connection, or accepted it; None where that is undecided.

        Before any FIN, one byte acknowledged beyond the payload is the SYN of the side that opened.
        """
        found = self._found(four_tuple, 1 << (INET_DIAG_INFO - 1))
        if found is None or found[0][HEADER.size + 1] not in (ESTABLISHED, CLOSE_WAIT):
            return None
        counted = acknowledged(*found)
        if counted is None:
            return None
        acked, sent = counted
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
        family = INET if half == 6 else INET6
        socket_id = _SOCKET_ID.pack(lport, rport, local, remote, 0, _NO_COOKIE)
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, extensions, 0, 0xFFFFFFFF) + socket_id
        try:
            for message, length in self._client.ask(SOCK_DIAG_BY_FAMILY, body):
                if length < AFTER_MESSAGE:
                    return None
                _, state, _, _, sport, dport, source, other, *_ = MESSAGE.unpack_from(message, HEADER.size)
                size = half - 2
                if message[HEADER.size] == INET6 and size == 4:
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
        for family in (INET, INET6):
            for message, length in self._dump_listening(family):
                if length < AFTER_MESSAGE:
                    continue
                _, state, _, _, sport, _, source, _, _, cookie, _, _, _, uid, inode = MESSAGE.unpack_from(
                    message, HEADER.size
                )
                address = source[:4] if family == INET else unmapped(source)
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
        for family, unpack in ((INET, _DUMPED4.unpack_from), (INET6, _DUMPED6.unpack_from)):
            for message, length in self._dump(family, ESTABLISHED):
                if length < AFTER_MESSAGE:
                    continue
                sport, dport, source, remote, interface, cookie, uid, inode = unpack(message, HEADER.size)
                if interface:
                    continue
                if family == INET6:
                    source, remote = unmapped(source), unmapped(remote)
                # Nearly always where it was in the message before.
                if message[cgroup_at - ATTRIBUTE.size : cgroup_at] != _CGROUP_ATTRIBUTE or cgroup_at + 8 > length:
                    cgroup_at = attribute(message, AFTER_MESSAGE, length, _INET_DIAG_CGROUP_ID, 8) or 0
                cgroup = _CGROUP_ID.unpack_from(message, cgroup_at)[0] if cgroup_at else 0
                four_tuple = source + sport + remote + dport
                yield four_tuple, cookie, 0 if cgroup == _ROOT else cgroup, uid if self._users else None, inode

    def _dump_listening(self, family: int) -> Iterator[tuple[bytes, int]]:
        return self._dump(family, LISTEN)

    def _dump(self, family: int, state: int) -> Iterator[tuple[bytes, int]]:
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << state) + b"\0" * 40 + _NO_COOKIE
        return self._client.ask(SOCK_DIAG_BY_FAMILY, body, dump=True)

    def _user(self, uid: int) -> int | None:
        return uid if self._users else None


def _cgroup(message: bytes, length: int) -> int:
    at = attribute(message, AFTER_MESSAGE, length, _INET_DIAG_CGROUP_ID, 8)
    cgroup = 0 if at is None else int(_CGROUP_ID.unpack_from(message, at)[0])
    return 0 if cgroup == _ROOT else cgroup
