"""The tracker against a simulated kernel: every connection exactly once, whatever happens in whatever order.

TCPNEWCONN_EXAMPLES sets how many examples are tried (10,000 in all by default).
"""

from __future__ import annotations

import os
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tcpnewconn.folding import Folding
from tcpnewconn.model import ESTABLISHED, End, Pair, Row, mirrored
from tcpnewconn.procnet import ProcNet
from tcpnewconn.snapshot import Snapshot
from tcpnewconn.tracker import New, Over, Tracker
from tests.simulated_kernel import LOOPBACK, NO_TRAFFIC, Kernel, internal_pair, remote_pair

EXAMPLES = int(os.environ.get("TCPNEWCONN_EXAMPLES", "10000"))
VARIANTS = 4
ACTIONS = [
    "open", "open", "open unaccepted", "accept", "half close", "orphan times out", "finish", "finish", "passive close",
    "reset", "linger", "refused", "expire", "work", "work", "shut down", "abort", "let go", "restart", "wait",
]  # fmt: skip
SERVER = (8080).to_bytes(2, "big")


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
            while self.kernel.destroyed:
                self.kernel.work(0)
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
            while self.kernel.destroyed:
                self.kernel.work(0)
            self.take_ends()
            self.starting = False
        self.pass_time(0.1)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.kernel.now = self.now
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
            while self.kernel.destroyed:
                self.kernel.work(0)
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


def alike(pair: Pair) -> bytes:
    """What tells connections apart for those who read of them: where addresses were wiped, port and peer remain."""
    if not Run.is_internal(pair):
        return pair[4:10]
    return pair if pair.endswith(b"\0\0") else min(pair, mirrored(pair))


def reported(run: Run) -> Counter[bytes]:
    numbers = [new.number for new in run.reported]
    assert len(numbers) == len(set(numbers)), "\n".join(["one id was reported twice", *run.log])
    return Counter(alike(new.pair) for new in run.reported)


def agree(told: Counter[bytes], was: Counter[bytes]) -> bool:
    """Whether the connections told are those that were; one within the host of which both ends were wiped has one port."""
    missing, extra = list((was - told).elements()), list((told - was).elements())
    # The server's port is that of all of them: those that name a client's have less to choose from.
    for pair in sorted(extra, key=lambda pair: pair[4:6] == SERVER):
        other = next((one for one in missing if pair.endswith(b"\0\0") and pair[4:6] in (one[4:6], one[-2:])), None)
        if other is None:
            return False
        missing.remove(other)
    return not missing


def existed(run: Run) -> Counter[bytes]:
    """The connections that a read or an announcement has shown."""
    return Counter(
        alike(connection.pair)
        for connection in run.kernel.connections
        if connection.in_rows > 0 or (run.announced and connection.announced > 0)
    )


def few_letters() -> st.SearchStrategy[bytes]:
    """Histories in which the same things happen to the same pairs, again and again."""
    letters = st.lists(st.integers(0, 255), min_size=2, max_size=12)
    return letters.flatmap(lambda few: st.lists(st.sampled_from(few), max_size=120).map(bytes))


def on_few_pairs() -> st.SearchStrategy[bytes]:
    """Histories of whole actions and reads, written as Run reads them."""
    return st.lists(st.integers(0, 255), min_size=1, max_size=3).flatmap(_on_pairs)


def _on_pairs(pairs: list[int]) -> st.SearchStrategy[bytes]:
    def written(action: int, pair: int, which: int) -> tuple[int, ...]:
        return (action, pair, which) if ACTIONS[action] in ("work", "let go") else (action, pair)

    action = st.builds(written, st.integers(0, len(ACTIONS) - 1), st.sampled_from(pairs), st.integers(0, 3))
    # A row that is doubled or left out; how many actions while the table is read, and how many before its rows are looked up.
    read = st.builds(
        lambda rows, during, behind: bytes(
            [0, rows + 4 * len(during) + 12 * len(behind), *chain(*during), *chain(*behind)]
        ),
        st.integers(0, 2),
        st.lists(action, max_size=2),
        st.lists(action, max_size=2),
    )
    step = read | st.just(b"\1") | action.map(lambda bytes_: bytes([6 * bytes_[0] + 2, *bytes_[1:]]))
    before = st.lists(action, max_size=3).map(lambda actions: bytes([len(actions), *chain(*actions)]))
    return st.builds(lambda first, steps: first + b"\0" + b"".join(steps), before, st.lists(step, max_size=14))


# Histories that were once not told right, each for another reason: what had to be seen for it.
FOUND = [
    bytes.fromhex(history)
    for history in (
        # Several that had the same addresses were gone when they were asked for their cookie, and are announced late.
        "00040004001c00000604000400",
        # One that was gone when it was asked for its cookie is not the one that stands in its row later.
        "800800000203001000000603020300",
        "000002020200500000000406",
        # The announcement of one whose addresses have another one by then.
        "0100000026000200001804",
        # Within the host: a socket that is established, or whose other end lives, is not the half that is owed.
        "00140000000100003885000800010d000000",
        "00040001260150000002015c0150000000",
        # The other end of a row is another socket now, or has left the table and was not announced yet.
        "00000201000806010001",
        "000002011a01200100000006060100",
        # One that a read did not show, nor the next, though it was there.
        "010001000004060100040001000200040601",
        "0100010002002685000400010002000c0601",
        # Reset, and held by its program for longer than a minute; then with a restart; then its other end without addresses.
        "000002011a856201",
        "03000400020000000002260200006e",
        "00000201628574006800000008000100006201",
        # An end without addresses that can be of one that was gone when it was asked; one on addresses that one had before.
        "000002060014000000000a06",
        "000002053e83740002053e05",
    )
]
HISTORIES = few_letters() | on_few_pairs() | st.binary(max_size=120)


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
    @given(HISTORIES)
    def once(history: bytes) -> None:
        run = played(tmp_path, history, announced, internal)
        assert agree(reported(run), existed(run)), "\n".join(run.log)

    for history in FOUND:
        once = example(history)(once)
    once()


def test_what_is_lost_is_declared(tmp_path: Path) -> None:
    """Announcements are dropped: connections reported and connections declared lost are together those that were."""

    @settings(max_examples=EXAMPLES // VARIANTS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(HISTORIES)
    def once(history: bytes) -> None:
        run = played(tmp_path, history, announced=True, internal=False, room=2)
        told, was = reported(run), Counter(alike(connection.pair) for connection in run.kernel.connections)
        assert told <= was, "\n".join(run.log)
        missing = sum((was - told).values()) - sum(one.before_start for one in run.kernel.connections)
        assert missing <= run.told, "\n".join([f"{missing} missing, {run.told} declared", *run.log])

    once()


def test_one_that_its_program_holds_is_not_taken_for_one_that_was_lost() -> None:
    kernel = Kernel()
    tracker = Tracker(kernel.identify, Run.is_internal, announced=True)
    held, lost = remote_pair(0), remote_pair(3)
    for now, pair in ((1.0, held), (50.0, lost)):
        kernel.open(pair, True, False)
        assert tracker.row(Row(pair, ESTABLISHED, 1000, kernel.sockets[pair].inode), "read", now) is not None
        tracker.gone(pair, now + 5)
    tracker.lose(1, 56.0)
    # A read has shown it before: no connection was lost.
    assert tracker.lost(61.0) == 0
    assert not tracker.losing
    over = tracker.end(End(held, kernel.sockets[held].cookie, True, False, NO_TRAFFIC, 90.0), 100.0)
    assert isinstance(over, Over)
    assert not tracker.losing
