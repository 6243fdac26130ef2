"""When each of the other network namespaces is polled: in which order, how deep, and for how much of the CPU's time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tcpnewconn.health.counters import NAMESPACE_RESULTS, NamespaceResult
from tcpnewconn.namespaces.budget import Budget
from tcpnewconn.namespaces.other import Other
from tcpnewconn.namespaces.pairs import Side

# The poll of a namespace can need that of another one, and so on, to this depth: each takes memory of the stack.
_DEEPEST = 20


class Schedule:
    """`host` is polled first, by somebody else. `poll` polls a namespace, if that is due; its result, None if it has ended."""

    def __init__(self, host: Side, budget: Budget, poll: Callable[[Other], NamespaceResult | None]) -> None:
        self.budget = budget
        # How many polls had which result; how many namespaces were late in the last interval.
        self.results = dict.fromkeys(NAMESPACE_RESULTS, 0)
        self.late = 0
        # The current interval, counted, and when it began.
        self.interval = 0
        self.now = 0.0
        self._host = host
        self._poll = poll
        self._reads = 0
        # How many namespaces are being polled, one because of the other.
        self._depth = 0

    def begin(self, now: float) -> bool:
        """An interval begins, the host is polled now. Whether there is time to look for namespaces."""
        self.now = now
        self.interval += 1
        self._read(self._host)
        return self.budget.begin(now)

    def _read(self, side: Side) -> None:
        """The tables of a namespace are read now."""
        self._reads += 1
        side.read = self._reads

    def poll(self, others: Iterable[Other], live: Callable[[], object]) -> None:
        """Poll those that have changed, those first that have waited longest. The host was polled before.

        `live` is called after each: together they can take longer than the watchdog waits.
        """
        self.late = 0
        began = self._host.read
        for other in sorted(others, key=lambda other: other.side.read):
            if other.gone is None and not self.is_read(other, began):
                self.late += 1
                self.results["late"] += 1
            live()

    def is_read(self, other: Other, since: int) -> bool:
        """Whether the tables of a namespace were read since then (Side.read); if not, and if there is time, they are now."""
        if other.side.read > since or other.polling:
            return True
        if self.now < other.not_before or self._depth >= _DEEPEST:
            return False
        if not self.budget.turn():
            return False
        began = self.budget.started()
        self._depth += 1
        try:
            result = self._poll_now(other)
        finally:
            self._depth -= 1
        if result is not None:
            self.results[result] += 1
        if not self._depth:
            left, took = self.budget.left, self.budget.spent(began)
            if took > left / 2:
                # One that takes long does not keep the others waiting.
                other.not_before = self.now + took / self.budget.share
        return True

    def prepare(self, other: Other) -> None:
        """Poll a namespace at once that was not polled yet. What that takes is counted by who asks for it."""
        if other.side.read or other.polling or other.gone is not None:
            return
        began = self.budget.started()
        try:
            self._poll_now(other)
        finally:
            self.budget.spent_within(began)

    def _poll_now(self, other: Other) -> NamespaceResult | None:
        self._read(other.side)
        other.polling = True
        try:
            return self._poll(other)
        finally:
            other.polling = False
