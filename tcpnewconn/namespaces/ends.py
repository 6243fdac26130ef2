"""Both ends of a connection between two network namespaces, as events: which socket is whose, and one event made of two. Pure."""

from __future__ import annotations

from tcpnewconn.eventtypes import Closed, Connection
from tcpnewconn.model import EGRESS, INGRESS, INTERNAL, UNKNOWN, Caller, FourTuple, four_tuple_of
from tcpnewconn.observing.connections import closed_of


def socket_of(event: Connection) -> FourTuple | None:
    """The 4-tuple of its socket in the namespace that has reported it; None where that is not known, or both ends are there."""
    here, there = event.source, event.destination
    if event.direction == INGRESS:
        here, there = there, here
    elif event.direction not in (EGRESS, UNKNOWN):
        return None
    if here.address is None or here.port is None or there.address is None or there.port is None:
        return None
    return four_tuple_of(here.address, here.port, there.address, there.port)


def remote(four_tuple: FourTuple) -> bytes:
    return four_tuple[len(four_tuple) // 2 : -2]


def opened_here(event: Connection) -> bool | None:
    """Whether that socket has opened it; None where that is not known."""
    return None if event.direction == UNKNOWN else event.direction == EGRESS


def other_end(event: Connection, netns: int, uid: int | None, cgroup: int) -> Connection:
    """The other end of a connection, which has no event; nor does it say which of the two has opened it."""
    by = ("socket",) if uid is not None or (cgroup and not netns) else ()
    return event._replace(uid=uid, cgroup=cgroup, by=by, caller=None, accepted=None, netns=netns, direction=UNKNOWN)


def joined(here: Connection, there: Connection, opened_here: bool | None) -> Connection:
    """One connection of the events of both of its ends. It has the id of the first."""
    source, destination = here.source, here.destination
    if opened_here is None:
        opened_here = True
    elif opened_here != (here.direction != INGRESS):
        source, destination = destination, source
    opener, acceptor = (here, there) if opened_here else (there, here)
    accepted = acceptor.caller or (Caller("listener", cgroup=acceptor.cgroup) if acceptor.cgroup else None)
    if accepted is not None and not accepted.cgroup:
        accepted = accepted._replace(cgroup=acceptor.cgroup)
    return here._replace(
        source=source,
        destination=destination,
        direction=INTERNAL,
        uid=opener.uid,
        cgroup=opener.cgroup,
        by=opener.by,
        caller=opener.caller,
        accepted=accepted,
        missing=opener.missing,
        netns=opener.netns,
    )


def closed_as(event: Closed, connection: Connection) -> Closed:
    """A closed event that repeats what was reported of its connection."""
    sent, received = event.source_bytes, event.destination_bytes
    if event.source != connection.source:
        sent, received = received, sent
    return closed_of(connection, sent, received, event.rtt, event.retransmits, event.seconds)
