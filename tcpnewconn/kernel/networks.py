"""The networks in which this host and other network namespaces are neighbours: a namespace can get an address there at any time.

They are those of veth devices, and of bridges that have no port but veth devices: podman, docker and LXC make these. A bridge
that leads out of the host, too, has neighbours elsewhere. Asked by rtnetlink (include/uapi/linux/rtnetlink.h, if_link.h), which
needs no capability.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from tcpnewconn.kernel.netlink import ATTRIBUTE, HEADER, Client, attribute

_NETLINK_ROUTE = 0
# Devices and addresses that come, change or go: RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR.
_CHANGES = 0x1 | 0x10 | 0x100
_LARGEST = 8192
_RTM_GETLINK, _RTM_NEWLINK, _RTM_GETADDR, _RTM_NEWADDR = 18, 16, 22, 20
_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBI")
_IFLA_MASTER, _IFLA_LINKINFO, _IFLA_INFO_KIND, _IFLA_EXT_MASK = 10, 18, 1, 29
_IFA_ADDRESS = 1
_VALUE = struct.Struct("=I")
# A third of an answer: RTEXT_FILTER_SKIP_STATS.
_NO_STATISTICS = ATTRIBUTE.pack(ATTRIBUTE.size + 4, _IFLA_EXT_MASK) + _VALUE.pack(1 << 3)
_RT_SCOPE_LINK = 253


class _Device(NamedTuple):
    number: int
    # "" of hardware.
    kind: str
    # The number of the bridge that it is a port of; 0 if of none.
    master: int


class Networks:
    """The networks as of now. Raises OSError where the kernel cannot be asked."""

    def __init__(self) -> None:
        self._changes = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
        self._changes.bind((0, _CHANGES))
        self._changes.setblocking(False)
        # Whether they are those as of the last change.
        self._read = False
        # By the length of their addresses in bits, and how many of these are the host's part: the other bits.
        self._networks: dict[tuple[int, int], set[int]] = {}

    def has(self, address: bytes) -> bool:
        """Whether a packed address is in one of them."""
        if self._changed():
            self._read = False
        if not self._read:
            # If that fails, it is tried again with the next address.
            with contextlib.suppress(OSError):
                self._networks, self._read = _networks(), True
        bits, value = 8 * len(address), int.from_bytes(address, "big")
        return any(size == bits and value >> host in of for (size, host), of in self._networks.items())

    def _changed(self) -> bool:
        """Whether a device or an address has come, changed or gone since the last call."""
        changed = False
        while True:
            try:
                self._changes.recv(_LARGEST)
            except BlockingIOError:
                return changed
            except OSError as error:
                # Some were lost.
                if error.errno != errno.ENOBUFS:
                    raise
            changed = True


def _networks() -> dict[tuple[int, int], set[int]]:
    found: dict[tuple[int, int], set[int]] = {}
    with Client(_NETLINK_ROUTE) as route:
        devices = _leading_to_namespaces(list(_devices(route)))
        if devices:
            for message, length in route.ask(_RTM_GETADDR, _IFADDRMSG.pack(0, 0, 0, 0, 0), dump=True):
                if HEADER.unpack_from(message)[1] != _RTM_NEWADDR or length < HEADER.size + _IFADDRMSG.size:
                    continue
                family, prefix, _, scope, index = _IFADDRMSG.unpack_from(message, HEADER.size)
                size = 4 if family == socket.AF_INET else 16
                at = attribute(message, HEADER.size + _IFADDRMSG.size, length, _IFA_ADDRESS, size)
                if at is not None and index in devices and scope != _RT_SCOPE_LINK:
                    host = 8 * size - prefix
                    found.setdefault((8 * size, host), set()).add(
                        int.from_bytes(message[at : at + size], "big") >> host
                    )
    return found


def _devices(route: Client) -> Iterator[_Device]:
    for message, length in route.ask(_RTM_GETLINK, _IFINFOMSG.pack(0, 0, 0, 0, 0) + _NO_STATISTICS, dump=True):
        if HEADER.unpack_from(message)[1] != _RTM_NEWLINK or length < HEADER.size + _IFINFOMSG.size:
            continue
        _, _, index, _, _ = _IFINFOMSG.unpack_from(message, HEADER.size)
        attributes = HEADER.size + _IFINFOMSG.size
        master = attribute(message, attributes, length, _IFLA_MASTER, _VALUE.size)
        yield _Device(
            index,
            _kind(message, attribute(message, attributes, length, _IFLA_LINKINFO, 0)),
            0 if master is None else _VALUE.unpack_from(message, master)[0],
        )


def _kind(message: bytes, information: int | None) -> str:
    """What kind of device it is, by the attributes of an attribute that begins there."""
    if information is None:
        return ""
    end = information - ATTRIBUTE.size + ATTRIBUTE.unpack_from(message, information - ATTRIBUTE.size)[0]
    at = attribute(message, information, end, _IFLA_INFO_KIND, 1)
    if at is None:
        return ""
    size, _ = ATTRIBUTE.unpack_from(message, at - ATTRIBUTE.size)
    return message[at : at - ATTRIBUTE.size + size].rstrip(b"\0").decode(errors="replace")


def _leading_to_namespaces(devices: list[_Device]) -> frozenset[int]:
    """Those that lead to other namespaces, and nowhere else."""
    elsewhere = {device.master for device in devices if device.kind != "veth"}
    return frozenset(
        device.number
        for device in devices
        if device.kind == "veth" or (device.kind == "bridge" and device.number not in elsewhere)
    )
