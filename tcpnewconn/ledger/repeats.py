"""Which connections the service has logged again.

It logs first and saves its state after that: killed in between, it logs the same connections again after its start, with the
same ids. So the ids of the last ten minutes before a start (at most 100,000) are kept, and those that come in the first ten
minutes after it are compared with them. An id older than that is forgotten: the ledger stays bounded.
"""

from __future__ import annotations

WINDOW = 600
MOST = 100_000


class Repeats:
    """`run` is the service's invocation id of the last entry, as bytes. Times are those of entries, in seconds."""

    def __init__(self, run: bytes = b"", recent: dict[bytes, int] | None = None, until: float = 0.0) -> None:
        self.run = run
        self.until = until
        # id -> time, oldest first
        self._recent = recent or {}
        # Those before the last start. After loading, those of this run too: within one run no id comes twice.
        self._before: dict[bytes, int] = dict(self._recent) if until else {}
        self._last = max(self._recent.values(), default=0)

    def started(self, run: bytes, when: float) -> None:
        """Another run of the service: its first entry is of this time."""
        if run == self.run:
            return
        self.run = run
        self._before = self.kept()
        self.until = when + WINDOW

    def repeated(self, identity: bytes, when: float) -> bool:
        """Whether a connection of this id was logged before the last start; now it is known, for the next."""
        self._last = int(when)
        if self._before:
            if identity in self._before:
                return True
            if when > self.until:
                self._before = {}
                self.until = 0.0
        self._recent[identity] = self._last
        if len(self._recent) > 2 * MOST:
            self._recent = self.kept()
        return False

    def kept(self) -> dict[bytes, int]:
        """The ids that a start would be compared with now."""
        oldest = self._last - WINDOW
        self._recent = {identity: when for identity, when in self._recent.items() if when >= oldest}
        found = self._before | self._recent
        return found if len(found) <= MOST else dict(list(found.items())[-MOST:])
