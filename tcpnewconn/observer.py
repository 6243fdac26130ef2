"""Joins the sources of one network namespace: polls and destroyed sockets in, events out.

Knows when to ask the kernel for more (who listens, who opened a connection), and what could not be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tcpnewconn.attribution import callers
from tcpnewconn.attribution.calls import Calls
from tcpnewconn.attribution.found import Found
from tcpnewconn.connections import attributed, called
from tcpnewconn.connections import closed as closed_event
from tcpnewconn.kernel.addresses import Addresses
from tcpnewconn.kernel.host import Host
from tcpnewconn.kernel.lookup import Lookup
from tcpnewconn.kernel.procnet import Poll, ProcNet
from tcpnewconn.listening import Listening
from tcpnewconn.losses import Losses
from tcpnewconn.model import (
    CLOSE,
    EGRESS,
    INGRESS,
    INTERNAL,
    Caller,
    Connection,
    Degraded,
    DestroyedSocket,
    Endpoint,
    Event,
    Failed,
    FourTuple,
    Recovered,
    Row,
    SocketInfo,
    endpoints,
    mirrored,
)
from tcpnewconn.recorder import Recorded, Recorder
from tcpnewconn.state.log import Log
from tcpnewconn.tables import Tables
from tcpnewconn.tracking.answers import Answers
from tcpnewconn.tracking.direction import accepted_by_ports, arrow, directed
from tcpnewconn.tracking.matching import attribution
from tcpnewconn.tracking.outcomes import ClosedSocket, NewConnection
from tcpnewconn.tracking.run import Notifications
from tcpnewconn.tracking.tracker import Tracker
from tcpnewconn.tracking.undecided import Undecided

# Where a poll shows so many new rows, and at least this share of all are new, all sockets are asked for at once: that takes a
# third of the time that asking for one takes, for each that there is (measured).
_MANY, _SHARE = 1000, 0.25
# Of so many open connections it is remembered who opened and accepted them, where closed connections are events.
_MOST_REMEMBERED = 65_536

_NO_TRACE = Found(missing="no-trace")


class Observer:
    """Turns polls and notifications into events. All times are seconds of a monotonic clock.

    `report` is called with each event, in order. `closed`: closed connections are events too.
    """

    def __init__(
        self,
        proc: ProcNet,
        host: Host,
        lookup: Lookup | None,
        report: Callable[[Event], None],
        notifications: Notifications,
        log: Log | None = None,
        socket: int = 0,
        addresses: Addresses | None = None,
    ) -> None:
        """`notifications`, `log` and `socket` as in Tracker. `addresses`: where they are not this program's own."""
        self.closed = False
        # Failed attempts are events, too.
        self.failed = False
        # Where who opens and accepts connections is recorded.
        self.recorder: Recorder | Recorded | None = None
        self.tables = Tables(proc)
        # Whether a socket was destroyed since the last poll.
        self._disturbed = True
        self._host = host
        self._place = host.place
        self._lookup = lookup
        self._report = report
        self.addresses = addresses or Addresses()
        self._listening = Listening(host.port_range, lookup, log)
        self._listeners = self._listening.listeners
        self.tracker = Tracker(self.look_up, self.addresses.internal, self._outcome, notifications, log, socket)
        self._losses = Losses(self.tracker.cursor)
        self._undecided = Undecided(log)
        # While the rows of a poll are applied, where many of them are new.
        self._answers: Answers | None = None
        # When the last poll began and ended.
        self._polled = (0.0, 0.0)
        # The callers of connect() and accept() of open connections, by the number of the connection.
        self._callers: dict[int, tuple[tuple[str, ...], Caller | None, Caller | None]] = {}
        self._any_destroyed = False

    @property
    def connections(self) -> int:
        """How many connections are open, those within this host counted once."""
        return self.tracker.sockets.open

    @property
    def waiting(self) -> bool:
        """Whether tick() will soon have something to report."""
        return self.tracker.waiting or bool(self._undecided)

    @property
    def losing(self) -> bool:
        """Whether a loss waits for the polls that show how many connections it means."""
        return self.tracker.cursor.pending > 0

    def look_up(self, four_tuple: FourTuple) -> SocketInfo | None:
        """The socket of a 4-tuple, as the kernel has it now, or had it since the tables were read."""
        if self._answers is not None and (answer := self._answers.about(four_tuple)) is not None:
            return answer
        return self._lookup.socket_info(four_tuple) if self._lookup is not None else None

    def opened_here(self, four_tuple: FourTuple) -> bool | None:
        """Whether the open socket of a 4-tuple opened its connection, or accepted it; None where that is undecided."""
        return self._lookup.opened_here(four_tuple) if self._lookup is not None else None

    def report_to(self, report: Callable[[Event], None]) -> None:
        """Events go there from now on."""
        self._report = report

    # --- the four verbs ----------------------------------------------------------------------------------------------

    def poll(self, now: float) -> None:
        """Poll the tables, report what is new in them, and tick. Raises Unreadable."""
        run, first = self.tracker.run, self.tables.last is None
        disturbed = self._disturbed or self.losing or not run.notified or run.unsettled or run.wants_time_wait
        poll = self.tables.poll(run.wants_time_wait, self._report) if self.tables.needed(disturbed) else None
        self._disturbed = False
        # The calls of the connections in the tables came before the tables were read.
        called = self.read_calls()
        if self._host.live:
            self.addresses.refresh()
        if poll is not None:
            self._polled = (now, called)
            self._losses.count(poll)
            known = self.tracker.sockets.shown_count if first else 0
            self._listening.polled(poll, self._report)
            self._answers = self._dumped(poll, poll.changed - known)
            self.tracker.poll(poll, now)
            self._answers = None
        else:
            self.tracker.tick(now)
        self._ticked(now, last=False)
        if self.recorder is not None:
            self.recorder.polled(now, self._report)
            self.recorder.settle()

    def _dumped(self, poll: Poll, new: int) -> Answers | None:
        """The answers about the sockets of a poll in which so many rows are new, where asking for all takes less time."""
        if self._lookup is None or new < max(_MANY, poll.count * _SHARE):
            return None
        try:
            return Answers(poll.inodes(), self._lookup.established(), self.addresses.internal)
        except OSError:
            return None

    def read_calls(self) -> float:
        """Take what the trace recorded until now, which is returned."""
        if self.recorder is None:
            return 0.0
        now = self.recorder.read()
        if self.recorder.failed:
            failed, self.recorder.failed = self.recorder.failed, []
            if self.failed:
                for attempt, caller in failed:
                    source, destination = endpoints(attempt.four_tuple)
                    direction = INTERNAL if self.addresses.internal(attempt.four_tuple) else EGRESS
                    if not source.port:
                        # It failed before it had one.
                        source = Endpoint(source.address if any(source.address or b"") else None, None)
                    who = (caller.uid, caller.cgroup, ("connect",), caller) if caller is not None else ()
                    self._report(Failed(source, destination, direction, attempt.error, *who))
        return now

    def look_after_calls(self, now: float) -> None:
        """Between two polls: see whether a trace that recorded nothing records again."""
        if self.recorder is not None and self.recorder.stale:
            self.recorder.look_after(now, self._report)

    @property
    def call_descriptors(self) -> Sequence[int]:
        """They become readable when read_calls() is to be called at once."""
        return self.recorder.descriptors if self.recorder is not None else ()

    @property
    def wants_poll(self) -> bool:
        """Whether no short connection is attributed before the next poll: calls were lost."""
        return self.recorder is not None and self.recorder.calls.wants_poll

    def settle_calls(self) -> None:
        """A batch of destroyed sockets has been applied: put on record what is left of what was read."""
        if self.recorder is not None:
            self.recorder.settle()

    @property
    def records(self) -> bool:
        """Whether who opens and accepts connections is recorded: read_calls() before a destroyed socket is applied."""
        return self.recorder is not None and self.recorder.records

    def lost_notifications(self, now: float) -> None:
        """Some of the kernel's notifications were lost."""
        if self.recorder is not None:
            self.recorder.calls.lost(now)

    def destroyed(self, destroyed: DestroyedSocket, now: float) -> None:
        """Report what is new with a destroyed socket."""
        if not self.tracker.run.notified:
            self.tracker.run.notified = True
            self._report(
                Recovered("notifications", "The kernel's destroy notifications arrive: every connection is seen again")
            )
        self._any_destroyed = self._disturbed = True
        self.tracker.destroyed(destroyed, now)

    def tick(self, now: float, last: bool = False) -> None:
        """Report what is due by now: connections that stay incomplete, and losses; all of them if these are the `last`."""
        self.tracker.tick(now)
        self._ticked(now, last)

    def _ticked(self, now: float, last: bool) -> None:
        for new in self._undecided.overdue(now, last):
            assert new.destroyed is not None
            self._connection_within(new, not new.destroyed.likely_opened_here())
        self._check_notifications(now)
        self._losses.report(now, last, self._report)
        if self.recorder is not None:
            self.recorder.report_losses(now, last, self._report)

    def stop(self) -> None:
        """Called before each of the last two polls."""
        self.tracker.stop()

    # --- a connection ------------------------------------------------------------------------------------------------

    def _outcome(self, outcome: NewConnection | ClosedSocket, now: float) -> None:
        if isinstance(outcome, ClosedSocket):
            self._closed_socket(outcome, now)
            return
        found = self._found(outcome, now)
        destroyed = outcome.destroyed
        if outcome.incomplete:
            self._listening.accepted(outcome, now)
            self._report(self._without_addresses(outcome, found))
            return
        accepted = found.accepted_here
        if accepted is None:
            accepted = self._listening.accepted(outcome, now)
        if accepted is None:
            accepted = accepted_by_ports(outcome.four_tuple, self._listeners)
        if accepted is None:
            opened_here = self._opened_here(outcome)
            if opened_here is not None:
                accepted = not opened_here
            elif outcome.internal and destroyed is not None and not destroyed.unaddressed:
                self._undecided.wait(outcome, now)
                return
        self._connection_within(outcome, accepted, found, now)

    def _found(self, new: NewConnection, now: float) -> Found:
        """The calls of connect() and accept() that made a connection."""
        if not self.records:
            return _NO_TRACE
        assert self.recorder is not None
        calls = self.recorder.calls
        if new.destroyed is not None:
            return called(calls, new, None, self._polled, now, self.tables.connected)
        found = self._called_of_row(new, calls, now)
        if not calls.notified:
            # With the next delivery: after SIGKILL its call is not left for a connection of its own.
            calls.settle()
        return found

    def _called_of_row(self, new: NewConnection, calls: Calls, now: float) -> Found:
        assert self.recorder is not None
        row = self.tables.row(new.four_tuple)
        begin, end = self._polled
        if row is not None and not row.inode:
            # Only an inode shows that the socket that was looked up is that of the row: it can be a later one.
            end = self.recorder.read()
        return called(calls, new, row, (begin, end), now, self.tables.connected)

    def report_left(self, now: float, last: bool = False) -> int:
        """Report the connections that only the trace has shown (callers.left()), where there are no notifications.

        Returns how many sockets they had in the last poll's counters.
        """
        if self.recorder is None or not self.recorder.shows_failures:
            return 0
        calls, counted = self.recorder.calls, 0
        for four_tuple, found in callers.left(calls, self.tables.stands, self.addresses.internal, last):
            # Before its entry: neither is on record without the other.
            calls.settle()
            internal = self.addresses.internal(four_tuple)
            new = NewConnection(four_tuple, self.tracker.run.next_serial(), "trace", CLOSE, None, 0, internal)
            self._connection_within(new, found.accepted_here, found)
            caller = found.opened or found.accepted
            if caller is not None and caller.time is not None and caller.time < self._polled[0]:
                counted += 2 if internal else 1
        return counted

    def _opened_here(self, new: NewConnection) -> bool | None:
        """Whether this side opened a connection, by the kernel's counters of either end; None if they do not decide."""
        opened_here = new.destroyed.opened_here() if new.destroyed is not None else None
        if opened_here is None and self._lookup is not None:
            if new.destroyed is None:
                opened_here = self._lookup.opened_here(new.four_tuple)
            if opened_here is None and new.internal:
                opened_there = self._lookup.opened_here(mirrored(new.four_tuple))
                opened_here = None if opened_there is None else not opened_there
        return opened_here

    def _connection_within(
        self, new: NewConnection, accepted: bool | None, found: Found = _NO_TRACE, now: float | None = None
    ) -> None:
        """Report a connection whose addresses are known; and that it is closed, if it is."""
        four_tuple = new.four_tuple
        source, destination, direction = arrow(four_tuple, new.internal, self._listeners, accepted)
        uid, cgroup = new.uid, new.cgroup
        if new.internal and new.destroyed is None and source != endpoints(four_tuple)[0]:
            uid, cgroup = self._attribution(mirrored(four_tuple))
        if self._answers is not None:
            self._answers.forget(four_tuple)
        connection = self._attributed(source, destination, direction, new, (uid, cgroup), found)
        self._report(connection)
        if not self.closed:
            return
        if new.destroyed is not None:
            if new.destroyed.unaddressed:
                # What it counted is not known.
                return
            caller = connection.caller
            opened = caller.time if caller is not None and caller.by == "connect" else None
            seconds = None if opened is None or now is None or opened > now else now - opened
            self._report(closed_event(connection, four_tuple, new.destroyed, seconds))
        elif connection.caller is not None or connection.accepted is not None:
            self._callers[new.number] = (connection.by, connection.caller, connection.accepted)
            if len(self._callers) > _MOST_REMEMBERED:
                del self._callers[next(iter(self._callers))]

    def _attributed(
        self,
        source: Endpoint,
        destination: Endpoint,
        direction: str,
        new: NewConnection,
        owner: tuple[int | None, int],
        found: Found,
    ) -> Connection:
        return attributed(source, destination, direction, new, self._id(new.number), owner, found, self._listeners)

    def _without_addresses(self, new: NewConnection, found: Found) -> Connection:
        """A connection of an unaddressed socket: what its call does not say of its local address and remote port is missing."""
        local, remote = endpoints(found.four_tuple or new.four_tuple)
        assert local.address is not None
        here = new.four_tuple[: len(new.four_tuple) // 2]
        accepted = found.accepted_here
        if accepted is None:
            local = Endpoint(local.address if any(local.address) else None, local.port)
            remote = Endpoint(remote.address, None)
            accepted = self._listeners.on(here) is not None or not self._listeners.ephemeral(here)
        source, destination, direction = (remote, local, INGRESS) if accepted else (local, remote, EGRESS)
        return self._attributed(source, destination, direction, new, (None, 0), found)

    def _closed_socket(self, closed: ClosedSocket, now: float) -> None:
        if self.recorder is not None:
            self.recorder.calls.closed(closed.four_tuple)
        waiting = self._undecided.take(closed.number) if closed.only_notified else None
        if waiting is not None:
            assert waiting.destroyed is not None
            accepted = waiting.destroyed.opened_by(closed.destroyed)
            self._connection_within(
                waiting, not waiting.destroyed.likely_opened_here() if accepted is None else accepted
            )
        if not self.closed or closed.only_notified:
            return
        four_tuple = closed.four_tuple
        if closed.internal and directed(four_tuple, True, self._listeners)[0] != endpoints(four_tuple)[0]:
            # The event is the other socket's, whatever the direction turns out to be: one of the two reports it.
            return
        source, destination, direction = directed(
            four_tuple, closed.internal, self._listeners, closed.destroyed.opened_here()
        )
        uid, cgroup = closed.uid, closed.cgroup
        if not cgroup and direction == INGRESS:
            cgroup = self._listeners.on(four_tuple[: len(four_tuple) // 2]) or 0
        by, caller, accepted_by = self._callers.pop(
            closed.number, (("socket",) if uid is not None or cgroup else (), None, None)
        )
        connection = Connection(
            source, destination, direction, "", self._id(closed.number), 0, uid, cgroup, by, caller, accepted_by
        )
        # The clock of the run before can have been another one: that of a time namespace, or of a machine that was restored.
        opened = closed.opened
        seconds = None if opened is None or opened > now else now - opened
        self._report(closed_event(connection, four_tuple, closed.destroyed, seconds))

    def _attribution(self, four_tuple: FourTuple) -> tuple[int | None, int]:
        """User and cgroup of the socket of a 4-tuple; None and 0 where not known."""
        info = self.look_up(four_tuple)
        row: Row | None = None
        if info is None or not info.inode:
            row = self.tables.row(four_tuple)
        return attribution(row, info)

    def _id(self, number: int) -> str:
        """Unique among all hosts, boots and namespaces; the number as `ss -e` shows a socket's cookie, where it is one."""
        return f"{self._place}-{number:x}" if number > 0 else f"{self._place}-r{-number:x}"

    # --- what could not be seen --------------------------------------------------------------------------------------

    def _check_notifications(self, now: float) -> None:
        if self._any_destroyed or not self.tracker.run.notified or self._lookup is None:
            # Without look-ups this is another namespace: whether it sends notifications is known by its id.
            return
        missing = self.tracker.not_notified(now)
        if missing:
            self.tracker.run.notified = False
            self._report(
                Degraded(
                    "notifications",
                    f"{missing} connections were closed and no destroy notification arrived: connections that open and "
                    "close between two polls of /proc are not seen. Is tcpnewconn.socket of this network namespace?",
                )
            )
