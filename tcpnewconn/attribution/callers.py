"""The rules by which a connect() or accept() made a connection: from the calls that no connection has taken, by 4-tuple and time.

Calls of one 4-tuple are distinguished by their order, never by likelihood:

- Each call is taken once. Calls are read after a notification or a poll came, and before it is applied: the call of what it shows
  is among those that are known by then.
- Of a socket that a poll shows, the last connect() before the poll is its own: until that socket is gone no other can have
  its 4-tuple.
- Of a socket that was destroyed, any call that no other connection has taken can be its own. Where that is one, it is sure. Where
  there are several, only what they agree on is said.
- A connect() that failed is dropped with its failure. Who accepts a connection that was reported before is not asked for
  again: that accept() is dropped, too.
- Where calls, or notifications, were lost, a call that is known could be taken for one that was lost. Of a socket that a poll
  shows, the last connect() before the poll is its own if it is newer than all that was lost; so it is of the other end of a
  connection, where the poll shows both. Of a socket that was destroyed, nothing is said until a poll that began after the loss
  has shown those that were open, and the notifications of the others have come.

- A connection that was never accepted is destroyed when its listener is closed, and the kernel has cleared its addresses then
  (Linux 6.18: established, closed by the peer, reset, with data, on one address or all). So a cleared socket never takes an
  accept(): that can be another's. One whose addresses are there was accepted, or opened here.

Cookies would be an exact join: the tracepoint tcp_destroy_sock has the address of the socket's memory and the cookie of its
notification. It is not used. To decode one more record for each socket, and to look it up, takes 1.2 us at least (Linux 6.18),
with two sockets twice that. The trace adds 5.3 us to a connection in a summary already: it takes 1.4 times as long, and that is
the limit. The service would see the kernel's addresses. It would name the thread of connections that are ambiguous today, whose
ports were used again before their notification was read; it would take nothing back that is wrong.

What can still go wrong: after SIGKILL, the calls that were read and not yet recorded are missing, those of some milliseconds; of
half a second on a starved machine. If another connection opens on the same two ports, and its call is read before the
notification of the first was, that would be taken for the first's. And a call that was lost, whose connection was still in
SYN_SENT at the poll after the loss, followed by another on its ports within the time of a notification.
"""

from __future__ import annotations

from collections.abc import Callable

from tcpnewconn.attribution.calls import LATE, Calls
from tcpnewconn.attribution.found import AMBIGUOUS, NOT_RECORDED, OVERWRITTEN, Found, caller_of, shared_by
from tcpnewconn.model import Call, Caller, FourTuple, Missing, mirrored

# tcpi_last_ack_recv is counted in ticks of the kernel. In a virtual machine whose host is busy they come late, several at once:
# what was acknowledged in the meantime seems to be older than it is, by not more than so many seconds.
_TICKS_LATE = 1.0
# Beyond so many calls it costs too much to look for one without its whole 4-tuple.
_MOST_SEARCHED = 2_000


def destroyed(calls: Calls, four_tuple: FourTuple, internal: bool, now: float, idle: float) -> Found:
    """The calls of a connection that no poll has shown, one of whose sockets was destroyed.

    Its peer had acknowledged nothing for `idle` seconds: it was connected before.
    """
    if not internal:
        # As most are: one call or none.
        call = only(calls, four_tuple, now, idle)
        if call is not None:
            return _by_one(calls, four_tuple, call)
        if four_tuple not in calls.by_four_tuple and calls.are_whole(now):
            return NOT_RECORDED
    here = _of_destroyed(calls, four_tuple, now - idle + _TICKS_LATE)
    other = mirrored(four_tuple) if internal else four_tuple
    there = _of_destroyed(calls, other, now) if other != four_tuple else []
    found = _decided(calls, four_tuple, here, other, there)
    if (unsure := _unsure_because(calls, now)) is not None:
        return unsure
    found = _without_old(calls, found)
    if found.accepted_here is False and other != four_tuple and not any(call.by == "accept" for call in there):
        calls.accepted_later(other, now)
    return found


