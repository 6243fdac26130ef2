"""The layouts of struct inet_diag_msg and struct tcp_info, and what a destroy notification says. Pure.

They are those of include/uapi/linux/inet_diag.h and include/uapi/linux/tcp.h.
"""

from __future__ import annotations

import socket
import struct

from tcpnewconn.kernel.netlink import ATTRIBUTE, HEADER, attribute
from tcpnewconn.model import DestroyedSocket, Traffic, unmapped

SOCK_DIAG_BY_FAMILY = 20
INET_DIAG_INFO = 2

MESSAGE = struct.Struct("=BBBB2s2s16s16sIQIIIII")  # struct inet_diag_msg
# The socket in a notification: family, ports, addresses and cookie, behind a struct nlmsghdr.
_SOCKET = struct.Struct("=16xB3x2s2s16s16s4xQ")
AFTER_MESSAGE = HEADER.size + MESSAGE.size

# Offsets in struct tcp_info: of tcpi_last_ack_recv, tcpi_min_rtt, tcpi_bytes_sent (and tcpi_bytes_retrans, since Linux 4.19).
_LAST_ACK, _MIN_RTT, _SENT = 56, 148, 200
# From tcpi_last_ack_recv by way of tcpi_rtt, tcpi_rcv_space, tcpi_total_retrans, tcpi_bytes_acked and tcpi_bytes_received to
# tcpi_min_rtt.
_INFO = struct.Struct("=I8xI24xII16xQQ12xI")
_INFO_SIZE = _MIN_RTT + 4
_SENT_BYTES = struct.Struct("=QQ")
_NEVER = 0xFFFFFFFF

# All of that at once, of IPv4 and in the order of every kernel that was seen: behind the socket INET_DIAG_PROTOCOL, which is one
# byte, then INET_DIAG_INFO. One call of unpack_from() in place of nine.
_USUAL = struct.Struct("=IH10xB3x2s2s16s16s4xQ20xHH4xHH56xI8xI24xII16xQQ12xI48xQQ")
_INET_DIAG_PROTOCOL, _PROTOCOL_SIZE = 10, ATTRIBUTE.size + 1
_USUAL_INFO_AT = AFTER_MESSAGE + ATTRIBUTE.size + 4
_USUAL_INFO_SIZE = ATTRIBUTE.size + _SENT + _SENT_BYTES.size
_tuple = tuple.__new__

_ZERO_PORT = b"\0\0"
INET, INET6 = int(socket.AF_INET), int(socket.AF_INET6)


def parse_notification(message: bytes | bytearray, size: int | None = None) -> DestroyedSocket | None:
    """The destroyed socket of a notification, or None if this program does not understand it; `size` bytes of it are there."""
    size = len(message) if size is None else size
    if size >= _USUAL.size:
        (
            length,
            kind,
            family,
            sport,
            dport,
            source,
            remote,
            cookie,
            protocol_size,
            protocol,
            info_size,
            info,
            idle,
            rtt,
            space,
            retransmits,
            acked,
            received,
            min_rtt,
            sent,
            again,
        ) = _USUAL.unpack_from(message)
        if (
            family == INET
            and kind == SOCK_DIAG_BY_FAMILY
            and protocol == _INET_DIAG_PROTOCOL
            and protocol_size == _PROTOCOL_SIZE
            and info == INET_DIAG_INFO
            and info_size >= _USUAL_INFO_SIZE
            and _USUAL_INFO_AT + info_size <= length <= size
        ):
            # namedtuple.__new__() takes twice as long.
            return _tuple(
                DestroyedSocket,
                (
                    source[:4] + sport + remote[:4] + dport,
                    cookie,
                    # The round trip may never have been measured: SYN cookies without timestamps, no byte, and a reset. The space
                    # is set once a socket is established (tcp_init_transfer(), net/ipv4/tcp_input.c).
                    min_rtt != _NEVER or received > 0 or space > 0,
                    dport == _ZERO_PORT,
                    _tuple(Traffic, (sent - again, acked, received, rtt, retransmits)),
                    idle / 1000,
                ),
            )
    return _parse_any(message, size)


def _parse_any(message: bytes | bytearray, size: int) -> DestroyedSocket | None:
    if size < AFTER_MESSAGE:
        return None
    length, kind, _, _, _ = HEADER.unpack_from(message)
    if kind != SOCK_DIAG_BY_FAMILY or not AFTER_MESSAGE <= length <= size:
        return None
    family, sport, dport, source, remote, cookie = _SOCKET.unpack_from(message)
    if family == INET:
        source, remote = source[:4], remote[:4]
    elif family == INET6:
        source, remote = unmapped(source), unmapped(remote)
        if len(source) != len(remote):
            # One side cleared (::), the other IPv4-mapped.
            source, remote = _same_family(source, remote)
    else:
        return None
    at = attribute(message, AFTER_MESSAGE, length, INET_DIAG_INFO, _INFO_SIZE)
    if at is None:
        return None
    idle, rtt, space, retransmits, acked, received, min_rtt = _INFO.unpack_from(message, at + _LAST_ACK)
    # By position: by name takes three times as long.
    return DestroyedSocket(
        source + sport + remote + dport,
        cookie,
        min_rtt != _NEVER or received > 0 or space > 0,
        dport == _ZERO_PORT,
        Traffic(_sent(message, at, acked), acked, received, rtt, retransmits),
        idle / 1000,
    )


def _sent(message: bytes | bytearray, at: int, acked: int) -> int:
    """Bytes of payload sent, each once, of the struct tcp_info at `at`; before Linux 4.19 what was acknowledged."""
    if ATTRIBUTE.unpack_from(message, at - ATTRIBUTE.size)[0] < ATTRIBUTE.size + _SENT + _SENT_BYTES.size:
        return acked
    total, again = _SENT_BYTES.unpack_from(message, at + _SENT)
    return int(total - again)


def acknowledged(message: bytes, length: int) -> tuple[int, int] | None:
    """How many bytes an answer with INET_DIAG_INFO says were acknowledged, and of payload sent; None where it does not."""
    at = attribute(message, AFTER_MESSAGE, length, INET_DIAG_INFO, _INFO_SIZE)
    if at is None:
        return None
    _, _, _, _, acked, _, _ = _INFO.unpack_from(message, at + _LAST_ACK)
    return acked, _sent(message, at, acked)


def _same_family(source: bytes, remote: bytes) -> tuple[bytes, bytes]:
    if not any(source):
        return b"\0" * len(remote), remote
    return source, b"\0" * len(source)
