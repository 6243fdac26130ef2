"""Connections between two network namespaces of this host: two sockets that mirror each other exactly are one connection.

Where a poll shows one of them, the other one is looked up. Where one is seen when it is destroyed, it waits for the notification
of the other (held.py). If that does not come, it is reported alone: the other namespace expects the other socket from then on,
and does not report it. Where an address is translated on the way, or a program forwards the data, the sockets do not mirror
each other: those are several connections.
"""

from __future__ import annotations

from collections.abc import Callable

from tcpnewconn.eventtypes import Closed, Connection, Event
from tcpnewconn.model import ESTABLISHED, FourTuple, SocketInfo, mirrored
from tcpnewconn.namespaces import ends
from tcpnewconn.namespaces.held import Held
from tcpnewconn.namespaces.hostends import HostEnds
from tcpnewconn.observing.observer import Observer
from tcpnewconn.state.owner import Log
from tcpnewconn.tracking.matching import in_time_wait


class Side:
    """A namespace: its number (0: the host's own), the cgroup that its processes share (0: none), its addresses.

    `observer` is set once it has been made.
    """

    def __init__(self, netns: int = 0, observer: Observer | None = None) -> None:
        self.netns = netns
        self.cgroup = 0
        self.addresses: frozenset[bytes] = frozenset()
        self.observer = observer
        # When its tables were read, counted.
        self.read = 0

    @property
    def observes(self) -> Observer:
        assert self.observer is not None
        return self.observer


