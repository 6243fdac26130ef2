"""The sockets that tracking knows: one store, each socket a record in one named phase.

    from                 on                                              to
    -                    row of a full socket                            SHOWN
    -                    row in TIME_WAIT at the first poll              ENDED_BEFORE_START
    SHOWN                absent from two polls, or replaced              DYING
    SHOWN, DYING         destroy notification                            CLOSED; its unseen peer EXPECTED
    EXPECTED             row or notification                             SHOWN or CLOSED
    ENDED_BEFORE_START   claimed by a notification, or all caught up     forgotten, or reported and CLOSED
    CLOSED               _TIME_WAIT_LASTS                                forgotten

A socket is CLOSED only while a row in TIME_WAIT on its addresses could be taken for a new connection; otherwise it is forgotten.
The sockets are written to the state log and loaded from it here, as records of the kinds + p - v w o s c.
"""

from __future__ import annotations

from collections.abc import Iterator

from tcpnewconn.model import DestroyedSocket, FourTuple, mirrored, named
from tcpnewconn.state.owner import Log, Record
from tcpnewconn.tracking.awaited import Dying, Expected
from tcpnewconn.tracking.chains import Chains
from tcpnewconn.tracking.shown import Shown
from tcpnewconn.tracking.socket import Phase, Socket, line, loaded, loaded_many

# Seconds for which a socket can be in TIME_WAIT (TCP_TIMEWAIT_LEN, include/net/tcp.h: 60), and a margin.
_TIME_WAIT_LASTS = 90.0
# 4-tuples with dying sockets that are kept: 15 MiB of them. A host with more sockets that were reset and that their
# programs keep open has some connections logged twice.
_MOST_DYING = 32_768
# 4-tuples with expected peers that are kept: 25 MiB of them. Where notifications are lost, so many peers never come; a host with
# more ends that are kept open between two polls has some connections logged twice.
_MOST_EXPECTED = 65_536
# Dying sockets whose notification may have been missed, and 4-tuples with expected peers, that are kept for longer than usual.
_MOST_OVERDUE = 1024


