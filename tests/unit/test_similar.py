"""Connections that are reported like a similar one: nothing that is reported, counted or on record depends on it.

Two programs take the same destroyed sockets. One ends the batch after each of them, so that none is similar to one before.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tcpnewconn.attribution.calls import Calls
from tcpnewconn.attribution.units import Units
from tcpnewconn.attribution.users import Users
from tcpnewconn.eventtypes import Connection
from tcpnewconn.kernel.host import Host
from tcpnewconn.kernel.procnet import ProcNet
from tcpnewconn.model import Call, DestroyedSocket, FourTuple, Traffic, mirrored
from tcpnewconn.observing.observer import Observer
from tcpnewconn.observing.recorder import Recorder
from tcpnewconn.reporting.entries import Renderer
from tcpnewconn.reporting.outbox import Outbox
from tcpnewconn.settings import config
from tcpnewconn.state.log import StateLog
from tcpnewconn.tracking.run import Notifications
from tests.support.calls import NETNS, accept, connect, four_tuple, origin
from tests.support.sink import Kept
from tests.support.table import Tables, line, listener
from tests.unit.test_attribution import Recorded

# Of an opener and of an acceptor, and one that says neither; closed in order, or reset.
TRAFFIC = (Traffic(10, 12, 5, 7, 0), Traffic(10, 11, 5, 7, 1), Traffic(0, 0, 0, 0, 0), Traffic(5, 5, 5, 3, 0))
SETTINGS = {
    "as they are": "",
    "a thread ignored": "[Report]\nIgnore=thread:thread-8\n",
    "closed connections": "[Report]\nClosed=yes\n",
    "each by itself": "[Report]\nBurstLimit=0\n",
    "each by itself, some ignored": "[Report]\nBurstLimit=0\nIgnore=:22\n",
}

# Of two threads of one cgroup; the kernel's trace has one for each thread, too.
ORIGINS = [*[origin(7)._replace(cgroup=100)] * 9, origin(8)._replace(cgroup=100)]


class Counting(Outbox):
    """Knows how many connections were reported as similar ones."""

    similar = 0

    def counted(self, like: Connection, count: int, summarized: bool) -> None:
        self.similar += count
        super().counted(like, count, summarized)


class Lines(StateLog):
    """Keeps every record but those of calls, which are written when a batch ends."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "here")
        self.lines: list[str] = []

    def append(self, record: str) -> None:
        if not record.startswith('["r"'):
            self.lines.append(record)
        super().append(record)


