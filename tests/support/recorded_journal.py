"""A month's entries as the journal gives them, without a journal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tcpnewconn.ledger.journal import Journal
from tests.support.month import Month


class Recorded(Journal):
    """The entries of a month up to some number, as the journal gives them. `first`: those before are vacuumed."""

    def __init__(self, made: Month, count: int | None = None, first: int = 0) -> None:
        self.gone = False
        self.unreadable = 0
        self._entries = made.entries[:count]
        self._first = first
        self._at = -1

    def entries(self, cursor: str | None) -> Iterator[tuple[dict[str, Any], int]]:
        start = self._first
        if cursor is not None:
            start = int(cursor) + 1
            if start <= self._first and start < len(self._entries):
                self.gone, start = start < self._first or start == self._first > 0, self._first
        for at in range(start, len(self._entries)):
            microseconds, entry = self._entries[at]
            if entry["_SYSTEMD_UNIT"] == "tcpnewconn.service":
                self._at = at
                yield {name: value.encode() for name, value in entry.items()}, microseconds

    def cursor(self) -> str:
        return str(self._at)

    def close(self) -> None:
        pass
