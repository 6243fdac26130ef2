"""Joins the sources of one network namespace: rows and ends in, events out.

Knows when to ask the kernel for more than it told (who owns a socket, who listens), and keeps count of what it could not see.
"""

from __future__ import annotations

from collections.abc import Iterator

from tcpnewconn.kernel.addresses import Addresses
from tcpnewconn.kernel.host import Host
from tcpnewconn.kernel.procnet import Malformed, ProcNet, Read
from tcpnewconn.kernel.sockdiag import Lookup
from tcpnewconn.model import (
    Closed,
    Connection,
    Degraded,
    DestroyedSocket,
    Endpoint,
    Event,
    FourTuple,
    Listener,
    Loss,
    Recovered,
    Row,
    SocketInfo,
    endpoints,
    mirrored,
)
from tcpnewconn.state.kept import Kept
from tcpnewconn.state.snapshot import Snapshot
from tcpnewconn.tracking.direction import EGRESS, INGRESS, Listeners, decided, directed
from tcpnewconn.tracking.sameness import owner
from tcpnewconn.tracking.tracker import New, Over, Tracker

# Seconds between two loss events of one kind.
_LOSS_EVERY = 60.0
# Seconds between two dumps of the listening sockets.
_LISTENERS_EVERY = 1.0


class Observer:
    """Turns what the sources say into events. All times are seconds of a monotonic clock.

    `announced` says whether ends arrive; `buffer` is the inode of the socket in which they wait while nobody runs, 0 if
    they do not.
    """

    def __init__(
        self,
        proc: ProcNet,
        host: Host,
        lookup: Lookup | None,
        announced: bool,
        buffer: int,
        snapshot: Snapshot | None,
        interval: float,
    ) -> None:
        self.rows = 0
        # How many rows of each state stood in the last read.
        self.states: dict[int, int] = {}
        self._proc = proc
        self._host = host
        self._lookup = lookup
        self._snapshot = snapshot
        self._addresses = Addresses()
        self._listeners = Listeners(host.port_range)
        self._reported_listeners: set[str] = set()
        self.tracker = Tracker(
            self._identify,
            self._addresses.internal,
            announced,
            snapshot,
            patience=max(60.0, 3 * interval),
            remember_closed=announced and not buffer and snapshot is not None,
        )
        self._reads = 0
        self._restored = False
        self._buffer = buffer
        self._read: Read | None = None
        self._listeners_asked = float("-inf")
        self._malformed = 0
        self._first_malformed: Malformed | None = None
        self._malformed_told = float("-inf")
        self._ends = 0
        # Connections that were lost and not told of, and with how many announcements.
        self._lost = 0
        self._lost_with = 0
        self._lost_told = float("-inf")

    @property
    def connections(self) -> int:
        """How many connections are open, those within this host counted once."""
        return self.tracker.table.open

    @property
    def reported_listeners(self) -> set[str]:
        return self._reported_listeners

    def restore(self, kept: Kept, now: float) -> None:
        """Continue where a snapshot ends."""
        self._restored = True
        kept.restore(self.tracker, unbroken=kept.buffer == self._buffer != 0, now=now)
        self._reported_listeners = kept.listeners

    def _identify(self, four_tuple: FourTuple) -> SocketInfo | None:
        return self._lookup.identity(four_tuple) if self._lookup is not None else None

    # --- rows --------------------------------------------------------------------------------------------------------

    def read(self, now: float) -> Iterator[Event]:
        """Read the tables; what is new in them. To be gone through to its end. Raises OSError where /proc cannot be read."""
        tracker = self.tracker
        time_wait = not tracker.announced or tracker.remember_closed or tracker.first
        read = self._proc.read(time_wait)
        if self._host.live:
            self._addresses.refresh()
        self._read, self.rows, self.states = read, read.rows, read.states
        return self._events(read, now)

    def leave(self) -> None:
        """The next read is the last."""
        self.tracker.leave()
        self._proc.forget_ended()

    def _events(self, read: Read, now: float) -> Iterator[Event]:
        tracker = self.tracker
        self._reads += 1
        seen = "poll" if self._reads > 1 or self._restored else "startup"
        self._count_malformed(read)
        for four_tuple in read.gone_listeners:
            self._listeners.remove(four_tuple)
            self._forget_listener(str(endpoints(four_tuple)[0]))
        if self._reads == 1:
            # Those that went while nobody ran: one that comes back is new.
            for name in self._reported_listeners - {str(endpoints(row.four_tuple)[0]) for row in read.listeners}:
                self._forget_listener(name)
        listening = self._listening() if read.listeners else {}
        for row in read.listeners:
            yield from self._listener(row, listening.get(row.four_tuple), seen == "startup")
        if self._reads == 2 and self._restored:
            tracker.missing(read.find, now)
        for four_tuple in read.gone:
            tracker.gone(four_tuple, now)
        for row in read.changed:
            new = tracker.row(row, seen, now)
            if new is not None:
                yield self._connection(new, now)
        tracker.read_done()
        yield from self.overdue(now)

    def _listening(self) -> dict[FourTuple, SocketInfo]:
        """Every listening socket that the kernel tells of when asked."""
        try:
            return (
                {row.four_tuple: identity for row, identity in self._lookup.listeners()}
                if self._lookup is not None
                else {}
            )
        except OSError:
            return {}

    def _listener(self, row: Row, identity: SocketInfo | None, startup: bool) -> Iterator[Event]:
        endpoint = endpoints(row.four_tuple)[0]
        self._listeners.add(row, identity.cgroup if identity else 0)
        if str(endpoint) not in self._reported_listeners:
            self._reported_listeners.add(str(endpoint))
            if self._snapshot is not None:
                self._snapshot.listener(str(endpoint))
            uid, cgroup = owner(row, identity)
            yield Listener(endpoint, startup, uid, cgroup)

    def _forget_listener(self, name: str) -> None:
        self._reported_listeners.discard(name)
        if self._snapshot is not None:
            self._snapshot.no_listener(name)

    # --- ends --------------------------------------------------------------------------------------------------------

    def end(self, end: DestroyedSocket, now: float, closed: bool) -> Iterator[Event]:
        """An announced end; what is new with it. With `closed`, that a reported connection has ended is an event too."""
        if not self.tracker.announced:
            self.tracker.announced = True
            yield Recovered("notifications", "The kernel announces ended connections: every connection is seen again")
        self._ends += 1
        outcome = self.tracker.end(end, now)
        if isinstance(outcome, New):
            connection = self._connection(outcome, now)
            yield connection
            if closed:
                yield self._closed(connection, outcome.four_tuple, end, None)
        elif isinstance(outcome, Over):
            self._proc.forget(outcome.four_tuple)
            if closed:
                yield from self._over(outcome, end, now)

    def _over(self, over: Over, end: DestroyedSocket, now: float) -> Iterator[Event]:
        source, destination, direction = directed(over.four_tuple, over.internal, self._listeners)
        if over.internal and source != endpoints(over.four_tuple)[0]:
            # The other socket of this connection tells of it, when its own end comes.
            return
        connection = Connection(source, destination, direction, "", self._id(over.number), 0)
        # The clock of an earlier run can have been another one: that of a time namespace, or of a machine that was restored.
        seconds = None if over.opened is None or over.opened > now else now - over.opened
        yield self._closed(connection, over.four_tuple, end, seconds)

    def _closed(
        self, connection: Connection, four_tuple: FourTuple, end: DestroyedSocket, seconds: float | None
    ) -> Closed:
        traffic = end.traffic
        opened_here = connection.source == endpoints(four_tuple)[0]
        # Of what was acknowledged beyond the payload one is the SYN of him who opened it, the other his FIN: who has that
        # acknowledged has, but for a peer that vanished, received one too.
        fin = traffic.acked - traffic.sent > int(opened_here)
        received = max(0, traffic.received - int(fin))
        source_bytes, destination_bytes = (traffic.sent, received) if opened_here else (received, traffic.sent)
        return Closed(
            connection.source,
            connection.destination,
            connection.direction,
            connection.id,
            source_bytes,
            destination_bytes,
            traffic.rtt,
            traffic.retransmits,
            seconds,
        )

    # --- a connection ------------------------------------------------------------------------------------------------

    def _connection(self, new: New, now: float) -> Connection:
        if not decided(new.four_tuple, new.internal, self._listeners):
            self._ask_for_listeners(now)
        if new.wiped:
            return self._without_addresses(new)
        source, destination, direction = directed(new.four_tuple, new.internal, self._listeners)
        uid, cgroup = new.uid, new.cgroup
        if new.internal and new.detected_by != "notification" and source != endpoints(new.four_tuple)[0]:
            uid, cgroup = self._owner(mirrored(new.four_tuple))
        if new.detected_by == "notification" and direction == INGRESS:
            cgroup = self._listeners.on(new.four_tuple[: len(new.four_tuple) // 2]) or 0
        return Connection(source, destination, direction, new.detected_by, self._id(new.number), new.state, uid, cgroup)

    def _without_addresses(self, new: New) -> Connection:
        """A connection whose local address and remote port the kernel wiped before it announced the end."""
        local, remote = endpoints(new.four_tuple)
        assert local.address is not None
        local = Endpoint(local.address if any(local.address) else None, local.port)
        remote = Endpoint(remote.address, None)
        here = new.four_tuple[: len(new.four_tuple) // 2]
        cgroup = self._listeners.on(here)
        if cgroup is not None or not self._listeners.ephemeral(here):
            source, destination, direction = remote, local, INGRESS
        else:
            source, destination, direction = local, remote, EGRESS
        return Connection(
            source, destination, direction, new.detected_by, self._id(new.number), new.state, None, cgroup or 0
        )

    def _owner(self, four_tuple: FourTuple) -> tuple[int | None, int]:
        """User and cgroup of the socket of a four_tuple; None and 0 where not known."""
        row = self._read.find(four_tuple) if self._read is not None else None
        return owner(row, self._identify(four_tuple))

    def _ask_for_listeners(self, now: float) -> None:
        if self._lookup is None or now < self._listeners_asked + _LISTENERS_EVERY:
            return
        self._listeners_asked = now
        self._listeners.replace((row, identity.cgroup) for row, identity in list(self._lookup.listeners()))

    def _id(self, number: int) -> str:
        """Unique among all hosts, boots and namespaces; the number as `ss -e` shows a socket's cookie, where it is one."""
        return f"{self._host.place}-{number:x}" if number > 0 else f"{self._host.place}-r{-number:x}"

    # --- what could not be seen --------------------------------------------------------------------------------------

    def _count_malformed(self, read: Read) -> None:
        self._malformed += read.malformed
        self._first_malformed = self._first_malformed or read.first_malformed

    def lose(self, count: int, now: float) -> None:
        """So many announcements were lost."""
        self.tracker.lose(count, now)

    def caught_up(self, now: float) -> None:
        """Every end that was announced by now has been dealt with."""
        self.tracker.caught_up(now)

    @property
    def waiting(self) -> bool:
        """Whether overdue() will soon have something to tell."""
        return self.tracker.waiting

    @property
    def losing(self) -> bool:
        """Whether a loss waits for the reads that tell how many connections it means."""
        return self.tracker.losing > 0

    @property
    def untold(self) -> int:
        """How many announcements were lost of which nothing was told yet."""
        return self._lost_with + self.tracker.losing

    def overdue(self, now: float, last: bool = False) -> Iterator[Event]:
        """What time brings: ends that stay incomplete, and losses that are to be told; all of them where these are the `last`."""
        for outcome in self.tracker.overdue(now):
            if isinstance(outcome, New):
                yield self._connection(outcome, now)
            else:
                self._proc.forget(outcome.four_tuple)
        if not self._ends and self.tracker.announced and (unannounced := self.tracker.unannounced(now)):
            self.tracker.announced = False
            yield Degraded(
                "notifications",
                f"{unannounced} connections ended and the kernel announced none of them: what opens and closes "
                "between two reads of /proc is not seen. Is tcpnewconn.socket of this network namespace?",
            )
        losing = self.tracker.losing
        self._lost += self.tracker.lost(now)
        self._lost_with = self._lost_with + losing - self.tracker.losing if self._lost else 0
        if self._lost and (last or now >= self._lost_told + _LOSS_EVERY):
            yield Loss(
                self._lost,
                "notifications",
                f"{self._lost} ends of connections were lost because the receive buffer was full: connections that no "
                "read showed are missing here. Set a larger ReceiveBuffer= with systemctl edit tcpnewconn.socket",
            )
            self._lost, self._lost_with, self._lost_told = 0, 0, now
        if self._malformed and now >= self._malformed_told + _LOSS_EVERY:
            first = self._first_malformed
            assert first is not None
            yield Loss(
                self._malformed,
                "malformed",
                f"{self._malformed} rows could not be understood, the first in {first.path} line {first.line}: "
                f"{ascii(first.text[:160])[2:-1]}. Please report this kernel's format",
            )
            self._malformed, self._first_malformed, self._malformed_told = 0, None, now