class Program:
    """The modules from a destroyed socket to its entry; `one_by_one`: each is a batch."""

    def __init__(self, directory: Path, conf: str, renderer: Renderer, traced: bool, one_by_one: bool) -> None:
        directory.mkdir()
        self._one_by_one = one_by_one
        self.trace = Recorded()
        self._tables = Tables(directory)
        (directory / "conf").write_text(conf)
        settings = config.load(str(directory / "conf"))
        if settings.burst_limit:
            settings = settings._replace(burst_limit=2)
        self._settings = settings = settings._replace(total_limit=0)
        self.sink = Kept()
        self.log = Lines(str(directory / "state"))
        self.outbox = Counting(self.sink, self.log, renderer, settings)
        host = Host("boot", str(NETNS), (32768, 60999), live=False, users=True)
        self.observer = Observer(
            *(ProcNet(str(directory)), host, None, self.outbox.take, Notifications.KEPT, self.log, 1),
            repeats=self.outbox,
        )
        self.observer.events.closed = settings.closed
        self.now = 1000.0
        if traced:
            self.observer.recorder = Recorder(
                Calls(NETNS, 0.0, self.log), lambda: self.trace, lambda *_: None, clock=lambda: self.now
            )
        self.log.save()
        for now in (980.0, 990.0, 1000.0):
            self.poll(now)

    @property
    def burst(self) -> int:
        return self._settings.burst_limit

    def limit(self, burst: int) -> None:
        """Another BurstLimit=, where there is one."""
        if self.burst:
            self._settings = self._settings._replace(burst_limit=burst)
            self.outbox.set(self._settings)

    def recorded_calls(self) -> dict[FourTuple, list[Call]]:
        """The calls that are on record."""
        self.log.save()
        log = StateLog(self.log.path, "here")
        calls = Calls(NETNS, 0.0, log)
        # The owners of the other records.
        Outbox(self.sink, log, Renderer(Units(), Users()), self._settings)
        here = Host("boot", str(NETNS), (32768, 60999), live=False, users=True)
        Observer(ProcNet(), here, None, lambda _: None, Notifications.KEPT, log, 1)
        assert log.load() is None
        return calls.by_four_tuple

    def poll(self, now: float, *shown: FourTuple) -> None:
        self.now = now
        listeners = [listener("0.0.0.0:22"), listener("10.0.0.5:443", 2), listener("127.0.0.1:8080", 3)]
        # Ports of those that open connections, too.
        listeners += [listener("127.0.0.1:50001", 4), listener("127.0.0.1:50003", 5)]
        listeners += [listener(f"10.0.0.5:{41000 + port}", 6 + port) for port in range(0, 2000, 40)]
        rows = [line(*_texts(one), inode=10 + number) for number, one in enumerate(shown)]
        self._tables.write([*listeners, *rows])
        self.observer.poll(now)
        self.outbox.deliver()

    def take(self, destroyed: DestroyedSocket, now: float) -> None:
        self.now = now
        self.observer.destroyed(destroyed, now)
        self.outbox.deliver(redeliverable=True)
        self.observer.tracker.cursor.handled(destroyed.cookie)
        self.log.flush()
        if self._one_by_one:
            self.observer.settle()

    def end_batch(self) -> None:
        self.observer.settle()
        self.log.flush()

    def known(self) -> list[object]:
        """What it knows, and has said."""
        recorder = self.observer.recorder
        calls = dict(recorder.calls.by_four_tuple) if recorder is not None else {}
        state = sorted(self.observer.tracker.sockets.records())
        return [
            self.sink.entries,
            self.log.lines,
            dict(vars(self.outbox.counters)),
            self.outbox.connections,
            state,
            calls,
        ]


def _texts(one: FourTuple) -> tuple[str, str]:
    ends = (one[:6], one[6:])
    first, second = (f"{'.'.join(map(str, end[:4]))}:{int.from_bytes(end[4:], 'big')}" for end in ends)
    return first, second


