"""A tracker, as the service uses it, on a simulated kernel to which a history happens."""

from __future__ import annotations

from pathlib import Path

from tcpnewconn.kernel.procnet import ProcNet
from tcpnewconn.model import FourTuple, mirrored
from tcpnewconn.reporting.aggregation import Aggregation
from tcpnewconn.state.snapshot import Snapshot
from tcpnewconn.tracking.tracker import New, Over, Tracker
from tests.model.histories import ACTIONS
from tests.model.simulated_kernel import LOOPBACK, Connection, Kernel, internal_pair, remote_pair


class Run:
    """One history: bytes are what happens. Keeps a log, which a failing example prints.

    `source` is "rows" where nothing is announced; "own" where announcements come on a socket of the program, so that those
    are lost that come while it does not run; "kept" where somebody keeps that socket for it.
    """

    def __init__(self, directory: Path, history: bytes, source: str, internal: bool, room: int = 1_000_000) -> None:
        self.log: list[str] = []
        self.kernel = Kernel(room)
        self.internal = internal
        self.source = source
        self.announced = source != "rows"
        self.now = self.kernel.now = 100.0
        self.lives = 0
        self.told = 0
        self.reading = False
        # Whether all was told that was there at the first read since when announcements are heard.
        self.begun = False
        self.starting = False
        self.stopping = False
        self.down = False
        self.used: set[FourTuple] = set()
        self.looked_up: set[int] = set()
        # Pairs in TIME_WAIT at the first read, until it is known whether they are announced.
        self.ended_at_start: set[FourTuple] = set()
        # What that read has shown of connections that had ended: nothing is said of it before.
        self.shown_ended: list[Connection] = []
        self.reported: list[New] = []
        (directory / "net").mkdir(exist_ok=True)
        self.table = directory / "net/tcp"
        self.state = directory / "state"
        self.state.unlink(missing_ok=True)
        self.start(unbroken=False)
        self.history = iter(history)

    def start(self, unbroken: bool) -> None:
        """The program begins, or continues where its snapshot ends."""
        snapshot = Snapshot(str(self.state), "here")
        kept, problem = snapshot.load()
        assert problem is None
        self.proc = ProcNet(str(self.table.parent.parent), "little")
        self.tracker = Tracker(
            self.kernel.identify, self.is_internal, self.announced, snapshot, remember_closed=self.source == "own"
        )
        if kept is not None:
            kept.restore(self.tracker, unbroken, now=self.now)
        snapshot.save(self.tracker, set(), Aggregation(0, 0))
        self.snapshot = snapshot
        self.lives += 1
        self.reads = 0

    def wait(self) -> None:
        """Longer than an end without addresses does. No announcement is that late."""
        if not (self.reading or self.starting or self.down):
            self.kernel.work_all()
            self.take_ends()
            self.pass_time(1.1)

    def restart(self, choice: int) -> None:
        """The program is killed or stopped, and begins again some moments later."""
        if not self.reads or self.reading or self.starting or self.down:
            return
        unbroken = self.source == "kept" and choice % 2 == 0
        if not unbroken and (self.kernel.in_between() or (self.tracker.wiped.waiting and self.kernel.nameless())):
            return
        self.log.append("restart" if unbroken else "restart, with announcements lost")
        if self.source == "kept" and not unbroken:
            self.stop(choice // 6 % 3)
        self.snapshot.flush()
        self.snapshot.done()
        self.shown_ended.clear()
        self.down = True
        if not unbroken:
            self.kernel.deaf()
            self.begun = False
        self.several(choice // 2 % 3)
        self.kernel.listening = self.announced
        self.down = False
        if not unbroken and self.announced:
            self.kernel.expire_successors()
        if unbroken:
            # Up to which of them was told outlives it.
            self.kernel.dropped += self.tracker.losing
        self.start(unbroken)

    def stop(self, count: int) -> None:
        """As the service does: nobody keeps its socket from now on. Meanwhile, so many things happen."""
        self.tracker.leave()
        self.proc.forget_ended()
        self.stopping = True
        self.read()
        self.stopping = False
        self.down = True
        self.several(count)
        self.kernel.work_all()
        self.take_ends()
        self.pass_time(5.0)

    @staticmethod
    def is_internal(four_tuple: FourTuple) -> bool:
        return four_tuple[len(four_tuple) // 2 : -2] == LOOPBACK

    def byte(self) -> int:
        return next(self.history, 0)

    def four_tuple(self) -> FourTuple:
        number = self.byte()
        if self.internal and number % 2:
            four_tuple = internal_pair(number // 2)
            return four_tuple if number < 128 else four_tuple[6:] + four_tuple[:6]
        return remote_pair(number // 2)

    def happen(self, action: int) -> None:
        kernel = self.kernel
        four_tuple = self.four_tuple()
        name = ACTIONS[action % len(ACTIONS)]
        if self.indistinguishable(name, four_tuple):
            return
        self.log.append(f"{name} {four_tuple.hex()}")
        if name.startswith("open"):
            self.used |= {four_tuple, mirrored(four_tuple)}
            kernel.open(four_tuple, name == "open", self.is_internal(four_tuple))
        elif name == "accept":
            kernel.accept(four_tuple)
        elif name == "half close":
            kernel.half_close(four_tuple)
        elif name == "shut down":
            kernel.shut_down(four_tuple)
        elif name == "orphan times out":
            kernel.orphan_times_out(four_tuple)
        elif name == "finish":
            kernel.finish(four_tuple)
        elif name == "passive close":
            kernel.passive_close(four_tuple)
        elif name in ("reset", "linger"):
            kernel.reset(four_tuple, name == "linger")
        elif name == "refused":
            kernel.refused(four_tuple)
        elif name == "abort":
            kernel.aborted(four_tuple)
        elif name == "let go":
            kernel.let_go(self.byte())
        elif name == "wait":
            self.wait()
        elif name == "restart":
            self.restart(self.byte())
        elif name == "expire":
            kernel.time_wait_expires(four_tuple)
        else:
            kernel.work(self.byte())

    def indistinguishable(self, name: str, four_tuple: FourTuple) -> bool:
        """Whether of what this would bring nothing says which connection it is of."""
        if not self.announced:
            return self.alike_in_rows(name, four_tuple)
        kernel = self.kernel
        if name == "abort":
            # Between its row and its look-up are microseconds. And of what was announced before the start nothing is known.
            return self.reading or not kernel.listening
        missed = [one for one in kernel.nameless() if one.missed]
        if missed and (name == "linger" or (name.startswith("open") and any(one.had(four_tuple) for one in missed))):
            # Of one that was gone before it was looked up, the announcement was lost: the next that can be its is taken for it.
            return True
        if not name.startswith("open"):
            return False
        if four_tuple in (self.used if self.starting else self.ended_at_start):
            # A four_tuple that enters TIME_WAIT while the first read is under way, and has another connection before that was
            # announced, some milliseconds later: its row and its announcement cannot be told to be of one connection.
            return True
        unaccepted = [one for one in kernel.connections if one.missed and not one.accepted and one.had(four_tuple)]
        if unaccepted and self.reads < 2:
            # If it is gone before it is looked up, its row looks like that of the earlier one, which has been accepted since.
            return True
        if not kernel.listening and kernel.announces(four_tuple):
            # Some milliseconds after another on its addresses, and announcements of that one can be lost.
            return True
        # Within a moment of another on its addresses, whose end has lost them; or of whose ends one was heard and one was not.
        return self.is_internal(four_tuple) and (kernel.wiped_lately(four_tuple) or kernel.heard_in_part(four_tuple))

    def alike_in_rows(self, name: str, four_tuple: FourTuple) -> bool:
        """Whether this would give a four_tuple a second connection that its rows alone cannot tell from the first.

        Two that wait to be accepted look alike, and so do two in TIME_WAIT if no read came between; and while a read is
        under way, one could take the other's place before it is looked up.
        """
        if four_tuple not in self.used:
            return False
        if name.startswith("open"):
            return self.reading or name != "open"
        socket = self.kernel.sockets.get(four_tuple)
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
        self.starting = not (self.begun or self.reads)
        if self.starting and self.announced:
            self.ended_at_start = self.kernel.ended()
        if (self.starting and (self.announced or self.lives == 1)) or self.stopping:
            # A row that is left out of the first read, or the last, says nothing about what was there then.
            noise -= noise % 4
        shown = self.kernel.write_table(self.table, noise, lambda: self.several(noise // 4 % 3))
        for one in shown:
            one.connection.shown = True
            if not self.announced or not (
                one.ended or self.kernel.announces(one.connection.four_tuple, one.connection)
            ):
                one.connection.in_rows += 1
            elif self.starting and one.ended:
                self.shown_ended.append(one.connection)
            # What has ended is else not told by its row, but by its announcement; and a row that looks like that of an earlier
            # connection is told once that has been announced. Before that, a restart can come in between.
        self.log.append("read:\n" + self.table.read_text())
        if self.starting and self.announced:
            self.ended_at_start |= self.kernel.ended()
        read = self.proc.read(not self.announced or self.tracker.first or self.tracker.remember_closed)
        self.reads += 1
        if self.announced:
            # Between a row and the look-up of its socket there are microseconds. What then takes its place is told from it
            # by its announcement; without any, the rows are looked up at once here.
            self.several(noise // 12 % 3)
        self.reading = False
        if self.reads == 2 and self.lives > 1:
            self.tracker.missing(read.find, self.now)
        for four_tuple in read.gone:
            self.tracker.gone(four_tuple, self.now)
        for row in read.changed:
            self.report(self.tracker.row(row, "startup" if self.starting else "poll", self.now))
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
        if self.reads and not self.tracker.waiting:
            self.begun = True
            self.ended_at_start = set()
            for connection in self.shown_ended:
                connection.in_rows += 1
            self.shown_ended.clear()

    def take_ends(self) -> None:
        while self.kernel.buffer:
            end, connection = self.kernel.buffer.pop(0)
            if not (end.wiped and self.is_internal(end.four_tuple)):
                # What it is the end of is told by its other end alone.
                connection.announced += 1
            self.log.append(f"end {end}")
            self.take(self.tracker.end(end, self.now))
        self.tracker.caught_up(self.now)
        lost, self.kernel.dropped = self.kernel.dropped, 0
        if lost:
            self.tracker.lose(lost, self.now)

    def take(self, outcome: New | Over | None) -> None:
        if isinstance(outcome, Over):
            self.proc.forget(outcome.four_tuple)
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
            for four_tuple in list(self.kernel.sockets):
                if self.kernel.sockets[four_tuple].inode == 0:
                    self.kernel.orphan_times_out(four_tuple)
            self.kernel.work_all()
            self.take_ends()
            self.history = iter(b"")
            self.read()
            self.pass_time(2.5)
        self.pass_time(self.tracker.patience)


def played(directory: Path, history: bytes, source: str, internal: bool, room: int = 1_000_000) -> Run:
    run = Run(directory, history, source, internal, room)
    run.several(run.byte() % 8)
    run.kernel.listening = run.announced
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
