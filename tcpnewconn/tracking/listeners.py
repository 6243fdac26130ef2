"""The addresses that this host accepts connections on, and which of them were reported. Records l and k are its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from tcpnewconn.kernel.host import DEFAULT_PORT_RANGE
from tcpnewconn.model import FourTuple, Row, endpoints
from tcpnewconn.state.owner import Log, Record

# The address that stands for all, and the size of an IPv4 address with its port.
_ANY4, _ANY6 = b"\0" * 4, b"\0" * 16
_IPV4 = 6


class Listeners:
    """A listener on :: accepts IPv4 as well, unless IPV6_V6ONLY is set. `port_range` is the kernel's range of local ports."""

    def __init__(self, port_range: tuple[int, int] = DEFAULT_PORT_RANGE, log: Log | None = None) -> None:
        self.port_range = port_range
        self._log = log
        # (address, port) of each listener, and its cgroup (0: unknown)
        self._cgroups: dict[bytes, int] = {}
        self._reported: set[str] = set()
        if log is not None:
            log.register("lk", self)

    # --- who listens -------------------------------------------------------------------------------------------------

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
        cgroups = self._cgroups
        cgroup = cgroups.get(local)
        if cgroup is None and len(local) == _IPV4:
            cgroup = cgroups.get(_ANY4 + local[-2:])
        return cgroups.get(_ANY6 + local[-2:]) if cgroup is None else cgroup

    def ephemeral(self, end: bytes) -> bool:
        """Whether the port of a packed address and port is one that the kernel gives to those who open connections."""
        low, high = self.port_range
        return low <= int.from_bytes(end[-2:], "big") <= high

    # --- which were reported -----------------------------------------------------------------------------------------

    def is_reported(self, row: Row) -> bool:
        return name(row.four_tuple) in self._reported

    def reported(self, row: Row) -> None:
        """It was reported; not again before it was gone."""
        self._reported.add(name(row.four_tuple))
        self._write("l", name(row.four_tuple))

    def gone(self, four_tuple: FourTuple) -> None:
        """Nobody listens there any longer: one that does later is new."""
        self.remove(four_tuple)
        self._forget(name(four_tuple))

    def only(self, rows: Iterable[Row]) -> None:
        """Those that went while the program did not run are gone."""
        for one in self._reported - {name(row.four_tuple) for row in rows}:
            self._forget(one)

    def _forget(self, one: str) -> None:
        self._reported.discard(one)
        self._write("k", one)

    def _write(self, kind: str, one: str) -> None:
        if self._log is not None:
            self._log.append(json.dumps([kind, one]))

    def records(self) -> Iterator[str]:
        return (json.dumps(["l", one]) for one in self._reported)

    def load(self, record: Record) -> None:
        if record[0] == "l":
            self._reported.add(str(record[1]))
        else:
            self._reported.discard(str(record[1]))

    def clear(self) -> None:
        self._reported.clear()


def name(four_tuple: FourTuple) -> str:
    """The name of a listener: 0.0.0.0:22, [::]:22."""
    return str(endpoints(four_tuple)[0])
