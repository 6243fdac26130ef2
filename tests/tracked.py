"""A tracker, as the service uses it, on a simulated kernel to which a history happens."""

from __future__ import annotations

from pathlib import Path

from tcpnewconn.folding import Folding
from tcpnewconn.model import Pair, mirrored
from tcpnewconn.procnet import ProcNet
from tcpnewconn.snapshot import Snapshot
from tcpnewconn.tracker import New, Over, Tracker
from tests.histories import ACTIONS
from tests.simulated_kernel import LOOPBACK, Kernel, internal_pair, remote_pair


class Run:
    """One history: bytes are what happens. Keeps a log, which a failing example prints."""

    def __init__(self, folder: Path, history: bytes, announced: bool, internal: bool, room: int = 1_000_000) -> None:
        self.log: list[str] = []
        self.kernel = Kernel(room)
        self.internal = internal
        self.announced = announced
        self.now = self.kernel.now = 100.0
        self.lives = 0
        self.told = 0
        self.reading = False
        self.starting = False
        self.used: set[Pair] = set()
        self.looked_up: set[int] = set()
        # Pairs in TIME_WAIT at the first read, until it is known whether they are announced.
        self.ended_at_start: set[Pair] = set()
        self.reported: list[New] = []
        (folder / "net").mkdir(exist_ok=True)
        self.table = folder / "net/tcp"
        self.state = folder / "state"
        self.state.unlink(missing_ok=True)
        self.start()
        self.history = iter(history)

    def start(self) -> None:
        """The program begins, or continues where its snapshot ends."""
        snapshot = Snapshot(str(self.state), "here")
        kept, problem = snapshot.load()
        assert problem is None
        self.proc = ProcNet(str(self.table.parent.parent), "little")
        self.tracker = Tracker(self.kernel.identify, self.is_internal, self.announced, snapshot)
        if kept is not None:
            kept.restore(self.tracker, unbroken=self.announced, now=self.now)
        snapshot.save(self.tracker, set(), Folding(0, 0))
        self.snapshot = snapshot
        self.lives += 1
        self.reads = 0

    def wait(self) -> None:
        """Longer than an end without addresses does. No announcement is that late."""
        if not (self.reading or self.starting):
            self.kernel.work_all()
            self.take_ends()
            self.pass_time(1.1)

    def restart(self) -> None:
        """The program ends and begins again; announcements wait for it meanwhile.

        Not while it waits for what moments bring: an end without addresses, or what was in TIME_WAIT at the first start.
        """
        if self.reads and not (self.reading or self.starting or self.tracker.waiting):
            self.snapshot.flush()
            self.snapshot.done()
            # Up to which of them was told outlives it.
            self.kernel.dropped += self.tracker.losing
            self.start()

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
        name = ACTIONS[action % len(ACTIONS)]
        if not self.announced and self.indistinguishable(name, pair):
            return
        if name.startswith("open") and pair in (self.used if self.starting else self.ended_at_start):
            # A pair that enters TIME_WAIT while the first read is under way, and has another connection before that was
            # announced, some milliseconds later: its row and its announcement cannot be told to be of one connection.
            return
        if name == "abort" and (self.reading or (self.announced and not kernel.listening)):
            # Between its row and its look-up are microseconds. And of what was announced before the start nothing is known.
            return
        if name.startswith("open") and self.is_internal(pair) and kernel.wiped_lately(pair):
            # Of two that follow each other within a moment on the same addresses, nothing tells whose an end without them is.
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
        elif name == "abort":
            kernel.aborted(pair)
        elif name == "let go":
            kernel.let_go(self.byte())
        elif name == "wait":
            self.wait()
        elif name == "restart":
            self.restart()
        elif name == "expire":
            kernel.time_wait_expires(pair)
        else:
            kernel.work(self.byte())

    def indistinguishable(self, name: str, pair: Pair) -> bool:
        """Whether this would give a pair a second connection that its rows alone cannot tell from the first.

        Two that wait to be accepted look alike, and so do two in TIME_WAIT if no read came between; and while a read is
        under way, one could take the other's place before it is looked up.
        """
        if pair not in self.used:
            return False
        if name.startswith("open"):
            return self.reading or name != "open"
        socket = self.kernel.sockets.get(pair)
        return socket is not None and id(socket.connection) not in self.looked_up

    def several(self, count: int) -> None:
        for _ in range(count):
            self.happen(self.byte())

    def read(self) -> None:
        """As the service does: deal with what is announced, read, deal with the rows."""
        self.take_ends()
        noise = self.byte()
        # The first reads of a life are complete: a row that is left out of them says nothing about the start.
        self.reading = True
        self.starting = self.reads == 0 and self.lives == 1
        if self.starting and self.announced:
            self.ended_at_start = self.kernel.ended()
        self.kernel.write_table(
            self.table, noise if self.reads or self.lives > 1 else 0, lambda: self.several(noise // 4 % 3)
        )
        self.log.append("read:\n" + self.table.read_text())
        if self.starting and self.announced:
            self.ended_at_start |= self.kernel.ended()
        read = self.proc.read(not self.announced or self.tracker.first)
        self.reads += 1
        if self.announced:
            # Between a row and the look-up of its socket there are microseconds. What then takes its place is told from it
            # by its announcement; without any, the rows are looked up at once here.
            self.several(noise // 12 % 3)
        self.reading = False
        if self.reads == 2 and self.lives > 1:
            self.tracker.missing(read.find, self.now)
        for pair in read.gone:
            self.tracker.gone(pair, self.now)
        for row in read.changed:
            self.report(self.tracker.row(row, "startup" if self.starting else "read", self.now))
        self.looked_up |= {id(connection) for connection in self.kernel.connections if connection.in_rows}
        self.tracker.read_done()
        if self.starting:
            # What stands in TIME_WAIT at the start is announced within moments, or was before.
            self.kernel.work_all()
            self.take_ends()
            self.starting = False
        self.pass_time(0.1)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.kernel.now = self.now
        if self.kernel.hurry():
            self.take_ends()
        for outcome in self.tracker.overdue(self.now):
            self.take(outcome)
        self.told += self.tracker.lost(self.now)
        if not self.tracker.waiting:
            self.ended_at_start = set()

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
        for half in range(8):
            if half == 4:
                # Programs can hold what was reset for longer than anything is waited for.
                self.pass_time(self.tracker.patience)
                while self.kernel.held:
                    self.kernel.let_go(0)
            for pair in list(self.kernel.sockets):
                if self.kernel.sockets[pair].inode == 0:
                    self.kernel.orphan_times_out(pair)
            self.kernel.work_all()
            self.take_ends()
            self.history = iter(b"")
            self.read()
            self.pass_time(2.5)
        self.pass_time(self.tracker.patience)


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
    run.snapshot.done()
    return run
