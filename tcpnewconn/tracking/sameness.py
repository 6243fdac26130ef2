"""Whether a row is of the socket that is known, or that the kernel tells of."""

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
from tcpnewconn.tracking.sockets import Socket

# How far a connection has come to its end; its states only go forward.
AGE = {ESTABLISHED: 0, FIN_WAIT1: 1, CLOSE_WAIT: 1, FIN_WAIT2: 2, CLOSING: 2, LAST_ACK: 2, TIME_WAIT: 3}


def in_time_wait(row: Row | Socket) -> bool:
    """Whether a row is of a connection that has ended: its socket was announced, or will be at once."""
    return row.inode == 0 and row.state in (TIME_WAIT, FIN_WAIT2)


def is_of(row: Row, current: SocketInfo | None, announced: bool) -> bool:
    """Whether a row is of the socket that has its four_tuple by now. `announced` as in Tracker."""
    if current is None or (row.inode and current.inode and current.inode != row.inode):
        return False
    if AGE.get(current.state, 0) < AGE[row.state]:
        return False
    if row.inode and not current.inode and current.state in (ESTABLISHED, CLOSE_WAIT):
        # An orphan has been closed: this one was not accepted yet.
        return False
    # What is left of a connection can have another cookie than the one that will be announced: its four_tuple will tell.
    return not (announced and current.remnant) or in_time_wait(row)


def can_be(row: Row, known: Socket) -> bool:
    """Whether a row can be of the known socket, as far as its state and its inode tell."""
    if AGE[row.state] < AGE[known.state]:
        return False
    if row.inode and known.inode:
        return row.inode == known.inode
    # An owned socket leaves ESTABLISHED and CLOSE_WAIT when it is closed: without an inode this one was never accepted.
    return not known.inode or row.state not in (ESTABLISHED, CLOSE_WAIT)


def lives(current: SocketInfo | None) -> TypeGuard[SocketInfo]:
    """Whether the kernel has a socket that is not just what is left of one."""
    return current is not None and not current.remnant


def owner(row: Row | None, identity: SocketInfo | None) -> tuple[int | None, int]:
    """User and cgroup of a socket; None and 0 where not known."""
    if identity is None:
        return (row.uid if row is not None else None), 0
    if identity.inode:
        return identity.uid, identity.cgroup
    return (row.uid if row is not None else None), identity.cgroup
