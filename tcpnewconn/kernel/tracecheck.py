"""Whether events record what they should: connections of our own, whose 4-tuple, user, cgroup and thread we know."""

from __future__ import annotations

import errno
import os
import socket
import threading
from typing import NamedTuple

from tcpnewconn.kernel.instance import TraceMissing
from tcpnewconn.kernel.namespaces import kernel_socket
from tcpnewconn.kernel.trace import Trace
from tcpnewconn.kernel.traceevents import ACCEPT, CONNECT, FAILED, NAMES
from tcpnewconn.model import Call, FailedAttempt, FourTuple, Origin, four_tuple_of, mirrored

_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
# An owner that no memory has by chance.
USER = 654321
_CGROUP_ROOTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


class Attempt(NamedTuple):
    """One connect() of ours: the 4-tuple of its socket, and whether it was accepted (else it was refused)."""

    four_tuple: FourTuple
    accepted: bool


def check(directory: str, events: tuple[str, ...]) -> dict[str, str]:
    """The fault of each event that has one; they are enabled in the instance in this directory."""
    try:
        trace = Trace(directory)
    except TraceMissing as error:
        return dict.fromkeys(events, str(error))
    try:
        attempts = [attempt for family, address in _LOOPBACK for attempt in _attempts(family, address)]
        recorded = trace.read()
    finally:
        trace.close()
    wrong = {}
    for event in events:
        complaint = next(filter(None, (_complaint(event, attempt, recorded) for attempt in attempts)), None)
        if complaint:
            wrong[event] = complaint
    return wrong


def _attempts(family: int, address: str) -> list[Attempt]:
    """A connection that is accepted, and one that is refused; none where the host has no such address."""
    try:
        with socket.socket(family) as listener, socket.socket(family) as client, socket.socket(family) as refused:
            listener.bind((address, 0))
            listener.listen()
            # The owner of a socket is that of its inode: not root, whose number is 0, as much of the memory beside it.
            os.fchown(client.fileno(), USER, -1)
            client.connect(listener.getsockname())
            with listener.accept()[0]:
                made = [Attempt(_four_tuple(family, client), True)]
            # A port that is bound by a socket which does not listen: nobody else can.
            with socket.socket(family) as deaf:
                deaf.bind((address, 0))
                refused.bind((address, 0))
                local, remote = refused.getsockname(), deaf.getsockname()
                os.fchown(refused.fileno(), USER, -1)
                if refused.connect_ex(remote) == errno.ECONNREFUSED:
                    made.append(Attempt(_four_tuple_of(family, local, remote), False))
            return made
    except OSError:
        return []


def _four_tuple(family: int, connected: socket.socket) -> FourTuple:
    return _four_tuple_of(family, connected.getsockname(), connected.getpeername())


def _four_tuple_of(family: int, local: tuple[str, int], remote: tuple[str, int]) -> FourTuple:
    return four_tuple_of(socket.inet_pton(family, local[0]), local[1], socket.inet_pton(family, remote[0]), remote[1])


def _complaint(event: str, attempt: Attempt, recorded: list[Call | FailedAttempt]) -> str | None:
    if event == FAILED:
        errors = [
            each.error for each in recorded if isinstance(each, FailedAttempt) and _ours(each, attempt.four_tuple)
        ]
        expected = [] if attempt.accepted else [errno.ECONNREFUSED]
        return None if errors == expected else f"recorded errors {errors}, not {expected}"
    if event == ACCEPT and not attempt.accepted:
        return None
    four_tuple = attempt.four_tuple if event == CONNECT else mirrored(attempt.four_tuple)
    calls = [each for each in recorded if isinstance(each, Call) and each.by == event and _ours(each, four_tuple)]
    if len(calls) != 1:
        return f"recorded {len(calls)} calls, not 1"
    recorded_origin = calls[0].origin
    cgroup, names = _cgroup() or (recorded_origin.cgroup, recorded_origin.cgroup_names)
    expected_origin = Origin(
        USER if event == CONNECT else os.getuid(),
        cgroup,
        names,
        recorded_origin.netns,
        threading.get_native_id(),
        _first_line("/proc/thread-self/comm"),
    )
    if recorded_origin == expected_origin:
        return None
    return f"recorded {_facts(recorded_origin)}, not {_facts(expected_origin)}"


def _ours(event: Call | FailedAttempt, four_tuple: FourTuple) -> bool:
    return event.four_tuple == four_tuple and event.netns == kernel_socket("/proc/self/net")


def _facts(one: Origin) -> str:
    return f"uid {one.uid}, thread {one.thread_id} {one.thread_name!r}, cgroup {one.cgroup} {one.cgroup_names}"


def _cgroup() -> tuple[int, tuple[str, ...]] | None:
    """The number and the names of our own cgroup, as an Origin has them; None where there is no unified hierarchy."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        paths = [line.rstrip("\n").removeprefix("0::") for line in file if line.startswith("0::")]
    for path in paths:
        for root in _CGROUP_ROOTS:
            if os.path.exists(f"{root}/cgroup.procs") and os.path.isdir(f"{root}{path}"):
                names = tuple(reversed(path.rstrip("/").split("/")))[: len(NAMES)]
                return os.stat(f"{root}{path}").st_ino, names
    return None


def _first_line(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.readline().rstrip("\n")
