"""The ring of one CPU in a tracefs instance: its pages, and how many records it overwrote before they could be read."""

from __future__ import annotations

import os
import re

from tcpnewconn.kernel.ringpage import Page, parse

# read() of trace_pipe_raw returns at most a page of the ring, which is one of memory unless somebody changed it.
_PAGE = os.sysconf("SC_PAGE_SIZE")
_OVERRUN = re.compile(r"^overrun: ([0-9]{1,20})$", re.MULTILINE)
_READ = re.compile(r"^read events: ([0-9]{1,20})$", re.MULTILINE)


class Ring:
    """`overwritten` is exact, but where the first page after the start lacks the number: then 1 stands for it.

    `descriptor` becomes readable when a record is there.
    """

    def __init__(self, directory: str) -> None:
        """`directory`: per_cpu/cpuN of an instance. Raises OSError."""
        self.overwritten = 0
        self._stats = f"{directory}/stats"
        # The kernel's count when the ring was empty; None until it was. The sum of the counts in pages since then.
        self._settled: int | None = None
        self._said = 0
        # Whether to ask the kernel when the ring is empty the next time: a page without space for the number does not say it.
        self._ask = True
        self.descriptor = os.open(f"{directory}/trace_pipe_raw", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self.descriptor)

    def read(self) -> Page | None:
        """The next page, whole or as far as it is written; None when there is none."""
        try:
            data = os.read(self.descriptor, _PAGE)
        except OSError:
            # EAGAIN.
            data = b""
        if not data:
            if self._ask:
                self._settle()
            return None
        page = parse(data)
        if page.overwritten != 0:
            count = 1 if page.overwritten is None else page.overwritten
            self.overwritten += count
            self._said += count
            self._ask = self._ask or page.overwritten is None
        return page

    def read_by_anybody(self) -> int:
        """How many records have been read, whoever opened it."""
        return self._count(_READ) or 0

    def _settle(self) -> None:
        """Of an empty ring, all that was overwritten has been said, but for numbers that had no space."""
        counted = self._count(_OVERRUN)
        if counted is None:
            return
        # It begins at 0 again where the ring was resized.
        if self._settled is not None and counted >= self._settled:
            self.overwritten += counted - self._settled - self._said
        self._settled, self._said, self._ask = counted, 0, False

    def _count(self, which: re.Pattern[str]) -> int | None:
        """A count of the kernel's (kernel/trace/trace.c, tracing_stats_read()); None where it is not there."""
        try:
            with open(self._stats, encoding="ascii", errors="replace") as file:
                found = which.search(file.read())
        except OSError:
            return None
        return int(found[1]) if found is not None else None
