"""Events of connections, from what tracking has decided and what is known of who opened and who accepted them.

A call alone is no event: a long outgoing connection waits for the poll that shows it. At connect() it is not established and may
never be. Its call has no cookie, which is the connection's id: after SIGKILL it would be logged again under another one. And the
poll or notification that shows it later would be matched with it by 4-tuple and order alone, which is not sure where ports are
used again at once; a wrong match would log one twice and another never. An attribution that is not sure can be left out, a
connection cannot.
"""

from __future__ import annotations

from collections.abc import Callable

from tcpnewconn.attribution import callers
from tcpnewconn.attribution.calls import Calls
from tcpnewconn.attribution.found import AMBIGUOUS, Found
from tcpnewconn.eventtypes import Closed, Connection
from tcpnewconn.model import (
    CLOSE_WAIT,
    ESTABLISHED,
    INGRESS,
    INTERNAL,
    Caller,
    DestroyedSocket,
    Endpoint,
    FourTuple,
    Row,
    endpoints,
)
from tcpnewconn.tracking.listeners import Listeners
from tcpnewconn.tracking.outcomes import NewConnection


def called(
    calls: Calls,
    new: NewConnection,
    row: Row | None,
    polled: tuple[float, float],
    now: float,
    connected: Callable[[FourTuple], bool],
) -> Found:
    """The calls that made a connection; `row`, `polled` and `connected` are of the last poll: see callers.shown()."""
    destroyed = new.destroyed
    if new.replaced:
        # Calls on its addresses can be of the one that has them by now.
        return AMBIGUOUS
    if destroyed is None:
        # Nobody owns it, and nobody has closed it: it waits for accept().
        accepted = row is None or row.inode > 0 or row.state not in (ESTABLISHED, CLOSE_WAIT) or new.uid is not None
        return callers.shown(calls, new.four_tuple, new.internal, *polled, accepted, now, connected)
    if new.incomplete:
        return callers.unaddressed(calls, new.four_tuple, now, destroyed.idle)
    return callers.destroyed(calls, new.four_tuple, new.internal, now, destroyed.idle)


def attributed(
    source: Endpoint,
    destination: Endpoint,
    direction: str,
    new: NewConnection,
    name: str,
    owner: tuple[int | None, int],
    found: Found,
    listeners: Listeners,
) -> Connection:
    """The event of a new connection with this id, and whose it is.

    In the order of trust: the socket itself (`owner`: its user and its cgroup), its caller, the listener.
    """
    uid, cgroup = owner
    by: tuple[str, ...] = ("socket",) if uid is not None or cgroup else ()
    accepted = found.accepted
    caller = accepted if direction == INGRESS else found.opened
    if caller is not None:
        uid = caller.uid if uid is None else uid
        cgroup = cgroup or caller.cgroup
        by += (caller.by,)
    if direction == INTERNAL:
        if accepted is None and destination.address is not None and destination.port is not None:
            listening = listeners.on(b"%b%b" % (destination.address, destination.port.to_bytes(2, "big")))
            accepted = Caller("listener", cgroup=listening) if listening else None
    else:
        accepted = None
        if not cgroup and direction == INGRESS and new.detected_by != "startup":
            # It was gone when it was looked up. One that is older than this program can be of a listener that was before.
            cgroup = listeners.on(new.four_tuple[: len(new.four_tuple) // 2]) or 0
            by += ("listener",) if cgroup else ()
    missing = found.missing if caller is None or caller.thread_id is None else None
    return Connection(
        source, destination, direction, new.detected_by, name, new.state, uid, cgroup, by, caller, accepted, missing
    )


def closed(connection: Connection, four_tuple: FourTuple, destroyed: DestroyedSocket, seconds: float | None) -> Closed:
    """The closed event of a connection, from one of its sockets on this host; it lasted so many seconds."""
    traffic = destroyed.traffic
    opened_here = connection.source == endpoints(four_tuple)[0]
    # Of what was acknowledged beyond the payload one is the SYN of the side that opened, the other the FIN: a side whose FIN
    # was acknowledged has, unless its peer vanished, received one too.
    fin = traffic.acked - traffic.sent > int(opened_here)
    received = max(0, traffic.received - int(fin))
    source_bytes, destination_bytes = (traffic.sent, received) if opened_here else (received, traffic.sent)
    return closed_of(connection, source_bytes, destination_bytes, traffic.rtt, traffic.retransmits, seconds)


def closed_of(
    connection: Connection, source_bytes: int, destination_bytes: int, rtt: int, retransmits: int, seconds: float | None
) -> Closed:
    """The closed event with these numbers of a connection. It repeats the rest."""
    return Closed(
        connection.source,
        connection.destination,
        connection.direction,
        connection.id,
        source_bytes,
        destination_bytes,
        rtt,
        retransmits,
        seconds,
        connection.uid,
        connection.cgroup,
        connection.by,
        connection.caller,
        connection.accepted,
        connection.netns,
    )
