"""Events of one network namespace: of each outcome of tracking who opened the connection, whose it is, and that it was closed.

The kernel is asked for more where what is known does not say so.
"""

from __future__ import annotations

from collections.abc import Callable

from tcpnewconn.attribution.calls import Calls
from tcpnewconn.attribution.found import Found
from tcpnewconn.eventtypes import Connection, Event
from tcpnewconn.model import EGRESS, INGRESS, Caller, Endpoint, FourTuple, Row, endpoints, mirrored
from tcpnewconn.observing.connections import attributed, called
from tcpnewconn.observing.connections import closed as closed_event
from tcpnewconn.observing.listening import Listening
from tcpnewconn.observing.lookups import Lookups
from tcpnewconn.observing.recorded import Recorded
from tcpnewconn.observing.recorder import Recorder
from tcpnewconn.observing.similar import Repeats, Similar
from tcpnewconn.observing.tables import Tables
from tcpnewconn.state.owner import Log
from tcpnewconn.tracking.direction import accepted_by_ports, arrow, directed
from tcpnewconn.tracking.matching import attribution
from tcpnewconn.tracking.outcomes import ClosedSocket, NewConnection
from tcpnewconn.tracking.undecided import Undecided

# Of so many open connections it is remembered who opened and accepted them, where closed connections are events.
_MOST_REMEMBERED = 65_536

_NO_TRACE = Found(missing="no-trace")


class Events:
    """`report` takes them, in order; `place` as in Host. `closed`: closed connections are events too."""

    def __init__(
        self,
        report: Callable[[Event], None],
        place: str,
        tables: Tables,
        lookups: Lookups,
        listening: Listening,
        log: Log | None,
        repeats: Repeats | None = None,
    ) -> None:
        """`repeats` as in Similar."""
        self.report = report
        self.closed = False
        # Where who opens and accepts connections is recorded.
        self.recorder: Recorder | Recorded | None = None
        # When the last poll began and ended.
        self.polled = (0.0, 0.0)
        self._place = place
        self._tables = tables
        self._lookups = lookups
        self._listening = listening
        self._listeners = listening.listeners
        self.similar = Similar(self._listeners, repeats, self._id)
        # Those of which nothing has shown yet who opened them.
        self.undecided = Undecided(log)
        # The callers of connect() and accept() of open connections, by the number of the connection.
        self._callers: dict[int, tuple[tuple[str, ...], Caller | None, Caller | None]] = {}

    def tick(self, now: float, last: bool) -> None:
        """Report the connections of which nothing has shown who opened them; all of them if these are the `last`."""
        for new in self.undecided.overdue(now, last):
            assert new.destroyed is not None
            self.connection(new, not new.destroyed.likely_opened_here())

    def outcome(self, outcome: NewConnection | ClosedSocket, now: float) -> None:
        """Tracking has decided: report it, unless who opened the connection is to be seen in a moment."""
        if isinstance(outcome, ClosedSocket):
            self._closed_socket(outcome, now)
            return
        destroyed = outcome.destroyed
        if destroyed is not None and self.similar.report(outcome, destroyed, now):
            return
        found = self._found(outcome, now)
        if outcome.incomplete:
            self._listening.accepted(outcome, now)
            self.report(self._without_addresses(outcome, found))
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
                self.undecided.wait(outcome, now)
                return
        self.connection(outcome, accepted, found, now)

    @property
    def _calls(self) -> Calls | None:
        """The calls of the trace, where there is one."""
        recorder = self.recorder
        return recorder.calls if recorder is not None and recorder.records else None

    def _found(self, new: NewConnection, now: float) -> Found:
        """The calls of connect() and accept() that made a connection."""
        recorder = self.recorder
        if recorder is None or not recorder.records:
            return _NO_TRACE
        calls = recorder.calls
        if new.destroyed is not None:
            return called(calls, new, None, self.polled, now, self._tables.connected)
        found = self._called_of_row(new, recorder, now)
        if not calls.notified:
            # With the next delivery: after SIGKILL its call is not left for a connection of its own.
            calls.settle()
        return found

    def _called_of_row(self, new: NewConnection, recorder: Recorder | Recorded, now: float) -> Found:
        row = self._tables.row(new.four_tuple)
        begin, end = self.polled
        if row is not None and not row.inode:
            # Only an inode shows that the socket that was looked up is that of the row: it can be a later one.
            end = recorder.read()
        return called(recorder.calls, new, row, (begin, end), now, self._tables.connected)

    def _opened_here(self, new: NewConnection) -> bool | None:
        """Whether this side opened a connection, by the kernel's counters of either end; None if they do not decide."""
        opened_here = new.destroyed.opened_here() if new.destroyed is not None else None
        if opened_here is None and self._lookups.possible:
            if new.destroyed is None:
                opened_here = self._lookups.opened_here(new.four_tuple)
            if opened_here is None and new.internal:
                opened_there = self._lookups.opened_here(mirrored(new.four_tuple))
                opened_here = None if opened_there is None else not opened_there
        return opened_here

    def connection(
        self, new: NewConnection, accepted: bool | None, found: Found = _NO_TRACE, now: float | None = None
    ) -> None:
        """Report a connection whose addresses are known; and that it is closed, if it is."""
        four_tuple = new.four_tuple
        source, destination, direction = arrow(four_tuple, new.internal, self._listeners, accepted)
        uid, cgroup = new.uid, new.cgroup
        if new.internal and new.destroyed is None and source != endpoints(four_tuple)[0]:
            uid, cgroup = self._attribution(mirrored(four_tuple))
        if self._lookups.answers is not None:
            self._lookups.answers.forget(four_tuple)
        connection = self._attributed(source, destination, direction, new, (uid, cgroup), found)
        self.report(connection)
        if not self.closed:
            if accepted is not None:
                self.similar.reported(new, accepted, connection, found, self._calls)
            return
        if new.destroyed is not None:
            if new.destroyed.unaddressed:
                # What it counted is not known.
                return
            caller = connection.caller
            opened = caller.time if caller is not None and caller.by == "connect" else None
            seconds = None if opened is None or now is None or opened > now else now - opened
            self.report(closed_event(connection, four_tuple, new.destroyed, seconds))
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
        waiting = self.undecided.take(closed.number) if closed.only_notified else None
        if waiting is not None:
            assert waiting.destroyed is not None
            accepted = waiting.destroyed.opened_by(closed.destroyed)
            self.connection(waiting, not waiting.destroyed.likely_opened_here() if accepted is None else accepted)
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
        self.report(closed_event(connection, four_tuple, closed.destroyed, seconds))

    def _attribution(self, four_tuple: FourTuple) -> tuple[int | None, int]:
        """User and cgroup of the socket of a 4-tuple; None and 0 where not known."""
        info = self._lookups.socket(four_tuple)
        row: Row | None = None
        if info is None or not info.inode:
            row = self._tables.row(four_tuple)
        return attribution(row, info)

    def _id(self, number: int) -> str:
        """Unique among all hosts, boots and namespaces; the number as `ss -e` shows a socket's cookie, where it is one."""
        return f"{self._place}-{number:x}" if number > 0 else f"{self._place}-r{-number:x}"
