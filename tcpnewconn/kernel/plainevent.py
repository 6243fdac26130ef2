"""Calls of connect() where the kernel has no kprobes or no type information: its own event of a socket's change of state.

sock:inet_sock_set_state is there from Linux 4.16 on. At the change to SYN_SENT it runs in the thread that calls connect(), but
the socket has no local port yet; at the change from SYN_SENT the ports are there, and the thread is any. The address of the
socket's memory joins both: it is not used again before the second. The event has neither user nor cgroup: they are those of the
thread, which is looked up at once, and not known of one that has gone by then. accept() is not recorded.
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Callable
from operator import itemgetter
from typing import NamedTuple

from tcpnewconn.kernel.instance import (
    DIRECTORY,
    Position,
    TraceMissing,
    is_on,
    opened,
    text_of,
    wanted,
    when_defined,
    why_missing,
)
from tcpnewconn.kernel.traceevents import CONNECT, FAILED
from tcpnewconn.kernel.traceformat import FormatError, fields_of, struct_of
from tcpnewconn.model import Call, FailedAttempt, FourTuple, Origin, Thread, four_tuple_of, unmapped

GROUP, NAME = "sock", "inet_sock_set_state"
# In the file of the events that are recorded.
PLAIN = "plain"
_INET, _INET6, _TCP, _SYN_SENT, _CLOSE = 2, 10, 6, 2, 7
FILTER = f"protocol == {_TCP} && (newstate == {_SYN_SENT} || oldstate == {_SYN_SENT})"

_POINTER = struct.calcsize("P")
_FIELDS = (
    *(("pid", "i", 4), ("skaddr", "Q" if _POINTER == 8 else "I", _POINTER)),
    *(("oldstate", "i", 4), ("newstate", "i", 4), ("sport", "H", 2), ("dport", "H", 2)),
    *(("family", "H", 2), ("protocol", "H", 2), ("saddr_v6", "16s", 16), ("daddr_v6", "16s", 16)),
)
# Sockets in SYN_SENT that are remembered.
_MOST = 16_384


class Change(NamedTuple):
    """A socket's change of state, in nanoseconds of CLOCK_MONOTONIC. `socket` is the address of its memory."""

    nanoseconds: int
    thread_id: int
    socket: int
    old: int
    new: int
    four_tuple: FourTuple


class PlainLayout:
    """Records of the event."""

    def __init__(self, format_file: str) -> None:
        """Raises FormatError."""
        self.id, fields = fields_of(NAME, format_file)
        self._numbers, order = struct_of(NAME, fields, list(_FIELDS))
        self._in_order = itemgetter(*order)

    def record(self, page: bytes, at: int, length: int, nanoseconds: int) -> Change:
        """Raises FormatError."""
        if length < self._numbers.size:
            raise FormatError(f"a record of {NAME} is too short")
        number = int.from_bytes(page[at : at + 2], sys.byteorder)
        if number != self.id:
            raise FormatError(f"a record of event {number}, not {self.id}")
        pid, socket, old, new, sport, dport, family, protocol, local, remote = self._in_order(
            self._numbers.unpack_from(page, at)
        )
        if protocol != _TCP or family not in (_INET, _INET6):
            raise FormatError(f"a record of {NAME} has protocol {protocol} and family {family}")
        # These fields are there for IPv4 sockets, too: mapped. Those for IPv4 hold junk where the socket is one for IPv6.
        local, remote = unmapped(local), unmapped(remote)
        if len(local) != len(remote):
            # The local address of a socket that is not bound yet.
            local = bytes(len(remote))
        return Change(nanoseconds, pid, socket, old, new, four_tuple_of(local, sport, remote, dport))


