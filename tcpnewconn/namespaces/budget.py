"""The CPU time that other network namespaces may take: a share of the time of one CPU, from interval to interval. Pure."""

from __future__ import annotations

from collections.abc import Callable

# So many seconds' share is the most that is made up for in later intervals.
_LONGEST_DEBT = 60.0


class Budget:
    """`cpu` says how much time this thread has taken, in seconds."""

    def __init__(self, cpu: Callable[[], float]) -> None:
        # The share that may be taken.
        self.share = 0.01
        # Time that was taken.
        self.seconds = 0.0
        self._cpu = cpu
        # May be spent in this interval; below zero where more was.
        self._left = 0.0
        self._earned: float | None = None
        # One namespace is polled after each look, whatever that took.
        self._one_more = False

    def begin(self, now: float) -> bool:
        """An interval begins. Whether there is time: where the last took longer than its share, that is made up for first."""
        if self._earned is None:
            # The first time, whatever it takes.
            self._left = float("inf")
        else:
            self._left = min(0.0, self._left) + self.share * (now - self._earned)
        self._earned = now
        self._one_more = self._left > 0
        return self._one_more

    def forget(self) -> None:
        """The next interval may take what it needs."""
        self._earned = None

    def end(self) -> None:
        """What is left is not kept, nor is a debt without end."""
        self._left = 0.0 if self._left == float("inf") else max(-self.share * _LONGEST_DEBT, self._left)

    def turn(self) -> bool:
        """Whether one more namespace may be polled."""
        allowed = self._left > 0 or self._one_more
        self._one_more = False
        return allowed

    @property
    def left(self) -> float:
        return self._left

    def started(self) -> float:
        """The beginning of what spent() counts."""
        return self._cpu()

    def spent(self, started: float) -> float:
        """How much time was taken since then."""
        took = self._cpu() - started
        self.seconds += took
        self._left -= took
        return took

    def spent_within(self, started: float) -> None:
        """As spent(), of what is part of something whose time is counted."""
        self._left -= self._cpu() - started

    def counted(self, started: float) -> None:
        """As spent(), of what is not limited."""
        self.seconds += self._cpu() - started
