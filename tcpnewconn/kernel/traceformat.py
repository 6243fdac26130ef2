"""Records of our events: their layout, from the event's `format` file in tracefs, and what they say.

The fields are named in traceevents. Texts are a word of the record each: length and place (`__data_loc`).
"""

from __future__ import annotations

import os
import re
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from tcpnewconn.kernel.traceevents import ACCEPT, CONNECT, FAILED, NAMES
from tcpnewconn.model import Call, FailedAttempt, Origin, unmapped

_ID = re.compile(r"^ID: ([0-9]{1,5})$", re.MULTILINE)
_FIELD = re.compile(
    r"^\tfield:([^;\n]+?) ?([A-Za-z_][A-Za-z0-9_]*)(?:\[[0-9]*\])?;\toffset:([0-9]{1,5});\tsize:([0-9]{1,5});\tsigned:[01];$",
    re.MULTILINE,
)
_LONGEST_RECORD = 65536
# A number takes less time to compare than a member of an Enum.
_INET, _INET6, _TCP = int(socket.AF_INET), int(socket.AF_INET6), int(socket.IPPROTO_TCP)
# A text that the kernel could not read (kernel/trace/trace_probe_kernel.h, from 6.2 on; before, it has no length).
_FAULT = b"(fault)"
# Origins of the calls that were recorded last: each is decoded once.
_REMEMBERED = 1024


class FormatError(Exception):
    """A `format` file, or a record, is not one of ours."""


class Field(NamedTuple):
    offset: int
    size: int
    text: bool


# Numbers of a record in the order in which Layout uses them: name, code of struct, size.
_SOCKET: tuple[tuple[str, str, int], ...] = (
    *(("pid", "4s", 4), ("family", "H", 2), ("protocol", "H", 2), ("local_port", "H", 2), ("remote_port", "2s", 2)),
    *(("local4", "4s", 4), ("remote4", "4s", 4)),
)
_SIX = (("local6_high", "8s", 8), ("local6_low", "8s", 8), ("remote6_high", "8s", 8), ("remote6_low", "8s", 8))
# As large as a pointer of the kernel.
_NETNS = {4: (("netns", "I", 4),), 8: (("netns", "Q", 8),)}
_OWNER = (("uid", "I", 4), ("cgroup", "Q", 8))
_ERROR = (("error", "i", 4),)
# The word of the last text.
_THREAD = (("thread", "I", 4),)

Reader = Callable[[bytes, int], tuple[Any, ...]]

_tuple = tuple.__new__


