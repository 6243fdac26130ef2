"""The tracker against a simulated kernel: every connection exactly once, whatever happens in whatever order.

TCPNEWCONN_EXAMPLES sets how many examples are tried (10,000 in all by default).
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tcpnewconn.model import Pair, mirrored
from tcpnewconn.procnet import ProcNet
from tcpnewconn.tracker import New, Over, Tracker
from tests.simulated_kernel import LOOPBACK, Kernel, internal_pair, remote_pair

EXAMPLES = int(os.environ.get("TCPNEWCONN_EXAMPLES", "10000"))
VARIANTS = 4


class Run:
    """One history: bytes are what happens. Keeps a log, which a failing example prints."""

    def __init__(self, folder: Path, history: bytes, announced: bool, internal: bool, room: int = 1_000_000) -> None:
        self.log: list[str] = []
        self.kernel = Kernel(room)
        self.internal = internal
        self.announced = announced
        self.now = 100.0
        self.reads = 0
        self.told = 0
        self.reading = False
        self.starting = False
        self.used: set[Pair] = set()
        self.reported: list[New] = []
        (folder / "net").mkdir(exist_ok=True)
        self.table = folder / "net/tcp"
        self.proc = ProcNet(str(folder), "little")
        self.tracker = Tracker(self.kernel.identify, self.is_internal, announced)
        self.history = iter(history)

    @staticmethod
    def is_internal(pair: Pair) -> bool:
        return pair[len(pair) // 2 : -2] == LOOPBACK

    def byte(self) -> int:
        return next(self.history, 0)

    def pair(self) -> Pair:
        number = self.byte()
        if self.internal and number % 2:
            pair = internal_pair(number // 2)
            return pair if number < 128 else pair[6:] + pair[:6]
        return remote_pair(number // 2)

    def happen(self, action: int) -> None:
        kernel = self.kernel
        pair = self.pair()
        name = [
            "open", "open", "open unaccepted", "accept", "half close", "orphan times out", "finish", "finish",
            "passive close", "reset", "linger", "refused", "expire", "work", "work", "shut down",
        ][action % 16]  # fmt: skip
        if not self.announced and self.indistinguishable(name, pair):
            return
        if self.starting and name.startswith("open") and pair in self.used:
            # A pair that enters TIME_WAIT while the first read is under way, and has another connection before that was
            # announced, some milliseconds later: its row and its announcement cannot be told to be of one connection.
            return
        self.log.append(f"{name} {pair.hex()}")
        if name.startswith("open"):
            self.used |= {pair, mirrored(pair)}
            kernel.open(pair, name == "open", self.is_internal(pair))
        elif name == "accept":
            kernel.accept(pair)
        elif name == "half close":
            kernel.half_close(pair)
        elif name == "shut down":
            kernel.shut_down(pair)
        elif name == "orphan times out":
            kernel.orphan_times_out(pair)
        elif name == "finish":
            kernel.finish(pair)
        elif name == "passive close":
            kernel.passive_close(pair)
        elif name in ("reset", "linger"):
            kernel.reset(pair, name == "linger")
        elif name == "refused":
            kernel.refused(pair)
        elif name == "expire":
            kernel.time_wait_expires(pair)
        else:
            kernel.work(self.byte())

    def indistinguishable(self, name: str, pair: Pair) -> bool:
        """Whether this would give a pair a second connection that its rows alone cannot tell from the first.

        Two that wait to be accepted look alike, and so do two in TIME_WAIT if no read came between; and while a read is
        under way, one could take the other's place before it is looked up.
        """
        waiting = self.kernel.sockets.get(pair)
        if self.reading and waiting is not None and not waiting.accepted:
            # Gone before it is looked up, it would look like one that was accepted if another takes its place.
            return True
        if pair not in self.used:
            return False
        if name.startswith("open"):
            return self.reading or name != "open"
        socket = self.kernel.sockets.get(pair)
        return socket is not None and socket.connection.in_rows == 0

    def several(self, count: int) -> None:
        for _ in range(count):
            self.happen(self.byte())

    def read(self) -> None:
        """As the service does: deal with what is announced, read, deal with the rows."""
        self.take_ends()
        noise = self.byte()
        # The first reads of a life are complete: a row that is left out of them says nothing about the start.
        self.reading = True
        self.starting = self.reads == 0
        self.kernel.write_table(self.table, noise if self.reads else 0, lambda: self.several(noise // 4 % 3))
        self.log.append("read:\n" + self.table.read_text())
        read = self.proc.read(not self.announced or self.reads == 0)
        self.reads += 1
        if self.announced:
            # Between a row and the look-up of its socket there are microseconds. What then takes its place is told from it
            # by its announcement; without any, the rows are looked up at once here.
            self.several(noise // 16 % 3)
        self.reading = False
        for pair in read.gone:
            self.tracker.gone(pair, self.now)
        for row in read.changed:
            self.report(self.tracker.row(row, "read" if self.reads > 1 else "startup", self.now))
        self.tracker.read_done(self.now)
        if self.reads == 1:
            # What stands in TIME_WAIT at the start is announced within moments, or was before.
            while self.kernel.destroyed:
                self.kernel.work(0)
            self.take_ends()
            self.starting = False
        self.pass_time(0.1)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for outcome in self.tracker.overdue(self.now):
            self.take(outcome)
        self.told += self.tracker.lost(self.now)

    def take_ends(self) -> None:
        while self.kernel.buffer:
            end, _ = self.kernel.buffer.pop(0)
            self.log.append(f"end {end}")
            self.take(self.tracker.end(end, self.now))
        self.tracker.caught_up(self.now)
        lost, self.kernel.dropped = self.kernel.dropped, 0
        if lost:
            self.tracker.lose(lost, self.now)

    def take(self, outcome: New | Over | None) -> None:
        if isinstance(outcome, Over):
            self.proc.forget(outcome.pair)
        else:
            self.report(outcome)

    def report(self, new: New | None) -> None:
        if new is not None:
            self.log.append(f"REPORTED {new}")
            self.reported.append(new)

    def settle(self) -> None:
        """Let everything be announced, read and forgotten."""
        for _ in range(4):
            for pair in list(self.kernel.sockets):
                if self.kernel.sockets[pair].inode == 0:
                    self.kernel.orphan_times_out(pair)
            while self.kernel.destroyed:
                self.kernel.work(0)
            self.take_ends()
            self.history = iter(b"")
            self.read()
            self.pass_time(2.5)


def played(folder: Path, history: bytes, announced: bool, internal: bool, room: int = 1_000_000) -> Run:
    run = Run(folder, history, announced, internal, room)
    run.several(run.byte() % 8)
    before = len(run.kernel.connections)
    for connection in run.kernel.connections[:before]:
        connection.before_start = True
    run.kernel.listening = announced
    run.read()
    for step in run.history:
        if step % 6 == 0:
            run.read()
        elif step % 6 == 1:
            run.take_ends()
        else:
            run.happen(step // 6)
    run.settle()
    return run


def alike(pair: Pair) -> bytes:
    """What tells connections apart for those who read of them: where addresses were wiped, port and peer remain."""
    return min(pair, mirrored(pair)) if Run.is_internal(pair) else pair[4:10]


def reported(run: Run) -> Counter[bytes]:
    numbers = [new.number for new in run.reported]
    assert len(numbers) == len(set(numbers)), "\n".join(["one id was reported twice", *run.log])
    return Counter(alike(new.pair) for new in run.reported)


def existed(run: Run) -> Counter[bytes]:
    """The connections that a read or an announcement has shown."""
    return Counter(
        alike(connection.pair)
        for connection in run.kernel.connections
        if connection.in_rows > 0 or (run.announced and connection.announced > 0)
    )


@pytest.mark.parametrize("internal", [False, True], ids=["remote", "internal"])
@pytest.mark.parametrize("announced", [False, True], ids=["rows", "announced"])
def test_every_connection_is_reported_exactly_once(announced: bool, internal: bool, tmp_path: Path) -> None:
    @settings(
        max_examples=EXAMPLES // VARIANTS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(st.binary(max_size=120))
    def once(history: bytes) -> None:
        run = played(tmp_path, history, announced, internal)
        assert reported(run) == existed(run), "\n".join(run.log)

    once()


def test_what_is_lost_is_declared(tmp_path: Path) -> None:
    """Announcements are dropped: connections reported and connections declared lost are together those that were."""

    @settings(max_examples=EXAMPLES // VARIANTS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=120))
    def once(history: bytes) -> None:
        run = played(tmp_path, history, announced=True, internal=False, room=2)
        told, was = reported(run), Counter(alike(connection.pair) for connection in run.kernel.connections)
        assert told <= was, "\n".join(run.log)
        missing = sum((was - told).values()) - sum(one.before_start for one in run.kernel.connections)
        assert missing <= run.told, "\n".join([f"{missing} missing, {run.told} declared", *run.log])

    once()
