"""Whether a row is of the socket that tracking knows, or that sock_diag describes. Pure.

A socket is its cookie wherever that is known. Where it is not, its inode tells: 0 -> n -> 0 is one connection (not accepted yet,
then owned, then orphaned or in TIME_WAIT), n -> m is two. The states of a connection only go forward: a row in an earlier
state than before is of another connection on the same addresses.
"""

from __future__ import annotations

from typing import TypeGuard

from tcpnewconn.model import (
    CLOSE_WAIT,
    CLOSING,
    ESTABLISHED,
    FIN_WAIT1,
    FIN_WAIT2,
    LAST_ACK,
    TIME_WAIT,
    Row,
    SocketInfo,
)
from tcpnewconn.tracking.socket import Socket

# How far a connection has come; its states only go forward.
PROGRESS = {ESTABLISHED: 0, FIN_WAIT1: 1, CLOSE_WAIT: 1, FIN_WAIT2: 2, CLOSING: 2, LAST_ACK: 2, TIME_WAIT: 3}


def in_time_wait(row: Row | Socket) -> bool:
    """Whether a row is of a timewait socket: the destroy notification of the full one has come, or will at once.

    FIN_WAIT2 without an inode can be an orphan, or a timewait socket in that state (tcp_time_wait(), net/ipv4/tcp_minisocks.c).
    """
    return row.inode == 0 and row.state in (TIME_WAIT, FIN_WAIT2)


def is_of(row: Row, current: SocketInfo | None, notified: bool) -> bool:
    """Whether a row is of the socket that has its 4-tuple by now. `notified`: destroy notifications arrive."""
    if current is None or (row.inode and current.inode and current.inode != row.inode):
        return False
    if PROGRESS.get(current.state, 0) < PROGRESS[row.state]:
        return False
    if row.inode and not current.inode and current.state in (ESTABLISHED, CLOSE_WAIT):
        # An orphan has been closed: this one was not accepted yet.
        return False
    # A timewait socket can have another cookie than the notification of its full socket: its 4-tuple will tell.
    return not (notified and current.timewait) or in_time_wait(row)


def can_be(row: Row, known: Socket) -> bool:
    """Whether a row can be of the known socket, as far as its state and its inode tell."""
    if PROGRESS[row.state] < PROGRESS[known.state]:
        return False
    if row.inode and known.inode:
        return row.inode == known.inode
    # An owned socket leaves ESTABLISHED and CLOSE_WAIT when it is closed: without an inode this one was never accepted.
    return not known.inode or row.state not in (ESTABLISHED, CLOSE_WAIT)


def is_full(current: SocketInfo | None) -> TypeGuard[SocketInfo]:
    """Whether the kernel has a full socket (sk_fullsock(), include/net/sock.h), not a timewait socket alone."""
    return current is not None and not current.timewait


def attribution(row: Row | None, info: SocketInfo | None) -> tuple[int | None, int]:
    """User and cgroup of a socket; None and 0 where not known."""
    if info is None:
        return (row.uid if row is not None else None), 0
    if info.inode:
        return info.uid, info.cgroup
    return (row.uid if row is not None else None), info.cgroup
