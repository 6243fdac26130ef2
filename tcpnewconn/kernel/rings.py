"""The rings of all CPUs of a tracefs instance, read as one, in the order of the clock."""

from __future__ import annotations

import os
from collections.abc import Callable
from operator import itemgetter
from typing import Generic, TypeVar

from tcpnewconn.kernel.ring import Ring
from tcpnewconn.kernel.ringpage import Page
from tcpnewconn.kernel.traceformat import FormatError

_Record = TypeVar("_Record")
# Page, place in it, length, time in nanoseconds.
Decode = Callable[[bytes, int, int, int], _Record]


class Rings(Generic[_Record]):
    """Keep them open while the service runs: that keeps the instance, also over a restart of the oneshot.

    `malformed` is how many records could not be understood, since the start. Those and the overwritten ones are of before
    `lost_until` (CLOCK_MONOTONIC, in seconds).
    """

    def __init__(self, directory: str, clock: Callable[[], int], decode: Decode[_Record]) -> None:
        """`directory` is per_cpu of an instance; `clock` that of the events, in nanoseconds; `decode` raises FormatError.

        Raises OSError.
        """
        self._clock = clock
        self._decode = decode
        self.malformed = 0
        self.lost_until = float("-inf")
        # How many records were read, those before the start among them.
        self._read = 0
        # Recorded after the clock reading of the last read(), for the next one.
        self._later: list[tuple[int, _Record]] = []
        self._rings: list[Ring] = []
        try:
            for name in sorted(os.listdir(directory)):
                self._rings.append(Ring(f"{directory}/{name}"))
        except OSError:
            self.close()
            raise
        self._count_again()

    @property
    def overwritten(self) -> int:
        """How many records the rings overwrote before they could be read, since the start."""
        return sum(ring.overwritten for ring in self._rings)

    @property
    def returned(self) -> int:
        """How many records read() has returned; of what was read before the start, all."""
        return self._read - len(self._later)

    def defined_again(self) -> None:
        """The oneshot has defined the events again: they were deleted before, nobody says when, and it has read what it tried."""
        self.lost_before()
        self._count_again()

    def _count_again(self) -> None:
        """Others may have read, too."""
        self._read = sum(ring.read_by_anybody() for ring in self._rings)

    @property
    def descriptors(self) -> list[int]:
        return [ring.descriptor for ring in self._rings]

    def read(self) -> list[_Record]:
        """All that was recorded before this call, by time over all CPUs; newer records wait for the next. Never raises."""
        until = self._clock()
        found, self._later = self._later, []
        for ring in self._rings:
            while (page := ring.read()) is not None:
                if page.overwritten != 0:
                    self.lost_before(page.records[0][0] if page.records else until)
                if page.damaged:
                    self.malformed += 1
                    self.lost_before(until)
                self._read += len(page.records)
                self._decode_page(page, found)
                if page.records and page.records[-1][0] >= until:
                    break
        found.sort(key=itemgetter(0))
        while found and found[-1][0] >= until:
            self._later.append(found.pop())
        return [record for _, record in found]

    def _decode_page(self, page: Page, found: list[tuple[int, _Record]]) -> None:
        """Append what the records of a page say."""
        decode = self._decode
        for nanoseconds, at, length in page.records:
            try:
                found.append((nanoseconds, decode(page.data, at, length, nanoseconds)))
            except FormatError:
                self.malformed += 1
                # Its own time is before this one.
                self.lost_before(nanoseconds + 1)

    def lost_before(self, nanoseconds: int | None = None) -> None:
        """Records of before this time are missing; without it, of before now."""
        time = self._clock() if nanoseconds is None else nanoseconds
        self.lost_until = max(self.lost_until, time / 1e9)

    def close(self) -> None:
        for ring in self._rings:
            ring.close()
