"""The addresses of this host: whether the other end of a connection is here too."""

from __future__ import annotations

import contextlib
import socket
import struct

from tcpnewconn.model import FourTuple

# include/uapi/linux/rtnetlink.h, include/uapi/linux/if_addr.h
_RTM_GETADDR, _RTM_NEWADDR = 22, 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST_DUMP = 0x301
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_HEADER = struct.Struct("=IHHII")
_IFADDRMSG = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")

_LOOPBACK6 = b"\0" * 15 + b"\1"


class Addresses:
    """The local addresses as of the last `refresh`, packed. Without one, only those that are always local are known."""

    def __init__(self) -> None:
        self._local: frozenset[bytes] = frozenset()

    def refresh(self) -> None:
        """Ask the kernel anew, by way of rtnetlink; needs no capability. Where it does not answer, what was known stays."""
        with contextlib.suppress(OSError):
            self._local = frozenset(_assigned())

    def internal(self, four_tuple: FourTuple) -> bool:
        """Whether both ends of a local socket's four_tuple are on this host."""
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
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as route:
        route.bind((0, 0))
        route.settimeout(1.0)
        length = _HEADER.size + _IFADDRMSG.size
        route.send(_HEADER.pack(length, _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0) + _IFADDRMSG.pack(0, 0, 0, 0, 0))
        while True:
            answer = route.recv(65536)
            while len(answer) >= _HEADER.size:
                length, kind, _, _, _ = _HEADER.unpack_from(answer)
                if kind in (_NLMSG_DONE, _NLMSG_ERROR) or not _HEADER.size <= length <= len(answer):
                    return found
                if kind == _RTM_NEWADDR:
                    found.update(_addresses(answer[_HEADER.size + _IFADDRMSG.size : length]))
                answer = answer[(length + 3) & ~3 :]


def _addresses(attributes: bytes) -> set[bytes]:
    """The address of one interface: IFA_LOCAL, or IFA_ADDRESS where that is missing (IPv6; for a tunnel it is the peer's)."""
    by_kind = {}
    while len(attributes) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(attributes)
        if size < _ATTRIBUTE.size:
            break
        by_kind[kind] = attributes[_ATTRIBUTE.size : size]
        attributes = attributes[(size + 3) & ~3 :]
    address = by_kind.get(_IFA_LOCAL) or by_kind.get(_IFA_ADDRESS)
    return {address} if address else set()
