"""The calls of connect() and accept() found for a connection, and their form in the state log."""

from __future__ import annotations

from typing import NamedTuple

from tcpnewconn.model import Call, Caller, FourTuple, Missing, Origin


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
    return [call.by, call.time, *call.origin]


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
        Origin(
            None if uid is None else int(uid),
            int(cgroup),
            tuple(map(str, names)),
            int(netns),
            int(thread),
            None if name is None else str(name),
        ),
    )


def caller_of(call: Call) -> Caller:
    uid, cgroup, _, _, thread_id, thread_name = call.origin
    # namedtuple.__new__() takes twice as long.
    return tuple.__new__(Caller, (call.by, uid, cgroup, thread_id, thread_name, call.time))


def shared_by(calls: list[Call]) -> Caller:
    """The caller of these calls, as far as they agree."""
    first = caller_of(calls[0])
    if len(calls) == 1:
        return first
    others = [caller_of(call) for call in calls[1:]]
    same_thread = all(other[3:5] == first[3:5] for other in others)
    return Caller(
        first.by,
        first.uid if all(other.uid == first.uid for other in others) else None,
        first.cgroup if all(other.cgroup == first.cgroup for other in others) else 0,
        first.thread_id if same_thread else None,
        first.thread_name if same_thread else None,
    )