def only(calls: Calls, four_tuple: FourTuple, now: float, idle: float) -> Call | None:
    """The one call that can have made a connection with another host, as in destroyed(); it is not taken yet.

    None where it is not sure, or is an old accept() (_without_old()).
    """
    known = calls.by_four_tuple.get(four_tuple)
    if known is None or len(known) != 1 or now < calls.unsure_until or (calls.taken and four_tuple in calls.taken):
        return None
    call = known[0]
    if call.by == "accept" and call.time < calls.poll_before:
        return None
    return call if _can_be_of_destroyed(calls, call, now - idle + _TICKS_LATE) else None


def is_another(call: Call, caller: Caller) -> bool:
    """Whether it is another call of the same caller."""
    return caller_of(call)[:5] == caller[:5]


def _of_destroyed(calls: Calls, four_tuple: FourTuple, latest: float) -> list[Call]:
    """The calls that can be of a destroyed socket that no poll has shown, and that was connected by `latest`."""
    known = calls.by_four_tuple.get(four_tuple)
    if known is None:
        return []
    if four_tuple in calls.taken:
        # Of these some are taken already, whichever.
        return list(known)
    return [call for call in known if _can_be_of_destroyed(calls, call, latest)]


def _can_be_of_destroyed(calls: Calls, call: Call, latest: float) -> bool:
    # A socket whose peer acknowledged nothing since the last poll, and that is not in it, was reset before: no call since
    # then is its own. Other than that, accept() can come later than all that the peer acknowledged.
    return call.time <= latest or (call.by == "accept" and latest >= calls.last_poll)


def _without_old(calls: Calls, found: Found) -> Found:
    """Of a destroyed socket that no poll has shown: what was accepted before the last two would have been shown.

    Unless it had been reset; or this one was never accepted, and that accept() was another's.
    """
    accepted = found.accepted
    if accepted is None or accepted.time is None or accepted.time >= calls.poll_before:
        return found
    return found._replace(accepted=None, missing="ambiguous")


def _unsure_because(calls: Calls, now: float) -> Found | None:
    if calls.are_whole(now):
        return None
    return OVERWRITTEN if calls.lost_until > float("-inf") else NOT_RECORDED


def unaddressed(calls: Calls, four_tuple: FourTuple, now: float, idle: float) -> Found:
    """The calls of a destroyed socket whose remote port the kernel has cleared, and maybe its local address."""
    if (unsure := _unsure_because(calls, now)) is not None:
        return unsure
    if len(calls.by_four_tuple) > _MOST_SEARCHED:
        return AMBIGUOUS
    half = len(four_tuple) // 2
    port, remote = four_tuple[half - 2 : half], four_tuple[half:-2]
    local = four_tuple[: half - 2]
    anywhere = not any(local)
    matching = [
        one
        for one in calls.by_four_tuple
        if len(one) == 2 * half
        and one[half - 2 : half] == port
        and one[half:-2] == remote
        and (anywhere or one[: half - 2] == local)
    ]
    if not matching:
        return NOT_RECORDED
    if len(matching) > 1:
        # It is one of them, whichever: all stay candidates of other connections.
        return AMBIGUOUS
    (whole,) = matching
    if any(call.by == "accept" for call in calls.by_four_tuple[whole]):
        return AMBIGUOUS
    found = _without_old(
        calls, _decided(calls, whole, _of_destroyed(calls, whole, now - idle + _TICKS_LATE), whole, [])
    )
    return found._replace(four_tuple=whole) if found.accepted_here is not None else found


