"""A problem is logged when it begins, and when it is over, however often it is met."""

from __future__ import annotations

from collections.abc import Callable


class Problem:
    """One that can come and go. `say` logs a message with a syslog level."""

    def __init__(self, say: Callable[[str, int], None], consequence: str, over: str) -> None:
        """Logged are the problem, a semicolon and its `consequence`; and, once it is gone, what is `over`."""
        self._say = say
        self._consequence = consequence
        self._over = over
        self.now: str | None = None

    def set(self, problem: str | None) -> None:
        """Set the problem as it is now; None if there is none. A problem that changes is logged again."""
        if problem == self.now:
            return
        if problem is None:
            self._say(self._over, 6)
        else:
            self._say(f"{problem}; {self._consequence}", 4)
        self.now = problem
