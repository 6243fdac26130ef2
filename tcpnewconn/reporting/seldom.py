"""How often the same kind of loss is reported."""

from __future__ import annotations

# Seconds between two loss events of one kind.
LOSS_EVERY = 60.0


class Seldom:
    """Lets something be reported at once, and then not before LOSS_EVERY has passed."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def due(self, now: float, last: bool = False) -> bool:
        """Whether it may be reported now (monotonic seconds); then it counts as reported. It may where it is the `last` time."""
        if not last and now < self._last + LOSS_EVERY:
            return False
        self._last = now
        return True
