"""The calls of connect() and accept() found for a connection, and their form in the state log."""

from __future__ import annotations

from typing import NamedTuple

from tcpnewconn.model import Call, Caller, FourTuple, Missing


class Found(NamedTuple):
    """The callers of connect() and accept() of a connection; None where not known, and `missing` says why.

    `accepted_here`: whether the socket that was asked about accepted the connection, None where no call says so.
    `four_tuple`: that of an unaddressed socket, as its call has it.
    """

    opened: Caller | None = None
    accepted: Caller | None = None
    accepted_here: bool | None = None
    missing: Missing | None = None
    four_tuple: FourTuple | None = None


NOT_RECORDED = Found(missing="not-recorded")
OVERWRITTEN = Found(missing="overwritten")
AMBIGUOUS = Found(missing="ambiguous")


def written(call: Call) -> list[object]:
    """A call for the state log, without its 4-tuple."""
    by, time, _, *rest = call
    return [by, time, *rest]


def loaded(
    four_tuple: FourTuple,
    by: str,
    time: float,
    uid: int | None,
    cgroup: int,
    names: list[str],
    netns: int,
    thread: int,
    name: str | None,
) -> Call:
    if by not in ("connect", "accept"):
        raise ValueError(f"{by} is no call")
    return Call(
        str(by),
        float(time),
        four_tuple,
        None if uid is None else int(uid),
        int(cgroup),
        tuple(map(str, names)),
        int(netns),
        int(thread),
        None if name is None else str(name),
    )


def caller_of(call: Call) -> Caller:
    # namedtuple.__new__() takes twice as long.
    return tuple.__new__(Caller, (call.by, call.uid, call.cgroup, call.thread_id, call.thread_name, call.time))


def shared_by(calls: list[Call]) -> Caller:
    """The caller of these calls, as far as they agree."""
    first = calls[0]
    if len(calls) == 1:
        return caller_of(first)
    same_thread = all(call.thread_id == first.thread_id and call.thread_name == first.thread_name for call in calls)
    return Caller(
        first.by,
        first.uid if all(call.uid == first.uid for call in calls) else None,
        first.cgroup if all(call.cgroup == first.cgroup for call in calls) else 0,
        first.thread_id if same_thread else None,
        first.thread_name if same_thread else None,
    )
