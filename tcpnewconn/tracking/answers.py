"""The kernel's answers about many sockets at once: those that were established in a poll, and after it.

Pure. A look-up takes a system call; a first poll of 100,000 rows needs as many and more. One dump after the tables were read
answers nearly all of them. An answer counts only where the same socket, by its inode, was established when its row was read
and when it was dumped: so it was in between. All rows are read before the first socket is dumped: both sockets of a connection
within this host that are known so existed at the same time.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable

from tcpnewconn.model import ESTABLISHED, FourTuple, SocketInfo, mirrored

# Cookie, cgroup, user, inode: 24 bytes in place of five objects.
_PACKED = struct.Struct("=QQII")
# (uid_t)-1 is no user (chown(2)).
_NO_USER = 0xFFFFFFFF
# Of a value that is made with every socket: namedtuple.__new__() takes twice as long (measured).
_tuple = tuple.__new__


class Answers:
    """Until the rows of the poll have been applied."""

    def __init__(
        self,
        inodes: Iterable[int],
        dumped: Iterable[tuple[FourTuple, int, int, int | None, int]],
        internal: Callable[[FourTuple], bool],
    ) -> None:
        """`inodes` are those of established sockets in the rows; `dumped` as Lookup.established(); `internal` as in Tracker."""
        self._internal = internal
        # A set of them would take ten times the memory.
        shown = array("I", sorted(inodes))
        pack = _PACKED.pack
        self._packed = {
            four_tuple: pack(cookie, cgroup, _NO_USER if uid is None else uid, inode)
            for four_tuple, cookie, cgroup, uid, inode in dumped
            if (at := bisect_left(shown, inode)) < len(shown) and shown[at] == inode
        }
        self._size = len(self._packed)

    def about(self, four_tuple: FourTuple) -> SocketInfo | None:
        """The socket of a 4-tuple; None where the kernel must be asked.

        Of a connection within this host both sockets are known, or the kernel is asked about both: what is known of one and
        what it says of the other later may be of two connections.
        """
        packed = self._packed.get(four_tuple)
        if packed is None or (self._internal(four_tuple) and mirrored(four_tuple) not in self._packed):
            return None
        cookie, cgroup, uid, inode = _PACKED.unpack(packed)
        return _tuple(SocketInfo, (cookie, cgroup, None if uid == _NO_USER else uid, inode, ESTABLISHED, False))

    def forget(self, four_tuple: FourTuple) -> None:
        """It is not asked for again: nor is the other socket of its connection."""
        self._packed.pop(four_tuple, None)
        self._packed.pop(mirrored(four_tuple), None)
        if 4 * len(self._packed) < self._size:
            # A dict keeps the memory of its largest size. While it is copied there are two of them: the copy is small by then.
            self._packed = dict(self._packed)
            self._size = len(self._packed)
