"""How many records of the trace have been read and are on record, so that it is known how many SIGKILL lost.

The kernel counts how many were read of each ring. Those that were read after the last record of this state, and before the
program was killed, are in neither place. Record T is its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from tcpnewconn.kernel.instance import Position
from tcpnewconn.state.owner import Log, Record


class Progress:
    """How far the trace was read when everything that had been read was on record; and what is missing of an earlier run."""

    def __init__(self, log: Log | None) -> None:
        # None: whatever is missing is of no connection.
        self._at: Position | None = None
        # Records that the run before had read and not put on record, and that nobody has taken yet.
        self._lost = 0
        self._log = log
        if log is not None:
            log.register("T", self)

    def resume(self, found: Position) -> None:
        """The run before had read so far."""
        at = self._at
        # Else it is another instance, or one that the oneshot has read, too.
        if at is not None and at.defined == found.defined:
            self._lost = max(0, found.returned - at.returned)

    def on_record(self, position: Position) -> None:
        """All that was read so far is on record with the next flush; what is missing is to be taken first."""
        if not self._lost:
            self._record(position)

    def forget(self) -> None:
        """What was read, and is read from now on, is of no connection that can be missing."""
        self._lost = 0
        self._record(None)

    def take(self) -> int:
        """How many records are missing; each once."""
        lost, self._lost = self._lost, 0
        return lost

    def _record(self, at: Position | None) -> None:
        if at != self._at:
            self._at = at
            if self._log is not None:
                self._log.append(_line(at))

    # --- what outlives a restart -------------------------------------------------------------------------------------

    def records(self) -> Iterator[str]:
        if self._at is not None:
            yield _line(self._at)

    def load(self, record: Record) -> None:
        self._at = Position(int(record[1]), int(record[2])) if len(record) > 1 else None

    def clear(self) -> None:
        self._at = None


def _line(at: Position | None) -> str:
    return json.dumps(["T", *(at or ())], separators=(",", ":"))
