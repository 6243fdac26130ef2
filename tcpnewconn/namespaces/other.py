"""One of the other network namespaces: its observer, what is known of it, and whether its next poll is due."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from tcpnewconn.attribution.containers import podman_name, shared
from tcpnewconn.attribution.units import Units
from tcpnewconn.eventtypes import Connection, Event, Failed, Listener, Loss
from tcpnewconn.kernel.activity import Counters
from tcpnewconn.kernel.addresses import Addresses
from tcpnewconn.kernel.host import DEFAULT_PORT_RANGE, Host
from tcpnewconn.kernel.namespaces import Key, Namespaces, tables
from tcpnewconn.kernel.procnet import ProcNet
from tcpnewconn.model import SYN_SENT, FourTuple
from tcpnewconn.namespaces.pairs import Side
from tcpnewconn.observing.observer import Observer
from tcpnewconn.state.sections import Section
from tcpnewconn.tracking.missed import Missed
from tcpnewconn.tracking.run import Notifications

# Intervals after which a namespace is polled whose counters are the same.
_WHOLE_EVERY = 60
# After a change it is polled twice: a poll can leave a row out.
_AFTER_A_CHANGE = 2
# So many of its processes are asked for the one that has started them.
_MOST_ASKED = 16
# For so many seconds after it was found a namespace's processes can still come into their cgroup, and its devices get their
# addresses. The cgroup is asked for again with its notifications, but not sooner than after the other time.
YOUNG, _ATTRIBUTED_FOR = 5.0, 0.05


class Other:
    """Times are monotonic, in seconds."""

    def __init__(
        self,
        key: Key,
        here: Host,
        root: str,
        take: Callable[[Other, Event], None],
        kind: Notifications,
        section: Section | None,
        startup: bool,
    ) -> None:
        """`here` and `root` are those of this program. `take` takes the events. `startup`: it was there at the first start."""
        self.key, self.startup = key, startup
        self.addresses = Addresses()
        self._proc = ProcNet(root, users=here.users)
        host = Host(here.boot, str(key), DEFAULT_PORT_RANGE, False, here.users)
        self.observer = Observer(self._proc, host, None, partial(take, self), kind, section, addresses=self.addresses)
        # Not before its id is known.
        self.observer.tracker.run.notified = False
        self.side, self.missed = Side(key.number, observer=self.observer), Missed(section)
        # Its id, where it sends destroy notifications.
        self.nsid: int | None = None
        # Sockets that were seen for the first time since the last poll.
        self.shown = 0
        # Its addresses are known.
        self.begun = False
        # It is being polled.
        self.polling = False
        self.not_before = float("-inf")
        # When it was found without a process.
        self.gone: float | None = None
        self.found = 0.0
        # As of the last poll.
        self._counters: Counters | None = None
        # It is polled so many times again, whatever its counters say.
        self._polls_due = 0
        # The interval in which it is polled without a change.
        self._whole_at = 0
        # The cgroups of its processes, and when they were asked for.
        self._paths: dict[int, str] = {}
        self._attributed = float("-inf")

    @property
    def name(self) -> str:
        return str(self.key)

    @property
    def notified(self) -> bool:
        """Whether its notifications arrive, or did before the program was started again."""
        return self.observer.tracker.run.notified

    def recorded(self, four_tuple: FourTuple) -> bool:
        """Whether connect() or accept() of a socket that no connection has taken was recorded there."""
        return self.observer.recorder is not None and four_tuple in self.observer.recorder.calls

    def had(self, four_tuple: FourTuple) -> bool:
        """As in directory.Notifying."""
        if self.observer.tracker.knows(four_tuple):
            return True
        recorder = self.observer.recorder
        return recorder is not None and recorder.calls.are_whole(time.monotonic()) and self.recorded(four_tuple)

    def own(self, event: Event) -> Event:
        """An event of its observer, with the namespace, and the cgroup that its processes share where the socket has none."""
        if isinstance(event, Connection | Failed):
            return event._replace(netns=self.key.number, cgroup=event.cgroup or self.side.cgroup)
        if isinstance(event, Listener):
            startup = event.startup and self.startup
            return event._replace(netns=self.key.number, cgroup=event.cgroup or self.side.cgroup, startup=startup)
        if isinstance(event, Loss):
            return event._replace(message=f"Network namespace {self.key.number}: {event.message}")
        return event

    # --- polls -------------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """It is to be polled, whatever its counters say."""
        self._polls_due = _AFTER_A_CHANGE

    def is_due(self, counters: Counters | None, interval: int) -> bool:
        """Whether it is to be polled in this interval (they are counted), in which it has these counters."""
        if counters is None or counters != self._counters:
            self.changed()
        elif self.observer.wants_poll:
            self._polls_due = max(1, self._polls_due)
        return self._polls_due > 0 or interval >= self._whole_at

    def poll(
        self, directory: str, counters: Counters | None, interval: int, know_addresses: Callable[[Other, str], None]
    ) -> None:
        """Poll its tables; the counters were read before. `directory` as Namespaces.opened(). Raises Gone, and Unreadable."""
        with tables(directory, self.key) as (tcp, tcp6):
            self._proc.move(tcp, tcp6)
            know_addresses(self, directory)
            self.shown = 0
            # Not when the interval began: what came since then is in its tables, too.
            now = time.monotonic()
            self.observer.poll(now)
            if not self.notified:
                self.observer.report_left(now)
            if self.nsid is None and counters is not None:
                self.missed.polled(counters, self.observer.tables.states.get(SYN_SENT, 0), self.shown)
        self._counters = counters
        # Not all in the same interval.
        self._whole_at = interval + 1 + (self.key.number - interval - 1) % _WHOLE_EVERY
        self._polls_due = max(0, self._polls_due - 1)
        if self.observer.tables.opening:
            # That they are established then changes no counter for sure: another can be closed meanwhile.
            self._polls_due = max(1, self._polls_due)

    # --- whose it is -------------------------------------------------------------------------------------------------

    def to_be_attributed(self, now: float) -> bool:
        """Whether its processes may have come into their cgroup since they were asked."""
        young = now < self.found + YOUNG or not self.side.cgroup
        return young and now > self._attributed + _ATTRIBUTED_FOR

    def attribute(self, namespaces: Namespaces, units: Units, root: str, now: float) -> None:
        """Find out which cgroup its processes share: with it, its unit and container are known. `root` is that of /proc."""
        self._attributed = now
        paths = namespaces.cgroups(self.key)
        if not paths or paths == self._paths:
            return
        self._paths, self.side.cgroup = paths, units.id(shared(paths.values()))
        if not self.side.cgroup:
            return
        container = units.place(self.side.cgroup).container
        if container is None or container.id is None or container.name is not None or container.runtime != "podman":
            return
        for process in list(paths)[:_MOST_ASKED]:
            name = podman_name(process, container.id, root)
            if name is not None:
                units.name_container(container.id, name)
                return
