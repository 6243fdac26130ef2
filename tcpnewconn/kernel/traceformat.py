"""Records of our events: their layout, from the event's `format` file in tracefs, and what they say.

The fields are named in traceevents. Texts are a word of the record each: length and place (`__data_loc`).
"""

from __future__ import annotations

import os
import re
import socket
import struct
from operator import itemgetter
from typing import NamedTuple

from tcpnewconn.kernel.traceevents import ACCEPT, CONNECT, FAILED, NAMES
from tcpnewconn.model import Call, FailedAttempt, four_tuple_of, unmapped

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
# Texts of the threads and cgroups that called last: each is decoded once.
_REMEMBERED = 4096


class FormatError(Exception):
    """A `format` file, or a record, is not one of ours."""


class Field(NamedTuple):
    offset: int
    size: int
    text: bool


class Texts(NamedTuple):
    """Name of the thread, names of the cgroup and its parents; None where the kernel could not read the socket's cgroup."""

    thread: str
    cgroup: tuple[str, ...] | None


# Numbers of a record in the order in which Layout unpacks them: name, code of struct, size.
_SOCKET = (
    *(("pid", "i", 4), ("family", "H", 2), ("protocol", "H", 2), ("local_port", "H", 2), ("remote_port", "2s", 2)),
    *(("local4", "4s", 4), ("remote4", "4s", 4)),
)
_SIX = (("local6_high", "8s", 8), ("local6_low", "8s", 8), ("remote6_high", "8s", 8), ("remote6_low", "8s", 8))
# As large as a pointer of the kernel.
_NETNS = {4: (("netns", "I", 4),), 8: (("netns", "Q", 8),)}
_OWNER = (("uid", "I", 4), ("cgroup", "Q", 8))
_ERROR = (("error", "i", 4),)


_tuple = tuple.__new__


class Layout:
    """One event's records."""

    def __init__(self, event: str, format_file: str) -> None:
        """Raises FormatError."""
        self.event = event
        self.id, fields = fields_of(event, format_file)
        netns = fields["netns"].size if "netns" in fields else 0
        wanted = [*_SOCKET, *_NETNS.get(netns, _NETNS[8]), *(_ERROR if event == FAILED else _OWNER)]
        self._has_six = "local6_high" in fields
        if self._has_six:
            wanted += _SIX
        self._numbers, order = struct_of(event, fields, wanted)
        self._in_order = itemgetter(*order)
        self._texts_at, self._text_words = self._texts(fields) if event in (CONNECT, ACCEPT) else (0, struct.Struct(""))
        self._least = max(self._numbers.size, self._texts_at + self._text_words.size)
        self._remembered: dict[bytes, Texts] = {}
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
        pid, family, protocol, local_port, remote_port, local, remote, netns, *rest = self._in_order(
            self._numbers.unpack_from(page, at)
        )
        if family == _INET6 and self._has_six:
            high, low, remote_high, remote_low = rest[-4:]
            local, remote = unmapped(high + low), unmapped(remote_high + remote_low)
            if len(local) > len(remote) and not any(local):
                # An attempt over IPv4 that failed before its socket had an address.
                local = bytes(len(remote))
        elif family != _INET:
            raise FormatError(f"a record of {self.event} has family {family}")
        if len(local) != len(remote) or protocol != _TCP:
            raise FormatError(f"a record of {self.event} is of no TCP connection")
        four_tuple = four_tuple_of(local, local_port, remote, int.from_bytes(remote_port, "big"))
        if self.event == FAILED:
            return FailedAttempt(nanoseconds / 1e9, four_tuple, netns, rest[0])
        thread, names = self._read_texts(page, at, length)
        cgroup = rest[1]
        if names is None:
            cgroup, names = 0, ()
        # namedtuple.__new__() takes twice as long.
        return _tuple(Call, (self.event, nanoseconds / 1e9, four_tuple, rest[0], cgroup, names, netns, pid, thread))

    def _read_texts(self, page: bytes, at: int, length: int) -> Texts:
        words = self._text_words.unpack_from(page, at + self._texts_at)
        end = (words[-1] & 0xFFFF) + (words[-1] >> 16)
        if not self._least <= end <= length:
            raise FormatError(f"a record of {self.event} ends before its texts")
        # The words and the texts that they point to, which follow them.
        key = page[at + self._texts_at : at + end]
        texts = self._remembered.get(key)
        if texts is None:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
                self._same_names.clear()
            texts = self._remembered[key] = self._decoded(page[at : at + end], words)
        return texts

    def _decoded(self, record: bytes, words: tuple[int, ...]) -> Texts:
        read = []
        for word in words:
            begin, size = word & 0xFFFF, word >> 16
            if size and (begin < self._least or begin + size > len(record)):
                raise FormatError(f"a record of {self.event} has a text outside of it")
            read.append(record[begin : begin + size].split(b"\0", 1)[0] if size else _FAULT)
        *names, thread = read
        if all(name == _FAULT for name in names):
            return Texts(os.fsdecode(thread), None)
        # The root of the tree has an empty name; what would be above it cannot be read.
        within = names[: names.index(b"") + 1] if b"" in names else names
        cgroup = tuple(map(os.fsdecode, within))
        return Texts(os.fsdecode(thread), self._same_names.setdefault(cgroup, cgroup))


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
    event: str, fields: dict[str, Field], wanted: list[tuple[str, str, int]]
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
