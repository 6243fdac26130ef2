"""The addresses of this host: whether the other end of a connection is here too."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable

from tcpnewconn.kernel.netlink import HEADER, Client, attribute
from tcpnewconn.model import FourTuple

# include/uapi/linux/rtnetlink.h, include/uapi/linux/if_addr.h
_RTM_GETADDR, _RTM_NEWADDR = 22, 20
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFADDRMSG = struct.Struct("=BBBBI")

_LOOPBACK6 = b"\0" * 15 + b"\1"


class Addresses:
    """The local addresses as of the last `refresh`, packed. Without one, only those that are always local are known."""

    def __init__(self) -> None:
        self._local: frozenset[bytes] = frozenset()

    def refresh(self) -> None:
        """Ask the kernel, by rtnetlink; needs no capability. Without an answer, the known addresses stay."""
        with contextlib.suppress(OSError):
            self._local = frozenset(_assigned())

    def assign(self, local: Iterable[bytes]) -> None:
        """The local addresses of another namespace than this program's own."""
        self._local = frozenset(local)

    def has(self, address: bytes) -> bool:
        """Whether an address is one of them."""
        return address in self._local

    def internal(self, four_tuple: FourTuple) -> bool:
        """Whether both ends of a local socket's 4-tuple are on this host."""
        half = len(four_tuple) // 2
        remote = four_tuple[half:-2]
        if half == 6:
            if remote[0] == 127:
                return True
        elif remote == _LOOPBACK6:
            return True
        return remote in self._local or remote == four_tuple[: half - 2]


def _assigned() -> set[bytes]:
    found: set[bytes] = set()
    with Client(socket.NETLINK_ROUTE) as route:
        for message, length in route.ask(_RTM_GETADDR, _IFADDRMSG.pack(0, 0, 0, 0, 0), dump=True):
            address = _address(message, length)
            if address:
                found.add(address)
    return found


def _address(message: bytes, length: int) -> bytes:
    """The address of one interface: IFA_LOCAL, or IFA_ADDRESS where that is missing (IPv6; for a tunnel it is the peer's)."""
    if HEADER.unpack_from(message)[1] != _RTM_NEWADDR or length < HEADER.size + _IFADDRMSG.size:
        return b""
    size = 4 if message[HEADER.size] == socket.AF_INET else 16
    for wanted in (_IFA_LOCAL, _IFA_ADDRESS):
        at = attribute(message, HEADER.size + _IFADDRMSG.size, length, wanted, size)
        if at is not None:
            return message[at : at + size]
    return b""
