"""One socket of a connection that tracking knows: its phase, its packed form, its record in the state log."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, auto

from tcpnewconn.model import FourTuple
from tcpnewconn.state.log import Record

# Of a socket that rows show: cookie, number, whether it is negative, inode, state, paired, opened, uid, cgroup. Cookies have all
# 64 bits (inet_diag.h), numbers a sign beside them.
_PACKED = struct.Struct("=QQ?IB?dIQ")
# (uid_t)-1 is no user (chown(2)).
_NO_USER = 0xFFFFFFFF


class Phase(IntEnum):
    """The phase of a socket. (Members of an Enum are hashed in Python, those of an IntEnum are not.)"""

    # The last polls show it.
    SHOWN = auto()
    # No row shows it any longer; its destroy notification has not come. It comes milliseconds later, or after days where the
    # peer has reset the connection and a program keeps the socket open (conntrack's dying list).
    DYING = auto()
    # The peer, on this host too, of a reported connection: no row or notification has shown it yet. Where addresses are
    # translated on the way (iptables REDIRECT) it never comes.
    EXPECTED = auto()
    # In TIME_WAIT at the first poll: its notification came before anybody listened, or will come at once. Or in TIME_WAIT since
    # the last poll but one: its notification will come at once, or after the end.
    ENDED_BEFORE_START = auto()
    # Destroyed and reported. With a number, it was reported before it was notified: on a starved machine that can come late.
    CLOSED = auto()


@dataclass(slots=True, eq=False)
class Socket:
    """One socket of a connection.

    `number` names the connection: the cookie of the socket that it was reported with, or a negative serial number where the
    kernel gives no cookies. `paired`: the connection's other socket, on this host too, was seen. `opened` is the monotonic
    time of the poll that found it, in seconds; 0.0 if it was there at the first start. 0 is an unknown cookie or inode.

    `since` is when it entered its phase, in monotonic seconds. Of an EXPECTED socket, `shown` says whether a poll has shown its
    peer; `opened` is the peer's then. Of a DYING socket: `gap` says that its notification may have
    come while nobody received it, `lost` that it was counted as lost. `next` is the next one of its 4-tuple in its phase.
    """

    four_tuple: FourTuple
    phase: Phase | None = None
    number: int = 0
    cookie: int = 0
    inode: int = 0
    state: int = 0
    paired: bool = False
    opened: float = 0.0
    uid: int | None = None
    cgroup: int = 0
    since: float = 0.0
    gap: bool = False
    lost: bool = False
    shown: bool = True
    next: Socket | None = None


def named(text: str) -> FourTuple:
    """The 4-tuple that a record names. Raises ValueError where it is none."""
    four_tuple = bytes.fromhex(text)
    if len(four_tuple) not in (12, 36):
        raise ValueError(f"{len(four_tuple)} bytes are no 4-tuple")
    return four_tuple


def loaded(phase: Phase, four_tuple: FourTuple, record: Record, attribution: Record) -> Socket:
    """The socket of a record, from its cookie to `opened`, and its uid and cgroup, which version 1 did not write."""
    cookie, inode, state, number, paired, opened = record
    uid, cgroup = attribution or (None, 0)
    socket = Socket(four_tuple, phase, number, cookie, inode, state, paired, opened, uid, cgroup)
    # A value that does not fit raises here, while the file is being validated; of one that is SHOWN when it is added.
    return socket if phase is Phase.SHOWN else unpacked(four_tuple, packed(socket), phase)


def packed(one: Socket) -> bytes:
    """80 bytes, where an object would take 250."""
    uid = _NO_USER if one.uid is None else one.uid
    number = one.number
    return _PACKED.pack(
        one.cookie, abs(number), number < 0, one.inode, one.state, one.paired, one.opened, uid, one.cgroup
    )


def unpacked(four_tuple: FourTuple, packed: bytes, phase: Phase = Phase.SHOWN) -> Socket:
    """The socket of a 4-tuple whose packed form this is."""
    cookie, number, negative, inode, state, paired, opened, uid, cgroup = _PACKED.unpack(packed)
    return Socket(
        four_tuple,
        phase,
        -number if negative else number,
        cookie,
        inode,
        state,
        paired,
        opened,
        None if uid == _NO_USER else uid,
        cgroup,
    )


def line(socket: Socket) -> str:
    """The record of a socket in its phase."""
    name = socket.four_tuple.hex()
    if socket.phase is Phase.EXPECTED:
        return f'["o","{name}",{socket.number}{f",{socket.opened:.3f}" if socket.shown else ""}]'
    if socket.phase is Phase.CLOSED:
        return f'["c","{name}",{socket.since:.3f}{f",{socket.number}" if socket.number else ""}]'
    kind, doubt = "+", ""
    if socket.phase is Phase.DYING:
        kind, doubt = "v", f"{int(socket.lost) if socket.gap else -1},"
    paired = "true" if socket.paired else "false"
    uid = "null" if socket.uid is None else socket.uid
    return (
        f'["{kind}","{name}",{socket.cookie},{socket.inode},{socket.state},{socket.number},{paired},'
        f"{socket.opened:.3f},{doubt}{uid},{socket.cgroup}]"
    )
