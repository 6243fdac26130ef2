"""How many records of the trace have been read and are on record, or need not be; so that it is known how many SIGKILL lost.

The kernel counts how many were read of each ring. Those that were read after the last record of this state, and before the
program was killed, are in neither place. Record T is its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from tcpnewconn.kernel.instance import Position
from tcpnewconn.state.owner import Log, Record


class Progress:
    """`at` is how far the trace was read when everything that had been read was on record; None where that is not known."""

    def __init__(self, log: Log | None) -> None:
        self.at: Position | None = None
        self._log = log
        if log is not None:
            log.register("T", self)

    def on_record(self, position: Position) -> None:
        """All that was read so far is on record with the next flush."""
        if position != self.at:
            self.at = position
            if self._log is not None:
                self._log.append(_line(position))

    def lost(self, found: Position) -> int:
        """How many records the run before had read, and not put on record; `found` is how far it had read."""
        at = self.at
        if at is None or at.defined != found.defined:
            # Another instance, or one that the oneshot has read, too.
            return 0
        return max(0, found.returned - at.returned)

    # --- what outlives a restart -------------------------------------------------------------------------------------

    def records(self) -> Iterator[str]:
        if self.at is not None:
            yield _line(self.at)

    def load(self, record: Record) -> None:
        self.at = Position(int(record[1]), int(record[2]))

    def clear(self) -> None:
        self.at = None


def _line(position: Position) -> str:
    return json.dumps(["T", *position], separators=(",", ":"))
