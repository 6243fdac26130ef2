"""The other network namespaces that are known: each from when it is found until it is forgotten, across restarts, too."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator

from tcpnewconn.attribution.calls import Calls
from tcpnewconn.attribution.units import Units
from tcpnewconn.eventtypes import Event, Loss
from tcpnewconn.health.counters import NAMESPACE_KINDS
from tcpnewconn.kernel.host import Host
from tcpnewconn.kernel.namespaces import AGAIN_AFTER, MOST, Key, Namespaces
from tcpnewconn.model import NOT_KNOWN, FourTuple
from tcpnewconn.namespaces.other import Other
from tcpnewconn.namespaces.pairs import Side
from tcpnewconn.observing.recorded import Elsewhere, Recorded
from tcpnewconn.observing.recorder import Recorder
from tcpnewconn.reporting.seldom import Seldom
from tcpnewconn.state.log import StateLog
from tcpnewconn.state.sections import Section, Sections
from tcpnewconn.tracking.run import Notifications

# Seconds for which a namespace is remembered that has no process any more: its sockets can be in TIME_WAIT (60), and its next
# process can come.
REMEMBERED = 120.0
# So many looks see each process at least once.
_LOOKS = AGAIN_AFTER + 1
# The section of the state log that says how far notifications were processed.
_NOTIFICATIONS = "notifications"


class Known:
    """`take` takes the events of each. `record_notifications` takes the section about notifications."""

    def __init__(
        self,
        here: Host,
        root: str,
        take: Callable[[Other, Event], None],
        record_notifications: Callable[[Section], None],
        units: Units,
        elsewhere: Elsewhere | None,
        log: StateLog | None,
    ) -> None:
        # Their processes; None where they are not observed.
        self.namespaces: Namespaces | None = None
        self.by_key: dict[Key, Other] = {}
        # Where their destroy notifications go.
        self.kind = Notifications.NONE
        # The next look is the first of all.
        self.first = True
        # Failed attempts are events, too.
        self._failed = False
        self._here = here
        self._root = root
        self._take = take
        self._record_notifications = record_notifications
        self._units = units
        self._elsewhere = elsewhere
        self._by_side: dict[Side, Other] = {}
        self._loaded: dict[Key, Other] = {}
        # How many sockets had been connected in those that have ended.
        self._ended: dict[Key, int | None] = {}
        # How many connections of these, and of others that are not known any more, no poll has shown.
        self._missed = 0
        self._losses = Seldom()
        # When the last looks were that together see each process (the first of all sees each alone): what they did not find was
        # not there before the first of them.
        self._looks: deque[float] = deque(maxlen=_LOOKS)
        self._sections = Sections(log, self._load) if log is not None else None

    def __iter__(self) -> Iterator[Other]:
        return iter(self.by_key.values())

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(other.gone is None for other in self)

    @property
    def connections(self) -> int:
        """How many connections are open in them."""
        return sum(other.observer.connections for other in self)

    def kinds(self) -> dict[str, int]:
        """How many there are, by the runtime of their container."""
        kinds = dict.fromkeys(NAMESPACE_KINDS, 0)
        for other in self:
            if other.gone is None:
                kinds[self._units.place(other.side.cgroup).kind if other.side.cgroup else "other"] += 1
        return kinds

    def miss(self, count: int) -> None:
        """So many connections of namespaces that are not known were not seen, at most."""
        self._missed += count

    def report_missed(self, now: float, report: Callable[[Event], None]) -> None:
        """Report how many connections were not seen, at most once a minute."""
        if not (self._missed or any(other.missed.count for other in self)) or not self._losses.due(now):
            return
        count, self._missed = self._missed + sum(other.missed.take() for other in self), 0
        report(
            Loss(
                count,
                "namespaces",
                f"at most {count} connections in other network namespaces were not seen: they were opened and closed between two "
                "polls. A shorter Interval= or a larger CPUQuota= shows more of them",
            )
        )

    # --- what outlives a restart -------------------------------------------------------------------------------------

    def _load(self, name: str, section: Section) -> None:
        """A namespace of the run before."""
        if name == _NOTIFICATIONS:
            self._record_notifications(section)
            return
        number, kernel = map(int, name.split("."))
        key = Key(number, kernel)
        self._loaded[key] = self.new(key, section, False)

    def loaded(self) -> None:
        """The state log was loaded."""
        if self._sections is not None and _NOTIFICATIONS not in self._sections:
            self._record_notifications(self._sections.begin(_NOTIFICATIONS, True))

    def resume(self, inode: int) -> None:
        """Continue the run before; `inode` as in Notified, 0 where no notifications are received."""
        assert self._sections is not None
        self.first = not self._sections.used
        if not self.first and self._elsewhere is not None:
            self._elsewhere.resume()
        self.by_key = {key: other for key, other in self._loaded.items() if str(key) in self._sections}
        self._loaded.clear()
        for other in self:
            self._by_side[other.side] = other
            tracker = other.observer.tracker
            kept = tracker.cursor.received_before(inode)
            if kept:
                tracker.cursor.receive_from(inode)
            if other.observer.recorder is not None:
                other.observer.recorder.calls.resume()
            # Where notifications arrive, a dying socket is remembered until its own does.
            tracker.run.notified = self.kind is not Notifications.NONE
            tracker.resume(time.monotonic(), 0)
            tracker.run.notified = kept
            other.gone = time.monotonic()

    def report_failed(self, wanted: bool) -> None:
        """Whether failed attempts are events."""
        self._failed = wanted
        for other in self:
            other.observer.failed = wanted

    # --- the life of one ---------------------------------------------------------------------------------------------

    def new(self, key: Key, section: Section | None, startup: bool) -> Other:
        """A namespace with this key, which is not known by that."""
        other = Other(key, self._here, self._root, self._take, self.kind, section, startup)
        other.observer.failed = self._failed
        other.observer.recorder = self._recorded(key, section)
        return other

    def _recorded(self, key: Key, section: Section | None) -> Recorded | None:
        if key.number == NOT_KNOWN:
            return None
        if self._elsewhere is not None:
            born_after = self._looks[0] if self._looks else float("-inf")
            return self._elsewhere.of(key.kernel, section, born_after)
        if section is not None:
            # The state can hold what an earlier run read of a trace.
            Calls(key.kernel, 0.0, section)
        return None

    def unknown(self) -> Other:
        """One of which nothing is known, nor on record."""
        # Its connections are known by their cookies alone: after SIGKILL they have the same ids.
        other = self.new(Key(NOT_KNOWN, 0), None, False)
        other.observer.tracker.resume(time.monotonic(), 0)
        other.observer.tracker.run.notified = True
        return other

    def begin(self, key: Key, now: float) -> Other:
        """One was found."""
        section = self._sections.begin(str(key), not self.first) if self._sections is not None else None
        other = self.by_key[key] = self.new(key, section, self.first)
        self._by_side[other.side] = other
        # Of one that had ended for want of a process, and is back: from then on.
        other.missed.begin(self._ended.pop(key, None if self.first else 0))
        other.found = now
        if not self.first:
            # Its connections came while this program runs, or after the last run.
            other.observer.tracker.resume(now, 0)
        return other

    def of_side(self, side: Side) -> Other:
        return self._by_side[side]

    def looked(self, now: float) -> None:
        """All processes were looked for."""
        self._looks.append(now)

    def first_is_over(self) -> None:
        """One that is found from now on is new."""
        if self.first and self._sections is not None:
            self._sections.use(True)
        self.first = False

    def gone(self, now: float) -> tuple[list[Other], list[Other]]:
        """Those without a process since now; those without one for long, and where there are too many, since longest."""
        assert self.namespaces is not None
        gone = [other for other in self if other.key not in self.namespaces.found]
        new = [other for other in gone if other.gone is None]
        for other in new:
            other.gone = now
        gone.sort(key=lambda other: other.gone or 0.0)
        old = [
            other
            for position, other in enumerate(gone)
            if now >= (other.gone or 0.0) + REMEMBERED or position < len(gone) - MOST
        ]
        return new, old

    def end(self, other: Other) -> None:
        """One is not observed any more: what is known of it is forgotten."""
        del self.by_key[other.key]
        del self._by_side[other.side]
        if self._elsewhere is not None:
            self._elsewhere.forget(other.key.kernel)
        self._ended[other.key] = other.missed.end()
        if len(self._ended) > MOST:
            del self._ended[next(iter(self._ended))]
        self._missed += other.missed.take()
        if self._sections is not None and str(other.key) in self._sections:
            self._sections.end(str(other.key))

    def clear(self) -> None:
        """They are not observed any more; all have ended."""
        self.namespaces, self.first = None, True
        self._ended.clear()
        self._looks.clear()
        if self._sections is not None:
            self._sections.use(False)

    # --- which had a socket ------------------------------------------------------------------------------------------

    def of_last_run(self, four_tuple: FourTuple) -> Other | None:
        """The one without an id that was notified in the run before, and had this socket.

        It has no process, or had one when the run began, which ended before its id was asked for.
        """
        gone = [other for other in self if other.nsid is None and (other.gone is not None or other.notified)]
        had = [other for other in gone if other.observer.tracker.knows(four_tuple)]
        if not had:
            # No poll has shown it; but the trace says where it was opened or accepted.
            had = [other for other in gone if other.notified and other.recorded(four_tuple)]
        return had[0] if len(had) == 1 else None

    def recorded_without_id(self, four_tuple: FourTuple) -> Recorder | Recorded | None:
        """What was recorded in the one namespace that had this socket: it was found, but ended before its id was asked for."""
        had = [other for other in self if other.nsid is None and other.recorded(four_tuple)]
        return had[0].observer.recorder if len(had) == 1 else None
