"""The networks in which this host and other network namespaces are neighbours: a namespace can get an address there at any time.

They are those of veth devices, and of bridges that have no port but veth devices: podman, docker and LXC make these. A bridge
that leads out of the host, too, has neighbours elsewhere. Asked by rtnetlink (include/uapi/linux/rtnetlink.h, if_link.h), which
needs no capability, and followed by the changes that the kernel sends: one that has come and gone meanwhile is known, too.
"""

from __future__ import annotations

import contextlib
import struct
from typing import NamedTuple

from tcpnewconn.kernel.addresses import CHANGES, Assigned, all_assigned, assigned
from tcpnewconn.kernel.netlink import ATTRIBUTE, HEADER, Changes, Client, attribute

_NETLINK_ROUTE = 0
# Devices, too: RTMGRP_LINK.
_CHANGES = 0x1 | CHANGES
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_DELADDR = 16, 17, 18, 20, 21
_IFINFOMSG = struct.Struct("=BxHiII")
_AF_UNSPEC = 0
_IFLA_MASTER, _IFLA_LINKINFO, _IFLA_INFO_KIND, _IFLA_EXT_MASK = 10, 18, 1, 29
_VALUE = struct.Struct("=I")
# A third of an answer: RTEXT_FILTER_SKIP_STATS.
_NO_STATISTICS = ATTRIBUTE.pack(ATTRIBUTE.size + 4, _IFLA_EXT_MASK) + _VALUE.pack(1 << 3)
_RT_SCOPE_LINK = 253

# Seconds for which a network is remembered that has gone: the last notifications of sockets in it can still be on their way.
REMEMBERED = 120.0


class _Device(NamedTuple):
    number: int
    # "" of hardware.
    kind: str
    # The number of the bridge that it is a port of; 0 if of none.
    master: int


class _Prefixes(dict[tuple[int, int], dict[int, float]]):
    """Networks, each with a time: by the length of their addresses in bits, and how many of these are the host's part."""

    def put(self, one: Assigned, until: float) -> None:
        bits = 8 * len(one.network)
        host = bits - one.prefix
        of = self.setdefault((bits, host), {})
        of[int.from_bytes(one.network, "big") >> host] = until

    def until(self, address: bytes) -> float:
        """The latest time of those that an address is in."""
        bits, value = 8 * len(address), int.from_bytes(address, "big")
        found = (of.get(value >> host) for (size, host), of in self.items() if size == bits)
        return max((until for until in found if until is not None), default=float("-inf"))

    def expire(self, now: float) -> None:
        for size, of in list(self.items()):
            self[size] = {network: until for network, until in of.items() if until > now}


class Networks:
    """The networks as of now. Times are monotonic, in seconds. Raises OSError where the kernel cannot be asked."""

    def __init__(self) -> None:
        self._changes = Changes(_NETLINK_ROUTE, _CHANGES)
        # Whether all devices and addresses are known, and the networks are those that follow from them.
        self._known = self._derived = False
        self._devices: dict[int, _Device] = {}
        self._addresses: dict[int, set[Assigned]] = {}
        self._current, self._gone = _Prefixes(), _Prefixes()

    def have(self, address: bytes, now: float) -> bool:
        """Whether a packed address is in one of them, or in one that has gone a short time ago."""
        self.follow(now)
        if not self._known:
            # If that fails, it is tried again with the next address.
            with contextlib.suppress(OSError):
                self._read(now)
        if not self._derived:
            self._derive()
        return max(self._current.until(address), self._gone.until(address)) > now

    def follow(self, now: float) -> None:
        """Know what has changed since the last time: the kernel keeps the changes of some hundred devices for it."""
        messages = self._changes.take()
        if messages is None:
            self._known = False
        for message, length in messages or ():
            self._apply(message, length, now)

    def _apply(self, message: bytes, length: int, now: float) -> None:
        """Something has changed. The order is that in which it happened."""
        self._derived = False
        kind = HEADER.unpack_from(message)[1]
        if kind in (_RTM_NEWLINK, _RTM_DELLINK):
            device = _device(message, length)
            if device is not None and kind == _RTM_NEWLINK:
                self._devices[device.number] = device
            elif device is not None:
                for left in self._addresses.pop(device.number, ()):
                    self._has_gone(left, now)
                self._devices.pop(device.number, None)
        elif kind in (_RTM_NEWADDR, _RTM_DELADDR) and (one := assigned(message, length)) is not None:
            of = self._addresses.setdefault(one.device, set())
            if kind == _RTM_NEWADDR:
                of.add(one)
            else:
                of.discard(one)
                self._has_gone(one, now)

    def _has_gone(self, one: Assigned, now: float) -> None:
        device = self._devices.get(one.device)
        if device is not None and one.scope != _RT_SCOPE_LINK and self._leads_to_namespaces(device):
            self._gone.expire(now)
            self._gone.put(one, now + REMEMBERED)

    def _read(self, now: float) -> None:
        """Ask for all."""
        addresses: dict[int, set[Assigned]] = {}
        with Client(_NETLINK_ROUTE) as route:
            found = route.dump(_RTM_GETLINK, _IFINFOMSG.pack(0, 0, 0, 0, 0) + _NO_STATISTICS, _device)
            devices = {device.number: device for device in found}
            for one in all_assigned(route):
                addresses.setdefault(one.device, set()).add(one)
        for number, before in self._addresses.items():
            for one in before - addresses.get(number, set()):
                self._has_gone(one, now)
        self._devices, self._addresses = devices, addresses
        self._known, self._derived = True, False

    def _derive(self) -> None:
        self._current = _Prefixes()
        for number, of in self._addresses.items():
            device = self._devices.get(number)
            if device is not None and self._leads_to_namespaces(device):
                for one in of:
                    if one.scope != _RT_SCOPE_LINK:
                        self._current.put(one, float("inf"))
        self._derived = True

    def _leads_to_namespaces(self, device: _Device) -> bool:
        """Whether a device leads to other namespaces, and nowhere else."""
        if device.kind != "bridge":
            return device.kind == "veth"
        return not any(each.master == device.number and each.kind != "veth" for each in self._devices.values())


def _device(message: bytes, length: int) -> _Device | None:
    """That of a message RTM_NEWLINK or RTM_DELLINK; None where that is about a port of a bridge (AF_BRIDGE)."""
    if length < HEADER.size + _IFINFOMSG.size:
        return None
    family, _, index, _, _ = _IFINFOMSG.unpack_from(message, HEADER.size)
    if family != _AF_UNSPEC:
        return None
    attributes = HEADER.size + _IFINFOMSG.size
    master = attribute(message, attributes, length, _IFLA_MASTER, _VALUE.size)
    return _Device(
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
