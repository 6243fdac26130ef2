"""One socket of a connection that tracking knows: its phase, its packed form, its record in the state log."""

from __future__ import annotations

import struct
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum, auto
from itertools import chain, islice
from typing import NamedTuple

from tcpnewconn.model import SIZES, TIME_WAIT, FourTuple
from tcpnewconn.state.owner import Record

# Of a socket that rows show: cookie, number, whether it is negative, inode, state, paired, opened, uid, cgroup. Cookies have all
# 64 bits (inet_diag.h), numbers a sign beside them.
_PACKED = struct.Struct("=QQ?IB?dIQ")
# Parts of that: inode and state; number, and whether it is negative; cookie, state and paired.
inode_and_state = struct.Struct("=17xIB").unpack_from
_NUMBER = struct.Struct("=8xQ")
_NEGATIVE = 16
_COOKIE_STATE_PAIRED = "Q13xB?"
_ENDS = struct.Struct(f"={_COOKIE_STATE_PAIRED}")
# (uid_t)-1 is no user (chown(2)).
_NO_USER = 0xFFFFFFFF

# So many sockets share a record where there are many. Each of them by the size of its 4-tuple: that and the packed form; cookie,
# state and paired.
_TOGETHER = 200
_EACH = {size: struct.Struct(f"{size}s{_PACKED.size}s") for size in SIZES}
_EACH_ENDS = {size: struct.Struct(f"={size}x{_COOKIE_STATE_PAIRED}{_PACKED.size - _ENDS.size}x") for size in SIZES}


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


class Socket:
    """One socket of a connection.

    `number` names the connection: the cookie of the socket that it was reported with, or a negative serial number where the
    kernel gives no cookies. `paired`: the connection's other socket, on this host too, was seen. `opened` is the monotonic
    time of the poll that found it, in seconds; 0.0 if it was there at the first start. 0 is an unknown cookie or inode.

    `since` is when it entered its phase, in monotonic seconds. Of an EXPECTED socket, `shown` says whether a poll has shown its
    peer; `opened` is the peer's then. Of a DYING socket: `gap` says that its notification may have
    come while nobody received it, `lost` that it was counted as lost. `next` is the next one of its 4-tuple in its phase.
    """

    __slots__ = (
        *("four_tuple", "phase", "number", "cookie", "inode", "state", "paired", "opened"),
        *("uid", "cgroup", "since", "gap", "lost", "shown", "next"),
    )

    def __init__(
        self,
        four_tuple: FourTuple,
        phase: Phase | None = None,
        number: int = 0,
        cookie: int = 0,
        inode: int = 0,
        state: int = 0,
        paired: bool = False,
        opened: float = 0.0,
        uid: int | None = None,
        cgroup: int = 0,
        since: float = 0.0,
        gap: bool = False,
        lost: bool = False,
        shown: bool = True,
    ) -> None:
        self.four_tuple, self.phase, self.number, self.cookie = four_tuple, phase, number, cookie
        self.inode, self.state, self.paired, self.opened = inode, state, paired, opened
        self.uid, self.cgroup, self.since = uid, cgroup, since
        self.gap, self.lost, self.shown = gap, lost, shown
        self.next: Socket | None = None

    def __repr__(self) -> str:
        return f"Socket({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


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


def cookie_and_ends(packed: bytes) -> tuple[int, int]:
    """Of the socket whose packed form this is: its cookie, and how many ends of an open connection it stands for."""
    cookie, state, paired = _ENDS.unpack_from(packed)
    return cookie, _ends(state, paired)


def _ends(state: int, paired: bool) -> int:
    return 0 if state == TIME_WAIT else 1 if paired else 2


def largest_serial(several: Iterable[bytes]) -> int:
    """The largest serial number of the sockets whose packed forms these are; 0 where all have a cookie in place of one."""
    return max((_NUMBER.unpack_from(packed)[0] for packed in several if packed[_NEGATIVE]), default=0)


def lines_of_many(shown: Mapping[FourTuple, bytes]) -> Iterator[str]:
    """Records of SHOWN sockets, by 4-tuple and packed form: a line for each takes ten times as long to write and to load."""
    for size in SIZES:
        sockets = (one for one in shown.items() if len(one[0]) == size)
        while together := b"".join(chain.from_iterable(islice(sockets, _TOGETHER))):
            yield f'["p",{size},"{_text(together)}"]'


class Many(NamedTuple):
    """The sockets of such a record: by 4-tuple their packed forms; how many ends they stand for; those without a cookie."""

    packed: dict[FourTuple, bytes]
    ends: int
    without_cookie: list[FourTuple]


def loaded_many(record: Record) -> Many:
    """The sockets of such a record. Raises ValueError and struct.error where it is none."""
    size = record[1]
    if size not in SIZES:
        raise ValueError(f"{size} bytes are no 4-tuple")
    text, together = record[2], a2b_base64(record[2])
    # It skips characters that are none of base64, so that the text is longer, and bits that are left over at the end.
    if len(text) != (len(together) + 2) // 3 * 4 or not text.endswith(_text(together[-(len(together) % 3 or 3) :])):
        raise ValueError("that is no base64")
    sockets: dict[FourTuple, bytes] = dict(_EACH[size].iter_unpack(together))
    ends, without_cookie = 0, []
    for four_tuple, (cookie, state, paired) in zip(sockets, _EACH_ENDS[size].iter_unpack(together), strict=True):
        ends += _ends(state, paired)
        if not cookie:
            without_cookie.append(four_tuple)
    return Many(sockets, ends, without_cookie)


def _text(together: bytes) -> str:
    return b2a_base64(together, newline=False).decode()


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
