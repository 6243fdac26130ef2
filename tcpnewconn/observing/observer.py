"""Joins the sources of one network namespace: polls, destroyed sockets and the trace in, events out.

Knows what could not be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tcpnewconn.attribution import left
from tcpnewconn.eventtypes import Degraded, Event, Failed, Recovered
from tcpnewconn.kernel.addresses import Addresses
from tcpnewconn.kernel.host import Host
from tcpnewconn.kernel.lookup import Lookup
from tcpnewconn.kernel.procnet import ProcNet
from tcpnewconn.model import CLOSE, EGRESS, INTERNAL, DestroyedSocket, Endpoint, endpoints
from tcpnewconn.observing.events import Events
from tcpnewconn.observing.listening import Listening
from tcpnewconn.observing.lookups import Lookups
from tcpnewconn.observing.losses import Losses
from tcpnewconn.observing.recorded import Recorded
from tcpnewconn.observing.recorder import Recorder
from tcpnewconn.observing.similar import Repeats
from tcpnewconn.observing.tables import Tables
from tcpnewconn.state.owner import Log
from tcpnewconn.tracking.outcomes import NewConnection
from tcpnewconn.tracking.run import Notifications
from tcpnewconn.tracking.tracker import Tracker


class Observer:
    """Turns polls and notifications into events. All times are seconds of a monotonic clock.

    `report` is called with each event, in order.
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
        repeats: Repeats | None = None,
    ) -> None:
        """`notifications`, `log` and `socket` as in Tracker, `repeats` as in Similar, for events that go to `report`.

        `addresses`: where they are not this program's own.
        """
        # Failed attempts are events, too.
        self.failed = False
        self.tables = Tables(proc)
        self.addresses = addresses or Addresses()
        self.lookups = Lookups(lookup, self.addresses.internal)
        # Whether a socket was destroyed since the last poll; and ever.
        self._disturbed, self._any_destroyed = True, False
        self._host = host
        self._listening = Listening(host.port_range, lookup, log)
        self.events = Events(report, host.place, self.tables, self.lookups, self._listening, log, repeats)
        self._report, self._repeats = report, repeats
        self.tracker = Tracker(
            self.lookups.socket, self.addresses.internal, self.events.outcome, notifications, log, socket
        )
        self._losses = Losses(self.tracker.cursor)

    @property
    def recorder(self) -> Recorder | Recorded | None:
        """Where who opens and accepts connections is recorded."""
        return self.events.recorder

    @recorder.setter
    def recorder(self, recorder: Recorder | Recorded | None) -> None:
        self.events.recorder = recorder

    @property
    def connections(self) -> int:
        """How many connections are open, those within this host counted once."""
        return self.tracker.sockets.open

    @property
    def waiting(self) -> bool:
        """Whether tick() will soon have something to report."""
        return self.tracker.waiting or bool(self.events.undecided)

    @property
    def losing(self) -> bool:
        """Whether a loss waits for the polls that show how many connections it means."""
        return self.tracker.cursor.pending > 0

    def report_to(self, report: Callable[[Event], None] | None) -> None:
        """Events go there from now on; None: as they did first."""
        self.events.report = report or self._report
        self.events.similar.report_to(self._repeats if report is None else None)

    # --- the four verbs ----------------------------------------------------------------------------------------------

    def poll(self, now: float) -> None:
        """Poll the tables, report what is new in them, and tick. Raises Unreadable."""
        run, first = self.tracker.run, self.tables.last is None
        disturbed = self._disturbed or self.losing or not run.notified or run.unsettled or run.wants_time_wait
        poll = self.tables.poll(run.wants_time_wait, self.events.report) if self.tables.needed(disturbed) else None
        self._disturbed = False
        # The calls of the connections in the tables came before the tables were read.
        read = self.read_calls()
        if self._host.live:
            self.addresses.refresh()
        if poll is not None:
            self.events.polled = (now, read)
            self._losses.count(poll)
            known = self.tracker.sockets.shown_count if first else 0
            self._listening.polled(poll, self.events.report)
            self.lookups.poll_begins(poll, poll.changed - known)
            self.tracker.poll(poll, now)
            self.lookups.poll_ends()
        else:
            self.tracker.tick(now)
        self._ticked(now, last=False)
        recorder = self.events.recorder
        if recorder is not None:
            recorder.polled(now, self.events.report)
            recorder.settle()

    def read_calls(self) -> float:
        """Take what the trace recorded until now, which is returned."""
        recorder = self.events.recorder
        if recorder is None:
            return 0.0
        now = recorder.read()
        if recorder.failed:
            failed, recorder.failed = recorder.failed, []
            if self.failed:
                for attempt, caller in failed:
                    source, destination = endpoints(attempt.four_tuple)
                    direction = INTERNAL if self.addresses.internal(attempt.four_tuple) else EGRESS
                    if not source.port:
                        # It failed before it had one.
                        source = Endpoint(source.address if any(source.address or b"") else None, None)
                    who = (caller.uid, caller.cgroup, ("connect",), caller) if caller is not None else ()
                    self.events.report(Failed(source, destination, direction, attempt.error, *who))
        return now

    def look_after_calls(self, now: float) -> None:
        """Between two polls: see whether a trace that recorded nothing records again."""
        recorder = self.events.recorder
        if recorder is not None and recorder.stale:
            recorder.look_after(now, self.events.report)

    @property
    def call_descriptors(self) -> Sequence[int]:
        """They become readable when read_calls() is to be called at once."""
        recorder = self.events.recorder
        return recorder.descriptors if recorder is not None else ()

    @property
    def wants_poll(self) -> bool:
        """Whether no short connection is attributed before the next poll: calls were lost."""
        recorder = self.events.recorder
        return recorder is not None and recorder.calls.wants_poll

    def settle(self) -> None:
        """A batch of destroyed sockets has been applied: put on record what is left of the calls that were read."""
        self.events.similar.clear()
        recorder = self.events.recorder
        if recorder is not None:
            recorder.settle()

    @property
    def records(self) -> bool:
        """Whether who opens and accepts connections is recorded: read_calls() before a destroyed socket is applied."""
        recorder = self.events.recorder
        return recorder is not None and recorder.records

    def lost_notifications(self, now: float) -> None:
        """Some of the kernel's notifications were lost."""
        recorder = self.events.recorder
        if recorder is not None:
            recorder.calls.lost(now)

    def destroyed(self, destroyed: DestroyedSocket, now: float) -> None:
        """Report what is new with a destroyed socket."""
        if not self.tracker.run.notified:
            self.tracker.run.notified = True
            self.events.report(
                Recovered("notifications", "The kernel's destroy notifications arrive: every connection is seen again")
            )
        self._any_destroyed = self._disturbed = True
        self.tracker.destroyed(destroyed, now)

    def tick(self, now: float, last: bool = False) -> None:
        """Report what is due by now: connections that stay incomplete, and losses; all of them if these are the `last`."""
        self.tracker.tick(now)
        self._ticked(now, last)

    def _ticked(self, now: float, last: bool) -> None:
        recorder = self.events.recorder
        self.events.tick(now, last)
        self.events.similar.clear()
        self._check_notifications(now)
        self._losses.report(now, last, self.events.report)
        if recorder is not None:
            recorder.report_losses(now, last, self.events.report)

    def stop(self) -> None:
        """Called before each of the last two polls."""
        self.tracker.stop()

    # --- a connection ------------------------------------------------------------------------------------------------

    def report_left(self, now: float, last: bool = False) -> int:
        """Report the connections that only the trace has shown (left.left()), where there are no notifications.

        Returns how many sockets they had in the last poll's counters.
        """
        recorder = self.events.recorder
        if recorder is None or not recorder.shows_failures:
            return 0
        calls, counted = recorder.calls, 0
        for four_tuple, found in left.left(calls, self.tables.stands, self.addresses.internal, last):
            # Before its entry: neither is on record without the other.
            calls.settle()
            internal = self.addresses.internal(four_tuple)
            new = NewConnection(four_tuple, self.tracker.run.next_serial(), "trace", CLOSE, None, 0, internal)
            self.events.connection(new, found.accepted_here, found)
            caller = found.opened or found.accepted
            if caller is not None and caller.time is not None and caller.time < self.events.polled[0]:
                counted += 2 if internal else 1
        return counted

    # --- what could not be seen --------------------------------------------------------------------------------------

    def _check_notifications(self, now: float) -> None:
        if self._any_destroyed or not self.tracker.run.notified or not self.lookups.possible:
            # Without look-ups this is another namespace: whether it sends notifications is known by its id.
            return
        missing = self.tracker.not_notified(now)
        if missing:
            self.tracker.run.notified = False
            self.events.report(
                Degraded(
                    "notifications",
                    f"{missing} connections were closed and no destroy notification arrived: connections that open and "
                    "close between two polls of /proc are not seen. Is tcpnewconn.socket of this network namespace?",
                )
            )
