"""Until when this host was observed: what a run can say of the one before. Record t of the state log is its own."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tcpnewconn.state.log import Record, StateLog


class Observation:
    """`until` is the Unix time, in seconds, of the last poll of an earlier run or of this one; None where there was none.

    It outlives a reboot: it is about the host, not about its connections.
    """

    def __init__(self, log: StateLog | None) -> None:
        self.until: float | None = None
        self._log = log
        if log is not None:
            log.register("t", self, everywhere=True)

    def observed(self, now: float) -> None:
        """A poll went well at this Unix time."""
        self.until = round(now, 3)
        if self._log is not None:
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
