"""Who opened a connection: by the listeners, by the local port range, by what the kernel counted. Pure."""

from __future__ import annotations

from tcpnewconn.model import EGRESS, INGRESS, INTERNAL, UNKNOWN, Endpoint, FourTuple, endpoints
from tcpnewconn.tracking.listeners import Listeners


def directed(
    four_tuple: FourTuple, internal: bool, listeners: Listeners, opened_here: bool | None = None
) -> tuple[Endpoint, Endpoint, str]:
    """Source, destination and direction of a connection, from the 4-tuple of one of its sockets on this host.

    `opened_here` is what the kernel says of that socket; it counts where listeners and ports do not decide. Where nothing
    tells who opened it, the direction is unknown and the arrow points away from this host.
    """
    half = len(four_tuple) // 2
    here, there = four_tuple[:half], four_tuple[half:]
    local, remote = endpoints(four_tuple)
    accepted = accepted_here(four_tuple, internal, listeners)
    if accepted is None and opened_here is not None:
        accepted = not opened_here
    if internal:
        if accepted is None:
            # Nothing tells; but what is said of one of its sockets must hold for the other.
            accepted = (here[-2:], here) < (there[-2:], there)
        return (remote, local, INTERNAL) if accepted else (local, remote, INTERNAL)
    if accepted is None and listeners.ephemeral(here):
        # The range of this host's ports is known here; the other host's may be another.
        accepted = False
    if accepted is None:
        return local, remote, UNKNOWN
    return (remote, local, INGRESS) if accepted else (local, remote, EGRESS)


def accepted_here(four_tuple: FourTuple, internal: bool, listeners: Listeners) -> bool | None:
    """Whether the socket of a 4-tuple accepted its connection, by listeners and ports; None where they do not decide."""
    half = len(four_tuple) // 2
    here, there = four_tuple[:half], four_tuple[half:]
    listened = listeners.on(here) is not None
    if internal:
        if listened != (listeners.on(there) is not None):
            return listened
    elif listened:
        return True
    if listeners.ephemeral(here) == listeners.ephemeral(there):
        return None
    return listeners.ephemeral(there)


def decided(four_tuple: FourTuple, internal: bool, listeners: Listeners) -> bool:
    """Whether the listeners known decide a connection's direction, so that they need not be asked for again."""
    half = len(four_tuple) // 2
    return listeners.on(four_tuple[:half]) is not None or (internal and listeners.on(four_tuple[half:]) is not None)
