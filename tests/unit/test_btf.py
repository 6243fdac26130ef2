"""The kernel's type information: cut from real kernels (tests/fixtures/cut_btf.py), and damaged."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpnewconn.kernel.btf import Btf, BtfError, Member
from tcpnewconn.kernel.traceevents import definitions
from tests.support.terminal import TESTS

# Linux 6.18 is here, too: it has types, and no kprobes.
FIXTURES = sorted((TESTS / "fixtures").glob("*/linux-*/btf"))
OF_A_KERNEL = pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.parent.name)
HEADER = struct.Struct("=HBBIIIII")


def one_structure(*members: tuple[bytes, int, int], strings: bytes = b"", size: int = 64, kflag: int = 0) -> bytes:
    """BTF of `int`, a pointer to it, an anonymous union of both, and struct s with these members: name, type, offset."""
    names = b"\0s\0int\0x\0p\0" + strings
    types = struct.pack("=4I", names.index(b"int"), 1 << 24, 4, 32)
    types += struct.pack("=3I", 0, 2 << 24, 1)
    types += struct.pack("=9I", 0, 5 << 24 | 2, 8, names.index(b"x\0"), 1, 0, names.index(b"p\0"), 2, 0)
    types += struct.pack("=3I", names.index(b"s\0"), kflag << 31 | 4 << 24 | len(members), size)
    for name, number, offset in members:
        types += struct.pack("=3I", names.index(b"\0" + name + b"\0") + 1 if name else 0, number, offset)
    return HEADER.pack(0xEB9F, 1, 0, HEADER.size, 0, len(types), len(types), len(names)) + types + names


@OF_A_KERNEL
def test_the_definitions_are_those_that_the_kernel_took_and_that_recorded_the_truth(fixture: Path) -> None:
    made = [each.line for each in definitions(Btf(fixture.read_bytes()))]
    assert made == (fixture.parent / "definitions").read_text().splitlines()


@OF_A_KERNEL
def test_members_are_found_in_structures_unions_and_typedefs(fixture: Path) -> None:
    types = Btf(fixture.read_bytes())
    assert types.member("sock", "__sk_common", "skc_daddr") == Member(0, 4)
    assert types.member("sock", "__sk_common", "skc_rcv_saddr") == Member(4, 4)
    assert types.member("sock", "__sk_common", "skc_dport") == Member(12, 2)
    assert types.member("sock", "__sk_common", "skc_num") == Member(14, 2)
    assert types.member("sock", "sk_uid").size == 4
    assert types.member("sock", "sk_uid") == types.member("sock", "sk_uid", "val")
    assert types.member("net", "rtnl").size == 8
    # struct socket, and behind it the inode of the same socket.
    assert types.member("socket_alloc", "socket").offset == 0
    assert types.member("socket_alloc", "vfs_inode").offset == types.member("socket_alloc", "socket").size
    assert types.member("socket_alloc", "vfs_inode", "i_ino").size == 8
    assert types.member("kernfs_node", "name").size == 8


@OF_A_KERNEL
def test_the_first_argument_of_a_function_is_known(fixture: Path) -> None:
    types = Btf(fixture.read_bytes())
    assert types.first_argument("tcp_connect") == "sock"
    assert types.first_argument("security_sock_graft") == "sock"
    assert types.first_argument("schedule") == "nothing"
    assert types.first_argument("no_such_function") is None


def test_what_is_not_there_is_an_error_that_names_it() -> None:
    types = Btf(one_structure((b"x", 1, 0)))
    for path, complaint in (
        (("no_such", "x"), "no struct no_such"),
        (("s", "y"), "no struct s.y"),
        (("s", "x", "y"), "no struct s.x.y"),
    ):
        with pytest.raises(BtfError, match=re.escape(complaint)):
            types.member(*path)


def test_a_member_of_an_anonymous_union_is_found_at_its_place() -> None:
    types = Btf(one_structure((b"x", 1, 0), (b"", 3, 64)))
    assert types.member("s", "p") == Member(8, 8)


def test_a_bit_field_has_no_offset() -> None:
    with pytest.raises(BtfError, match="bit field"):
        Btf(one_structure((b"x", 1, 3 << 24), kflag=1)).member("s", "x")
    with pytest.raises(BtfError, match="bit field"):
        Btf(one_structure((b"x", 1, 3))).member("s", "x")


def test_a_member_outside_of_its_structure_is_not_believed() -> None:
    with pytest.raises(BtfError, match="outside"):
        Btf(one_structure((b"x", 1, 8 * 65))).member("s", "x")


def test_of_two_structures_of_one_name_none_is_taken_unless_they_agree() -> None:
    one = one_structure((b"x", 1, 0))
    magic, version, flags, header, at, length, strings, strings_length = HEADER.unpack_from(one)
    types, names = one[header : header + length], one[header + length :]
    for offset, agree in ((0, True), (32, False)):
        second = types[-24:-4] + struct.pack("=I", offset)
        both = HEADER.pack(magic, version, flags, header, 0, length + 24, length + 24, strings_length) + types + second
        if agree:
            assert Btf(both + names).member("s", "x") == Member(0, 4)
        else:
            with pytest.raises(BtfError, match="several"):
                Btf(both + names).member("s", "x")


def looked_at(data: bytes) -> None:
    """All that the definitions need, or BtfError."""
    try:
        types = Btf(data)
        definitions(types)
    except BtfError:
        return
    for path in (("sock", "sk_uid"), ("socket_alloc", "vfs_inode", "i_ino")):
        assert 0 <= types.member(*path).offset < 1 << 24


@OF_A_KERNEL
@given(changes=st.lists(st.tuples(st.integers(0, 40_000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=20))
def test_damaged_types_never_raise_anything_else(fixture: Path, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(fixture.read_bytes())
    for place, what in changes:
        data[place % len(data) : place % len(data) + len(what)] = what
    looked_at(bytes(data))


@given(st.binary(max_size=300))
def test_random_types_never_raise_anything_else(body: bytes) -> None:
    looked_at(body)
    looked_at(HEADER.pack(0xEB9F, 1, 0, HEADER.size, 0, len(body), 0, len(body)) + body)


@OF_A_KERNEL
def test_types_that_end_early_are_refused_wherever_they_end(fixture: Path) -> None:
    data = fixture.read_bytes()
    for length in range(0, len(data), 97):
        with pytest.raises(BtfError):
            Btf(data[:length])


def test_a_type_that_refers_to_itself_is_refused() -> None:
    names = b"\0s\0x\0"
    types = struct.pack("=6I", 1, 4 << 24 | 1, 8, 3, 2, 0)
    # typedef of itself
    types += struct.pack("=3I", 0, 8 << 24, 2)
    data = HEADER.pack(0xEB9F, 1, 0, HEADER.size, 0, len(types), len(types), len(names)) + types + names
    with pytest.raises(BtfError, match="itself"):
        Btf(data).member("s", "x")
    # an anonymous member that is its own structure
    types = struct.pack("=6I", 1, 4 << 24 | 1, 8, 0, 1, 0)
    data = HEADER.pack(0xEB9F, 1, 0, HEADER.size, 0, len(types), len(types), len(names)) + types + names
    with pytest.raises(BtfError):
        Btf(data).member("s", "x")