class Pairs:
    """`bring_up_to_date` polls a namespace, unless its tables were read since then (Side.read); whether they were.

    `may_have` says whether a namespace can have an address that none is known to have.
    """

    def __init__(
        self,
        host: Side,
        report: Callable[[Event], None],
        bring_up_to_date: Callable[[Side, int], bool],
        may_have: Callable[[bytes], bool],
        log: Log | None = None,
    ) -> None:
        self.held = Held(log)
        self._host = host
        self._report = report
        self._bring_up_to_date = bring_up_to_date
        self._may_have = may_have
        # The namespaces that have an address, but for the host's.
        self._by_address: dict[bytes, list[Side]] = {}
        # Connections whose other end is looked for, one because of the other; the events of other ends that were found meanwhile.
        self._searches: list[tuple[FourTuple, list[tuple[Side, Connection]]]] = []
        self._host_ends = HostEnds(host.observes)

    def resume(self, now: float, expecting: bool) -> None:
        """Continue after a restart; `expecting` if the host can expect a socket."""
        self.held.resume(now)
        if expecting:
            self._host_ends.resume(now)

    def concern_host(self, now: float) -> bool:
        """Whether an event of the host can be of a connection that waits or was reported, if no namespace is known any more."""
        return self._host_ends.matter(now) or self.held.concern_host(now)

    def assign(self, side: Side, addresses: frozenset[bytes]) -> None:
        """A namespace has these addresses now."""
        before, side.addresses = side.addresses, addresses
        for address in before - addresses:
            sides = self._by_address[address]
            sides.remove(side)
            if not sides:
                del self._by_address[address]
        for address in addresses - before:
            self._by_address.setdefault(address, []).append(side)

    def take(self, side: Side, event: Event, now: float) -> None:
        """An event of one namespace: it is reported, unless it is of the other end of a connection that was reported."""
        if isinstance(event, Connection):
            connection = self._paired(side, event, now)
            if connection is not None:
                self._report(connection)
        elif not isinstance(event, Closed):
            self._report(event)
        elif not self.held.close(event):
            self._report(self._host_ends.closed(event))

    def tick(self, now: float, last: bool = False) -> None:
        """Report those whose other end did not come; all that wait if these are the `last`."""
        for event, closed in self.held.overdue(now, last):
            alone = self._alone(event, now)
            if alone is not None:
                self._report(alone)
            if closed is not None:
                self._report(closed)

    def _paired(self, side: Side, event: Connection, now: float) -> Connection | None:
        """The connection as it is to be reported at once; None if it was, or waits."""
        four_tuple = ends.socket_of(event)
        if four_tuple is None:
            return event
        other_end = mirrored(four_tuple)
        # Namespaces can have the same addresses, and two searches the same 4-tuple: the newest one has this namespace polled.
        for looked_for, found in reversed(self._searches):
            if looked_for == other_end:
                found.append((side, event))
                return None
        for held in self.held.of(four_tuple, side.netns):
            if self._is_pair(held, other_end, event, four_tuple):
                self._report_joined(held, event)
                return None
        if self.held.take_reported(four_tuple, side.netns, now):
            return None
        if side.observes.tracker.take_expected(four_tuple, now):
            if side is self._host:
                self._host_ends.came(four_tuple, event)
            return None
        having = self._having(ends.remote(four_tuple), side.netns)
        unknown = not having and self._may_have(ends.remote(four_tuple))
        if unknown and side is not self._host:
            # The device of the host that it is behind can be new, too.
            self._host.observes.addresses.refresh()
            having = self._having(ends.remote(four_tuple), side.netns)
        others, host_has_it = [each for each in having if each is not self._host], self._host in having
        closed = event.detected_by in ("notification", "trace")
        if host_has_it and (not others or self._is_at_host(other_end, others, closed)):
            at_host = self._host_ends.open(other_end)
            if at_host is not None:
                return self._with_host(event, other_end, at_host, now)
            # Its notification is on its way.
            self.held.hold(event, other_end, now)
            return None
        unknown = unknown and not having and event.detected_by != "startup"
        if (closed and having) or (unknown and event.state != ESTABLISHED):
            self.held.hold(event, other_end, now)
            return None
        if unknown:
            self.held.reported_alone(event, other_end, now)
        if closed or not others or host_has_it:
            return event
        return self._with_namespace(side, event, four_tuple, others, now)

    def _having(self, address: bytes, netns: int) -> list[Side]:
        """The namespaces that have an address, but for this one; the host's first."""
        having = [self._host] if self._host.observes.addresses.has(address) else []
        return [each for each in (*having, *self._by_address.get(address, ())) if each.netns != netns]

    def _is_pair(self, one: Connection, at_one: FourTuple, other: Connection, at_other: FourTuple) -> bool:
        """Whether the sockets of two events, with these 4-tuples, that mirror each other are of one connection.

        Where several namespaces have the address that one of them is connected with, only the other one can tell.
        """
        return any(
            {each.netns for each in self._having(ends.remote(here), event.netns)} <= {end.netns}
            for here, event, end in ((at_one, one, other), (at_other, other, one))
        )

    def _alone(self, event: Connection, now: float) -> Connection | None:
        """A connection whose other end did not come, as it is to be reported; None if it was.

        Where its other end is in one namespace for sure, it is not to be reported there.
        """
        four_tuple = ends.socket_of(event)
        assert four_tuple is not None
        other_end = mirrored(four_tuple)
        having = self._having(ends.remote(four_tuple), event.netns)
        if event.netns and (not having or having == [self._host]):
            # Nobody else has the address, and the host can have lost it by now.
            at_host = self._host_ends.open(other_end)
            if at_host is not None:
                # Whoever listens there accepts slowly.
                return self._with_host(event, other_end, at_host, now)
        if not having:
            self.held.reported_alone(event, other_end, now)
        if len(having) != 1:
            return event
        [other] = having
        if other is self._host:
            self._host_ends.expect(other_end, now, at_once=True)
        else:
            # It can be in TIME_WAIT.
            other.observes.tracker.expect(other_end, now)
        return event

    def _report_joined(self, held: Connection, event: Connection) -> None:
        """Report a connection that has waited, now that its other end has come."""
        closed = self.held.take(held)
        opened_here, opened_there = ends.opened_here(held), ends.opened_here(event)
        if opened_here is None and opened_there is not None:
            opened_here = not opened_there
        # Whichever comes first after SIGKILL, and where the host's is still open: it has the ID of the other namespace's.
        connection = ends.joined(held, event, opened_here)._replace(id=held.id if held.netns else event.id)
        self._report(connection)
        if closed is not None:
            self._report(ends.closed_as(closed, connection))
            return
        for one in (held, event):
            if not one.netns:
                self._host_ends.joined(one, connection)

    def _is_at_host(self, other_end: FourTuple, others: list[Side], closed: bool) -> bool:
        """Whether the host has that socket, and no other namespace with its address has it: pasta gives containers the host's.

        Where the socket here is closed, the other one is no more to be seen there: the address here tells, if nobody else has it.
        """
        if self._host_ends.open(other_end) is None or any(one.observes.tables.stands(other_end) for one in others):
            return False
        return not closed or len(self._having(ends.remote(other_end), self._host.netns)) == 1

    def _with_host(self, event: Connection, other_end: FourTuple, info: SocketInfo, now: float) -> Connection | None:
        """A connection of another namespace with an open socket of the host; None if the host has reported it."""
        host = self._host.observes
        known = host.tracker.shown(other_end)
        if known is not None and known.cookie == info.cookie:
            return None
        opened_here = ends.opened_here(event)
        if opened_here is None and (opened_there := host.lookups.opened_here(other_end)) is not None:
            opened_here = not opened_there
        there = ends.other_end(event, self._host.netns, info.uid if info.inode else None, info.cgroup)
        connection = ends.joined(event, there, opened_here)
        self._host_ends.expect(other_end, now)
        self._host_ends.reported(other_end, connection)
        return connection

    def _with_namespace(
        self, side: Side, event: Connection, four_tuple: FourTuple, others: list[Side], now: float
    ) -> Connection | None:
        """A connection that a poll shows, with one of these namespaces."""
        other_end = mirrored(four_tuple)
        found: list[tuple[Side, Connection]] = []
        self._searches.append((four_tuple, found))
        try:
            current = [other for other in others if self._bring_up_to_date(other, side.read)]
        finally:
            self._searches.pop()
        standing = [other for other in current if other.observes.tables.stands(other_end)]
        if len(standing) != 1 or len(found) > 1:
            # Where several have these addresses, it is not known whose it is.
            for _, there in found:
                self._report(there)
            if len(others) != 1:
                return event
            # It was polled before that one was open, or after it was closed, or there was no time to poll it.
            self.held.hold(event, other_end, now)
            return None
        [other] = standing
        if found:
            [(_, there)] = found
        elif other.observes.tracker.shown(other_end) is not None:
            # It was reported there, when this end was not seen yet.
            return None
        elif event.detected_by == "poll" and _closes(other, other_end):
            # It has closed, and who opened or accepted it comes with its notification.
            self.held.hold(event, other_end, now)
            return None
        else:
            # That poll is still being applied.
            other.observes.tracker.expect(other_end, now)
            there = ends.other_end(event, other.netns, None, other.cgroup)
        opened_here = ends.opened_here(event)
        if opened_here is None and (opened_there := ends.opened_here(there)) is not None:
            opened_here = not opened_there
        connection = ends.joined(event, there, opened_here)
        if side is self._host:
            self._host_ends.joined(event, connection)
        return connection


def _closes(side: Side, four_tuple: FourTuple) -> bool:
    """Whether a row of a namespace stands for a socket whose destroy notification is on its way."""
    row = side.observes.tables.row(four_tuple)
    return side.observes.tracker.run.notified and row is not None and in_time_wait(row)
