"""Observes the network namespaces of other processes: finds them, polls them, and passes on what they report.

Each has an Observer of its own, with the same verbs as the host's; all are polled after the host's. A namespace whose counters
are the same has no new connection: it is polled only now and then, for listeners. Destroy notifications come of those that have
an id here (notified.py): of the others, connections that open and close between two polls are seen in the trace alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from tcpnewconn.attribution.units import Units
from tcpnewconn.eventtypes import Connection, Degraded, Event, Recovered
from tcpnewconn.health.counters import NamespaceResult
from tcpnewconn.kernel.activity import counters_of
from tcpnewconn.kernel.addresses import is_loopback
from tcpnewconn.kernel.allnamespaces import AllNotifications
from tcpnewconn.kernel.host import Host
from tcpnewconn.kernel.namespaces import Gone, Namespaces, local_addresses
from tcpnewconn.kernel.networks import Networks
from tcpnewconn.kernel.nsids import Nsids
from tcpnewconn.kernel.table import Unreadable
from tcpnewconn.model import INTERNAL, NOT_KNOWN
from tcpnewconn.namespaces.budget import Budget
from tcpnewconn.namespaces.destroyed import Destroyed
from tcpnewconn.namespaces.known import REMEMBERED, Known
from tcpnewconn.namespaces.other import YOUNG, Other
from tcpnewconn.namespaces.pairs import Pairs, Side
from tcpnewconn.namespaces.schedule import Schedule
from tcpnewconn.namespaces.unseen import Unseen
from tcpnewconn.observing.observer import Observer
from tcpnewconn.observing.recorded import Elsewhere
from tcpnewconn.reporting.sinks import say
from tcpnewconn.state.log import StateLog
from tcpnewconn.state.sections import Section


class Others:
    """All namespaces but the host's, which `host` observes. `report` takes the events of all.

    `elsewhere`: what the trace records in them, where there can be one.
    """

    def __init__(
        self,
        here: Host,
        host: Observer,
        report: Callable[[Event], None],
        units: Units,
        log: StateLog | None,
        root: str = "/proc",
        cpu: Callable[[], float] = time.thread_time,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        # How many are not observed at all.
        self.beyond = 0
        self._included: bool | None = None
        # Whether the host's events are taken here.
        self._takes_host = False
        self._here = here
        self._host = host
        self._report = report
        self._units = units
        self._root = root
        self._unseen = Unseen(elsewhere, REMEMBERED, log)
        self._side = Side(observer=host)
        self.schedule = Schedule(self._side, Budget(cpu), self._poll_one)
        self._pairs = Pairs(self._side, report, self._bring_up_to_date, self._may_have, log)
        self.known = Known(here, root, self._take, self._record_notifications, units, elsewhere, log)
        self.destroyed = Destroyed(self.known, self._find, self._end, self.schedule, host, elsewhere, report)
        # Where a known one can have got another address since its last poll.
        self._networks: Networks | None = None
        # When the last one was found, or this program was started: which ids were given before then is not known.
        self._found = float("-inf")

    def receive(self, source: AllNotifications, nsids: Nsids, networks: Networks, inode: int) -> None:
        """Receive destroy notifications of them; `inode` as in Notified."""
        self.destroyed.receive(source, nsids, inode)
        self._networks = networks

    def _record_notifications(self, section: Section) -> None:
        self.destroyed.record(section)

    def begin(self, resumed: bool) -> None:
        """The state log was loaded; `resumed` where it is of this boot."""
        self.known.loaded()
        if resumed:
            self.destroyed.resume()
            self.known.resume(self.destroyed.inode)
            self._pairs.resume(time.monotonic(), expecting=not self.known.first)

    # --- which there are ---------------------------------------------------------------------------------------------

    def include(self, included: bool, share: float, failed: bool = False) -> None:
        """Whether they are observed, and for which share of the time of one CPU; whether failed attempts are events."""
        self.schedule.budget.share = share
        self.known.report_failed(failed)
        if included == self._included:
            return
        self._included = included
        if not included:
            self._drop_all()
            return
        self._found = time.monotonic()
        namespaces = Namespaces(self._root)
        hidden = namespaces.hidden() if self._here.live else "this /proc is not that of the running kernel"
        if hidden is not None:
            self._drop_all()
            say(f"Include=all has no effect: {hidden}; the host's network namespace alone is observed", 4)
            return
        self.known.namespaces = namespaces
        self.destroyed.include(True)

    def _drop_all(self) -> None:
        now = time.monotonic()
        self._pairs.tick(now, last=True)
        for other in list(self.known):
            self._end(other)
        self.destroyed.include(False)
        self.known.clear()
        self._found = float("-inf")
        self._settle(now)
        self.schedule.late = self.beyond = 0

    def _end(self, other: Other) -> None:
        """One is not observed any more."""
        self.destroyed.detach(other)
        self._pairs.assign(other.side, frozenset())
        self.known.end(other)

    def look(self, now: float) -> None:
        """An interval begins, before the host is polled: find out which namespaces there are, and of new ones their addresses."""
        if self.known.namespaces is None:
            return
        if self._networks is not None:
            self._networks.follow(now)
        # Where looking takes longer than an interval's share, it waits until that is made up for.
        if not self.schedule.begin(now):
            self._settle(now)
            return
        began = self.schedule.budget.started()
        self._find(now)
        self.known.looked(now)
        self._forget(now)
        self._report_unseen(now)
        self.known.first_is_over()
        self.schedule.budget.spent(began)

    def _find(self, now: float, again: bool = False) -> None:
        """Look for new processes (`again` as in Namespaces), and with them for namespaces; what is not known of these yet."""
        namespaces = self.known.namespaces
        assert namespaces is not None
        namespaces.look(again)
        self.beyond = namespaces.beyond
        for key in list(namespaces.found):
            other = self.known.by_key.get(key)
            if other is None:
                other = self.known.begin(key, now)
                self._found = now
            if other.gone is not None or not other.begun:
                other.begun = True
                with suppress(Gone), namespaces.opened(key) as directory:
                    self._know_addresses(other, directory)
                self._attribute(other, now)
            other.gone = None
            self.destroyed.attach(other)
        self._settle(now)

    def _forget(self, now: float) -> None:
        """Forget the namespaces that have had no process for long; where there are too many, those that have gone first."""
        gone, old = self.known.gone(now)
        for other in gone:
            self._pairs.assign(other.side, frozenset())
        for other in old:
            if not other.notified:
                other.missed.saw(other.observer.report_left(now, last=True))
            self._end(other)

    def _report_unseen(self, now: float) -> None:
        """Report the connections of namespaces that have ended before anybody found them: the trace alone has shown them."""
        for key, recorded in self._unseen.over(now):
            other = self.known.new(key, None, False)
            # Local is what a call says to be local.
            other.addresses.assign(call.four_tuple[: len(call.four_tuple) // 2 - 2] for call in recorded.calls)
            other.observer.recorder = recorded
            other.observer.read_calls()
            other.observer.report_left(now, last=True)
        self.known.miss(self._unseen.take())

    def _know_addresses(self, other: Other, directory: str) -> None:
        addresses = frozenset(local_addresses(directory))
        other.addresses.assign(addresses)
        self._pairs.assign(other.side, frozenset(one for one in addresses if not is_loopback(one)))

    def _attribute(self, other: Other, now: float) -> None:
        assert self.known.namespaces is not None
        other.attribute(self.known.namespaces, self._units, self._root, now)

    # --- whether the host's events can be of a connection with one ---------------------------------------------------

    def _settle(self, now: float) -> None:
        """Without others the host's events take no way round."""
        self._takes_host = bool(self.known.by_key) or self._is_unsettled(now) or self._pairs.concern_host(now)
        self._host.report_to(self._take_host if self._takes_host else None)

    def _is_unsettled(self, now: float) -> bool:
        """Whether there may be a namespace whose addresses are not known yet: any address can be one of its own."""
        notified = self.destroyed.received
        return now < self._found + YOUNG or (notified is not None and notified.expects(now))

    def _may_have(self, address: bytes) -> bool:
        """As in Pairs."""
        now = time.monotonic()
        networks = self._networks if self.known.namespaces is not None else None
        return self._is_unsettled(now) or (networks is not None and networks.have(address, now))

    def take_changes(self) -> None:
        """Before destroyed sockets of the host are processed: know which namespaces had come before they were destroyed."""
        notified = self.destroyed.received
        if notified is not None and notified.take_changes(time.monotonic()):
            self._settle(time.monotonic())

    # --- polls -------------------------------------------------------------------------------------------------------

    def poll(self, live: Callable[[], object] = lambda: None) -> None:
        """Poll them: Schedule.poll()."""
        if self.known.namespaces is None:
            return
        self.schedule.poll(self.known.by_key.values(), live)
        self.known.report_missed(self.schedule.now, self._report)
        self.schedule.budget.end()

    def _bring_up_to_date(self, side: Side, since: int) -> bool:
        """As in Pairs."""
        other = self.known.of_side(side)
        return other.gone is None and self.schedule.is_read(other, since)

    def _poll_one(self, other: Other) -> NamespaceResult | None:
        """Poll one, if that is due. None where it has ended."""
        assert self.known.namespaces is not None
        if other.observer.recorder is not None:
            other.observer.recorder.calls.notified = other.notified
        try:
            with self.known.namespaces.opened(other.key) as directory:
                counters = counters_of(directory)
                if not other.is_due(counters, self.schedule.interval):
                    return "unchanged"
                self._attribute(other, time.monotonic())
                other.poll(directory, counters, self.schedule.interval, self._know_addresses)
        except (Gone, Unreadable):
            return None
        self.destroyed.watch(other)
        return "polled"

    # --- what they report --------------------------------------------------------------------------------------------

    def _take_host(self, event: Event) -> None:
        self._pairs.take(self._side, event, time.monotonic())

    def _take(self, other: Other, event: Event) -> None:
        if isinstance(event, Degraded | Recovered):
            # Of its tables: it ends.
            return
        now, unknown = time.monotonic(), other.key.number == NOT_KNOWN
        if isinstance(event, Connection):
            other.shown += 2 if event.direction == INTERNAL else 1
            if event.detected_by == "notification" and not unknown and other.to_be_attributed(now):
                self._attribute(other, now)
            if self._unseen.is_known(event, now, unknown):
                return
            if unknown and event.detected_by == "trace":
                # It is long over: its other end is not to be expected anywhere.
                self._report(other.own(event))
                return
        self._pairs.take(other.side, other.own(event), now)

    def tick(self, now: float, last: bool = False) -> None:
        """Report what is due by now; all of it if this is the `last` time."""
        self._pairs.tick(now, last)
        if self._takes_host or self.known.namespaces is not None:
            self._settle(now)
        self.destroyed.tick(now, last)

    @property
    def waiting(self) -> bool:
        """Whether tick() or Destroyed.take() will soon have something to do."""
        return bool(self._pairs.held) or self.destroyed.waiting

    def stop(self) -> None:
        """As Observer.stop(), of all that are notified: the next poll shows them all."""
        for other in self.known:
            if other.nsid is not None:
                other.observer.stop()
                other.changed()
        self.schedule.budget.forget()
