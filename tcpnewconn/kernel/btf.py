"""BTF, the kernel's own type information (/sys/kernel/btf/vmlinux): where the members of its structures are.

The format: Documentation/bpf/btf.rst, include/uapi/linux/btf.h. Whatever the data is, a member is found or BtfError is raised.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

PATH = "/sys/kernel/btf/vmlinux"

_MAGIC = 0xEB9F
_HEADER = struct.Struct("=HBBIIIII")  # magic, version, flags, hdr_len, type_off, type_len, str_off, str_len
_TYPE = struct.Struct("=III")  # struct btf_type: name_off, info, size or type
_MEMBER = struct.Struct("=III")  # struct btf_member: name_off, type, offset
_ARRAY = struct.Struct("=III")  # struct btf_array: type, index_type, nelems
_PARAM = struct.Struct("=II")  # struct btf_param: name_off, type

_INT, _PTR, _ARRAY_KIND, _STRUCT, _UNION, _ENUM, _FUNC, _FUNC_PROTO, _ENUM64 = 1, 2, 3, 4, 5, 6, 12, 13, 19
_SIZED = (_INT, _STRUCT, _UNION, _ENUM, _ENUM64)
# typedef, volatile, const, restrict, type_tag: another type by another name.
_ALIASES = (8, 9, 10, 11, 18)
# 32-bit words that follow struct btf_type: so many, and so many for each of its `vlen`. A kind that is not here is not known.
_FOLLOWING = {
    **dict.fromkeys((_PTR, 7, *_ALIASES, _FUNC, 16), (0, 0)),
    **dict.fromkeys((_INT, 14, 17), (1, 0)),
    **dict.fromkeys((_ENUM, _FUNC_PROTO), (0, 2)),
    **dict.fromkeys((_STRUCT, _UNION, 15, _ENUM64), (0, 3)),
    _ARRAY_KIND: (3, 0),
}
_WORD = 4
_POINTER_SIZE = struct.calcsize("P")
# Deeper than any real nesting: damaged data may nest without end.
_DEEPEST = 16


class BtfError(Exception):
    """The data is damaged, or the kernel has no such member."""


class Member(NamedTuple):
    """Where a member is in its structure, and how large it is; in bytes."""

    offset: int
    size: int


class Btf:
    def __init__(self, data: bytes) -> None:
        """Of the contents of a BTF file. Raises BtfError."""
        if len(data) < _HEADER.size:
            raise BtfError("it is too short to be BTF")
        magic, version, _, header, types, types_length, strings, strings_length = _HEADER.unpack_from(data)
        if (magic, version) != (_MAGIC, 1):
            raise BtfError("it is not BTF of version 1 in this host's byte order")
        if max(header + types + types_length, header + strings + strings_length) > len(data):
            raise BtfError("it ends early")
        self._types = data[header + types : header + types + types_length]
        self._strings = data[header + strings : header + strings + strings_length]
        # The place of each type; type 0 is void, and has none.
        self._places = [-1]
        self._structs: list[int] = []
        self._functions: list[int] = []
        self._index()
        # By the name that was asked for.
        self._known: dict[tuple[int, str], list[int]] = {}

    def _index(self) -> None:
        """Where the types are. There are more than 100,000: this is most of the time that is spent here."""
        if len(self._types) % _WORD:
            raise BtfError("a type ends early")
        words = memoryview(self._types).cast("I")
        places, following = self._places, _FOLLOWING
        place, end = 0, len(words)
        while place + 2 < end:
            info = words[place + 1]
            kind = info >> 24 & 31
            if kind not in following:
                raise BtfError(f"types of kind {kind} are not known")
            if kind == _STRUCT:
                self._structs.append(len(places))
            elif kind == _FUNC:
                self._functions.append(len(places))
            places.append(_WORD * place)
            fixed, each = following[kind]
            place += 3 + fixed + each * (info & 0xFFFF)
        if place != end:
            raise BtfError("the last type ends early")

    def member(self, structure: str, *path: str) -> Member:
        """A member of a structure, and of what it is in turn: member("sock", "__sk_common", "skc_num"). Raises BtfError.

        Members of anonymous structures and unions are found as C finds them. Pointers are not followed.
        """
        what = ".".join((f"struct {structure}", *path))
        candidates = {self._along(number, path, what) for number in self._named(self._structs, structure)}
        if not candidates:
            raise BtfError(f"the kernel has no struct {structure}")
        if len(candidates) > 1:
            raise BtfError(f"the kernel has several {what}")
        return candidates.pop()

    def first_argument(self, function: str) -> str | None:
        """The structure that a function's first argument points to; None where BTF has no such function. Raises BtfError."""
        found = set()
        for number in self._named(self._functions, function):
            kind, parameters, at = self._type(self._target(number))
            if kind != _FUNC_PROTO:
                raise BtfError(f"{function} is not a function")
            found.add(self._pointed_to(self._unpack(_PARAM, at + _TYPE.size)[1]) if parameters else "nothing")
        return found.pop() if len(found) == 1 else None

    def _pointed_to(self, number: int) -> str:
        number = self._real(number)
        if self._type(number)[0] != _PTR:
            return "no pointer"
        number = self._real(self._target(number))
        kind, _, at = self._type(number)
        return self._name(self._unpack(_TYPE, at)[0]) if kind == _STRUCT else "no structure"

    def _along(self, number: int, path: tuple[str, ...], what: str) -> Member:
        offset = 0
        for name in path:
            found = self._within(number, name.encode(), 0)
            if found is None:
                raise BtfError(f"the kernel has no {what}")
            bits, number, bitfield = found
            if bitfield or bits % 8:
                raise BtfError(f"{what} is a bit field")
            offset += bits // 8
        return Member(offset, self._size(number, 0))

    def _within(self, number: int, name: bytes, depth: int) -> tuple[int, int, int] | None:
        """A member's offset in bits, its type, and its size as a bit field (0 for none)."""
        number = self._real(number)
        kind, vlen, at = self._type(number)
        if kind not in (_STRUCT, _UNION) or depth > _DEEPEST:
            return None
        size_bits, has_bitfields = 8 * self._unpack(_TYPE, at)[2], self._unpack(_TYPE, at)[1] >> 31
        for place in range(at + _TYPE.size, at + _TYPE.size + vlen * _MEMBER.size, _MEMBER.size):
            name_at, member, offset = self._unpack(_MEMBER, place)
            bits, bitfield = (offset & 0xFFFFFF, offset >> 24) if has_bitfields else (offset, 0)
            if bits > size_bits:
                raise BtfError("a member is outside of its structure")
            if name_at:
                if self._is(name_at, name):
                    return bits, member, bitfield
            elif inner := self._within(member, name, depth + 1):
                return bits + inner[0], inner[1], inner[2]
        return None

    def _size(self, number: int, depth: int) -> int:
        number = self._real(number)
        kind, _, at = self._type(number)
        if kind == _PTR:
            return _POINTER_SIZE
        if kind == _ARRAY_KIND and depth < _DEEPEST:
            element, _, count = self._unpack(_ARRAY, at + _TYPE.size)
            return count * self._size(element, depth + 1)
        if kind in _SIZED:
            return self._unpack(_TYPE, at)[2]
        raise BtfError("a member has no size")

    def _real(self, number: int) -> int:
        """The type that a chain of typedefs and qualifiers comes to."""
        for _ in range(_DEEPEST):
            if self._type(number)[0] not in _ALIASES:
                return number
            number = self._target(number)
        raise BtfError("a type refers to itself")

    def _target(self, number: int) -> int:
        return self._unpack(_TYPE, self._type(number)[2])[2]

    def _type(self, number: int) -> tuple[int, int, int]:
        """Its kind, its number of members or the like, and its place."""
        if not 0 <= number < len(self._places):
            raise BtfError(f"there is no type {number}")
        if number == 0:
            return 0, 0, 0
        at = self._places[number]
        info = self._unpack(_TYPE, at)[1]
        return info >> 24 & 31, info & 0xFFFF, at

    def _unpack(self, layout: struct.Struct, at: int) -> tuple[int, ...]:
        if at + layout.size > len(self._types):
            raise BtfError("a type ends early")
        return layout.unpack_from(self._types, at)

    def _named(self, numbers: list[int], name: str) -> list[int]:
        key = (id(numbers), name)
        if key not in self._known:
            wanted = name.encode()
            self._known[key] = [
                number for number in numbers if self._is(self._unpack(_TYPE, self._places[number])[0], wanted)
            ]
        return self._known[key]

    def _is(self, name_at: int, name: bytes) -> bool:
        return self._strings.startswith(name + b"\0", name_at)

    def _name(self, name_at: int) -> str:
        end = self._strings.find(b"\0", name_at)
        return self._strings[name_at:end].decode("ascii", "replace") if end >= 0 else ""
