"""The two parts of a 4-tuple that the kernel does not clear: the local port and the remote address.

tcp_disconnect() clears the remote port and, where the program did not bind it, the local address (net/ipv4/tcp.c,
inet_reset_saddr()): with SO_LINGER 0, and often at both ends with MPTCP (measured, Linux 6.18).
"""

from __future__ import annotations

from collections.abc import Iterator

from tcpnewconn.model import DestroyedSocket, FourTuple, mirrored


def left(four_tuple: FourTuple) -> bytes:
    """The bytes of a 4-tuple that are left: 6 for IPv4, 18 for IPv6."""
    return four_tuple[len(four_tuple) // 2 - 2 : -2]


def can_be(socket: DestroyedSocket, four_tuple: FourTuple) -> bool:
    """Whether an unaddressed socket can have had this 4-tuple."""
    if len(four_tuple) != len(socket.four_tuple):
        return False
    half = len(four_tuple) // 2
    address = socket.four_tuple[: half - 2]
    return left(socket.four_tuple) == left(four_tuple) and (not any(address) or address == four_tuple[: half - 2])


def of_both(socket: DestroyedSocket, other: DestroyedSocket) -> FourTuple | None:
    """The 4-tuple of an unaddressed socket, if another such socket can be the other end of its connection."""
    here, there = left(socket.four_tuple), left(other.four_tuple)
    four_tuple = there[2:] + here + there[:2]
    return four_tuple if can_be(socket, four_tuple) and can_be(other, mirrored(four_tuple)) else None


class Index:
    """4-tuples by the bytes that would be left of them."""

    def __init__(self) -> None:
        # Nearly always there is one: a dict for each would take 140 bytes more.
        self._by_left: dict[bytes, FourTuple | dict[FourTuple, None]] = {}

    def __contains__(self, four_tuple: FourTuple) -> bool:
        return four_tuple in self._with(left(four_tuple))

    def add(self, four_tuple: FourTuple) -> None:
        key = left(four_tuple)
        others = self._by_left.setdefault(key, four_tuple)
        if isinstance(others, dict):
            others[four_tuple] = None
        elif others != four_tuple:
            self._by_left[key] = {others: None, four_tuple: None}

    def discard(self, four_tuple: FourTuple) -> None:
        key = left(four_tuple)
        four_tuples = self._by_left.get(key)
        if isinstance(four_tuples, dict):
            four_tuples.pop(four_tuple, None)
        if not four_tuples or four_tuples == four_tuple:
            self._by_left.pop(key, None)

    def of(self, socket: DestroyedSocket) -> Iterator[FourTuple]:
        """Those that an unaddressed socket can have had, the newest first."""
        return (one for one in reversed(self._with(left(socket.four_tuple))) if can_be(socket, one))

    def _with(self, key: bytes) -> tuple[FourTuple, ...] | dict[FourTuple, None]:
        found = self._by_left.get(key, ())
        return (found,) if isinstance(found, bytes) else found
