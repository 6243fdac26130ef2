"""A history is played, and the kernel records who calls connect() and accept(): every call is another process's."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tcpnewconn.attribution.calls import Calls
from tcpnewconn.attribution.found import Found
from tcpnewconn.kernel.activity import OPENING
from tcpnewconn.model import Call, Caller, FailedAttempt, FourTuple, Origin, mirrored
from tcpnewconn.observing.connections import called
from tcpnewconn.tracking.outcomes import ClosedSocket, NewConnection
from tcpnewconn.tracking.run import Notifications
from tests.model.histories import NAMES
from tests.model.play import Play, is_internal
from tests.model.simulated_kernel import Connection, Kernel, Socket

NETNS = 430_314
# Between two calls, in seconds: they have an order.
_STEP = 1e-6


class RecordingKernel(Kernel):
    """Of connections with another host, those with an odd name were opened here."""

    def __init__(self, room: int) -> None:
        super().__init__(room)
        self.ring: list[Call | FailedAttempt] = []
        self.connected: dict[Connection, int] = {}
        self.accepted_by: dict[Connection, int] = {}
        self.by_cookie: dict[int, Connection] = {}
        self._calls = 0

    def _record(self, by: str, four_tuple: FourTuple) -> int:
        self.now += _STEP
        self._calls += 1
        number = self._calls
        # Thread ids are used again, at once.
        name = f"thread-{number}"
        self.ring.append(
            Call(by, self.now, four_tuple, Origin(number % 3, number % 2 + 2, (), NETNS, number % 5 + 1, name))
        )
        self.now += _STEP
        return number

    def open(self, four_tuple: FourTuple, accepted: bool, internal: bool) -> None:
        before = len(self.connections)
        self.now += _STEP
        began = self.now
        super().open(four_tuple, accepted, internal)
        if len(self.connections) == before:
            return
        assert self.now == began
        connection = self.connections[-1]
        if internal or opened_here(four_tuple):
            self.connected[connection] = self._record("connect", four_tuple)
            if not internal:
                self._belongs(four_tuple)
        if accepted and (internal or not opened_here(four_tuple)):
            acceptor = mirrored(four_tuple) if internal else four_tuple
            self.accepted_by[connection] = self._record("accept", acceptor)

    def _belongs(self, four_tuple: FourTuple) -> None:
        """The opener of a connection owns its socket."""
        socket = self.sockets[four_tuple]
        if not socket.accepted:
            socket.accepted, socket.inode = True, self._inode()
            socket.connection.accepted = True

    def accept(self, four_tuple: FourTuple) -> None:
        socket = self.sockets.get(four_tuple)
        if socket is not None and not socket.accepted:
            super().accept(four_tuple)
            self.accepted_by[socket.connection] = self._record("accept", four_tuple)

    def refuse(self, four_tuple: FourTuple) -> None:
        if four_tuple in self.sockets or not (is_internal(four_tuple) or opened_here(four_tuple)):
            # connect() itself fails where the 4-tuple is taken.
            return
        self._record("connect", four_tuple)
        self.ring.append(FailedAttempt(self.now, four_tuple, NETNS, 111))
        self.now += _STEP
        super().refuse(four_tuple)

    def _destroy(self, socket: Socket, unaddressed: bool = False) -> None:
        # One that was never accepted is destroyed with its listener, which clears its addresses (Linux 6.18, six ways).
        super()._destroy(socket, unaddressed or not socket.accepted)

    def _to_timewait(self, socket: Socket, state: int) -> None:
        if socket.accepted:
            super()._to_timewait(socket, state)
        else:
            self._destroy(socket)

    def of_cookie(self, cookie: int) -> Connection | None:
        return self.by_cookie.get(cookie)

    def _notify_of(self, socket, unaddressed: bool = False) -> None:  # type: ignore[no-untyped-def]
        super()._notify_of(socket, unaddressed)
        self.by_cookie[socket.cookie] = socket.connection

    def look_up(self, four_tuple: FourTuple):  # type: ignore[no-untyped-def]
        info = super().look_up(four_tuple)
        if info is not None:
            self.by_cookie[info.cookie] = self.sockets[four_tuple].connection
        return info


def opened_here(four_tuple: FourTuple) -> bool:
    """Of a connection with another host."""
    return NAMES[four_tuple] in ("r1", "r3", "r5")


class AttributedPlay(Play):
    """`entries`: what was reported, each with the calls that were found. With `every`, each so manyth record is overwritten."""

    kernel: RecordingKernel

    def __init__(self, directory: Path, notifications: Notifications, room: int, every: int = 0) -> None:
        self.entries: list[tuple[NewConnection, Found]] = []
        self.calls = Calls(NETNS, 0.0)
        self._every = every
        self._seen = 0
        self._poll_read = 0.0
        super().__init__(directory, notifications, room)

    @staticmethod
    def made_kernel(room: int) -> Kernel:
        return RecordingKernel(room)

    def _log_made(self) -> None:
        self.calls = Calls(NETNS, self.kernel.now, self.log_file)

    def _calls_resumed(self) -> None:
        self.calls.resume()

    def _calls_settled(self) -> None:
        self.calls.settle()
        self.log_file.flush()

    def _read_calls(self) -> None:
        self._poll_read = self.kernel.now
        recorded, self.kernel.ring = self.kernel.ring, []
        kept = []
        for call in recorded:
            self._seen += 1
            if self._every and self._seen % self._every == 0:
                self.calls.lost(call.time)
            else:
                kept.append(call)
        self.calls.add(kept)

    def _calls_lost(self) -> None:
        self.calls.lost(self.kernel.now)

    def _calls_polled(self) -> None:
        self.calls.polled(self._poll_began)
        self._calls_settled()

    def _outcome(self, outcome: NewConnection | ClosedSocket, now: float) -> None:
        super()._outcome(outcome, now)
        if isinstance(outcome, ClosedSocket):
            self.calls.closed(outcome.four_tuple)
            return
        row = self._applied.row(outcome.four_tuple) if self._applied is not None else None
        if row is not None and not row.inode and outcome.destroyed is None:
            # As the observer does.
            self._read_calls()
        found = called(self.calls, outcome, row, (self._poll_began, self._poll_read), now, self._is_connected)
        self.log.append(f"    {found}")
        self.entries.append((outcome, found))

    def _is_connected(self, four_tuple: FourTuple) -> bool:
        row = self._applied.row(four_tuple) if self._applied is not None else None
        return row is not None and row.state not in OPENING


def wrong(play: AttributedPlay) -> list[str]:
    """Entries that name another caller than that of their connection."""
    problems = []
    for new, found in play.entries:
        connection = play.kernel.of_cookie(new.number)
        if connection is None:
            continue
        candidates = _candidates(play, connection)
        for caller, true in ((found.opened, play.kernel.connected), (found.accepted, play.kernel.accepted_by)):
            if caller is not None and not any(_fits(caller, true.get(one)) for one in candidates):
                problems.append(f"{new}: {caller} instead of {true.get(connection)}")
    return problems


def _candidates(play: AttributedPlay, connection: Connection) -> list[Connection]:
    """The connections that an entry can be of: one, but where one of its 4-tuple was reported without a cookie.

    Tracking cannot tell the notification of that from the one of the next: the entries are right together, and their numbers can
    be exchanged.
    """
    same = [one for one in play.kernel.connections if one.had(connection.four_tuple)]
    numberless = any(new.number < 0 and connection.had(new.four_tuple) for new, _ in play.entries)
    return same if numberless else [connection]


def _fits(caller: Caller, number: int | None) -> bool:
    if number is None:
        return False
    return (
        caller.thread_name in (None, f"thread-{number}")
        and caller.thread_id in (None, number % 5 + 1)
        and caller.uid in (None, number % 3)
        and caller.cgroup in (0, number % 2 + 2)
    )


def how_many(play: AttributedPlay) -> Counter[str]:
    return Counter("known" if found.opened or found.accepted else str(found.missing) for _, found in play.entries)
