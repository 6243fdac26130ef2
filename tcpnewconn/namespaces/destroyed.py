"""Destroyed sockets of other network namespaces: received, given to the observer of their own, and those that were lost.

Answers what Notified asks about the namespaces.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tcpnewconn.eventtypes import Event, Loss
from tcpnewconn.kernel.allnamespaces import AllNotifications
from tcpnewconn.kernel.nsids import Nsids
from tcpnewconn.model import NOT_KNOWN, FourTuple
from tcpnewconn.namespaces.directory import Notifying
from tcpnewconn.namespaces.known import REMEMBERED, Known
from tcpnewconn.namespaces.notified import Notified
from tcpnewconn.namespaces.other import Other
from tcpnewconn.namespaces.schedule import Schedule
from tcpnewconn.observing.observer import Observer
from tcpnewconn.observing.recorded import Elsewhere
from tcpnewconn.reporting.seldom import Seldom
from tcpnewconn.reporting.sinks import say
from tcpnewconn.state.owner import Log
from tcpnewconn.tracking.cursor import Cursor
from tcpnewconn.tracking.run import Notifications

# Seconds between two looks for the processes of those in which something was recorded.
_LOOK_EVERY = 0.1


class Destroyed:
    """Of the namespaces that are `known`. `find` looks for more, `end` ends one. `host`: the observer of the host's namespace.

    `report` takes losses.
    """

    def __init__(
        self,
        known: Known,
        find: Callable[[float, bool], None],
        end: Callable[[Other], None],
        schedule: Schedule,
        host: Observer,
        elsewhere: Elsewhere | None,
        report: Callable[[Event], None],
    ) -> None:
        # Where their notifications are received; else why they are not, where that is wanted.
        self.notified: Notified | None = None
        self.missing: str | None = None
        self._known = known
        self._find, self._end = find, end
        self._schedule = schedule
        self._host = host
        self._elsewhere = elsewhere
        self._report = report
        self._losses = Seldom()
        # Notifications that were lost, and are not reported yet.
        self._lost = 0
        # When find_callers() last looked for processes.
        self._looked = float("-inf")

    def receive(self, source: AllNotifications, nsids: Nsids, inode: int) -> None:
        """Receive notifications; `inode` as in Notified."""
        self.notified = Notified(source, nsids, self, inode)
        self._known.kind = Notifications.KEPT if inode else Notifications.OWN

    def resume(self) -> None:
        """Continue after a restart."""
        if self.notified is not None:
            self.notified.resume()

    def include(self, included: bool) -> None:
        """Whether the namespaces are observed."""
        if self._elsewhere is not None:
            self._elsewhere.take(included)
        if self.notified is not None:
            self.notified.source.receive(included)
        elif included and self.missing is not None:
            say(
                f"{self.missing}: connections in other network namespaces that open and close between two polls are "
                "not seen, but counted",
                5,
            )

    def record(self, log: Log) -> None:
        """How far they were processed is on record there."""
        if self.notified is not None:
            self.notified.record(log)
        else:
            # Its records mean nothing.
            Cursor(log, 0)

    @property
    def inode(self) -> int:
        """That of the socket in which they wait while the program does not run; 0 if they do not."""
        return self.notified.inode if self.notified is not None else 0

    @property
    def redeliverable(self) -> bool:
        """Whether they outlive the program and are received again after SIGKILL."""
        return self.notified is not None and self.notified.inode > 0

    @property
    def received(self) -> Notified | None:
        """Where they are received, while the namespaces are observed."""
        return self.notified if self._known.namespaces is not None else None

    def attach(self, other: Other) -> None:
        """Find the id of a namespace, where that is not known."""
        if self.notified is not None and other.nsid is None:
            process = self.process(other)
            if process is not None:
                self.notified.attach(other, process)

    def detach(self, other: Other) -> None:
        """One is not observed any more."""
        if self.notified is not None:
            self.notified.detach(other)

    def watch(self, other: Other) -> None:
        """A namespace was polled: let tick() report what is due of it."""
        if self.notified is not None and other.nsid is not None and other.notified:
            self.notified.watch(other)

    def take(self, most: int, deliver: Callable[[], object], flush: Callable[[], object]) -> int:
        """Process so many at most of those that wait: Notified.take()."""
        notified = self.received
        if notified is None:
            return 0
        budget = self._schedule.budget
        began = budget.started()
        taken = notified.take(most, deliver, flush)
        budget.counted(began)
        return taken

    @property
    def queued_at_most(self) -> int:
        """No more of them wait."""
        notified = self.received
        return notified.source.queued_at_most() if notified is not None else 0

    def tick(self, now: float, last: bool) -> None:
        """Report what is due by now, losses among it; all of them if this is the `last` time."""
        notified = self.received
        if notified is None:
            return
        notified.tick(now)
        self._lost += notified.lost(now)
        if self._lost and self._losses.due(now, last):
            count, self._lost = self._lost, 0
            self._report(
                Loss(
                    count,
                    "notifications",
                    f"{count} destroy notifications of this or other network namespaces were lost because the receive buffer was "
                    "full: at most so many connections in other network namespaces are missing here. Set a larger ReceiveBuffer= "
                    "with systemctl edit tcpnewconn-namespaces.socket",
                )
            )

    @property
    def waiting(self) -> bool:
        """Whether tick() or take() will soon have something to do."""
        notified = self.received
        return notified is not None and notified.waiting

    @property
    def descriptors(self) -> list[int]:
        """They become readable when take() has something to do."""
        notified = self.received
        return notified.descriptors if notified is not None else []

    def find_callers(self, now: float) -> None:
        """Look for new processes where something was recorded in a namespace that is not known: it can end soon."""
        if self._elsewhere is not None and self._elsewhere.strange and now >= self._looked + _LOOK_EVERY:
            self._elsewhere.strange, self._looked = False, now
            self.discover(now)

    # --- as Directory ---------------------------------------------------------------------------------------

    def discover(self, now: float) -> None:
        if self._known.namespaces is None:
            return
        budget = self._schedule.budget
        began = budget.started()
        self._find(now, True)
        # It is part of take(), which counts all of its time.
        budget.spent_within(began)

    def of_last_run(self, four_tuple: FourTuple) -> Other | None:
        return self._known.of_last_run(four_tuple)

    def process(self, one: Notifying) -> int | None:
        assert isinstance(one, Other)
        return self._known.namespaces.process(one.key) if self._known.namespaces is not None else None

    @property
    def shows_all(self) -> bool:
        """In a container, a namespace can be joined with it from outside."""
        return self._known.namespaces is not None and self._known.namespaces.shows_all

    def read_calls(self) -> None:
        if self._elsewhere is not None:
            self._host.read_calls()
            self.find_callers(time.monotonic())

    def prepare(self, one: Notifying, four_tuple: FourTuple) -> None:
        assert isinstance(one, Other)
        if one.key.number == NOT_KNOWN:
            if self._elsewhere is not None:
                one.observer.recorder = self._known.recorded_without_id(four_tuple) or self._elsewhere.lend(four_tuple)
            return
        self._schedule.prepare(one)

    def ended(self, one: Notifying, now: float) -> None:
        assert isinstance(one, Other)
        if self._known.by_key.get(one.key) is one and not one.polling:
            one.observer.tick(now + REMEMBERED)
            self._end(one)

    def unknown(self) -> Other:
        return self._known.unknown()
