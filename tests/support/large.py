"""Large tables of sockets, and the program's own modules with one of them: polls it once
for each line of standard input, and prints the result.

Run as a program, so that the memory is that of the modules and not of a test runner.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tcpnewconn.attribution.units import Units
from tcpnewconn.attribution.users import Users
from tcpnewconn.kernel.host import Host
from tcpnewconn.kernel.lookup import Lookup
from tcpnewconn.kernel.procnet import ProcNet
from tcpnewconn.model import FourTuple, SocketInfo
from tcpnewconn.observing.observer import Observer
from tcpnewconn.reporting.entries import Renderer
from tcpnewconn.reporting.fields import Entry
from tcpnewconn.reporting.outbox import Outbox
from tcpnewconn.settings.config import load
from tcpnewconn.state.log import StateLog
from tcpnewconn.tracking.run import Notifications
from tests.support.table import TITLES

# Local address (a number in the kernel's order) and port, remote address and port, state, inode.
Numbers = tuple[int, int, int, int, int, int]


def write(path: Path, rows: Iterable[Numbers]) -> None:
    """A table, in a moment: of hundreds of thousands of rows."""
    with path.open("wb") as file:
        file.write(TITLES)
        for slot, row in enumerate(rows):
            text = b"%4d: %08X:%04X %08X:%04X %02X 00000000:00000000 00:00000000 00000000  1000        0 %d 1 0000000090388911"
            file.write((text % (slot, *row)).ljust(149) + b"\n")


@dataclass(frozen=True)
class Outcome:
    """The totals after a poll, since the start; memory in KiB."""

    rows: int
    open: int
    entries: int
    summaries: int
    counted: int
    lookups: int
    written: int
    # Before the first poll.
    empty: int
    peak: int
    resident: int


class Count:
    """A sink that counts."""

    pipe: int | None = None

    def __init__(self) -> None:
        self.connections = self.summaries = self.counted = 0

    def write(self, entry: Entry) -> None:
        if "TCPNEWCONN_CONNECTION_ID" in entry:
            self.connections += 1
        elif " new connection" in entry["MESSAGE"]:
            self.summaries += 1
            self.counted += int(entry["TCPNEWCONN_COUNT"])


class Counted(Lookup):
    """The kernel is asked, and how often is counted."""

    times = 0

    def socket_info(self, four_tuple: FourTuple) -> SocketInfo | None:
        self.times += 1
        return super().socket_info(four_tuple)


def _memory(what: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(what))


def main(directory: Path) -> None:
    host = Host("boot", "1", (500, 65_535), live=False, users=True)
    log = StateLog(str(directory / "snapshot"), host.place)
    lookup, sink = Counted(), Count()
    outbox = Outbox(sink, log, Renderer(Units(), Users()), load("/dev/null"))
    observer = Observer(ProcNet(str(directory)), host, lookup, outbox.take, Notifications.KEPT, log, 1)
    log.load()
    if log.resumed:
        observer.tracker.resume(time.monotonic(), 0)
    empty = _memory("VmRSS")
    for _ in sys.stdin:
        observer.poll(time.monotonic())
        # No destroy notification comes: what was in TIME_WAIT at the first poll had been notified before.
        observer.tracker.caught_up(time.monotonic() + 1)
        observer.tick(time.monotonic() + 1)
        outbox.deliver()
        outbox.interval_over()
        log.save()
        outcome = Outcome(
            rows=sum(observer.tables.states.values()),
            open=observer.connections,
            entries=sink.connections,
            summaries=sink.summaries,
            counted=sink.counted,
            lookups=lookup.times,
            written=os.stat(directory / "snapshot").st_size,
            empty=empty,
            peak=_memory("VmHWM"),
            resident=_memory("VmRSS"),
        )
        print(json.dumps(asdict(outcome)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
