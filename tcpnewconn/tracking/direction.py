"""Which side opened a connection: by the listeners, the local port range, and the kernel's counters. Pure."""

from __future__ import annotations

from tcpnewconn.model import EGRESS, INGRESS, INTERNAL, UNKNOWN, Endpoint, FourTuple, endpoints
from tcpnewconn.tracking.listeners import Listeners


def directed(
    four_tuple: FourTuple, internal: bool, listeners: Listeners, opened_here: bool | None = None
) -> tuple[Endpoint, Endpoint, str]:
    """Source, destination and direction of a connection, from the 4-tuple of one of its sockets on this host.

    `opened_here` is the kernel's answer about that socket; it is used where listeners and ports do not decide.
    """
    accepted = accepted_here(four_tuple, internal, listeners)
    if accepted is None and opened_here is not None:
        accepted = not opened_here
    return arrow(four_tuple, internal, listeners, accepted)


def arrow(
    four_tuple: FourTuple, internal: bool, listeners: Listeners, accepted: bool | None
) -> tuple[Endpoint, Endpoint, str]:
    """The same, from whether that socket accepted the connection (None if that is not known).

    Where nothing shows which side opened it, the direction is unknown and the arrow points away from this host.
    """
    local, remote = endpoints(four_tuple)
    if internal:
        if accepted is None:
            half = len(four_tuple) // 2
            here, there = four_tuple[:half], four_tuple[half:]
            # Not known; but the answer for one of its sockets must agree with the answer for the other.
            accepted = (here[-2:], here) < (there[-2:], there)
        return (remote, local, INTERNAL) if accepted else (local, remote, INTERNAL)
    if accepted is None and listeners.ephemeral(four_tuple[: len(four_tuple) // 2]):
        # The range of this host's ports is known here; the other host's may be another.
        accepted = False
    if accepted is None:
        return local, remote, UNKNOWN
    return (remote, local, INGRESS) if accepted else (local, remote, EGRESS)


def accepted_here(four_tuple: FourTuple, internal: bool, listeners: Listeners) -> bool | None:
    """Whether the socket of a 4-tuple accepted its connection, by listeners and ports; None where they do not decide."""
    accepted = listened(four_tuple, internal, listeners)
    return accepted_by_ports(four_tuple, listeners) if accepted is None else accepted


def accepted_by_ports(four_tuple: FourTuple, listeners: Listeners) -> bool | None:
    """The same, by the ports alone."""
    half = len(four_tuple) // 2
    opens = listeners.ephemeral(four_tuple[half:])
    return None if listeners.ephemeral(four_tuple[:half]) == opens else opens


def listened(four_tuple: FourTuple, internal: bool, listeners: Listeners) -> bool | None:
    """Whether the socket of a 4-tuple accepted its connection, by the listeners known; None where they do not decide."""
    half = len(four_tuple) // 2
    here = listeners.on(four_tuple[:half]) is not None
    if not internal:
        return True if here else None
    there = listeners.on(four_tuple[half:]) is not None
    return None if here == there else here
