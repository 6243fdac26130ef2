"""Observes the network namespaces of other processes: which there are, and what they report.

Each has an Observer of its own, with the same verbs as the host's; all are polled after the host's. A namespace whose counters
are the same has no new connection: it is polled only now and then, for listeners. Destroy notifications come of those that have
an id here (notified.py): of the others, connections that open and close between two polls are seen in the trace alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from tcpnewconn.attribution.calls import Calls
from tcpnewconn.attribution.cgroups import Place
from tcpnewconn.attribution.units import Units
from tcpnewconn.budget import Budget
from tcpnewconn.health.counters import NAMESPACE_KINDS, NamespaceResult
from tcpnewconn.kernel.activity import counters_of
from tcpnewconn.kernel.addresses import Addresses, is_loopback
from tcpnewconn.kernel.allnamespaces import AllNotifications
from tcpnewconn.kernel.host import DEFAULT_PORT_RANGE, Host
from tcpnewconn.kernel.namespaces import AGAIN_AFTER, MOST, Gone, Key, Namespaces, local_addresses, tables
from tcpnewconn.kernel.networks import Networks
from tcpnewconn.kernel.nsids import Nsids
from tcpnewconn.kernel.procnet import ProcNet, Unreadable
from tcpnewconn.model import (
    INTERNAL,
    NOT_KNOWN,
    SYN_SENT,
    Connection,
    Degraded,
    Event,
    Failed,
    FourTuple,
    Listener,
    Loss,
    Recovered,
)
from tcpnewconn.notified import Notified, Notifying
from tcpnewconn.observer import Observer
from tcpnewconn.other import YOUNG, Other
from tcpnewconn.pairs import Pairs, Side
from tcpnewconn.recorder import Recorded, Recorder
from tcpnewconn.reporting.seldom import Seldom
from tcpnewconn.reporting.sinks import say
from tcpnewconn.schedule import Schedule
from tcpnewconn.state.log import StateLog
from tcpnewconn.state.sections import Section, Sections
from tcpnewconn.tracking.cursor import Cursor
from tcpnewconn.tracking.missed import Missed
from tcpnewconn.tracking.run import Notifications
from tcpnewconn.unseen import Unseen

# Seconds for which a namespace is remembered that has no process any more: its sockets can be in TIME_WAIT (60), and its next
# process can come.
_REMEMBERED = 120.0
# So many looks see each process at least once.
_LOOKS = AGAIN_AFTER + 1
# Seconds between two looks for the processes of those in which something was recorded.
_LOOK_EVERY = 0.1
# The section of the state log that says how far notifications were processed.
_NOTIFICATIONS = "notifications"


class Others:
    """All namespaces but the host's, which `host` observes. `report` takes the events of all.

    `recorder`: where who opens and accepts connections is recorded.
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
        recorder: Recorder | None = None,
    ) -> None:
        self.included: bool | None = None
        # Why there are none, where they are wanted.
        self.missing: str | None = None
        # How many are not observed at all.
        self.beyond = 0
        # Failed attempts are events, too.
        self.failed = False
        self._recorder = recorder
        self._here = here
        self._host = host
        self._report = report
        self._units = units
        self._root = root
        # Where destroy notifications of them are received.
        self.notified: Notified | None = None
        # Why not, where that is wanted.
        self.no_notifications: str | None = None
        self._unseen = Unseen(recorder, _REMEMBERED, log)
        self._namespaces: Namespaces | None = None
        self._others: dict[Key, Other] = {}
        self._loaded: dict[Key, Other] = {}
        self._by_side: dict[Side, Other] = {}
        self._side = Side(observer=host)
        self.schedule = Schedule(self._side, Budget(cpu), self._poll_one)
        self._pairs = Pairs(self._side, report, self._bring_up_to_date, self._may_have, log)
        # Where a known one can have got another address since its last poll.
        self._networks: Networks | None = None
        # The next look is the first of all.
        self._first = True
        # Connections of namespaces that have ended that no poll has shown.
        self._missed = 0
        # How many sockets had been connected in them then.
        self._ended: dict[Key, int | None] = {}
        self._losses, self._lost = Seldom(), Seldom()
        # Notifications that were lost, and are not reported yet.
        self._not_reported = 0
        # When the last looks were that together see each process (the first of all sees each alone): what they did not find was
        # not there before the first of them.
        self._looks: deque[float] = deque(maxlen=_LOOKS)
        # When the last one was found, or this program was started: which ids were given before then is not known.
        self._found = float("-inf")
        # When find_callers() last looked for processes.
        self._looked = float("-inf")
        self._sections = Sections(log, self._load) if log is not None else None

    # --- what outlives a restart -------------------------------------------------------------------------------------

    def receive(self, source: AllNotifications, nsids: Nsids, networks: Networks, inode: int) -> None:
        """Receive destroy notifications of them; `inode` as in Notified."""
        self.notified = Notified(source, nsids, self, inode)
        self._networks = networks

    def _load(self, name: str, section: Section) -> None:
        """A namespace of the run before."""
        if name == _NOTIFICATIONS:
            self._record_notifications(section)
            return
        number, kernel = map(int, name.split("."))
        key = Key(number, kernel)
        self._loaded[key] = self._new(key, section, False)

    def _record_notifications(self, section: Section) -> None:
        if self.notified is not None:
            self.notified.record(section)
        else:
            # Its records mean nothing.
            Cursor(section, 0)

    def begin(self, resumed: bool) -> None:
        """The state log was loaded; `resumed` where it is of this boot."""
        if self._sections is None:
            return
        if _NOTIFICATIONS not in self._sections:
            self._record_notifications(self._sections.begin(_NOTIFICATIONS, True))
        if resumed:
            if self.notified is not None:
                self.notified.resume()
            self._resume()

    def _resume(self) -> None:
        assert self._sections is not None
        self._first = not self._sections.used
        if not self._first and self._recorder is not None:
            self._recorder.resume_others()
        self._others = {key: other for key, other in self._loaded.items() if str(key) in self._sections}
        self._loaded.clear()
        self._pairs.held.resume(time.monotonic())
        for other in self._others.values():
            tracker = other.observer.tracker
            inode = self.notified.inode if self.notified is not None else 0
            kept = tracker.cursor.received_before(inode)
            if kept:
                tracker.cursor.receive_from(inode)
            if other.observer.recorder is not None:
                other.observer.recorder.calls.resume()
            # Where notifications arrive, a dying socket is remembered until its own does.
            tracker.run.notified = self.notified is not None
            tracker.resume(time.monotonic(), 0)
            tracker.run.notified = kept
            other.gone = time.monotonic()

    def _new(self, key: Key, section: Section | None, startup: bool) -> Other:
        here = Host(self._here.boot, str(key), DEFAULT_PORT_RANGE, False, self._here.users)
        proc, addresses = ProcNet(self._root, users=here.users), Addresses()
        kind = Notifications.NONE
        if self.notified is not None:
            kind = Notifications.KEPT if self.notified.inode else Notifications.OWN
        observer = Observer(
            proc, here, None, lambda event: self._take(other, event), kind, section, addresses=addresses
        )
        # Not before its id is known.
        observer.tracker.run.notified = False
        observer.failed = self.failed
        observer.recorder = self._recorded(key, section)
        side, missed = Side(key.number, observer=observer), Missed(section)
        other = Other(key, observer, proc, addresses, side, startup, missed)
        self._by_side[other.side] = other
        return other

    def _recorded(self, key: Key, section: Section | None) -> Recorded | None:
        if key.number == NOT_KNOWN:
            return None
        if self._recorder is not None:
            born_after = self._looks[0] if self._looks else float("-inf")
            return self._recorder.of(key.kernel, section, born_after)
        if section is not None:
            # The state can hold what an earlier run read of a trace.
            Calls(key.kernel, 0.0, section)
        return None

    # --- which there are ---------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(other.gone is None for other in self._others.values())

    @property
    def connections(self) -> int:
        """How many connections are open in them."""
        return sum(other.observer.connections for other in self._others.values())

    def kinds(self) -> dict[str, int]:
        """How many there are, by the runtime of their container."""
        kinds = dict.fromkeys(NAMESPACE_KINDS, 0)
        for other in self._others.values():
            if other.gone is not None:
                continue
            kinds[_kind(self._units.place(other.side.cgroup)) if other.side.cgroup else "other"] += 1
        return kinds

    def include(self, included: bool, share: float, failed: bool = False) -> None:
        """Whether they are observed, and for which share of the time of one CPU; whether failed attempts are events."""
        self.schedule.budget.share, self.failed = share, failed
        for other in self._others.values():
            other.observer.failed = failed
        if included == self.included:
            return
        self.included = included
        self.missing = None
        if not included:
            self._drop_all()
            return
        self._found = time.monotonic()
        namespaces = Namespaces(self._root)
        first = namespaces.of_first_process()
        if not self._here.live:
            self.missing = "this /proc is not that of the running kernel"
        elif first is None:
            self.missing = "processes of other users are hidden (ProtectProc=, hidepid=)"
        elif not first:
            self.missing = "this is not the network namespace of process 1"
        if self.missing is None:
            self._namespaces = namespaces
            if self._recorder is not None:
                self._recorder.take_others(True)
            if self.notified is not None:
                self.notified.source.receive(True)
            elif self.no_notifications is not None:
                say(
                    f"{self.no_notifications}: connections in other network namespaces that open and close between two polls are "
                    "not seen, but counted",
                    5,
                )
        else:
            self._drop_all()
            say(f"Include=all has no effect: {self.missing}; the host's network namespace alone is observed", 4)

    def _drop_all(self) -> None:
        self._pairs.tick(time.monotonic(), last=True)
        for other in self._others.values():
            self._end(other)
        self._others.clear()
        self._ended.clear()
        self._looks.clear()
        if self.notified is not None:
            self.notified.source.receive(False)
        if self._recorder is not None:
            self._recorder.take_others(False)
        self._host.report_to(self._report)
        self._namespaces, self._first = None, True
        if self._sections is not None:
            self._sections.use(False)
        self.schedule.late = self.beyond = 0

    def _end(self, other: Other) -> None:
        if self._recorder is not None:
            self._recorder.forget(other.key.kernel)
        self._ended[other.key] = other.missed.end()
        if len(self._ended) > MOST:
            del self._ended[next(iter(self._ended))]
        self._missed += other.missed.take()
        if self.notified is not None:
            self.notified.detach(other)
        self._pairs.assign(other.side, frozenset())
        self._by_side.pop(other.side, None)
        if self._sections is not None and str(other.key) in self._sections:
            self._sections.end(str(other.key))

    def look(self, now: float) -> None:
        """An interval begins, before the host is polled: find out which namespaces there are, and of new ones their addresses."""
        if self._namespaces is None:
            return
        if self._networks is not None:
            self._networks.follow(now)
        # Where looking takes longer than an interval's share, it waits until that is made up for.
        if not self.schedule.begin(now):
            self._settle(now)
            return
        began = self.schedule.budget.started()
        self._find(now)
        self._looks.append(now)
        self._forget(now)
        self._report_unseen(now)
        if self._first and self._sections is not None:
            self._sections.use(True)
        self._first = False
        self.schedule.budget.spent(began)

    def _find(self, now: float, again: bool = False) -> None:
        """Look for new processes (`again` as in Namespaces), and with them for namespaces; what is not known of these yet."""
        assert self._namespaces is not None
        self._namespaces.look(again)
        self.beyond = self._namespaces.beyond
        for key in list(self._namespaces.found):
            other = self._others.get(key)
            if other is None:
                other = self._others[key] = self._begin(key, now)
            if other.gone is not None or not other.begun:
                other.begun = True
                with suppress(Gone), self._namespaces.opened(key) as directory:
                    self._know_addresses(other, directory)
                self._attribute(other, now)
            other.gone = None
            if self.notified is not None and other.nsid is None:
                process = self._namespaces.process(key)
                if process is not None:
                    self.notified.attach(other, process)
        self._settle(now)

    def _settle(self, now: float) -> None:
        """Without others the host's events take no way round."""
        needed = self._others or self._is_unsettled(now) or self._pairs.held
        self._host.report_to(self._take_host if needed else self._report)

    def _is_unsettled(self, now: float) -> bool:
        """Whether there may be a namespace whose addresses are not known yet: any address can be one of its own."""
        return now < self._found + YOUNG or (self.notified is not None and self.notified.expects(now))

    def _may_have(self, address: bytes) -> bool:
        """As in Pairs."""
        now = time.monotonic()
        return self._is_unsettled(now) or (self._networks is not None and self._networks.have(address, now))

    def take_changes(self) -> None:
        """Before destroyed sockets of the host are processed: know which namespaces had come before they were destroyed."""
        if self.notified is not None and self._namespaces is not None and self.notified.take_changes(time.monotonic()):
            self._settle(time.monotonic())

    def _forget(self, now: float) -> None:
        """Forget the namespaces that have had no process for long; where there are too many, those that have gone first."""
        assert self._namespaces is not None
        gone = [other for key, other in self._others.items() if key not in self._namespaces.found]
        for other in gone:
            if other.gone is None:
                other.gone = now
                self._pairs.assign(other.side, frozenset())
        gone.sort(key=lambda other: other.gone or 0.0)
        for position, other in enumerate(gone):
            if now >= (other.gone or 0.0) + _REMEMBERED or position < len(gone) - MOST:
                if not other.notified:
                    other.missed.saw(other.observer.report_left(now, last=True))
                del self._others[other.key]
                self._end(other)

    def _begin(self, key: Key, now: float) -> Other:
        section = self._sections.begin(str(key), not self._first) if self._sections is not None else None
        other = self._new(key, section, self._first)
        # Of one that had ended for want of a process, and is back: from then on.
        other.missed.begin(self._ended.pop(key, None if self._first else 0))
        other.found = self._found = now
        if not self._first:
            # Its connections came while this program runs, or after the last run.
            other.observer.tracker.resume(now, 0)
        return other

    def _know_addresses(self, other: Other, directory: str) -> None:
        addresses = frozenset(local_addresses(directory))
        other.addresses.assign(addresses)
        self._pairs.assign(other.side, frozenset(one for one in addresses if not is_loopback(one)))

    def _take_host(self, event: Event) -> None:
        self._pairs.take(self._side, event, time.monotonic())

    # --- polls -------------------------------------------------------------------------------------------------------

    def poll(self, live: Callable[[], object] = lambda: None) -> None:
        """Poll them: Schedule.poll()."""
        if self._namespaces is None:
            return
        self.schedule.poll(self._others.values(), live)
        self._report_losses()
        self.schedule.budget.end()

    def _bring_up_to_date(self, side: Side, since: int) -> bool:
        """As in Pairs."""
        other = self._by_side[side]
        return other.gone is None and self.schedule.is_read(other, since)

    def _poll_one(self, other: Other) -> NamespaceResult | None:
        """Poll one, if that is due. None where it has ended."""
        assert self._namespaces is not None
        if other.observer.recorder is not None:
            other.observer.recorder.calls.notified = other.notified
        interval = self.schedule.interval
        try:
            with self._namespaces.opened(other.key) as directory:
                found = counters_of(directory)
                if not other.is_due(found, interval):
                    return "unchanged"
                self._attribute(other, time.monotonic())
                with tables(directory, other.key) as (tcp, tcp6):
                    other.proc.move(tcp, tcp6)
                    self._know_addresses(other, directory)
                    other.shown = 0
                    # Not when the interval began: what came since then is in its tables, too.
                    now = time.monotonic()
                    other.observer.poll(now)
                    if not other.notified:
                        other.observer.report_left(now)
                    elif other.nsid is not None and self.notified is not None:
                        self.notified.watch(other)
                    if other.nsid is None and found is not None:
                        other.missed.polled(found, other.observer.tables.states.get(SYN_SENT, 0), other.shown)
        except (Gone, Unreadable):
            return None
        other.polled(found, interval)
        return "polled"

    def _report_losses(self) -> None:
        others = self._others.values()
        if not (self._missed or any(other.missed.count for other in others)) or not self._losses.due(self.schedule.now):
            return
        count, self._missed = self._missed + sum(other.missed.take() for other in others), 0
        self._report(
            Loss(
                count,
                "namespaces",
                f"at most {count} connections in other network namespaces were not seen: they were opened and closed between two "
                "polls. A shorter Interval= or a larger CPUQuota= shows more of them",
            )
        )

    # --- destroy notifications ---------------------------------------------------------------------------------------

    def take_destroyed(self, most: int, deliver: Callable[[], object], flush: Callable[[], object]) -> int:
        """Process so many destroyed sockets at most of those that wait: Notified.take()."""
        if self.notified is None or self._namespaces is None:
            return 0
        began = self.schedule.budget.started()
        taken = self.notified.take(most, deliver, flush)
        self.schedule.budget.counted(began)
        return taken

    def tick(self, now: float, last: bool = False) -> None:
        """Report what is due by now; all of it if this is the `last` time."""
        self._pairs.tick(now, last)
        if self._namespaces is not None:
            self._settle(now)
        notified = self.notified
        if notified is None or self._namespaces is None:
            return
        notified.tick(now)
        self._not_reported += notified.lost(now)
        if self._not_reported and self._lost.due(now, last):
            count, self._not_reported = self._not_reported, 0
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
    def redeliverable(self) -> bool:
        """Whether notifications outlive the program and are received again after SIGKILL."""
        return self.notified is not None and self.notified.inode > 0

    @property
    def waiting(self) -> bool:
        """Whether tick() or take_destroyed() will soon have something to do."""
        if self._pairs.held:
            return True
        return self.notified is not None and self._namespaces is not None and self.notified.waiting

    @property
    def descriptors(self) -> list[int]:
        """They become readable when take_destroyed() has something to do."""
        if self.notified is None or self._namespaces is None:
            return []
        return self.notified.descriptors

    def stop(self) -> None:
        """As Observer.stop(), of all that are notified: the next poll shows them all."""
        for other in self._others.values():
            if other.nsid is not None:
                other.observer.stop()
                other.changed()
        self.schedule.budget.forget()

    def discover(self, now: float) -> None:
        """Look for new processes, with which an id can be of a namespace that is known."""
        if self._namespaces is None:
            return
        began = self.schedule.budget.started()
        self._find(now, again=True)
        # It is part of take_destroyed(), which counts all of its time.
        self.schedule.budget.spent_within(began)

    def _report_unseen(self, now: float) -> None:
        """Report the connections of namespaces that have ended before anybody found them: the trace alone has shown them."""
        for key, recorded in self._unseen.over(now):
            other = self._new(key, None, False)
            # Local is what a call says to be local.
            other.addresses.assign(call.four_tuple[: len(call.four_tuple) // 2 - 2] for call in recorded.calls)
            other.observer.recorder = recorded
            other.observer.read_calls()
            other.observer.report_left(now, last=True)
            self._by_side.pop(other.side)
        self._missed += self._unseen.take()

    def find_callers(self, now: float) -> None:
        """Look for new processes where something was recorded in a namespace that is not known: it can end soon."""
        if self._recorder is not None and self._recorder.strange and now >= self._looked + _LOOK_EVERY:
            self._recorder.strange, self._looked = False, now
            self.discover(now)

    def read_calls(self) -> None:
        """As in notified.Directory."""
        if self._recorder is not None:
            self._host.read_calls()
            self.find_callers(time.monotonic())

    def of_last_run(self, four_tuple: FourTuple) -> Other | None:
        """As in notified.Directory."""
        gone = [other for other in self._others.values() if other.gone is not None and other.nsid is None]
        had = [other for other in gone if other.observer.tracker.knows(four_tuple)]
        if not had:
            # No poll has shown it; but the trace says where it was opened or accepted.
            had = [other for other in gone if other.notified and other.recorded(four_tuple)]
        return had[0] if len(had) == 1 else None

    def process(self, one: Notifying) -> int | None:
        """As in notified.Directory."""
        assert isinstance(one, Other)
        return self._namespaces.process(one.key) if self._namespaces is not None else None

    @property
    def shows_all(self) -> bool:
        """As in notified.Directory. In a container, a namespace can be joined with it from outside."""
        return self._namespaces is not None and self._namespaces.shows_all

    def prepare(self, other: Notifying, four_tuple: FourTuple) -> None:
        """As in notified.Directory."""
        assert isinstance(other, Other)
        if other.key.number == NOT_KNOWN:
            if self._recorder is not None:
                other.observer.recorder = self._recorded_without_id(four_tuple) or self._recorder.lend(four_tuple)
            return
        self.schedule.prepare(other)

    def _recorded_without_id(self, four_tuple: FourTuple) -> Recorder | Recorded | None:
        """What was recorded in the one namespace that had this socket: it was found, but ended before its id was asked for."""
        had = [other for other in self._others.values() if other.nsid is None and other.recorded(four_tuple)]
        return had[0].observer.recorder if len(had) == 1 else None

    def ended(self, one: Notifying, now: float) -> None:
        """As in notified.Directory."""
        assert isinstance(one, Other)
        if self._others.get(one.key) is one and not one.polling:
            one.observer.tick(now + _REMEMBERED)
            del self._others[one.key]
            self._end(one)

    def unknown(self) -> Other:
        """As in notified.Directory. Nothing of it is on record."""
        # Its connections are known by their cookies alone: after SIGKILL they have the same ids.
        other = self._new(Key(NOT_KNOWN, 0), None, False)
        other.observer.tracker.resume(time.monotonic(), 0)
        other.observer.tracker.run.notified = True
        return other

    # --- what they report --------------------------------------------------------------------------------------------

    def _attribute(self, other: Other, now: float) -> None:
        assert self._namespaces is not None
        other.attribute(self._namespaces, self._units, self._root, now)

    def _take(self, other: Other, event: Event) -> None:
        if isinstance(event, Degraded | Recovered):
            # Of its tables: it ends.
            return
        now = time.monotonic()
        if isinstance(event, Connection):
            other.shown += 2 if event.direction == INTERNAL else 1
            if event.detected_by == "notification" and other.key.number != NOT_KNOWN and other.to_be_attributed(now):
                self._attribute(other, now)
            if self._unseen.is_known(event, now, other.key.number == NOT_KNOWN):
                return
            event = event._replace(netns=other.key.number, cgroup=event.cgroup or other.side.cgroup)
            if other.key.number == NOT_KNOWN and event.detected_by == "trace":
                # It is long over: its other end is not to be expected anywhere.
                self._report(event)
                return
        elif isinstance(event, Listener):
            startup = event.startup and other.startup
            event = event._replace(netns=other.key.number, cgroup=event.cgroup or other.side.cgroup, startup=startup)
        elif isinstance(event, Failed):
            event = event._replace(netns=other.key.number, cgroup=event.cgroup or other.side.cgroup)
        elif isinstance(event, Loss):
            event = event._replace(message=f"Network namespace {other.key.number}: {event.message}")
        self._pairs.take(other.side, event, now)


def _kind(place: Place) -> str:
    if place.container is None:
        return "other"
    if place.container.runtime is not None:
        return place.container.runtime
    return "kubernetes" if place.container.pod is not None else "other"
