"""Destroy notifications of TCP sockets in all network namespaces: NETLINK_LISTEN_ALL_NSID, in a socket of their own.

The kernel takes that option from who has CAP_NET_BROADCAST and keeps it with the socket (net/netlink/af_netlink.c): to receive
from it needs nothing. A notification carries the id that its namespace has in this one, as ancillary data; those of this one come
without. A namespace without an id here sends none.
"""

from __future__ import annotations

import errno
import socket
import struct

from tcpnewconn.kernel.inetdiag import parse_notification
from tcpnewconn.kernel.sockdiag import LARGEST_NOTIFICATION, Notifications, Unavailable, open_socket
from tcpnewconn.model import DestroyedSocket

_SOL_NETLINK = 270
# Set once the option is: Linux 6.1 does not say whether it is. A priority means nothing to a netlink socket.
_MARK = 1
_ADD_MEMBERSHIP, _DROP_MEMBERSHIP, _LISTEN_ALL_NSID = 1, 2, 8
_GROUPS = (1, 3)
_NSID = struct.Struct("=i")
_ANCILLARY = socket.CMSG_SPACE(_NSID.size)


def listen_to_all(source: socket.socket) -> None:
    """Let a socket receive the notifications of all namespaces. Raises OSError: EPERM without CAP_NET_BROADCAST."""
    source.setsockopt(_SOL_NETLINK, _LISTEN_ALL_NSID, 1)
    source.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _MARK)


def open_for_all() -> socket.socket:
    """A socket of our own. Raises Unavailable."""
    opened = open_socket()
    try:
        # One without a port id receives nothing (do_one_broadcast(), net/netlink/af_netlink.c).
        opened.bind((0, 0))
        listen_to_all(opened)
    except OSError as error:
        opened.close()
        raise Unavailable(f"no destroy notifications of other network namespaces: {error.strerror}") from error
    return opened


class AllNotifications:
    """The destroy notifications of all network namespaces, one at a time. As Notifications, with the id of the namespace."""

    def __init__(self, source: socket.socket) -> None:
        """Raises Unavailable where listen_to_all() was not called for a socket from outside."""
        if source.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) != _MARK:
            raise Unavailable("tcpnewconn-namespaces.service has not set up its socket")
        self._source = source
        self._all = Notifications(source)
        self._buffer = bytearray(LARGEST_NOTIFICATION)

    def receive(self, wanted: bool) -> None:
        """Whether notifications are received. If not, those that have waited are dropped. Raises OSError."""
        for group in _GROUPS:
            # To join twice is no error.
            self._source.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP if wanted else _DROP_MEMBERSHIP, group)
        while not wanted and self.peek() is not None:
            self.consume()

    def fileno(self) -> int:
        return self._source.fileno()

    def peek(self) -> tuple[DestroyedSocket, int | None] | None:
        """The oldest, and the id of its namespace, None for this one; None if there is none."""
        while True:
            try:
                size, ancillary, _, sender = self._source.recvmsg_into([self._buffer], _ANCILLARY, socket.MSG_PEEK)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    continue
                raise
            destroyed = parse_notification(self._buffer, size) if sender[0] == 0 else None
            if destroyed is not None:
                for level, kind, data in ancillary:
                    if level == _SOL_NETLINK and kind == _LISTEN_ALL_NSID:
                        return destroyed, int(_NSID.unpack(data)[0])
                return destroyed, None
            self.consume()

    def consume(self) -> None:
        """Take the notification that `peek` showed out of the buffer."""
        self._all.consume()

    def dropped(self) -> int:
        """As Notifications.dropped(); those of this namespace are among them."""
        return self._all.dropped()

    def queued(self) -> int:
        """At least so many notifications are in the buffer."""
        return self._all.queued()

    def queued_at_most(self) -> int:
        """No more notifications are in the buffer."""
        return self._all.queued_at_most()
