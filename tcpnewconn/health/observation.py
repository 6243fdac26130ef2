"""Until when this host was observed, across runs. Record t of the state log is its own."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tcpnewconn.state.log import StateLog
from tcpnewconn.state.owner import Record

# Seconds between two records on the disk: a quiet poll writes nothing there.
_EVERY = 60.0


class Observation:
    """`until` is the Unix time, in seconds, of a poll of an earlier run or of this one; None where there was none.

    It is that of the last poll; of one in the last minute after a crash of the kernel, and after any where the state has no tail
    (state/tail.py). It outlives a reboot: it is about the host, not about its connections.
    """

    def __init__(self, log: StateLog | None) -> None:
        self.until: float | None = None
        self._recorded = float("-inf")
        self._log = log
        if log is not None:
            log.register("t", self, everywhere=True)

    def observed(self, now: float, last: bool = False) -> None:
        """A poll went well at this Unix time; it was the `last` one of this run."""
        self.until = round(now, 3)
        if self._log is None:
            return
        self._log.stamp("t", self.until)
        if last or not self._recorded <= now < self._recorded + _EVERY:
            self._recorded = now
            self._log.append(self._line(self.until))

    @staticmethod
    def _line(until: float) -> str:
        return json.dumps(["t", until])

    def records(self) -> Iterator[str]:
        if self.until is not None:
            yield self._line(self.until)

    def load(self, record: Record) -> None:
        self.until = float(record[1])

    def clear(self) -> None:
        self.until = None
