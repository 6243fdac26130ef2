"""The definitions of our events, as tracefs takes them (Documentation/trace/kprobetrace.rst, eprobetrace.rst).

connect: at tcp_connect(), which connect() calls once the local port is chosen. accept: at security_sock_graft(), which accept()
calls once the new socket has its owner. Both run in the context of the thread that connects or accepts. A probe at the entry of a
function misses no call; a return probe would keep a kernel object for each accept() that waits, and miss calls without one.
failed: at the kernel's own event of a socket's change from SYN_SENT to CLOSE, where a SYN had been sent.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from tcpnewconn.kernel.btf import Btf, BtfError

# The group of the events, and the name of the instance.
GROUP = "tcpnewconn"
CONNECT, ACCEPT, FAILED = EVENTS = ("connect", "accept", "failed")
# The names of a socket's cgroup and its parents. Six reach the root from a container of a user's service.
NAMES = ("name0", "name1", "name2", "name3", "name4", "name5")

# kernel/trace/trace_probe.h: MAX_ARGSTR_LEN
_LONGEST_ARGUMENT = 63
_POINTER = struct.calcsize("P")
# The functions of both probes, and the type of their first argument.
_FUNCTIONS = {CONNECT: "tcp_connect", ACCEPT: "security_sock_graft"}
_AF_INET, _AF_INET6, _SYN_SENT, _CLOSE = 2, 10, 2, 7


class Definition(NamedTuple):
    """One event: its name, the line that defines it, and the filter that the instance applies to it ("" for none)."""

    event: str
    line: str
    filter: str = ""


def definitions(btf: Btf, events: tuple[str, ...] = EVENTS) -> list[Definition]:
    """The definitions of these events for a kernel with these types. Raises BtfError."""
    made = []
    for event in events:
        if event == FAILED:
            made.append(_failed(btf))
            continue
        function = _FUNCTIONS[event]
        if btf.first_argument(function) not in ("sock", None):
            raise BtfError(f"the first argument of {function}() is no struct sock")
        line = f"p:{GROUP}/{event} {function} {_socket(btf, '$arg1')} {_owner(btf, '$arg1')}"
        # connect() of TCP alone calls tcp_connect(); accept() of every family grafts.
        tcp = f"protocol == 6 && (family == {_AF_INET} || family == {_AF_INET6})"
        made.append(Definition(event, line, tcp if event == ACCEPT else ""))
    return made


def _failed(btf: Btf) -> Definition:
    # The event's own port: the socket has none any more at this point.
    line = f"e:{GROUP}/{FAILED} sock.inet_sock_set_state {_socket(btf, '$skaddr', local_port='local_port=$sport:u16')}"
    line += " " + _fetch("error", "$skaddr", "s32", _at(btf, 4, "sock", "sk_err"))
    line += " " + _fetch("sent", "$skaddr", "u32", _at(btf, 4, "tcp_sock", "segs_out"))
    line += f" if oldstate == {_SYN_SENT} && newstate == {_CLOSE} && protocol == 6"
    # connect() that finds its 4-tuple in use changes the state as well, before tcp_connect(): it has sent nothing. It would be
    # taken for the end of the connection that uses the 4-tuple.
    return Definition(FAILED, line, "sent != 0")


def _socket(btf: Btf, base: str, local_port: str = "") -> str:
    """Ports, addresses and network namespace of the socket that `base` points to; its local port may be said elsewhere."""

    def common(size: int, *name: str) -> int:
        return _at(btf, size, "sock", "__sk_common", *name)

    fetched = [
        _fetch("family", base, "u16", common(2, "skc_family")),
        _fetch("protocol", base, "u16", _at(btf, 2, "sock", "sk_protocol")),
        local_port or _fetch("local_port", base, "u16", common(2, "skc_num")),
        _fetch("remote_port", base, "u16", common(2, "skc_dport")),
        _fetch("local4", base, "u32", common(4, "skc_rcv_saddr")),
        _fetch("remote4", base, "u32", common(4, "skc_daddr")),
    ]
    for name, member in (("local6", "skc_v6_rcv_saddr"), ("remote6", "skc_v6_daddr")):
        try:
            offset = common(16, member)
        except BtfError:
            # A kernel without IPv6.
            continue
        fetched += [_fetch(f"{name}_high", base, "u64", offset), _fetch(f"{name}_low", base, "u64", offset + 8)]
    fetched.append(_namespace(btf, base, common(_POINTER, "skc_net", "net")))
    return " ".join(fetched)


def _namespace(btf: Btf, base: str, net: int) -> str:
    """The inode number of the kernel's own NETLINK_ROUTE socket: /proc/PID/net/netlink shows it, too.

    struct socket and its inode are in one struct socket_alloc (include/net/sock.h). The number of a namespace that has gone comes
    again only after all sockets and pipes have used up 32 bits (fs/inode.c, get_next_ino()).
    """
    inode = _at(btf, _POINTER, "socket_alloc", "vfs_inode", "i_ino") - btf.member("socket_alloc", "socket").offset
    kernel_socket = (_at(btf, _POINTER, "sock", "sk_socket"), _at(btf, _POINTER, "net", "rtnl"), net)
    return _fetch("netns", base, f"u{8 * _POINTER}", inode, *kernel_socket)


def _owner(btf: Btf, base: str) -> str:
    """User and cgroup of the socket; name of the thread. The texts come last, so that they are together in a record."""
    kernfs = (_at(btf, _POINTER, "cgroup", "kn"), _at(btf, _POINTER, "sock", "sk_cgrp_data", "cgroup"))
    # Renamed in 6.15.
    try:
        parent = _at(btf, _POINTER, "kernfs_node", "parent")
    except BtfError:
        parent = _at(btf, _POINTER, "kernfs_node", "__parent")
    fetched = [
        _fetch("uid", base, "u32", _at(btf, 4, "sock", "sk_uid")),
        _fetch("cgroup", base, "u64", _at(btf, 8, "kernfs_node", "id"), *kernfs),
    ]
    name_at = _at(btf, _POINTER, "kernfs_node", "name")
    for level, name in enumerate(NAMES):
        argument = _fetch(name, base, "string", 0, name_at, *(parent,) * level, *kernfs)
        if len(argument) > _LONGEST_ARGUMENT:
            break
        fetched.append(argument)
    return " ".join((*fetched, "thread=$comm:string"))


def _at(btf: Btf, size: int, structure: str, *path: str) -> int:
    """The offset of a member, if it has the size that it is recorded with."""
    member = btf.member(structure, *path)
    if member.size != size:
        raise BtfError(f"struct {'.'.join((structure, *path))} has {member.size} bytes, not {size}")
    return member.offset


def _fetch(name: str, base: str, kind: str, *offsets: int) -> str:
    """The memory that a name is recorded from: the offsets that lead there, the last one first."""
    fetched = base
    for offset in reversed(offsets):
        fetched = f"+{offset}({fetched})"
    return f"{name}={fetched}:{kind}"
