"""Entries on their way to the sink: in order, and none is lost while the sink takes none, or in a crash.

Records e and d of the state log are its own: an entry that is on record is delivered after a restart, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from json.encoder import encode_basestring_ascii as quoted

from tcpnewconn.reporting.fields import Entry
from tcpnewconn.reporting.sinks import Sink
from tcpnewconn.state.log import StateLog
from tcpnewconn.state.owner import Record


class Queue:
    """The first in first."""

    def __init__(self, sink: Sink, log: StateLog | None) -> None:
        self._sink = sink
        self._log = log
        # Each with its number on record, 0 without a state log.
        self.entries: deque[tuple[Entry, int]] = deque()
        self._number = 0
        if log is not None:
            log.register("ed", self, everywhere=True)

    def put(self, entry: Entry) -> None:
        """Queue an entry, and write it to the state log."""
        self.entries.append((entry, self._record(entry)))

    def send_at_once(self, entries: list[Entry]) -> None:
        """Send entries that need not be on record, where none waits. Those that the sink does not take wait, on record."""
        write = self._sink.write
        for at, entry in enumerate(entries):
            try:
                write(entry)
            except BlockingIOError:
                for each in entries[at:]:
                    self.put(each)
                return

    def _record(self, entry: Entry) -> int:
        if self._log is None:
            return 0
        self._number += 1
        self._log.append(_line(self._number, entry))
        return self._number

    def send(self) -> None:
        """Send as many as the sink takes."""
        entries = self.entries
        recorded = False
        while entries:
            entry, number = entries[0]
            try:
                self._sink.write(entry)
            except BlockingIOError:
                break
            entries.popleft()
            if number and self._log is not None:
                self._log.append(f'["d",{number}]')
                recorded = True
        if recorded and self._log is not None:
            self._log.flush()

    # --- what outlives a restart -------------------------------------------------------------------------------------

    def records(self) -> Iterator[str]:
        return (_line(number, entry) for entry, number in self.entries if number)

    def load(self, record: Record) -> None:
        if record[0] == "e":
            self._number = int(record[1])
            self.entries.append(({str(key): str(value) for key, value in record[2].items()}, self._number))
            return
        # Entries are delivered in order: it is the first.
        if not self.entries or self.entries[0][1] != record[1]:
            raise LookupError
        self.entries.popleft()

    def clear(self) -> None:
        self.entries.clear()


def _line(number: int, entry: Entry) -> str:
    """Its values are all text: a json.JSONEncoder takes twice as long for it (measured)."""
    fields = ",".join([f"{quoted(name)}:{quoted(value)}" for name, value in entry.items()])
    return f'["e",{number},{{{fields}}}]'
