"""Tables of TCP sockets as the kernel writes them, row by row, for any byte order (net/ipv4/tcp_ipv4.c, net/ipv6/tcp_ipv6.c)."""

from __future__ import annotations

import functools
import ipaddress
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tcpnewconn.model import ESTABLISHED, LISTEN

TITLES = (
    b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode".ljust(149)
    + b"\n"
)
TITLES6 = (
    b"  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when "
    b"retrnsmt   uid  timeout inode\n"
)


@dataclass(frozen=True)
class Line:
    """A row: its ends as (address, port), the addresses packed; an IPv6 table's have 16 bytes."""

    local: tuple[bytes, int]
    remote: tuple[bytes, int]
    state: int = ESTABLISHED
    uid: int = 0
    inode: int = 0
    queues: tuple[int, int] = (0, 0)
    timer: tuple[int, int] = (0, 0)
    retransmits: int = 0
    timeout: int = 0
    references: int = 1

    def text(self, slot: int = 0, byteorder: str = sys.byteorder) -> bytes:
        width = 149 if len(self.local[0]) == 4 else 0
        return f"{slot:4d}: {_columns(self, byteorder)}".ljust(width).encode() + b"\n"


# The same rows are written before each of many polls.
@functools.lru_cache(10_000)
def _columns(row: Line, byteorder: str) -> str:
    columns = (
        f"{_end(row.local, byteorder)} {_end(row.remote, byteorder)} {row.state:02X} "
        f"{row.queues[0]:08X}:{row.queues[1]:08X} {row.timer[0]:02X}:{row.timer[1]:08X} {row.retransmits:08X} "
        f"{row.uid:5d} {row.timeout:8d} {row.inode} {row.references} 0000000090388911"
    )
    return columns if row.state in (3, 6) else f"{columns} 20 4 0 10 -1"


def _end(end: tuple[bytes, int], byteorder: str) -> str:
    address, port = end
    words = [address[at : at + 4] for at in range(0, len(address), 4)]
    if byteorder == "little":
        words = [word[::-1] for word in words]
    return f"{b''.join(words).hex().upper()}:{port:04X}"


@functools.lru_cache(10_000)
def packed(text: str) -> tuple[bytes, int]:
    """An address and port as people write them: 10.0.0.5:22, [2001:db8::1]:443."""
    address, _, port = text.rpartition(":")
    return ipaddress.ip_address(address.strip("[]")).packed, int(port)


def line(local: str, remote: str, state: int = ESTABLISHED, uid: int = 0, inode: int = 0) -> Line:
    return Line(packed(local), packed(remote), state, uid, inode)


def listener(local: str, inode: int = 1, uid: int = 0) -> Line:
    return line(local, "[::]:0" if "[" in local else "0.0.0.0:0", LISTEN, uid, inode)


class Tables:
    """A directory that holds both tables, to be written again before each poll."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "net").mkdir(parents=True, exist_ok=True)
        self.tcp = directory / "net" / "tcp"
        self.tcp6 = directory / "net" / "tcp6"
        self.write()

    def write(self, lines: Iterable[Line] = (), byteorder: str = sys.byteorder, first_slot: int = 0) -> None:
        """Write the rows, each into the table of its family."""
        rows = list(lines)
        for path, titles, size in ((self.tcp, TITLES, 4), (self.tcp6, TITLES6, 16)):
            own = [row for row in rows if len(row.local[0]) == size]
            path.write_bytes(
                titles + b"".join(row.text(slot, byteorder) for slot, row in enumerate(own, start=first_slot))
            )
