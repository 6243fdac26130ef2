"""Connections that the trace alone has shown: calls that are left over where there are no notifications. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tcpnewconn.attribution.calls import Calls
from tcpnewconn.attribution.found import Found, shared_by
from tcpnewconn.model import Call, FourTuple, mirrored


def left(
    calls: Calls, stands: Callable[[FourTuple], bool], internal: Callable[[FourTuple], bool], last: bool = False
) -> Iterator[tuple[FourTuple, Found]]:
    """The connections that neither of the two last polls has shown, although they began after the call: one by one.

    They were opened and closed in between. `stands`: whether the last poll has a row there, where connect() waits for its
    answer. With `last`, no further poll comes. The calls of each are taken.
    """
    until = float("inf") if last else calls.poll_before
    for by in ("connect", "accept"):
        # Of a connection within the namespace: both, before the other end's own turn comes.
        for four_tuple in [
            one for one, known in calls.by_four_tuple.items() if any(call.time < until for call in known)
        ]:
            for call in [one for one in calls.by_four_tuple.get(four_tuple, ()) if one.by == by and one.time < until]:
                known = calls.by_four_tuple.get(four_tuple, ())
                if call not in known or stands(four_tuple):
                    continue
                if call.time <= calls.lost_until:
                    # That it failed may be among what was lost.
                    calls.drop(four_tuple, call)
                    continue
                caller = shared_by(list(known) if four_tuple in calls.taken else [call])
                calls.remove(four_tuple, call)
                if by == "accept":
                    yield four_tuple, Found(None, caller, True)
                    continue
                other = mirrored(four_tuple)
                accepts = _accepts_after(calls, call, other) if internal(four_tuple) and other != four_tuple else []
                calls.take(other, accepts)
                yield four_tuple, Found(caller, shared_by(accepts) if len(accepts) == 1 else None, False)


def _accepts_after(calls: Calls, call: Call, four_tuple: FourTuple) -> list[Call]:
    return [one for one in calls.by_four_tuple.get(four_tuple, ()) if one.by == "accept" and one.time > call.time]
