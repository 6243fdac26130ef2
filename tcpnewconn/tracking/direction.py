"""Who opened a connection: from the table of listeners, and where no listener is known any more, from the local port range."""

from __future__ import annotations

from collections.abc import Iterable

from tcpnewconn.model import Endpoint, FourTuple, Row, endpoints

INGRESS, EGRESS, INTERNAL, UNKNOWN = DIRECTIONS = ("ingress", "egress", "internal", "unknown")

# net/ipv4/af_inet.c: inet_init_net()
DEFAULT_PORT_RANGE = (32768, 60999)


class Listeners:
    """The addresses this host accepts connections on. A listener on :: accepts IPv4 as well, unless told not to."""

    def __init__(self, port_range: tuple[int, int] = DEFAULT_PORT_RANGE) -> None:
        self.port_range = port_range
        # (address, port) of each listener, and its cgroup (0: unknown)
        self._cgroups: dict[bytes, int] = {}

    def add(self, row: Row, cgroup: int = 0) -> bool:
        """A listening socket; whether its address was not listened on before."""
        local = row.four_tuple[: len(row.four_tuple) // 2]
        new = local not in self._cgroups
        if new or cgroup:
            self._cgroups[local] = cgroup
        return new

    def remove(self, four_tuple: FourTuple) -> None:
        self._cgroups.pop(four_tuple[: len(four_tuple) // 2], None)

    def replace(self, rows: Iterable[tuple[Row, int]]) -> None:
        """All listening sockets, each with its cgroup, in place of those known."""
        self._cgroups = {row.four_tuple[: len(row.four_tuple) // 2]: cgroup for row, cgroup in rows}

    def on(self, local: bytes) -> int | None:
        """The cgroup of the listener that accepts connections to a packed address and port; None if there is none."""
        address, port = local[:-2], local[-2:]
        for accepting in (address, b"\0" * len(address), b"\0" * 16):
            cgroup = self._cgroups.get(accepting + port)
            if cgroup is not None:
                return cgroup
        return None

    def ephemeral(self, end: bytes) -> bool:
        """Whether the port of a packed address and port is one that the kernel gives to those who open connections."""
        low, high = self.port_range
        return low <= int.from_bytes(end[-2:], "big") <= high


def directed(four_tuple: FourTuple, internal: bool, listeners: Listeners) -> tuple[Endpoint, Endpoint, str]:
    """Source, destination and direction of a connection, from the four_tuple of one of its sockets on this host.

    Where nothing tells who opened it, the direction is unknown and the arrow points away from this host.
    """
    half = len(four_tuple) // 2
    here, there = four_tuple[:half], four_tuple[half:]
    local, remote = endpoints(four_tuple)
    accepted = listeners.on(here) is not None
    if internal:
        if accepted == (listeners.on(there) is not None):
            accepted = not listeners.ephemeral(here) and listeners.ephemeral(there)
            if listeners.ephemeral(here) == listeners.ephemeral(there):
                # Nothing tells; but what is said of one of its sockets must hold for the other.
                accepted = (here[-2:], here) < (there[-2:], there)
        return (remote, local, INTERNAL) if accepted else (local, remote, INTERNAL)
    if accepted:
        return remote, local, INGRESS
    if listeners.ephemeral(here):
        return local, remote, EGRESS
    if listeners.ephemeral(there):
        return remote, local, INGRESS
    return local, remote, UNKNOWN


def decided(four_tuple: FourTuple, internal: bool, listeners: Listeners) -> bool:
    """Whether the listeners known decide a connection's direction, so that they need not be asked for anew."""
    half = len(four_tuple) // 2
    return listeners.on(four_tuple[:half]) is not None or (internal and listeners.on(four_tuple[half:]) is not None)