class PlainTrace:
    """As kernel.trace.Trace. `look` finds the thread that has this id.

    `descriptors` become readable when somebody connects: read at once then, the thread is soon gone.
    """

    def __init__(
        self,
        look: Callable[[int], Thread | None],
        netns: int,
        directory: str = DIRECTORY,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Raises TraceMissing. `netns` is the network namespace of connections whose thread has gone."""
        self._look = look
        self._netns = netns
        self._directory = directory
        self._defined = when_defined(directory)
        self._lost_until = float("-inf")
        # Changes to SYN_SENT, by the memory of their sockets, and the threads.
        self._pending: dict[int, tuple[Change, Thread | None]] = {}
        text = text_of(f"{self._event}/format")
        if PLAIN not in wanted(directory) or not text:
            raise TraceMissing(why_missing(directory))
        try:
            layout = PlainLayout(text)
        except FormatError as error:
            raise TraceMissing(str(error)) from None
        self.rings = opened(directory, clock, layout.record)

    @property
    def _event(self) -> str:
        return f"{self._directory}/events/{GROUP}/{NAME}"

    @property
    def events(self) -> frozenset[str]:
        """As Trace.events: a call is known by its outcome."""
        return frozenset({CONNECT, FAILED})

    @property
    def descriptors(self) -> list[int]:
        return self.rings.descriptors

    @property
    def position(self) -> Position:
        """As Trace.position: those whose second change is still to come were not returned."""
        return Position(self._defined, self.rings.returned - len(self._pending))

    def read(self) -> list[Call | FailedAttempt]:
        """The calls whose outcome was recorded before this one, in the order of the outcomes. Never raises."""
        changes = self.rings.read()
        if self.rings.lost_until != self._lost_until:
            # Of a socket whose second change was overwritten, the memory can be another's by now.
            self._lost_until = self.rings.lost_until
            until = self._lost_until * 1e9
            self._pending = {key: one for key, one in self._pending.items() if one[0].nanoseconds > until}
            changes = [change for change in changes if change.new != _SYN_SENT or change.nanoseconds > until]
        # First of all, before they go.
        threads = self._threads([change for change in changes if change.new == _SYN_SENT])
        called: list[Call | FailedAttempt] = []
        for change in changes:
            if change.new == _SYN_SENT:
                self._pending.pop(change.socket, None)
                self._pending[change.socket] = (change, threads.get(change))
                continue
            begun = self._pending.pop(change.socket, None)
            if begun is not None and _same_peer(begun[0], change):
                called += self._called(*begun, change)
        while len(self._pending) > _MOST:
            del self._pending[next(iter(self._pending))]
        return called

    def _threads(self, begun: list[Change]) -> dict[Change, Thread]:
        """The threads of these changes, as far as they are sure."""
        by_id: dict[int, list[Change]] = {}
        for change in begun:
            by_id.setdefault(change.thread_id, []).append(change)
        found: dict[Change, Thread] = {}
        # The latest first: they are there most likely.
        for thread_id, changes in reversed(by_id.items()):
            if thread := self._look(thread_id):
                found.update({change: thread for change in changes if change.nanoseconds / 1e9 >= thread.since})
        return found

    def _called(self, begun: Change, thread: Thread | None, change: Change) -> list[Call | FailedAttempt]:
        seconds, four_tuple = begun.nanoseconds / 1e9, change.four_tuple
        if thread is not None and not thread.netns:
            # In a network namespace that is not known.
            return []
        if thread is None and change.new == _CLOSE:
            # Maybe in another network namespace; and no connection in any.
            return []
        if thread is None:
            # Maybe in another one, too: a candidate that says nothing but the time.
            call = Call("connect", seconds, four_tuple, Origin(None, 0, (), self._netns, begun.thread_id, None))
        else:
            origin = Origin(thread.uid, thread.cgroup, thread.cgroup_names, thread.netns, begun.thread_id, thread.name)
            call = Call("connect", seconds, four_tuple, origin)
        if change.new == _CLOSE:
            return [call, FailedAttempt(change.nanoseconds / 1e9, four_tuple, call.netns, 0)]
        return [call]

    def stale(self) -> bool:
        """As Trace.stale()."""
        defined = when_defined(self._directory)
        if defined != self._defined:
            self._defined = defined
            self.rings.defined_again()
        enabled = text_of(f"{self._event}/enable").strip() == "1"
        return not (enabled and PLAIN in wanted(self._directory) and is_on(self._directory))

    def close(self) -> None:
        self.rings.close()


def _same_peer(begun: Change, change: Change) -> bool:
    """Whether both changes can be of one socket. A socket that failed has no remote port any more."""
    half = len(change.four_tuple) // 2
    return len(begun.four_tuple) == 2 * half and begun.four_tuple[half:] == change.four_tuple[half:]
