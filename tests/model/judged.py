"""The judgement of a play: every connection must be reported exactly once, and lost ones in number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tcpnewconn.model import FourTuple, mirrored
from tests.model.play import Play, is_internal
from tests.model.simulated_kernel import Connection


def judge(play: Play) -> None:
    """Raises AssertionError, with the history and its outcome."""
    missing, twice = compared(play)
    numbers = Counter(new.number for new in play.reported)
    what = [f"not reported {dict(missing)}, of which {play.lost} as lost; reported twice {dict(twice)}", *play.log]
    assert numbers.total() == len(numbers), "\n".join(["one id was reported twice", *what])
    assert not twice, "\n".join(what)
    assert missing.total() <= play.lost, "\n".join(what)
    assert play.lost <= play.dropped, "\n".join(what)
    # Just the connections that polls show now are open; a connection within this host has two sockets. Where the notification of
    # one of them was lost, the other can count for both.
    sockets = sum(1 if is_internal(one) else 2 for one in play.kernel.sockets)
    wrong = abs(play.tracker.sockets.open - sockets // 2)
    assert wrong <= play.dropped, "\n".join([f"{play.tracker.sockets.open} open", *what])


def compared(play: Play) -> tuple[Counter[bytes], Counter[bytes]]:
    """The connections that were not reported, and those that were reported twice."""
    connections = play.kernel.connections
    # A connection that a poll has shown and whose notification was not received may be reported, or not.
    must = _similar(one for one in connections if one.in_rows or one.notified or one.dropped)
    may = _similar(one for one in connections if one.shown or one.looked_up or one.notified)
    reported = Counter(_what_is_left(new.four_tuple) for new in play.reported)
    return must - reported, reported - may


def _similar(connections: Iterable[Connection]) -> Counter[bytes]:
    return Counter(_what_is_left(one.four_tuple) for one in connections)


def _what_is_left(four_tuple: FourTuple) -> bytes:
    """The parts of a reported connection that identify it: where addresses were cleared, port and peer remain."""
    if not is_internal(four_tuple):
        return four_tuple[4:10]
    return four_tuple if four_tuple.endswith(b"\0\0") else min(four_tuple, mirrored(four_tuple))
