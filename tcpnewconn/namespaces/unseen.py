"""Connections of network namespaces in which no process was ever seen: each is logged once, by notification or from the trace.

Those with an id send notifications. Which namespace it was is not known then: whether the trace has the same connection can be
seen by its addresses and ports alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from tcpnewconn.eventtypes import Connection
from tcpnewconn.kernel.namespaces import Key
from tcpnewconn.model import NOT_KNOWN, TIME_WAIT, Endpoint
from tcpnewconn.observing.recorded import Elsewhere, Recorded
from tcpnewconn.state.owner import Log, Record

# Connections that were notified and are remembered, each for some minutes.
_MOST = 32_768


class Unseen:
    """`after`: seconds without a call, after which a namespace that nobody has found has surely ended.

    Record a is its own: of connections between two endpoints, how many were notified, and when the last was.
    """

    def __init__(self, elsewhere: Elsewhere | None, after: float, log: Log | None = None) -> None:
        # Connections of which it is not known whether there was one.
        self.missed = 0
        self._elsewhere = elsewhere
        self._after = after
        # Of connections between these: how many were notified, and not shown in another way yet; when the last was notified.
        self._notified: dict[frozenset[Endpoint], tuple[int, float]] = {}
        self._log = log
        if log is not None:
            log.register("a", self)

    def over(self, now: float) -> Iterator[tuple[Key, Recorded]]:
        """What was recorded in the namespaces that have ended, each with a key that is unique until the next boot."""
        if self._elsewhere is None:
            return
        for netns in self._elsewhere.waiting.over(now - self._after):
            recorded = self._elsewhere.ended(netns)
            first = min((call.time for call in recorded.calls), default=0.0)
            # The same after SIGKILL.
            yield Key(NOT_KNOWN, netns * 10**12 + int(first * 1000)), recorded
            # What is left by now was not reported either.
            self.missed += recorded.calls.uncertain + len(recorded.calls)
        self.missed, self._elsewhere.dropped = self.missed + self._elsewhere.dropped, 0
        for flow in [one for one, (_, at) in self._notified.items() if at < now - 2 * self._after]:
            self._set(flow, 0, now)

    def take(self) -> int:
        """How many were missed at most, since the last time."""
        missed, self.missed = self.missed, 0
        return missed

    def is_known(self, event: Connection, now: float, unseen: bool) -> bool:
        """Whether a connection was logged by its notification, and this is what was seen of it in another way.

        `unseen`: its namespace was not found. Where it is found later, its connections can be in TIME_WAIT there.
        """
        flow = frozenset((event.source, event.destination))
        count, at = self._notified.get(flow, (0, now))
        if event.detected_by == "notification":
            if unseen:
                self._set(flow, count + 1, now)
            return False
        if not count or (event.detected_by != "trace" and event.state != TIME_WAIT):
            return False
        self._set(flow, count - 1, at)
        return True

    def _set(self, flow: frozenset[Endpoint], count: int, at: float) -> None:
        self._notified.pop(flow, None)
        if count:
            self._notified[flow] = (count, at)
        if self._log is not None:
            self._log.append(_line(flow, count, at))
        if len(self._notified) > _MOST:
            self._set(next(iter(self._notified)), 0, at)

    # --- what outlives a restart -------------------------------------------------------------------------------------

    def clear(self) -> None:
        self._notified.clear()

    def records(self) -> Iterator[str]:
        return (_line(flow, count, at) for flow, (count, at) in self._notified.items())

    def load(self, record: Record) -> None:
        _, ends, count, at = record
        flow = frozenset(
            Endpoint(None if address is None else bytes.fromhex(address), None if port is None else int(port))
            for address, port in ends
        )
        self._notified.pop(flow, None)
        if count:
            self._notified[flow] = (int(count), float(at))


def _line(flow: frozenset[Endpoint], count: int, at: float) -> str:
    ends = [[None if end.address is None else end.address.hex(), end.port] for end in flow]
    return json.dumps(["a", ends, count, at], separators=(",", ":"))