class Sockets:
    """Every socket by its 4-tuple and phase.

    A 4-tuple has one SHOWN socket at most, and `shown` returns a copy (shown.py). In the other phases it can have several, the
    oldest first.
    """

    def __init__(self, log: Log | None) -> None:
        self._log = log
        self.clear()
        if log is not None:
            log.register("+p-vwosc", self)

    def clear(self) -> None:
        """Start without any socket."""
        self._shown = Shown()
        # Asked of each row that is new or has changed.
        self.is_shown_as = self._shown.is_as
        self._dying, self._expected, self._closed = Dying(), Expected(), Chains()
        self._others: dict[Phase, Chains] = {
            Phase.DYING: self._dying,
            Phase.EXPECTED: self._expected,
            Phase.ENDED_BEFORE_START: Chains(),
            Phase.CLOSED: self._closed,
        }

    # --- SHOWN -------------------------------------------------------------------------------------------------------

    @property
    def open(self) -> int:
        """How many connections are open; those within this host count once."""
        return self._shown.open

    @property
    def shown_count(self) -> int:
        return len(self._shown)

    def shown(self, four_tuple: FourTuple) -> Socket | None:
        """A copy: a change to it counts once it is shown again with `show`."""
        return self._shown.get(four_tuple)

    def all_shown(self) -> Iterator[Socket]:
        """One by one: they may change phase meanwhile."""
        return iter(self._shown)

    def shown_with_cookie(self, cookie: int) -> Socket | None:
        return self._shown.with_cookie(cookie)

    def was_gone_when_looked_up(self, four_tuple: FourTuple) -> bool:
        """Whether the kernel had the SHOWN socket no more when it was asked for its cookie."""
        return self._shown.is_without_cookie(four_tuple)

    def name_unknown(self, socket: DestroyedSocket) -> Iterator[FourTuple]:
        """SHOWN and DYING ones without a cookie that an unaddressed socket can be: DYING first, the newest first."""
        yield from self._dying.name_unknown(socket)
        yield from self._shown.without_cookie(socket)

    # --- the other phases --------------------------------------------------------------------------------------------

    def all_in(self, phase: Phase) -> Iterator[Socket]:
        return iter(self._others[phase])

    def any_in(self, phase: Phase) -> bool:
        return len(self._others[phase]) > 0

    def is_unknown(self, four_tuple: FourTuple) -> bool:
        """Whether no socket of a 4-tuple is known, but for an expected one."""
        closed = self._closed.firsts
        return (
            four_tuple not in self._shown.by_four_tuple
            and four_tuple not in self._dying.firsts
            and not (closed and (four_tuple in closed or mirrored(four_tuple) in closed))
        )

    def has(self, four_tuple: FourTuple, phase: Phase) -> bool:
        return four_tuple in self._others[phase]

    def first(self, four_tuple: FourTuple, phase: Phase, since: float = float("-inf")) -> Socket | None:
        """The first of a 4-tuple that entered the phase since then or later."""
        return self._others[phase].first(four_tuple, since)

    def dying_with_cookie(self, cookie: int) -> Socket | None:
        return self._dying.by_cookie.get(cookie)

    def dying_without_cookie(self, four_tuple: FourTuple, since: float) -> Socket | None:
        """The first of a 4-tuple that has been dying since then or later."""
        return self._dying.without_cookie(four_tuple, since)

    def dying_peer(self, four_tuple: FourTuple, since: float) -> Socket | None:
        """The first socket at the other end that has been dying since then or later, and whose peer was not seen."""
        return self._dying.peer(four_tuple, since)

    def dying_with_inode(self, four_tuple: FourTuple, inode: int) -> bool:
        return any(one.inode == inode for one in self._dying.of(four_tuple))

    def can_be_dying(self, four_tuple: FourTuple, cookie: int) -> bool:
        """Whether a timewait socket can be what is left of a dying one; its cookie is 0 where it is not known."""
        return any(not cookie or one.cookie in (0, cookie) for one in self._dying.of(four_tuple))

    def dying_before(self, time: float, gap: bool) -> list[Socket]:
        """The sockets that have been dying since then or for longer."""
        return [one for one in self._dying if one.since <= time and one.gap == gap]

    def expected_of(self, socket: DestroyedSocket, since: float) -> Iterator[FourTuple]:
        """The sockets expected since then or later that an unaddressed socket can be."""
        return self._expected.name_unknown(socket, since)

    # --- changes of phase --------------------------------------------------------------------------------------------

    def enter(self, socket: Socket, phase: Phase, now: float) -> None:
        """Let a socket, new or in another phase, enter this one. `since` becomes `now`."""
        if socket.phase is not None:
            self.forget(socket)
        if phase is Phase.CLOSED:
            self._take_the_place_of_closed(socket)
        socket.phase, socket.since = phase, now
        self._add(socket)
        self._record(socket)

    def show(self, socket: Socket) -> None:
        """Let a socket be SHOWN, or be shown as it is now."""
        if socket.phase is not Phase.SHOWN:
            if socket.phase is not None:
                self.forget(socket)
            socket.phase = Phase.SHOWN
        self._shown.put(socket)
        self._record(socket)

    def forget(self, socket: Socket) -> None:
        """Let a socket leave its phase, if it is in one."""
        phase, four_tuple = socket.phase, socket.four_tuple
        if phase is None:
            return
        socket.phase = None
        if phase is Phase.SHOWN:
            self._shown.remove(four_tuple)
            self._write(f'["-","{four_tuple.hex()}"]')
            return
        self._others[phase].remove(socket)
        if phase is Phase.DYING:
            self._write(f'["w","{four_tuple.hex()}",{socket.cookie}]')
        elif phase is Phase.EXPECTED:
            self._write(f'["s","{four_tuple.hex()}",{socket.number}]')

    def _take_the_place_of_closed(self, socket: Socket) -> None:
        """One is CLOSED for each 4-tuple, by the time of the latest; a notification that can still come stays known."""
        for before in self._closed.of(socket.four_tuple):
            socket.number = socket.number or before.number
            self.forget(before)

    def expire(self, now: float, window: float) -> None:
        """Forget the sockets whose time is over. `window` is the beginning of the correlation window."""
        overdue = self.dying_before(window, gap=True)[:-_MOST_OVERDUE] if len(self._dying) > _MOST_OVERDUE else []
        overdue += self._dying.oldest(len(self._dying) - _MOST_DYING)
        overdue += self._expected.oldest(len(self._expected) - _MOST_EXPECTED)
        overdue += [one for one in self._expected.oldest(len(self._expected) - _MOST_OVERDUE) if one.since < window]
        for socket in self._closed:
            # In the order in which they were closed.
            if socket.since > now - _TIME_WAIT_LASTS:
                break
            overdue.append(socket)
        for socket in overdue:
            # Twice in the list is no harm.
            self.forget(socket)

    def forget_all(self, phase: Phase) -> None:
        for socket in list(self.all_in(phase)):
            self.forget(socket)

    def forget_notified(self) -> None:
        """Forget the CLOSED sockets of which no notification can come any more."""
        for socket in list(self.all_in(Phase.CLOSED)):
            if not socket.number:
                self.forget(socket)

    def _add(self, socket: Socket) -> None:
        if socket.phase is Phase.SHOWN:
            self._shown.put(socket)
        else:
            assert socket.phase is not None
            self._others[socket.phase].add(socket)

    # --- the state log -------------------------------------------------------------------------------------

    def records(self) -> Iterator[str]:
        yield from self._shown.records()
        for phase in (Phase.DYING, Phase.EXPECTED, Phase.CLOSED):
            yield from map(line, self.all_in(phase))

    def _record(self, socket: Socket) -> None:
        if self._log is not None and socket.phase is not Phase.ENDED_BEFORE_START:
            self._log.append(line(socket))

    def _write(self, line: str) -> None:
        if self._log is not None:
            self._log.append(line)

    def load(self, record: Record) -> None:
        kind = record[0]
        if kind == "p":
            self._shown.put_many(loaded_many(record))
            return
        four_tuple = named(record[1])
        if kind == "+":
            self._add(loaded(Phase.SHOWN, four_tuple, record[2:8], record[8:]))
        elif kind == "-":
            if not self._shown.remove(four_tuple):
                raise LookupError
        elif kind == "v":
            # Version 1 wrote nothing of whether it was lost where there was no gap, and no user and cgroup.
            doubt, *more = record[8:] or [-1]
            socket = loaded(Phase.DYING, four_tuple, record[2:8], more)
            socket.gap, socket.lost = doubt >= 0, doubt == 1
            self._add(socket)
        elif kind == "w":
            self.forget(_first(one for one in self._dying.of(four_tuple) if one.cookie == record[2]))
        elif kind == "o":
            shown, opened = len(record) > 3, float(record[3]) if len(record) > 3 else 0.0
            self._add(Socket(four_tuple, Phase.EXPECTED, int(record[2]), opened=opened, shown=shown))
        elif kind == "s":
            # Version 1 did not write at first which it was: the first.
            number = record[2] if len(record) > 2 else _first(self._expected.of(four_tuple)).number
            self.forget(_first(one for one in self._expected.of(four_tuple) if one.number == number))
        else:
            # Version 1 did not write when.
            since = float(record[2]) if len(record) > 2 else float("inf")
            number = int(record[3]) if len(record) > 3 else 0
            closed = Socket(four_tuple, Phase.CLOSED, number, since=since)
            self._take_the_place_of_closed(closed)
            self._add(closed)

    def largest_serial(self) -> int:
        """The largest serial number of a SHOWN or DYING socket; 0 if none has one."""
        return max(self._shown.largest_serial(), max((-one.number for one in self._dying), default=0))

    def resume(self, now: float, notified: bool, gap: bool) -> None:
        """Continue after a restart: all deadlines start again now.

        `notified` as in Tracker; `gap` where a notification can have come while nobody received it.
        """
        if not notified:
            self._shown.forget_which_were_gone()
            self.forget_all(Phase.DYING)
        for socket in self.all_in(Phase.DYING):
            socket.since, socket.gap = now, socket.gap or gap
        for socket in self.all_in(Phase.EXPECTED):
            socket.since = now
        # The clock of the run before can have been ahead: that of a time namespace, or of a machine that was restored.
        for socket in self.all_in(Phase.CLOSED):
            socket.since = min(socket.since, now)
        self.expire(now, float("-inf"))


def _first(several: Iterator[Socket]) -> Socket:
    """Raises LookupError if there is none."""
    for socket in several:
        return socket
    raise LookupError
