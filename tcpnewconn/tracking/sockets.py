"""A table of the sockets of reported connections, which a busy host has hundreds of thousands of."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tcpnewconn.model import FourTuple

_PACKED = struct.Struct("=QqIBBd")


@dataclass(slots=True)
class Socket:
    """A socket of a connection that was reported.

    `number` names the connection: the cookie of the socket that it was reported with, or a negative serial number where
    the kernel gives no cookies. `paired` says that the connection's other socket, on this host too, was seen. `opened` is
    the time of the read that found it, 0.0 if it was there from the start. 0 stands for an unknown cookie or inode.
    """

    cookie: int
    inode: int
    state: int
    number: int
    paired: bool
    opened: float


class Sockets:
    """Sockets by their four_tuple, packed: 64 bytes each, where objects with their numbers would take 150.

    What is got is a copy: a change to it counts once it is put back.
    """

    def __init__(self) -> None:
        self._packed: dict[FourTuple, bytes] = {}

    def __len__(self) -> int:
        return len(self._packed)

    def __contains__(self, four_tuple: FourTuple) -> bool:
        return four_tuple in self._packed

    def __iter__(self) -> Iterator[FourTuple]:
        return iter(self._packed)

    def __setitem__(self, four_tuple: FourTuple, socket: Socket) -> None:
        self._packed[four_tuple] = _PACKED.pack(
            socket.cookie, socket.number, socket.inode, socket.state, socket.paired, socket.opened
        )

    def get(self, four_tuple: FourTuple) -> Socket | None:
        packed = self._packed.get(four_tuple)
        return None if packed is None else _unpacked(packed)

    def pop(self, four_tuple: FourTuple) -> Socket | None:
        packed = self._packed.pop(four_tuple, None)
        return None if packed is None else _unpacked(packed)

    def items(self) -> Iterator[tuple[FourTuple, Socket]]:
        for four_tuple, packed in self._packed.items():
            yield four_tuple, _unpacked(packed)


def _unpacked(packed: bytes) -> Socket:
    cookie, number, inode, state, paired, opened = _PACKED.unpack(packed)
    return Socket(cookie, inode, state, number, bool(paired), opened)
