"""Polls /proc/net/tcp and /proc/net/tcp6, both tables together.

Only tracking knows what a row means and which socket it is of.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator

from tcpnewconn.kernel.table import Part, Table, Unreadable, states_of
from tcpnewconn.model import FourTuple, Row


class Poll:
    """One poll of both tables, valid until the next one.

    `count` is the number of rows in both tables, `malformed` of those not understood, `states` of those of each state. `gone` are
    the 4-tuples that were absent from two polls.
    """

    def __init__(self, parts: tuple[tuple[Table, Part], ...]) -> None:
        self._parts = parts
        self.gone = [table.four_tuple(head) for table, part in parts for head in part.gone]
        self.listeners = [table.row(head, part) for table, part in parts for head in part.listeners]
        self.gone_listeners = [table.four_tuple(head) for table, part in parts for head in part.gone_listeners]
        self.count = sum(part.rows for _, part in parts)
        self.malformed = sum(part.malformed for _, part in parts)
        self.first_malformed = next((part.first_malformed for _, part in parts if part.first_malformed), None)
        self.states = states_of(parts)

    def rows(self, again: Collection[FourTuple] = (), ended: bool = False) -> Iterator[Row]:
        """The rows that are new or changed, in the order of the tables; not those of listeners.

        Also the unchanged ones of the 4-tuples in `again`, and with `ended` those in TIME_WAIT or FIN_WAIT2.
        """
        for table, part in self._parts:
            yield from table.rows(part.changed, part)
            if again or ended:
                shown = set(part.changed)
                unchanged = [found for one in again if (found := table.standing(one)) is not None]
                others = dict.fromkeys(unchanged + table.ended() if ended else unchanged)
                yield from table.rows([head for head in others if head not in shown], part)

    @property
    def changed(self) -> int:
        """How many rows are new or changed."""
        return sum(len(part.changed) for _, part in self._parts)

    def inodes(self) -> Iterator[int]:
        """The inodes of the established sockets among these."""
        return (inode for table, part in self._parts for inode in table.inodes(part.changed))

    def row(self, four_tuple: FourTuple) -> Row | None:
        """The row of a 4-tuple, if it stands in this poll."""
        for table, part in self._parts:
            head = table.standing(four_tuple)
            if head is not None:
                return table.row(head, part)
        return None

    def absent_once(self, four_tuple: FourTuple) -> bool:
        """Whether a 4-tuple has no row in this poll, and had one in the poll before."""
        return self.row(four_tuple) is None and self.recent(four_tuple)

    def recent(self, four_tuple: FourTuple) -> bool:
        """Whether a 4-tuple has a row in this poll or had one in the poll before."""
        return any(table.remembers(four_tuple) for table, _ in self._parts)


class ProcNet:
    """The two tables under a root of /proc.

    For the machine's own /proc that is /proc/self/net, which stays visible under ProcSubset=pid. A /proc that is mounted
    elsewhere is another host's (or the host's, seen from a container): there, the network namespace of its process 1
    is meant. A directory of captured files has just net/. Without `users`, user ids are taken for unknown.
    """

    def __init__(self, root: str = "/proc", byteorder: str = sys.byteorder, users: bool = True) -> None:
        directory = net_directory(root)
        self._tables = (
            Table(f"{directory}/tcp", 8, byteorder, users),
            Table(f"{directory}/tcp6", 32, byteorder, users),
        )

    def move(self, tcp: str, tcp6: str) -> None:
        """The tables of the same namespace have other paths now."""
        for table, path in zip(self._tables, (tcp, tcp6), strict=True):
            table.path = path

    def poll(self, time_wait: bool = True) -> Poll:
        """Poll both tables. Without `time_wait`, rows in TIME_WAIT are passed over.

        Raises Unreadable. A missing tcp6 is normal: IPv6 is off.
        """
        tcp, tcp6 = self._tables
        first = tcp.poll(time_wait)
        try:
            second = tcp6.poll(time_wait)
        except Unreadable as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                tcp.undo(first)
                raise
            second = tcp6.nothing()
        return Poll(((tcp, first), (tcp6, second)))


def net_directory(root: str) -> str:
    """Where the tables are under a root of /proc."""
    if os.path.realpath(root) == "/proc":
        return f"{root}/self/net"
    if os.path.exists(f"{root}/1/net/tcp"):
        return f"{root}/1/net"
    return f"{root}/net"