class Layout:
    """One event's records."""

    def __init__(self, event: str, format_file: str) -> None:
        """Raises FormatError."""
        self.event = event
        self._is_failed = event == FAILED
        self.id, fields = fields_of(event, format_file)
        self._texts_at, self._text_words = self._texts(fields) if event in (CONNECT, ACCEPT) else (0, struct.Struct(""))
        socket_fields, wanted = fields, _SOCKET
        if self._texts_at:
            # The word itself, here.
            socket_fields, wanted = fields | {"thread": fields["thread"]._replace(text=False)}, (*_SOCKET, *_THREAD)
        self._socket, size = reader(event, socket_fields, wanted)
        netns = _NETNS.get(fields["netns"].size if "netns" in fields else 0, _NETNS[8])
        owner = (*netns, *(_ERROR if event == FAILED else _OWNER))
        self._owner, owner_size = reader(event, fields, owner)
        self._owner_at = min(fields[name].offset for name, _, _ in owner)
        self._six: Reader | None = None
        six_size = 0
        if "local6_high" in fields:
            self._six, six_size = reader(event, fields, _SIX)
        self._least = max(size, owner_size, six_size, self._texts_at + self._text_words.size)
        self._remembered: dict[bytes, Origin] = {}
        # One tuple for equal ones: there are many records of few cgroups.
        self._same_names: dict[tuple[str, ...], tuple[str, ...]] = {}

    def _texts(self, fields: dict[str, Field]) -> tuple[int, struct.Struct]:
        """Where the words of the texts are, one behind the other."""
        names = [name for name in (*NAMES, "thread") if name in fields]
        words = [fields[name] for name in names]
        first = words[0].offset if words else 0
        together = all(
            word.text and word.size == 4 and word.offset == first + 4 * place for place, word in enumerate(words)
        )
        if len(words) < 2 or names[-1] != "thread" or not together:
            raise FormatError(f"the format of {self.event} has no texts, or has them apart")
        return first, struct.Struct(f"={len(words)}I")

    def record(self, page: bytes, at: int, length: int, nanoseconds: int) -> Call | FailedAttempt:
        """The record of `length` bytes at a place of a page, decoded. Raises FormatError."""
        if length < self._least:
            raise FormatError(f"a record of {self.event} is too short")
        if self._is_failed:
            _, family, protocol, local_port, remote_port, local, remote = self._socket(page, at)
        else:
            pid, family, protocol, local_port, remote_port, local, remote, word = self._socket(page, at)
        if family == _INET6 and self._six is not None:
            high, low, remote_high, remote_low = self._six(page, at)
            local, remote = unmapped(high + low), unmapped(remote_high + remote_low)
            if len(local) > len(remote) and not any(local):
                # An attempt over IPv4 that failed before its socket had an address.
                local = bytes(len(remote))
            if len(local) != len(remote):
                raise FormatError(f"a record of {self.event} has addresses of two families")
        elif family != _INET:
            raise FormatError(f"a record of {self.event} has family {family}")
        if protocol != _TCP:
            raise FormatError(f"a record of {self.event} is of no TCP connection")
        four_tuple = local + local_port.to_bytes(2, "big") + remote + remote_port
        if self._is_failed:
            netns, error = self._owner(page, at)
            return FailedAttempt(nanoseconds / 1e9, four_tuple, netns, error)
        end = (word & 0xFFFF) + (word >> 16)
        if not self._least <= end <= length:
            raise FormatError(f"a record of {self.event} ends before its texts")
        # The thread, and all that follows the socket: the texts are behind the words that point to them.
        key = pid + page[at + self._owner_at : at + end]
        origin = self._remembered.get(key)
        if origin is None:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
                self._same_names.clear()
            origin = self._remembered[key] = self._decoded(int.from_bytes(pid, sys.byteorder), page[at : at + end])
        # namedtuple.__new__() takes twice as long.
        return _tuple(Call, (self.event, nanoseconds / 1e9, four_tuple, origin))

    def _decoded(self, pid: int, record: bytes) -> Origin:
        netns, uid, cgroup = self._owner(record, 0)
        read = []
        for word in self._text_words.unpack_from(record, self._texts_at):
            begin, size = word & 0xFFFF, word >> 16
            if size and (begin < self._least or begin + size > len(record)):
                raise FormatError(f"a record of {self.event} has a text outside of it")
            read.append(record[begin : begin + size].split(b"\0", 1)[0] if size else _FAULT)
        *texts, thread = read
        names: tuple[str, ...] = ()
        if all(text == _FAULT for text in texts):
            # The kernel could not read the socket's cgroup.
            cgroup = 0
        else:
            # The root of the tree has an empty name; what would be above it cannot be read.
            names = tuple(map(os.fsdecode, texts[: texts.index(b"") + 1] if b"" in texts else texts))
        return Origin(uid, cgroup, self._same_names.setdefault(names, names), netns, pid, os.fsdecode(thread))


def reader(event: str, fields: dict[str, Field], wanted: Sequence[tuple[str, str, int]]) -> tuple[Reader, int]:
    """What reads numbers (name, code of struct, size) in this order from the record at a place; and how long that must be.

    Raises FormatError.
    """
    numbers, order = struct_of(event, fields, wanted)
    if list(order) == sorted(order):
        return numbers.unpack_from, numbers.size
    in_order = itemgetter(*order)
    return lambda record, at: in_order(numbers.unpack_from(record, at)), numbers.size


def fields_of(event: str, format_file: str) -> tuple[int, dict[str, Field]]:
    """The number of an event, and its fields by their names. Raises FormatError."""
    number = _ID.search(format_file)
    if number is None:
        raise FormatError(f"the format of {event} has no ID")
    return int(number[1]), {
        name.removeprefix("common_"): Field(int(offset), int(size), kind.startswith("__data_loc"))
        for kind, name, offset, size in _FIELD.findall(format_file)
    }


def struct_of(
    event: str, fields: dict[str, Field], wanted: Sequence[tuple[str, str, int]]
) -> tuple[struct.Struct, tuple[int, ...]]:
    """A struct of the wanted fields (name, code of struct, size), by their place in the record, and where each of `wanted` is in
    what it unpacks. Raises FormatError.
    """
    for name, _, size in wanted:
        if name not in fields:
            raise FormatError(f"the format of {event} has no {name}")
        if fields[name].size != size or fields[name].text:
            raise FormatError(f"the format of {event} has {name} in {fields[name].size} bytes, not {size}")
    by_place = sorted(range(len(wanted)), key=lambda index: fields[wanted[index][0]].offset)
    code, end = "=", 0
    for index in by_place:
        name, letters, size = wanted[index]
        offset = fields[name].offset
        if offset < end or offset + size > _LONGEST_RECORD:
            raise FormatError(f"the format of {event} has {name} at {offset}")
        code += f"{offset - end}x{letters}"
        end = offset + size
    return struct.Struct(code), tuple(by_place.index(index) for index in range(len(wanted)))
