"""The ids that other network namespaces have in this one (RTM_GETNSID, include/uapi/linux/net_namespace.h).

The kernel gives a namespace an id when a device of it has its peer here (veth), or comes from here (macvlan); it has it until it
ends, and another can have it at once. No capability is needed. Measured: 4 us for an answer, Linux 6.1 to 6.18.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from tcpnewconn.kernel.netlink import ATTRIBUTE, HEADER, Changes, Client, attribute

_NETLINK_ROUTE = 0
_RTNLGRP_NSID = 28
_RTM_NEWNSID, _RTM_DELNSID, _RTM_GETNSID = 88, 89, 90
_NETNSA_NSID, _NETNSA_PID = 1, 2
# struct rtgenmsg, padded.
_FAMILY = b"\0\0\0\0"
_VALUE = struct.Struct("=i")


class Change(NamedTuple):
    """A namespace has this id now, or has ended."""

    nsid: int
    given: bool


class Nsids:
    """Which namespace has which id, and when that changes. Raises OSError where the kernel cannot be asked."""

    def __init__(self) -> None:
        self._changes = Changes(_NETLINK_ROUTE, 1 << (_RTNLGRP_NSID - 1))
        self._client = Client(_NETLINK_ROUTE)

    def fileno(self) -> int:
        """Becomes readable when something changes."""
        return self._changes.fileno()

    def changes(self) -> list[Change] | None:
        """The changes since the last call, in order; None if some were lost."""
        messages = self._changes.take()
        return None if messages is None else [change for message in messages for change in _parsed(*message)]

    def of_process(self, pid: int) -> int | None:
        """The id of the namespace that a process is in; None where it has none, or the process has gone."""
        body = _FAMILY + ATTRIBUTE.pack(ATTRIBUTE.size + 4, _NETNSA_PID) + _VALUE.pack(pid)
        try:
            for message, length in self._client.ask(_RTM_GETNSID, body):
                nsid = _nsid(message, length)
                return None if nsid is None or nsid < 0 else nsid
        except OSError:
            pass
        return None


def _parsed(message: bytes, length: int) -> list[Change]:
    kind, nsid = HEADER.unpack_from(message)[1], _nsid(message, length)
    if nsid is None or kind not in (_RTM_NEWNSID, _RTM_DELNSID):
        return []
    return [Change(nsid, kind == _RTM_NEWNSID)]


def _nsid(message: bytes, length: int) -> int | None:
    at = attribute(message, HEADER.size + len(_FAMILY), length, _NETNSA_NSID, _VALUE.size)
    return None if at is None else int(_VALUE.unpack_from(message, at)[0])
