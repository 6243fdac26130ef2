"""Netlink: requests and their answers, and the changes that the kernel sends unasked; message headers and attributes.

The layouts are those of include/uapi/linux/netlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

_Parsed = TypeVar("_Parsed")

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 1
NLM_F_DUMP = 0x300

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port id
ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
_ERROR = struct.Struct("=i")
_ONE_SECOND = struct.pack("ll", 1, 0)  # struct timeval

# More than the kernel puts into one answer of a dump: 32 KiB (net/netlink/af_netlink.c, netlink_recvmsg()).
_DUMP = 65536
# More than any single answer that is asked for here.
_LARGEST = 4096


class Client:
    """Asks the kernel, one request after the other. Raises OSError where it cannot be asked."""

    def __init__(self, protocol: int, given: socket.socket | None = None) -> None:
        """`given` is a socket that somebody else opened; it may hold answers to whoever had it before."""
        self._socket = given or socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, protocol)
        self._socket.connect((0, 0))
        self._drain()
        # The kernel answers within the request: an answer that is not there at once will not come. (With settimeout() Python
        # polls before each call: that was 1 us of the 7 that a look-up took.)
        self._socket.setblocking(True)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ONE_SECOND)
        # A socket that outlives the program may hold the answer to a request from before a SIGKILL: not the next number.
        self._sequence = time.monotonic_ns() & 0xFFFFFFFF

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _drain(self) -> None:
        """Take the answers to whoever had the socket before: an unfinished dump would let no other begin."""
        self._socket.setblocking(False)
        try:
            while self._socket.recv(_DUMP):
                pass
        except BlockingIOError:
            pass

    def ask(self, kind: int, body: bytes, dump: bool = False) -> Iterator[tuple[bytes, int]]:
        """The answers of one kind to a request of the same, each with its length. Raises OSError."""
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        flags = NLM_F_REQUEST | NLM_F_DUMP if dump else NLM_F_REQUEST
        self._socket.send(HEADER.pack(HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        size = _DUMP if dump else _LARGEST
        while True:
            answer, at = self._socket.recv(size), 0
            while len(answer) - at >= HEADER.size:
                length, answered, _, sequence, _ = HEADER.unpack_from(answer, at)
                if not HEADER.size <= length <= len(answer) - at:
                    return
                # An answer of a dump holds hundreds of messages: what is left of it is not copied for each.
                message, at = answer[at : at + length], at + ((length + 3) & ~3)
                if sequence != self._sequence:
                    continue
                if answered == NLMSG_DONE:
                    return
                if answered == NLMSG_ERROR:
                    code = -int(_ERROR.unpack_from(message, HEADER.size)[0]) if length >= HEADER.size + 4 else 0
                    raise OSError(code, os.strerror(code))
                yield message, length
                if not dump:
                    return

    def dump(self, kind: int, body: bytes, parse: Callable[[bytes, int], _Parsed | None]) -> Iterator[_Parsed]:
        """What `parse` makes of each answer of a dump; those that it makes nothing of are left out. Raises OSError."""
        for message, length in self.ask(kind, body, dump=True):
            parsed = parse(message, length)
            if parsed is not None:
                yield parsed


class Changes:
    """What the kernel sends to some groups (the bits of sockaddr_nl.nl_groups). Raises OSError where that is not possible."""

    def __init__(self, protocol: int, groups: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, groups))
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """Becomes readable when something changes."""
        return self._socket.fileno()

    def take(self) -> list[tuple[bytes, int]] | None:
        """The messages since the last call, in order, each with its length; None if some were lost."""
        found: list[tuple[bytes, int]] = []
        whole = True
        while True:
            try:
                message = self._socket.recv(_DUMP)
            except BlockingIOError:
                return found if whole else None
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                whole = False
                continue
            # One each: whoever sends to a group sends one message with each nlmsg_notify().
            if len(message) >= HEADER.size:
                found.append((message, min(HEADER.unpack_from(message)[0], len(message))))


def attribute(message: bytes | bytearray, at: int, length: int, wanted: int, least: int) -> int | None:
    """Where the payload of an attribute begins, if it is between `at` and `length` and has at least so many bytes."""
    while at + ATTRIBUTE.size <= length:
        size, kind = ATTRIBUTE.unpack_from(message, at)
        if size < ATTRIBUTE.size or at + size > length:
            return None
        if kind == wanted:
            return at + ATTRIBUTE.size if size >= ATTRIBUTE.size + least else None
        at += (size + 3) & ~3
    return None
