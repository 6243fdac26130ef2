"""Reports a connection like one that differs from it in nothing but the opener's port, without an event of its own.

In a burst nearly all are like that: whose they are, and how they are reported, was decided with the first. Its event stands for
the others within one batch of destroyed sockets, in which nothing else happens: no poll, and no other settings. They are counted
in its summary; or each is logged by an entry that is made from its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from tcpnewconn.attribution import callers
from tcpnewconn.attribution.calls import Calls
from tcpnewconn.attribution.found import Found
from tcpnewconn.eventtypes import Connection
from tcpnewconn.model import Call, DestroyedSocket, FourTuple, Origin
from tcpnewconn.reporting.aggregation import Group
from tcpnewconn.reporting.template import Template
from tcpnewconn.tracking.direction import accepted_by_ports, listened
from tcpnewconn.tracking.listeners import Listeners
from tcpnewconn.tracking.outcomes import NewConnection


class Repeats(Protocol):
    """The part of reporting.outbox.Outbox that is used here."""

    def repeatable(self, event: Connection, logged: bool) -> Group | Template | None: ...

    def another(self, group: Group) -> None: ...

    def log(self, template: Template, port: int, name: str) -> bool: ...

    def counted(self, like: Connection, count: int, summarized: bool) -> None: ...


# So many callers of similar connections are distinguished: the processes of one server.
_MOST_CALLERS = 32


class _First:
    """An event, how it was reported, and how many more were since.

    It was counted in a group, or logged: then the entries of others have a template. `calls` are those of the trace that its
    caller is from, where there is one. `next` is similar but for its caller.
    """

    __slots__ = ("_by", "_origin", "calls", "event", "more", "next", "reported")

    def __init__(self, event: Connection, reported: Group | Template, calls: Calls | None) -> None:
        self.event, self.reported, self.calls, self.more = event, reported, calls, 0
        self.next: _First | None = None
        # Of the last call of that caller, which many share: it is compared by identity first.
        self._origin: Origin | None = None
        self._by = ""

    def is_by(self, call: Call) -> bool:
        """Whether a call is another one of its caller."""
        if call.origin is self._origin and call.by == self._by:
            return True
        caller = self.event.caller
        if caller is None or not callers.is_another(call, caller):
            return False
        self._origin, self._by = call.origin, call.by
        return True


class Similar:
    """`repeats` is where events are reported, if that is known to happen at once and to each of them.

    `name` makes the id of a connection from its number.
    """

    def __init__(self, listeners: Listeners, repeats: Repeats | None, name: Callable[[int], str]) -> None:
        self._listeners = listeners
        self._repeats = repeats
        self._name = name
        # Those of this batch, by their 4-tuple without the opener's port: of sockets that accepted, and that opened.
        self._accepted: dict[bytes, _First] = {}
        self._opened: dict[bytes, _First] = {}

    def report_to(self, repeats: Repeats | None) -> None:
        """Events are reported there from now on."""
        self.clear()
        self._repeats = repeats

    def clear(self) -> None:
        """The batch is over."""
        for batch in (self._accepted, self._opened):
            if batch:
                for first in batch.values():
                    for one in _chain(first):
                        if one.more and self._repeats is not None:
                            self._repeats.counted(one.event, one.more, isinstance(one.reported, Group))
                batch.clear()

    def reported(
        self, new: NewConnection, accepted: bool, event: Connection, found: Found, calls: Calls | None
    ) -> None:
        """This event was reported of a connection whose socket was destroyed, and had `accepted` it or not.

        `found` is from these `calls` of the trace, where there is one.
        """
        destroyed, four_tuple, internal = new.destroyed, new.four_tuple, new.internal
        repeats = self._repeats
        if repeats is None or destroyed is None or destroyed.unaddressed:
            return
        if calls is not None and (internal or found.missing is not None or event.caller is None):
            # Whose such a connection is takes more than one call to say.
            return
        # Each that is logged says which process it was, where the trace does.
        how = repeats.repeatable(event, calls is None)
        if how is None:
            return
        listens = listened(four_tuple, internal, self._listeners)
        if accepted and listens:
            like, key = self._accepted, four_tuple[:-2]
        elif not accepted and not listens and (internal or accepted_by_ports(four_tuple, self._listeners) is False):
            half = len(four_tuple) // 2
            like, key = self._opened, four_tuple[: half - 2] + four_tuple[half:]
        else:
            return
        first = like.get(key)
        others = list(_chain(first))
        if not others or (calls is not None and len(others) < _MOST_CALLERS):
            one = like[key] = _First(event, how, calls)
            one.next = first

    def report(self, new: NewConnection, destroyed: DestroyedSocket, now: float) -> bool:
        """Whether a connection, by this destroyed socket, is reported like a similar one; if so, it has been."""
        four_tuple = new.four_tuple
        like = self._accepted.get(four_tuple[:-2])
        accepted = like is not None
        if like is None:
            like = self._opened_like(four_tuple, new.internal) if self._opened else None
            if like is None:
                return False
        elif new.internal and self._listeners.on(four_tuple[len(four_tuple) // 2 :]) is not None:
            return False
        repeats = self._repeats
        if repeats is None:
            return False
        if like.calls is not None:
            call = callers.only(like.calls, four_tuple, now, destroyed.idle)
            if call is None:
                return False
            calls, one = like.calls, like
            while not one.is_by(call):
                if one.next is None:
                    return False
                one = one.next
            like = one
            calls.take_only(four_tuple)
        how = like.reported
        if isinstance(how, Group):
            repeats.another(how)
        elif destroyed.unaddressed:
            return False
        else:
            half = len(four_tuple) // 2
            port = int.from_bytes(four_tuple[-2:] if accepted else four_tuple[half - 2 : half], "big")
            if not repeats.log(how, port, self._name(new.number)):
                return False
        like.more += 1
        return True

    def _opened_like(self, four_tuple: FourTuple, internal: bool) -> _First | None:
        half = len(four_tuple) // 2
        local, remote = four_tuple[:half], four_tuple[half:]
        like = self._opened.get(local[:-2] + remote)
        if like is None or self._listeners.on(local) is not None:
            return None
        return like if internal or self._listeners.ephemeral(local) else None


def _chain(first: _First | None) -> Iterator[_First]:
    while first is not None:
        yield first
        first = first.next
