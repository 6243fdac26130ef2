"""Connections of network namespaces in which no process was ever seen: each is logged once, by notification or from the trace.

Those with an id send notifications. Which namespace it was is not known then: whether the trace has the same connection can be
seen by its addresses and ports alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from tcpnewconn.kernel.namespaces import Key
from tcpnewconn.model import NOT_KNOWN, Connection, Endpoint
from tcpnewconn.recorder import Recorded, Recorder

# Connections that were notified and are remembered, each for some minutes.
_MOST = 32_768


class Unseen:
    """`after`: seconds without a call, after which a namespace that nobody has found has surely ended."""

    def __init__(self, recorder: Recorder | None, after: float) -> None:
        # Connections of which it is not known whether there was one.
        self.missed = 0
        self._recorder = recorder
        self._after = after
        # Of connections between these: how many were notified and not recorded yet, and when the last was notified.
        self._notified: dict[frozenset[Endpoint], tuple[int, float]] = {}

    def over(self, now: float) -> Iterator[tuple[Key, Recorded]]:
        """What was recorded in the namespaces that have ended, each with a key that is unique until the next boot."""
        if self._recorder is None:
            return
        for netns in self._recorder.waiting.over(now - self._after):
            recorded = self._recorder.ended(netns)
            first = min((call.time for call in recorded.calls), default=0.0)
            # The same after SIGKILL.
            yield Key(NOT_KNOWN, netns * 10**12 + int(first * 1000)), recorded
            # What is left by now was not reported either.
            self.missed += recorded.calls.uncertain + len(recorded.calls)
        self.missed, self._recorder.dropped = self.missed + self._recorder.dropped, 0
        for flow in [one for one, (_, at) in self._notified.items() if at < now - 2 * self._after]:
            del self._notified[flow]

    def take(self) -> int:
        """How many were missed at most, since the last time."""
        missed, self.missed = self.missed, 0
        return missed

    def is_known(self, event: Connection, now: float) -> bool:
        """Whether a connection was logged by its notification, and this is what the trace says of it."""
        if self._recorder is None:
            return False
        flow = frozenset((event.source, event.destination))
        count, at = self._notified.get(flow, (0, now))
        if event.detected_by == "notification":
            self._notified[flow] = (count + 1, now)
            if len(self._notified) > _MOST:
                del self._notified[next(iter(self._notified))]
            return False
        if count:
            self._notified[flow] = (count - 1, at)
        return count > 0
