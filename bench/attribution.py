"""CPU time of an attributed connection beside that of one that is not: short, accepted, summarized.

This kernel may have no kprobes. So the records are made: those of a real kernel (tests/fixtures), with the 4-tuples of the
connections that nginx has really accepted, in pages that the service's own reader reads. A file takes the place of the ring.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from bench.client import Client
from bench.load import Nginx, accepted, storm
from bench.polls import observer
from bench.results import Group, Result, at_most
from bench.timing import of_call
from tcpnewconn.attribution.calls import Calls
from tcpnewconn.attribution.units import Units
from tcpnewconn.attribution.users import Users
from tcpnewconn.kernel import sockdiag
from tcpnewconn.kernel.namespaces import kernel_socket
from tcpnewconn.kernel.ringpage import parse
from tcpnewconn.kernel.trace import Trace
from tcpnewconn.kernel.traceevents import EVENTS, GROUP
from tcpnewconn.kernel.traceformat import Layout
from tcpnewconn.model import FourTuple
from tcpnewconn.observing.recorder import Recorder
from tcpnewconn.reporting.entries import Renderer
from tcpnewconn.reporting.fields import Entry
from tcpnewconn.reporting.outbox import Outbox
from tcpnewconn.settings import config
from tcpnewconn.state.log import StateLog

_CAPTURED = Path(__file__).resolve().parents[1] / "tests/fixtures/trace/linux-6.12-x86_64"
_PAGE = 4096
# So many wait when the service, which keeps up with a load, reads what was recorded.
_AT_ONCE = 500


class _Nowhere:
    """A sink that accepts everything, so that sending costs nothing."""

    pipe: int | None = None

    def write(self, entry: Entry) -> None: ...


class _Service:
    """The modules from recv() until a connection is counted in a group that is on record; with a trace, or without."""

    def __init__(self, path: str, instance: str | None) -> None:
        self._notifications = sockdiag.Notifications(sockdiag.open_notifications())
        self._log = StateLog(path, "here")
        settings = config.load(os.devnull)._replace(burst_limit=1, total_limit=0)
        units = Units()
        self.outbox = Outbox(_Nowhere(), self._log, Renderer(units, Users()), settings)
        self._observer = observer(self.outbox.take, self._log, self.outbox)
        if instance is not None:
            calls = Calls(_netns(), 0.0)
            self._observer.recorder = Recorder(calls, lambda: Trace(instance), units.learn)
        # The first polls lie before everything.
        self._observer.poll(time.monotonic() - 60)
        self._log.save()

    def take_notifications(self, count: int) -> None:
        """As the service does: so many destroy notifications, with the calls until then."""
        self._observer.read_calls()
        for _ in range(count):
            destroyed = self._notifications.peek()
            assert destroyed is not None
            self._observer.destroyed(destroyed, time.monotonic())
            self.outbox.deliver(redeliverable=True)
            self._observer.tracker.cursor.handled(destroyed.cookie)
            self._log.flush()
            self._notifications.consume()
        self._observer.settle()


def _netns() -> int:
    number = kernel_socket("/proc/self/net")
    assert number is not None
    return number


class _Records:
    """Pages of records of accept()."""

    def __init__(self) -> None:
        text = (_CAPTURED / "accept.format").read_text()
        self._layout = Layout("accept", text)
        self._record = self._captured()
        self._offsets = {
            name: int(line.split("offset:")[1].split(";")[0])
            for line in text.splitlines()
            for name in ("local_port", "remote_port", "local4", "remote4", "netns")
            if f" {name};" in line
        }
        # As large as a pointer of the kernel that was captured.
        [size] = re.findall(r" netns;.*size:(\d);", text)
        self._netns = {"4": "=I", "8": "=Q"}[size]

    def _captured(self) -> bytes:
        """A record over IPv4, of a real kernel."""
        for ring in sorted((_CAPTURED / "whole").glob("*.pages")):
            data = ring.read_bytes()
            for begin in range(0, len(data), _PAGE):
                page = parse(data[begin : begin + _PAGE])
                for nanoseconds, at, length in page.records:
                    if int.from_bytes(page.data[at : at + 2], sys.byteorder) == self._layout.id:
                        call = self._layout.record(page.data, at, length, nanoseconds)
                        if len(call.four_tuple) == 12:
                            return page.data[at : at + length]
        raise LookupError(f"{_CAPTURED} has no accept() over IPv4")

    def pages(self, connections: Iterable[FourTuple]) -> bytes:
        """One record for each, all of this moment."""
        now, netns = time.monotonic_ns(), _netns()
        length = len(self._record)
        # A record of more than 112 bytes has its length in a word of its own.
        head = struct.pack("=I", length // 4) if length <= 112 else struct.pack("=II", 0, length + 4)
        each = len(head) + length
        most = (_PAGE - 16) // each
        pages, page, count = [], bytearray(), 0
        for four_tuple in connections:
            record = bytearray(self._record)
            struct.pack_into("=H", record, self._offsets["local_port"], int.from_bytes(four_tuple[4:6], "big"))
            for name, value in (
                ("local4", four_tuple[:4]),
                ("remote4", four_tuple[6:10]),
                ("remote_port", four_tuple[10:]),
            ):
                record[self._offsets[name] : self._offsets[name] + len(value)] = value
            struct.pack_into(self._netns, record, self._offsets["netns"], netns)
            page += head + record
            count += 1
            if count == most:
                pages.append(self._whole(now, page))
                page, count = bytearray(), 0
        if count:
            pages.append(self._whole(now, page))
        return b"".join(pages)

    @staticmethod
    def _whole(now: int, records: bytearray) -> bytes:
        return (struct.pack("=QQ", now, len(records)) + records).ljust(_PAGE, b"\0")


def _instance(directory: Path, pages: bytes) -> str:
    for event in EVENTS:
        made = directory / "events" / GROUP / event
        made.mkdir(parents=True)
        shutil.copy(_CAPTURED / f"{event}.format", made / "format")
        (made / "enable").write_text("1\n")
    (directory / "tracing_on").write_text("1\n")
    (directory.parent / "events").write_text(" ".join(EVENTS))
    ring = directory / "per_cpu" / "cpu0"
    ring.mkdir(parents=True)
    (ring / "trace_pipe_raw").write_bytes(pages)
    (ring / "stats").write_text("overrun: 0\n")
    return str(directory)


def compared(small: bool) -> Group:
    """The same connections, once without and once with a trace that has recorded who accepted them."""
    seconds, rounds = (1, 1) if small else (2, 7)
    records = _Records()
    without, with_trace, shares = [], [], []
    with open("/proc/sys/net/ipv4/tcp_max_tw_buckets", "w") as file:
        file.write("0")
    with Client() as client, tempfile.TemporaryDirectory() as name, Nginx():
        for number in range(rounds):
            directory = Path(name) / str(number)
            directory.mkdir()
            instance = _instance(directory / "instance", b"")
            seen = sockdiag.Notifications(sockdiag.open_notifications())
            services = [
                _Service(str(directory / "without"), None),
                _Service(str(directory / "with"), instance),
            ]
            before = accepted()
            storm(client, seconds)
            time.sleep(0.5)
            count = accepted() - before
            costs = [0.0, 0.0]
            with open(directory / "instance/per_cpu/cpu0/trace_pipe_raw", "ab", buffering=0) as ring:
                for turn, four_tuples in enumerate(_in_parts(seen)):
                    ring.write(records.pages(one for one in four_tuples if one is not None))
                    # Whichever comes second finds warmer caches.
                    for which in (0, 1) if turn % 2 else (1, 0):
                        costs[which] += of_call(partial(services[which].take_notifications, len(four_tuples))).cpu
            without.append(costs[0] / count)
            with_trace.append(costs[1] / count)
            shares.append(services[1].outbox.counters.attributed_by["accept"] / count)
    ratio = statistics.median(with_trace) / statistics.median(without)
    return Group(
        "Short accepted connections, summarized, with a trace and without",
        [
            Result("CPU time of one that is not attributed", f"{statistics.median(without) * 1e6:.1f} us"),
            Result("CPU time of an attributed one", f"{statistics.median(with_trace) * 1e6:.1f} us"),
            at_most("attributed : not attributed", ratio, 1.4),
            Result("attributed", f"{min(shares):.2%}", "100 %", min(shares) == 1),
        ],
    )


def _in_parts(notifications: sockdiag.Notifications) -> list[list[FourTuple | None]]:
    """The 4-tuples of all sockets that were destroyed, some at a time; None where one was no connection."""
    found: list[FourTuple | None] = []
    while (destroyed := notifications.peek()) is not None:
        found.append(destroyed.four_tuple if destroyed.established and not destroyed.unaddressed else None)
        notifications.consume()
    return [found[begin : begin + _AT_ONCE] for begin in range(0, len(found), _AT_ONCE)]
