"""What is left of a pair once the kernel has wiped its addresses (SO_LINGER 0): the local port and the remote address.

inet_csk's tcp_disconnect() clears the remote port and, where the program did not bind it, the local address
(net/ipv4/tcp.c, inet_reset_saddr()).
"""

from __future__ import annotations

from collections.abc import Iterator

from tcpnewconn.model import End, Pair


def remains(pair: Pair) -> bytes:
    """The bytes of a pair that are left. Of the two families they have two lengths."""
    return pair[len(pair) // 2 - 2 : -2]


def may_be(end: End, pair: Pair) -> bool:
    """Whether an end without addresses can be that of this pair."""
    if len(pair) != len(end.pair):
        return False
    half = len(pair) // 2
    address = end.pair[: half - 2]
    return end.pair[half - 2 : -2] == pair[half - 2 : -2] and (not any(address) or address == pair[: half - 2])


class Index:
    """Pairs by what would be left of them."""

    def __init__(self) -> None:
        self._pairs: dict[bytes, dict[Pair, None]] = {}

    def __contains__(self, pair: Pair) -> bool:
        return pair in self._pairs.get(remains(pair), ())

    def add(self, pair: Pair) -> None:
        self._pairs.setdefault(remains(pair), {})[pair] = None

    def discard(self, pair: Pair) -> None:
        left = remains(pair)
        pairs = self._pairs.get(left)
        if pairs is not None and pair in pairs:
            del pairs[pair]
            if not pairs:
                del self._pairs[left]

    def of(self, end: End) -> Iterator[Pair]:
        """Those that an end without addresses can be of, the newest first."""
        return (pair for pair in reversed(self._pairs.get(remains(end.pair), {})) if may_be(end, pair))
