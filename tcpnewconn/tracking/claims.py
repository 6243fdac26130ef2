"""What was in TIME_WAIT at the first read: announced before anybody listened, or about to be?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tcpnewconn.model import FourTuple, SocketInfo, mirrored

# Seconds within which those are announced that were not before.
_WITHIN = 0.2


class Claims:
    """Those that no announcement has claimed yet. `identify` as in Tracker."""

    def __init__(self, identify: Callable[[FourTuple], SocketInfo | None]) -> None:
        self._identify = identify
        # The number and the `seen` of the connection that each is, if it was announced before.
        self._unclaimed: dict[FourTuple, tuple[int, str]] = {}
        self._read = 0.0
        self._caught_up = 0.0

    def __bool__(self) -> bool:
        return bool(self._unclaimed)

    def add(self, four_tuple: FourTuple, number: int, seen: str, now: float) -> None:
        self._unclaimed[four_tuple] = (number, seen)
        self._read = now

    def ended(self, four_tuple: FourTuple) -> None:
        """An end has come that can be of this four_tuple, or be its other end: if the four_tuple is as it was at the read, it is."""
        for one in (four_tuple, mirrored(four_tuple)):
            number, _ = self._unclaimed.get(one, (0, ""))
            identity = self._identify(one) if number > 0 else None
            if number < 0 or (identity is not None and identity.cookie == number):
                del self._unclaimed[one]

    def caught_up(self, now: float) -> None:
        """Every end that was announced by now has been dealt with."""
        self._caught_up = now

    def from_before(self) -> Iterator[tuple[FourTuple, int, str]]:
        """Those that were announced before, once that is known: with number and `seen`."""
        if self._unclaimed and self._caught_up > self._read + _WITHIN:
            unclaimed, self._unclaimed = self._unclaimed, {}
            yield from ((four_tuple, number, seen) for four_tuple, (number, seen) in unclaimed.items())
