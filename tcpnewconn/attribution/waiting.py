"""Calls of connect() and accept() in network namespaces that nobody has found yet. Pure.

They wait until their namespace is found, or until it has surely ended unseen. Record u is its own: a call; of a namespace and a
4-tuple without more, that its last connect() has failed, or with null that its calls were taken; of a namespace alone, that
nothing of it waits any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from tcpnewconn.attribution.found import loaded, shared_by, written
from tcpnewconn.model import Call, Caller, FailedAttempt, FourTuple, named
from tcpnewconn.state.owner import Log, Record

_MOST = 16_384


class Strange:
    """What waits of one namespace: its calls in order of time, and the attempts that failed, each with who made it."""

    def __init__(self, calls: Iterable[Call] = ()) -> None:
        self.calls = list(calls)
        self.failed: list[tuple[FailedAttempt, Caller | None]] = []
        # When the last of them was recorded.
        self.last = float("-inf")


class Waiting:
    """By the number of their namespace (Call.netns); not more than `most` calls."""

    def __init__(self, log: Log | None = None, most: int = _MOST) -> None:
        self._log = log
        self._most = most
        self._count = 0
        self._strange: dict[int, Strange] = {}
        if log is not None:
            log.register("u", self)

    def __contains__(self, netns: int) -> bool:
        return netns in self._strange

    def add(self, netns: int, calls: Iterable[Call | FailedAttempt]) -> int:
        """Returns how many calls were dropped: above the limit, all that wait."""
        strange = self._strange.setdefault(netns, Strange())
        for call in calls:
            strange.last = call.time
            if isinstance(call, FailedAttempt):
                strange.failed.append((call, self._failed(strange, call.four_tuple)))
                self._append(json.dumps(["u", netns, call.four_tuple.hex()]))
                continue
            strange.calls.append(call)
            self._count += 1
            self._append(_line(netns, call))
        if self._count <= self._most:
            return 0
        dropped = self._count
        for each in list(self._strange):
            self.take(each)
        return dropped

    def _failed(self, strange: Strange, four_tuple: FourTuple) -> Caller | None:
        for call in reversed(strange.calls):
            if call.by == "connect" and call.four_tuple == four_tuple:
                strange.calls.remove(call)
                self._count -= 1
                return shared_by([call])
        return None

    def take(self, netns: int) -> Strange:
        """What waits of a namespace: it does not any more."""
        strange = self._strange.pop(netns, None)
        if strange is None:
            return Strange()
        self._count -= len(strange.calls)
        self._append(json.dumps(["u", netns]))
        return strange

    def take_of(self, four_tuple: FourTuple) -> tuple[int, list[Call]]:
        """The calls of a socket, and their namespace, where they wait in one alone: they do not any more."""
        having = [
            netns
            for netns, strange in self._strange.items()
            if any(call.four_tuple == four_tuple for call in strange.calls)
        ]
        if len(having) != 1:
            return 0, []
        [netns] = having
        taken = self._remove(netns, four_tuple)
        self._append(json.dumps(["u", netns, four_tuple.hex(), None]))
        return netns, taken

    def _remove(self, netns: int, four_tuple: FourTuple) -> list[Call]:
        strange = self._strange[netns]
        taken = [call for call in strange.calls if call.four_tuple == four_tuple]
        strange.calls = [call for call in strange.calls if call.four_tuple != four_tuple]
        self._count -= len(taken)
        return taken

    def over(self, before: float) -> list[int]:
        """The namespaces of which nothing was recorded since then (CLOCK_MONOTONIC, in seconds)."""
        return [netns for netns, strange in self._strange.items() if strange.last < before]

    def __iter__(self) -> Iterator[Call]:
        return (call for strange in self._strange.values() for call in strange.calls)

    def _append(self, line: str) -> None:
        if self._log is not None:
            self._log.append(line)

    # --- what outlives a restart -------------------------------------------------------------------------------------

    def clear(self) -> None:
        self._strange.clear()
        self._count = 0

    def records(self) -> Iterator[str]:
        for netns, strange in self._strange.items():
            for call in strange.calls:
                yield _line(netns, call)

    def load(self, record: Record) -> None:
        netns = int(record[1])
        if len(record) == 2:
            self._count -= len(self._strange.pop(netns, Strange()).calls)
            return
        strange, four_tuple = self._strange.setdefault(netns, Strange()), named(record[2])
        if len(record) == 3:
            self._failed(strange, four_tuple)
            return
        if record[3] is None:
            self._remove(netns, four_tuple)
            return
        call = loaded(four_tuple, *record[3])
        strange.calls.append(call)
        strange.last = call.time
        self._count += 1


def _line(netns: int, call: Call) -> str:
    return json.dumps(["u", netns, call.four_tuple.hex(), written(call)], separators=(",", ":"))