class Both:
    """Two programs that are given the same."""

    def __init__(self, directory: Path, conf: str, traced: bool, seed: int) -> None:
        self.random = random.Random(seed)
        # One for both: it knows how far apart two clocks are.
        renderer = Renderer(Units(), Users())
        self.in_batches = Program(directory / "batches", conf, renderer, traced, False)
        self.one_by_one = Program(directory / "one", conf, renderer, traced, True)
        self._cookie = 0
        self._now = 1000.0
        # Calls of these were recorded; their sockets are destroyed in a later batch.
        self._later: list[FourTuple] = []

    def _each(self) -> tuple[Program, Program]:
        return self.in_batches, self.one_by_one

    def _take(self, one: FourTuple, unaddressed: bool = False, idle: float = 0.0) -> None:
        self._cookie += 1
        if unaddressed:
            one = one[:-2] + b"\0\0"
        destroyed = DestroyedSocket(one, self._cookie, True, unaddressed, self.random.choice(TRAFFIC), idle)
        for program in self._each():
            program.take(destroyed, self._now)

    def batch(self) -> None:
        chosen = self.random
        shown: list[FourTuple] = []
        if chosen.random() < 0.3:
            for program in self._each():
                program.limit(chosen.choice([2, 2, 4]) if program is self.in_batches else self.in_batches.burst)
        if chosen.random() < 0.04:
            for program in self._each():
                if program.observer.recorder is not None:
                    program.observer.recorder.calls.lost(self._now)
        later, self._later = self._later, []
        for _ in range(chosen.randrange(1, 40)):
            self._now += 0.001
            self._connection(chosen, shown)
        for one in later:
            self._take(one)
        for program in self._each():
            program.end_batch()
        if chosen.random() < 0.3:
            self._now += 10.0
            for program in self._each():
                program.poll(self._now, *shown)
                program.end_batch()
        if chosen.random() < 0.3:
            for program in self._each():
                program.outbox.interval_over()
        for here, there in zip(self.in_batches.known(), self.one_by_one.known(), strict=True):
            assert here == there

    def _connection(self, chosen: random.Random, shown: list[FourTuple]) -> None:
        port = chosen.choice([40000, 1024, *(41000 + chosen.randrange(2000) for _ in range(8))])
        kind = chosen.choice(["in", "in", "in", "in of another", "out", "out", "both", "within", "within", "cleared"])
        if kind == "in":
            one = four_tuple("10.0.0.5:22", f"203.0.113.9:{port}")
        elif kind == "in of another":
            one = four_tuple("10.0.0.5:443", f"203.0.113.{chosen.randrange(2)}:{port}")
        elif kind == "out":
            one = four_tuple(f"10.0.0.5:{port}", "192.0.2.7:443")
        elif kind == "both":
            one = four_tuple(f"10.0.0.5:{port}", "192.0.2.7:50000")
        elif kind == "cleared":
            self._take(four_tuple("10.0.0.5:22", f"203.0.113.9:{port}"), unaddressed=True)
            return
        else:
            self._within(chosen, chosen.choice([port, 50001, 50002]), chosen.choice([8080, 8080, 50003]))
            return
        self._record(chosen, one, "accept" if kind.startswith("in") else "connect")
        if chosen.random() < 0.05:
            shown.append(one)
        elif chosen.random() < 0.1:
            self._later.append(one)
        else:
            self._take(one, idle=chosen.choice([0.0, 0.0, 0.0, 0.0, 5.0]))

    def _within(self, chosen: random.Random, port: int, service: int) -> None:
        opener = four_tuple(f"127.0.0.1:{port}", f"127.0.0.1:{service}")
        ends = [opener, mirrored(opener)]
        chosen.shuffle(ends)
        self._record(chosen, opener, "connect")
        self._record(chosen, mirrored(opener), "accept")
        for end in ends:
            self._take(end)

    def _record(self, chosen: random.Random, one: FourTuple, by: str) -> None:
        """Nearly always one call, by one of two threads of a cgroup; sometimes none, or several, or one of long ago."""
        for _ in range(chosen.choice([1] * 24 + [0, 2])):
            other = chosen.random() < 0.03
            made = (accept if (by == "accept") is not other else connect)(
                self._now - chosen.choice([0.0005] * 19 + [25.0]), 7, one
            )
            made = made._replace(origin=chosen.choice(ORIGINS))
            for program in self._each():
                program.trace.records.append(made)
        for program in self._each():
            program.now = self._now
            program.observer.read_calls()


@pytest.mark.parametrize("traced", [False, True], ids=["without a trace", "with a trace"])
@pytest.mark.parametrize("conf", SETTINGS)
def test_nothing_depends_on_it(conf: str, traced: bool, tmp_path: Path) -> None:
    similar = 0
    for seed in range(int(os.environ.get("TCPNEWCONN_EXAMPLES", "10000")) // 2000):
        directory = tmp_path / str(seed)
        directory.mkdir()
        both = Both(directory, SETTINGS[conf], traced, seed)
        for _ in range(12):
            both.batch()
        similar += both.in_batches.outbox.similar
        for program in (both.in_batches, both.one_by_one) if traced else ():
            assert program.recorded_calls() == program.known()[-1]
        assert both.one_by_one.outbox.similar == 0
    # Where closed connections are logged, each has an event; where all are, each with a caller.
    assert (similar > 50) is (conf != "closed connections" and not (traced and conf.startswith("each by itself")))
