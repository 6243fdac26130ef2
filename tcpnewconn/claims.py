"""What was in TIME_WAIT at the first read: announced before anybody listened, or about to be?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tcpnewconn.model import Identity, Pair, mirrored

# Seconds within which those are announced that were not before.
_WITHIN = 0.2


class Claims:
    """Those that no announcement has claimed yet. `identify` as in Tracker."""

    def __init__(self, identify: Callable[[Pair], Identity | None]) -> None:
        self._identify = identify
        # The number and the `seen` of the connection that each is, if it was announced before.
        self._unclaimed: dict[Pair, tuple[int, str]] = {}
        self._read = 0.0
        self._caught_up = 0.0

    def __bool__(self) -> bool:
        return bool(self._unclaimed)

    def add(self, pair: Pair, number: int, seen: str, now: float) -> None:
        self._unclaimed[pair] = (number, seen)
        self._read = now

    def ended(self, pair: Pair) -> None:
        """An end has come that can be of this pair, or be its other end: if the pair is as it was at the read, it is."""
        for one in (pair, mirrored(pair)):
            number, _ = self._unclaimed.get(one, (0, ""))
            identity = self._identify(one) if number > 0 else None
            if number < 0 or (identity is not None and identity.cookie == number):
                del self._unclaimed[one]

    def caught_up(self, now: float) -> None:
        """Every end that was announced by now has been dealt with."""
        self._caught_up = now

    def from_before(self) -> Iterator[tuple[Pair, int, str]]:
        """Those that were announced before, once that is known: with number and `seen`."""
        if self._unclaimed and self._caught_up > self._read + _WITHIN:
            unclaimed, self._unclaimed = self._unclaimed, {}
            yield from ((pair, number, seen) for pair, (number, seen) in unclaimed.items())
