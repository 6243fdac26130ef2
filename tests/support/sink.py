"""A sink for tests: it keeps what is written, or takes nothing, as a journal that hangs."""

from __future__ import annotations

from tcpnewconn.reporting.fields import Entry


class Kept:
    """While it is `blocked`, it takes no entry."""

    pipe: int | None = None

    def __init__(self, blocked: bool = False) -> None:
        self.blocked = blocked
        self.entries: list[Entry] = []

    def write(self, entry: Entry) -> None:
        if self.blocked:
            raise BlockingIOError
        # One that is changed later on is kept as it was.
        self.entries.append(dict(entry))
