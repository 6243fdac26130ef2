"""Calls of connect() and accept(), as the trace records them."""

from __future__ import annotations

from tcpnewconn.model import Call, FailedAttempt, FourTuple, Origin, four_tuple_of, mirrored, unmapped
from tests.support.table import packed

NETNS = 430_314


def four_tuple(local: str, remote: str) -> FourTuple:
    (local_address, local_port), (remote_address, remote_port) = packed(local), packed(remote)
    return four_tuple_of(unmapped(local_address), local_port, unmapped(remote_address), remote_port)


OUT = four_tuple("10.0.0.5:41906", "192.0.2.7:443")
IN = four_tuple("10.0.0.5:22", "203.0.113.9:51544")
OPENER = four_tuple("127.0.0.1:50000", "127.0.0.1:8080")
ACCEPTOR = mirrored(OPENER)


def origin(who: int, netns: int = NETNS) -> Origin:
    return Origin(1000 + who, 100 + who, ("", ""), netns, who, f"thread-{who}")


def connect(time: float, who: int, at: FourTuple = OUT, netns: int = NETNS) -> Call:
    """By thread `who`: of a user, a cgroup and a name of its own."""
    return Call("connect", time, at, origin(who, netns))


def accept(time: float, who: int, at: FourTuple = IN, netns: int = NETNS) -> Call:
    return Call("accept", time, at, origin(who, netns))


def failed(time: float, at: FourTuple = OUT, error: int = 111) -> FailedAttempt:
    return FailedAttempt(time, at, NETNS, error)
