"""What is left of a four_tuple once the kernel has wiped its addresses (SO_LINGER 0): the local port and the remote address.

inet_csk's tcp_disconnect() clears the remote port and, where the program did not bind it, the local address
(net/ipv4/tcp.c, inet_reset_saddr()).
"""

from __future__ import annotations

from collections.abc import Iterator

from tcpnewconn.model import DestroyedSocket, FourTuple


def remains(four_tuple: FourTuple) -> bytes:
    """The bytes of a four_tuple that are left. Of the two families they have two lengths."""
    return four_tuple[len(four_tuple) // 2 - 2 : -2]


def may_be(end: DestroyedSocket, four_tuple: FourTuple) -> bool:
    """Whether an end without addresses can be that of this four_tuple."""
    if len(four_tuple) != len(end.four_tuple):
        return False
    half = len(four_tuple) // 2
    address = end.four_tuple[: half - 2]
    return end.four_tuple[half - 2 : -2] == four_tuple[half - 2 : -2] and (
        not any(address) or address == four_tuple[: half - 2]
    )


class Index:
    """Pairs by what would be left of them."""

    def __init__(self) -> None:
        self._pairs: dict[bytes, dict[FourTuple, None]] = {}

    def __contains__(self, four_tuple: FourTuple) -> bool:
        return four_tuple in self._pairs.get(remains(four_tuple), ())

    def add(self, four_tuple: FourTuple) -> None:
        self._pairs.setdefault(remains(four_tuple), {})[four_tuple] = None

    def discard(self, four_tuple: FourTuple) -> None:
        left = remains(four_tuple)
        four_tuples = self._pairs.get(left)
        if four_tuples is not None and four_tuple in four_tuples:
            del four_tuples[four_tuple]
            if not four_tuples:
                del self._pairs[left]

    def of(self, end: DestroyedSocket) -> Iterator[FourTuple]:
        """Those that an end without addresses can be of, the newest first."""
        return (
            four_tuple
            for four_tuple in reversed(self._pairs.get(remains(end.four_tuple), {}))
            if may_be(end, four_tuple)
        )
