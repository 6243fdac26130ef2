"""Plays a history: a tracker, called as the service calls it, on a simulated kernel that follows the history."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tcpnewconn.kernel.procnet import Poll as PolledTables
from tcpnewconn.kernel.procnet import ProcNet
from tcpnewconn.model import FourTuple, SocketInfo, mirrored
from tcpnewconn.state.log import StateLog
from tcpnewconn.tracking.answers import Answers
from tcpnewconn.tracking.outcomes import ClosedSocket, NewConnection
from tcpnewconn.tracking.run import Notifications
from tcpnewconn.tracking.tracker import Tracker
from tests.model.histories import FOUR_TUPLES, LOOPBACK, NAMES, History, Poll, Restart, Step, Wait, printed
from tests.model.simulated_kernel import Connection, Kernel, Notification, Socket

PLENTY = 1_000_000
# Longer than the correlation window.
_LONG = 60.0
# Seconds after which the service has polled, where it does not wait for the next interval.
_SOON = 2.0
# The file is rewritten wherever it has grown to twice what it needs.
_ALWAYS = 0


def is_internal(four_tuple: FourTuple) -> bool:
    return four_tuple[len(four_tuple) // 2 : -2] == LOOPBACK


class Play:
    """The program, what was reported, and a log that a failing example prints.

    `notifications` as in Tracker. `room`: the number of notifications that the receive buffer holds. `small` as in StateLog,
    `tail` the path of its tail. `dumped`: all established sockets are asked for at once after each poll, as they are where many
    rows are new.
    """

    def __init__(
        self,
        directory: Path,
        notifications: Notifications,
        room: int = PLENTY,
        small: int = _ALWAYS,
        tail: Path | None = None,
        dumped: bool = False,
    ) -> None:
        self.log: list[str] = []
        self.kernel = self.made_kernel(room)
        self.reported: list[NewConnection] = []
        self.closed: list[ClosedSocket] = []
        # The number of notifications that did not fit into the buffer, and of connections that were reported as lost.
        self.dropped = 0
        self.lost = 0
        self._notifications = notifications
        self.notified = notifications is not Notifications.NONE
        self._small = small
        (directory / "net").mkdir(exist_ok=True)
        self._directory = directory
        self._table = directory / "net/tcp"
        self._state = directory / "state"
        self._state.unlink(missing_ok=True)
        self._tail = str(tail) if tail is not None else None
        # The inode of the socket in whose buffer notifications wait, and the kernel's count of those that were lost.
        self._socket = 1
        self._counter = 0
        self._polling = False
        # The last poll that was applied, and when it began.
        self._applied: PolledTables | None = None
        self._poll_began = 0.0
        self._look_ups_fail = False
        self._dumped = dumped
        # The answers to that, and the connection of each cookie.
        self._answers: Answers | None = None
        self._answered: dict[int, Connection] = {}
        # Whether every connection of the first poll with notifications was reported.
        self._settled = False
        self._starting = False
        self._stopping = False
        self._used: set[FourTuple] = set()
        self._looked_up: set[int] = set()
        # 4-tuples in TIME_WAIT at the first poll, until it is known whether they are notified.
        self._ended_at_start: set[FourTuple] = set()
        # The ended connections that this poll has shown: nothing is reported of them before.
        self._shown_ended: list[Connection] = []
        # Until when an unaddressed socket can wait.
        self._unaddressed_until = 0.0
        self._runs = 0
        # How often the state file was rewritten while the program ran.
        self.rewritten = 0
        # One that was processed, but not removed from the buffer before the program was killed.
        self._again: Notification | None = None
        self._last: Notification | None = None
        self._begin()

    made_tracker = Tracker

    @staticmethod
    def made_kernel(room: int) -> Kernel:
        return Kernel(room)

    # --- the program -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """The program begins, or continues where its state log ends."""
        self.log_file = StateLog(str(self._state), "here", self._small, self._tail)
        socket = self._socket if self._notifications is Notifications.KEPT else 0
        self._proc = ProcNet(str(self._directory), "little")
        self.tracker = self.made_tracker(
            self._look_up, is_internal, self._outcome, self._notifications, self.log_file, socket
        )
        self._log_made()
        assert self.log_file.load() is None
        if self.log_file.resumed:
            self.tracker.resume(self.kernel.now, self._counter)
            self._calls_resumed()
        self.log_file.save()
        self._runs += 1
        self._polls = 0

    def _look_up(self, four_tuple: FourTuple) -> SocketInfo | None:
        if self._look_ups_fail:
            return None
        if self._answers is not None and (answer := self._answers.about(four_tuple)) is not None:
            self._answered[answer.cookie].looked_up = True
            return answer
        return self.kernel.look_up(four_tuple)

    def _dump(self, poll: PolledTables, between: Iterable[Step]) -> None:
        """Ask for all sockets, with something happening while half of them are dumped."""
        dumped = self.kernel.established(0)
        self._several(between)
        dumped += self.kernel.established(1)
        self._answered = {one[1]: connection for one, connection in dumped}
        self._answers = Answers(poll.inodes(), [one for one, _ in dumped], is_internal)

    def _outcome(self, outcome: NewConnection | ClosedSocket, now: float) -> None:
        if isinstance(outcome, ClosedSocket):
            self.closed.append(outcome)
        else:
            self.log.append(f"REPORTED {outcome}")
            self.reported.append(outcome)
            if self._answers is not None:
                self._answers.forget(outcome.four_tuple)

    def _tick(self) -> None:
        self.tracker.tick(self.kernel.now)
        self.lost += self.tracker.cursor.take()

    def _receive(self) -> None:
        buffer, cursor = self.kernel.buffer, self.tracker.cursor
        if self._again is not None:
            buffer.insert(0, self._again)
            self._again = None
        while buffer:
            destroyed, connection, _, _ = self._last = buffer[0]
            self._read_calls()
            if destroyed.cookie != cursor.last:
                if not (destroyed.unaddressed and is_internal(destroyed.four_tuple)):
                    # Its peer alone says which connection that was.
                    connection.notified += 1
                    connection.last_notified = self.kernel.now
                if destroyed.unaddressed and destroyed.established:
                    self._unaddressed_until = self.kernel.now + 1.0
                self.log.append(f"destroyed {destroyed}")
                self.tracker.destroyed(destroyed, self.kernel.now)
                cursor.handled(destroyed.cookie)
                self.log_file.flush()
            del buffer[0]
        self._calls_settled()
        self.tracker.caught_up(self.kernel.now)
        dropped, self.kernel.dropped = self.kernel.dropped, 0
        if dropped:
            self._calls_lost()
        self._counter += dropped
        self.dropped += dropped
        cursor.count(self._counter, self.kernel.now)

    # Hooks for recorded calls of connect() and accept(): see attributed.py.

    def _log_made(self) -> None:
        """The state log of a run is there, and has not been loaded."""

    def _calls_resumed(self) -> None:
        """It was loaded, and continues that of the run before."""

    def _calls_settled(self) -> None:
        """All that was received has been applied."""

    def _read_calls(self) -> None:
        """All that the kernel has recorded until now is taken."""

    def _calls_lost(self) -> None:
        """Notifications were lost."""

    def _calls_polled(self) -> None:
        """A poll was applied."""

    def _save(self) -> None:
        before = os.stat(self.log_file.path).st_ino
        self.tracker.cursor.record()
        self.log_file.save()
        self.rewritten += os.stat(self.log_file.path).st_ino != before

    # --- the steps ------------------------------------------------------------------------------------------------

    def perform(self, history: History) -> None:
        for step in history:
            if isinstance(step, Poll):
                self._poll(step)
            elif isinstance(step, Restart):
                self._restart(step)
            elif isinstance(step, Wait):
                self._wait(step)
            elif step.action == "receive":
                self._receive()
            elif step.action == "starve":
                self.kernel.starved = True
            else:
                self._happen(step)

    def _happen(self, step: Step) -> None:
        kernel, action = self.kernel, step.action
        if action in ("deliver", "let go"):
            self.log.append(str(step))
            act = kernel.deliver if action == "deliver" else kernel.let_go
            act(FOUR_TUPLES[step.name] if step.name else None, step.nth)
            return
        four_tuple = FOUR_TUPLES[step.name]
        if self._indistinguishable(action, four_tuple):
            return
        self.log.append(str(step))
        if action in ("open", "open unaccepted"):
            self._used |= {four_tuple, mirrored(four_tuple)}
            kernel.open(four_tuple, action == "open", is_internal(four_tuple))
        elif action in ("reset", "linger"):
            kernel.reset(four_tuple, action == "linger")
        else:
            {
                "accept": kernel.accept,
                "half close": kernel.half_close,
                "shut down": kernel.shut_down,
                "orphan times out": kernel.orphan_times_out,
                "finish": kernel.finish,
                "passive close": kernel.passive_close,
                "refused": kernel.refuse,
                "abort": kernel.abort,
                "time wait expires": kernel.time_wait_expires,
            }[action](four_tuple)

    def _several(self, steps: Iterable[Step]) -> None:
        for step in steps:
            self._happen(step)

    def _poll(self, step: Poll) -> None:
        """As the service does: receive, poll, apply."""
        if not self._polls and self._runs == 1:
            self.kernel.listening = self.notified
        self._receive()
        self._polling = True
        self._poll_began = self.kernel.now
        self._starting = not (self._settled or self._polls)
        if self._starting and self.notified:
            self._ended_at_start = self.kernel.ended()
        # The first poll is complete, and so is the last: a row that is left out of them says nothing about what was there then.
        complete = (self._starting and (self.notified or self._runs == 1)) or self._stopping
        names = (step.doubled, step.left_out, step.left_out_again)
        rows = [None if complete or not name else FOUR_TUPLES[name] for name in names]
        if not self.notified:
            # A row that is in neither of two polls is gone.
            rows[2] = None
        shown = self.kernel.write_table(self._table, lambda: self._several(step.during), *rows)
        for row in shown:
            connection = row.socket.connection
            connection.shown = True
            if not self.notified or not (row.ended or self.kernel.notifies(connection.four_tuple, connection)):
                connection.in_rows += 1
            elif self._starting and row.ended:
                self._shown_ended.append(connection)
            # Any other that has ended is known by its notification, not by its row; and a row similar to that of an earlier
            # connection counts once that one was notified. Before that, a restart can come in between.
        self.log.append("poll:\n" + "".join(f"    {_described(row.socket)}\n" for row in shown))
        if self._starting and self.notified:
            self._ended_at_start |= self.kernel.ended()
        poll = self._proc.poll(self.tracker.run.wants_time_wait)
        self._polls += 1
        self._read_calls()
        if self.notified:
            # Between a row and the look-up of its socket there are microseconds. A socket that takes its place differs from it
            # by its notification; without any, the rows are looked up at once here.
            if self._dumped:
                self._dump(poll, step.before_look_up)
            else:
                self._several(step.before_look_up)
        self._polling = False
        self._look_ups_fail = step.look_ups_fail
        self._applied = poll
        self.tracker.poll(poll, self.kernel.now)
        self._look_ups_fail, self._answers = False, None
        self._calls_polled()
        self.lost += self.tracker.cursor.take()
        self._looked_up |= {id(connection) for connection in self.kernel.connections if connection.in_rows}
        self._save()
        if not self.notified:
            self._several(step.before_look_up)
        if self._starting:
            # Sockets in TIME_WAIT at the start are notified within moments, or were before.
            self.kernel.run_work_queue()
            self._receive()
            self._starting = False
        self.pass_time(0.1)

    def pass_time(self, seconds: float) -> None:
        if self.kernel.pass_time(seconds):
            self._receive()
        self._tick()
        if self._polls and not self.tracker.waiting:
            self._settled = True
            self._ended_at_start = set()
            for connection in self._shown_ended:
                connection.in_rows += 1
            self._shown_ended.clear()

    def _wait(self, step: Wait) -> None:
        self.kernel.run_work_queue()
        self._receive()
        if step.seconds > _SOON and (not self._polls or self.tracker.cursor.pending):
            # The service polls at once when it starts, and soon where notifications were lost.
            return
        self.pass_time(step.seconds)

    def _restart(self, step: Restart) -> None:
        """The program is killed or stopped, and begins again some moments later."""
        if not self._polls:
            return
        kept = self._notifications is Notifications.KEPT
        lost = step.lost or not kept
        waits = self.kernel.now < self._unaddressed_until
        if lost and (self.kernel.must_not_be_lost() or (waits and self.kernel.gone_when_looked_up())):
            return
        self.log.append(step.lines()[0])
        if step.stopped or (kept and lost):
            self._stop(step)
        self.log_file.flush()
        self.log_file.close()
        self._shown_ended.clear()
        if lost:
            self.kernel.close_receive_buffer()
            self._settled = False
            self._socket += 1
            self._counter = 0
        self._several(step.meanwhile)
        self.kernel.listening = self.notified
        if lost and self.notified:
            self.kernel.expire_successors()
        self._again, self._last = None if lost else self._last, None
        self._begin()

    def _stop(self, step: Restart) -> None:
        """Stops as the service does: two more polls, and what is notified soon after these."""
        self._stopping = True
        self.tracker.stop()
        self._poll(Poll())
        self._several(step.between_last_polls)
        self.tracker.stop()
        self._poll(step.last_poll)
        self._stopping = False
        self._several(step.after_last_poll)
        self.kernel.run_work_queue()
        self._receive()
        self.pass_time(5.0)
        if self._tail is not None:
            self.log_file.save(last=True)

    # --- steps whose outcome is ambiguous --------------------------------------------------------------------------------

    def _indistinguishable(self, action: str, four_tuple: FourTuple) -> bool:
        """Whether nothing would show which connection the rows or notifications of this step are of. Then it is left out."""
        if not self.notified:
            return self._similar_rows(action, four_tuple)
        kernel = self.kernel
        if action == "abort":
            # Between its row and its look-up are microseconds. Notifications from before the start are not known.
            return self._polling or not kernel.listening
        opens = action in ("open", "open unaccepted")
        missed = [one for one in kernel.gone_when_looked_up() if one.missed]
        if missed and (action == "linger" or (opens and any(one.had(four_tuple) for one in missed))):
            # Of one that was gone before it was looked up, the notification was lost: the next that can be its is taken for it.
            return True
        if not opens:
            return False
        if self._starting:
            used = four_tuple in self._used
        else:
            used = four_tuple in self._ended_at_start and (is_internal(four_tuple) or kernel.notifies(four_tuple))
        if used:
            # A 4-tuple that enters TIME_WAIT while the first poll is under way, and has another connection before that was
            # notified, some milliseconds later: nothing shows that its row and its notification are of one connection.
            return True
        not_accepted = [one for one in kernel.connections if one.missed and not one.accepted and one.had(four_tuple)]
        if not_accepted and self._polls < 2:
            # If it is gone before it is looked up, its row looks like that of the earlier one, which has been accepted since.
            return True
        if not kernel.listening and kernel.notifies(four_tuple):
            # Some milliseconds after another with its 4-tuple, and notifications of that one can be lost.
            return True
        # Within a moment of another with its 4-tuple, whose socket has lost its addresses; or of whose two sockets one was
        # notified and one was not.
        return is_internal(four_tuple) and (kernel.cleared_lately(four_tuple) or kernel.notified_in_part(four_tuple))

    def _similar_rows(self, action: str, four_tuple: FourTuple) -> bool:
        """Whether this would give a 4-tuple a second connection whose rows do not differ from those of the first.

        Two that wait to be accepted look the same, and so do two in TIME_WAIT if no poll came between; and while a poll is
        under way, one could take the other's place before it is looked up.
        """
        if four_tuple not in self._used:
            return False
        if action in ("open", "open unaccepted"):
            return self._polling or action != "open"
        socket = self.kernel.sockets.get(four_tuple)
        return socket is not None and id(socket.connection) not in self._looked_up

    # --- the end -----------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let everything be notified, polled and forgotten."""
        for half in range(8):
            if half == 4:
                # Programs can keep a reset socket open for longer than the tracker waits for anything.
                self.pass_time(_LONG)
                while self.kernel.kept_open:
                    self.kernel.let_go()
            for four_tuple, socket in list(self.kernel.sockets.items()):
                if socket.inode == 0:
                    self.kernel.orphan_times_out(four_tuple)
            self.kernel.deliver_all()
            self._receive()
            self._poll(Poll())
            self.pass_time(2.5)
        self.pass_time(_LONG)
        self.log_file.close()


def _described(socket: Socket) -> str:
    return f"{NAMES[socket.four_tuple]} state {socket.state} inode {socket.inode}"


def played(
    directory: Path,
    history: History,
    notifications: Notifications,
    room: int = PLENTY,
    small: int = _ALWAYS,
    tail: Path | None = None,
    dumped: bool = False,
) -> Play:
    """A history, and then everything until nothing is open that can be notified."""
    play = Play(directory, notifications, room, small, tail, dumped)
    play.log += ["", printed(history)]
    play.perform(history)
    play.settle()
    return play
