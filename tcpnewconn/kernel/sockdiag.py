"""NETLINK_SOCK_DIAG: its sockets, and the destroy notifications of TCP sockets that they receive.

The notifications are multicast groups 1 (TCP over IPv4) and 3 (TCP over IPv6); where tcp_diag is neither built in nor loaded
nor loadable there is silently nothing (Linux asks for the module when the group is bound). None of it needs a capability.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from typing import NamedTuple

from tcpnewconn.kernel.inetdiag import parse_notification
from tcpnewconn.model import DestroyedSocket

NETLINK_SOCK_DIAG = 4
# FileDescriptorName= of tcpnewconn-namespaces.socket.
NAMESPACES = "namespace-notifications"
_GROUPS = 0b101  # groups 1 and 3, as a mask
_SO_RCVBUFFORCE = 33
_SO_PROTOCOL = 38
_SO_MEMINFO = 55
_SK_MEMINFO_RMEM_ALLOC, _SK_MEMINFO_DROPS = 0, 8

# The largest notification seen is 432 bytes (Linux 6.18); a message that does not fit is not one of ours.
LARGEST_NOTIFICATION = 4096
# For a burst: one notification occupies 1,283 bytes of the buffer (measured).
_RECEIVE_BUFFER = 64 * 1024 * 1024
# More than that none does; and less than a struct sk_buff and a struct skb_shared_info.
_MOST_OCCUPIED, _LEAST_OCCUPIED = 2_560, 512


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

    @property
    def capacity(self) -> int:
        """At least so many notifications fit into the buffer."""
        return self.buffer_size() // _MOST_OCCUPIED

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

    def queued_at_most(self) -> int:
        """No more notifications are in the buffer; it can be a fifth of that."""
        return -(-self._counter(_SK_MEMINFO_RMEM_ALLOC) // _LEAST_OCCUPIED)

    def _counter(self, which: int) -> int:
        counters = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (which + 1))
        return int(struct.unpack_from("=I", counters, 4 * which)[0])


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
