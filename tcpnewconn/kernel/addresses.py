"""The addresses of this host: whether the other end of a connection is here too."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tcpnewconn.kernel.netlink import HEADER, Changes, Client, attribute
from tcpnewconn.model import SIZES, FourTuple

# include/uapi/linux/rtnetlink.h, include/uapi/linux/if_addr.h
_RTM_GETADDR = 22
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFADDRMSG = struct.Struct("=BBBBI")
# Addresses that come, change or go: RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR.
CHANGES = 0x10 | 0x100

_IPV4, _ = SIZES
_LOOPBACK6 = b"\0" * 15 + b"\1"


class Assigned(NamedTuple):
    """An address of a device (its number), packed, with the length of its prefix and its scope (RT_SCOPE_*).

    `network` has that prefix: it is the address, or that of the peer where there is one.
    """

    device: int
    address: bytes
    network: bytes
    prefix: int
    scope: int


class Addresses:
    """The local addresses as of the last `refresh`, packed. Without one, only those that are always local are known."""

    def __init__(self) -> None:
        self._local: frozenset[bytes] = frozenset()
        # Whether they are what the kernel said, and it has sent no change since.
        self._current = False
        self._changes: Changes | None = None

    def refresh(self) -> None:
        """Ask the kernel, by rtnetlink, if any has changed; needs no capability. Without an answer, the known addresses stay."""
        with contextlib.suppress(OSError):
            if not self._unchanged():
                self._current = False
            if not self._current:
                with Client(socket.NETLINK_ROUTE) as route:
                    self._local = frozenset(one.address for one in all_assigned(route))
                self._current = True

    def _unchanged(self) -> bool:
        """Whether the kernel has sent no change since the last time: where it sends none, that is never known."""
        if self._changes is None:
            with contextlib.suppress(OSError):
                self._changes = Changes(socket.NETLINK_ROUTE, CHANGES)
            return False
        return self._changes.take() == []

    def assign(self, local: Iterable[bytes]) -> None:
        """The local addresses of another namespace than this program's own."""
        self._local = frozenset(local)

    def has(self, address: bytes) -> bool:
        """Whether an address is one of them."""
        return address in self._local

    def internal(self, four_tuple: FourTuple) -> bool:
        """Whether both ends of a local socket's 4-tuple are on this host."""
        if len(four_tuple) == _IPV4:
            remote = four_tuple[6:10]
            return remote[0] == 127 or remote in self._local or remote == four_tuple[:4]
        half = len(four_tuple) // 2
        remote = four_tuple[half:-2]
        return is_loopback(remote) or remote in self._local or remote == four_tuple[: half - 2]


def is_loopback(address: bytes) -> bool:
    """Whether each network namespace has this address."""
    return address[0] == 127 if len(address) == 4 else address == _LOOPBACK6


def all_assigned(route: Client) -> Iterator[Assigned]:
    """The addresses of all devices of this network namespace. Raises OSError."""
    return route.dump(_RTM_GETADDR, _IFADDRMSG.pack(0, 0, 0, 0, 0), assigned)


def assigned(message: bytes, length: int) -> Assigned | None:
    """The address of a message RTM_NEWADDR or RTM_DELADDR."""
    if length < HEADER.size + _IFADDRMSG.size:
        return None
    family, prefix, _, scope, device = _IFADDRMSG.unpack_from(message, HEADER.size)
    size = 4 if family == socket.AF_INET else 16
    # IFA_LOCAL is missing for IPv6; where both are there and differ, IFA_ADDRESS is the peer's.
    found = [
        message[at : at + size]
        for wanted in (_IFA_LOCAL, _IFA_ADDRESS)
        if (at := attribute(message, HEADER.size + _IFADDRMSG.size, length, wanted, size)) is not None
    ]
    return Assigned(device, found[0], found[-1], prefix, scope) if found else None