def shown(
    calls: Calls,
    four_tuple: FourTuple,
    internal: bool,
    begin: float,
    end: float,
    accepted: bool,
    now: float,
    connected: Callable[[FourTuple], bool] = lambda _: False,
) -> Found:
    """The calls of a connection that a poll shows; it began at that time, and the socket was not looked up after `end`.

    `accepted`: whether its socket belongs to a process, or did: else accept() is still to come, if it is the acceptor's.
    `connected`: whether the poll shows a socket there that has connected.
    """
    other = mirrored(four_tuple) if internal else four_tuple
    if not accepted:
        # The call is recorded before the socket gets its inode: it can be older than the poll, not than its connect().
        connects = [
            call.time for call in calls.by_four_tuple.get(other, ()) if call.by == "connect" and call.time <= begin
        ]
        _not_accepted_at(calls, max(connects, default=begin), four_tuple, now)
    lost = calls.lost_until
    # Otherwise every connection that was open at the loss was in a poll before.
    unsure = lost > calls.last_poll
    own = _own(calls, four_tuple, end, accepted)
    if unsure and not (own and own[0].time <= begin):
        # Its own may be one of those that were lost.
        there = _own(calls, other, end, False) if other != four_tuple and connected(other) else []
        if there and there[0].time <= begin:
            # But not that of the other end, which is in the poll, too.
            accepts = [call for call in own if call.by == "accept"]
            if accepted and not accepts:
                _not_accepted_at(calls, there[-1].time, four_tuple, now)
            return _decided(calls, four_tuple, accepts, other, there if there[-1].time > begin else there[-1:])
        return _unknown_of(calls, four_tuple, other, OVERWRITTEN)
    if own and own[-1].time > begin:
        # It may have come after the row was read.
        here = own
        if own[0].time > begin and begin < calls.since + LATE:
            # Another can have stood there at the start.
            return _unknown_of(calls, four_tuple, other, AMBIGUOUS)
    else:
        here = own[-1:]
    latest = begin if unsure else end
    there = (
        [call for call in calls.by_four_tuple.get(other, ()) if lost < call.time <= latest]
        if other != four_tuple
        else []
    )
    found = _decided(calls, four_tuple, here, other, there)
    if (
        accepted
        and found.accepted_here is False
        and other != four_tuple
        and not any(call.by == "accept" for call in there)
    ):
        _not_accepted_at(calls, latest, other, now)
    return found


def _own(calls: Calls, four_tuple: FourTuple, end: float, accepted: bool) -> list[Call]:
    """The calls until then that can be a shown socket's own."""
    lost = calls.lost_until
    known = calls.by_four_tuple.get(four_tuple, ())
    return [call for call in known if lost < call.time <= end and (call.by == "connect" or accepted)]


def _not_accepted_at(calls: Calls, begin: float, four_tuple: FourTuple, now: float) -> None:
    """A socket that waited for accept() then was reported: that call is dropped, be it still to come or known already."""
    known = [call for call in calls.by_four_tuple.get(four_tuple, ()) if call.by == "accept" and call.time > begin]
    if known:
        calls.remove(four_tuple, known[0])
    else:
        calls.accepted_later(four_tuple, now)


def _unknown_of(calls: Calls, four_tuple: FourTuple, other: FourTuple, found: Found) -> Found:
    """A connection is reported without its calls: where others are connections of their own, they are taken all the same."""
    if not calls.notified:
        for name in {four_tuple, other}:
            calls.take(name, list(calls.by_four_tuple.get(name, ())))
    return found


def _by_one(calls: Calls, four_tuple: FourTuple, call: Call) -> Found:
    """The one call that can be of a socket made its connection; it is taken."""
    calls.remove(four_tuple, call)
    caller = caller_of(call)
    return Found(caller, None, False) if call.by == "connect" else Found(None, caller, True)


def _decided(calls: Calls, here_name: FourTuple, here: list[Call], there_name: FourTuple, there: list[Call]) -> Found:
    """From the candidates at both ends; they are taken."""
    if not here and not there:
        return NOT_RECORDED
    if len(here) == 1 and not there and here_name not in calls.taken:
        # As most are.
        return _by_one(calls, here_name, here[0])
    opened_here = any(call.by == "connect" for call in here) or any(call.by == "accept" for call in there)
    opened_there = any(call.by == "accept" for call in here) or any(call.by == "connect" for call in there)
    if opened_here == opened_there:
        calls.take(here_name, here)
        calls.take(there_name, there)
        return AMBIGUOUS
    connects, accepts = (here, there) if opened_here else (there, here)
    names = (here_name, there_name) if opened_here else (there_name, here_name)
    opened = accepted = None
    missing: Missing | None = None
    if len(connects) > 1:
        missing = "ambiguous"
    if connects:
        opened = shared_by(connects)
        calls.take(names[0], connects)
        # It is accepted after it was opened.
        accepts = [call for call in accepts if call.time > connects[0].time]
    if accepts:
        if len(accepts) > 1:
            missing = "ambiguous"
        if len(connects) <= 1:
            accepted = shared_by(accepts)
        calls.take(names[1], accepts)
    return Found(opened, accepted, not opened_here, missing)
