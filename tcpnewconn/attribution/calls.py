"""The recorded calls of connect() and accept() that no connection has taken yet; and until when some were lost. Pure.

callers.py says which of them made a connection.

Record r is its own: calls that no connection has taken by the end of a batch of notifications, so that a restart finds them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from tcpnewconn.attribution.found import loaded, shared_by, written
from tcpnewconn.model import Call, Caller, FailedAttempt, FourTuple, named
from tcpnewconn.state.owner import Log, Record

# Calls that are kept, about 400 bytes each; with more, the oldest half is dropped.
_MOST = 32_768
# Sockets whose accept() is still to come.
_MOST_LATER = 8_192
# Seconds that a connect() may take (tcp_syn_retries 6: 127 s). One that two polls later is older is of no connection any more.
_OLDEST = 150.0
# Seconds until a connection that was reported is accepted, if ever.
_LATEST_ACCEPT = 600.0
# Destroy notifications are some milliseconds late; on a starved machine more, and not more than so many seconds.
LATE = 2.0


class Calls:
    """The calls that no connection has taken yet. All times are CLOCK_MONOTONIC, in seconds.

    `netns` is the network namespace whose connections are asked about, as in Call. Before `since` nobody took calls, unless the
    log says so. `notified`: destroy notifications show the connections that no poll shows; where there are none, each call that
    is left over (left.left()) is a connection of its own.

    The attributes are for callers.py to read; only the verbs change them.
    """

    def __init__(
        self, netns: int, since: float, log: Log | None = None, most: int = _MOST, notified: bool = True
    ) -> None:
        self.notified = notified
        self._netns = netns
        self._most = most
        # In order of time.
        self.by_four_tuple: dict[FourTuple, list[Call]] = {}
        self._count = 0
        # Of 4-tuples with several candidates: how many connections have taken one of them, whichever.
        self.taken: dict[FourTuple, int] = {}
        # Sockets that were reported before they were accepted, and when.
        self._later: dict[FourTuple, float] = {}
        # When the last poll began, and the one before.
        self.last_poll = self.poll_before = float("-inf")
        # Before this time calls may be missing; infinite while they are.
        self.lost_until = float("-inf")
        # Notifications until then may be of connections whose calls were lost, or are from before the start. Infinite until a
        # poll has shown what was open at `lost_until`.
        self.unsure_until = since + LATE
        self.since = since
        # How many calls were dropped because it is not known whether they made a connection.
        self.uncertain = 0
        self._log = log
        # 4-tuples of which something has changed since settle(); those that are on record.
        self._changed: set[FourTuple] = set()
        self._written: set[FourTuple] = set()
        if log is not None:
            log.register("r", self)

    def resume(self) -> None:
        """Continue where the run before ended: its calls are loaded."""
        self.since = float("-inf")
        if self.lost_until == float("-inf"):
            self.unsure_until = self.since

    def __len__(self) -> int:
        return self._count

    def __contains__(self, four_tuple: FourTuple) -> bool:
        return four_tuple in self.by_four_tuple

    def are_of(self, netns: int) -> bool:
        """Whether calls of this network namespace are taken."""
        return netns == self._netns

    # --- what comes in -----------------------------------------------------------------------------------------------

    def add(self, calls: Iterable[Call | FailedAttempt]) -> list[tuple[FailedAttempt, Caller | None]]:
        """Take what was recorded, in order of time; the attempts of this namespace that failed, each with who made it."""
        failed: list[tuple[FailedAttempt, Caller | None]] = []
        by_four_tuple, changed, netns = self.by_four_tuple, self._changed, self._netns
        for call in calls:
            if isinstance(call, FailedAttempt):
                if call.netns == netns:
                    failed.append((call, self._failed(call)))
                continue
            if call.origin.netns != netns:
                continue
            four_tuple = call.four_tuple
            changed.add(four_tuple)
            if self._later and call.by == "accept" and self._later.pop(four_tuple, None) is not None:
                continue
            known = by_four_tuple.setdefault(four_tuple, new := [call])
            if known is not new:
                known.append(call)
            self._count += 1
        if self._count > self._most:
            self._drop_oldest()
        return failed

    def _failed(self, failed: FailedAttempt) -> Caller | None:
        """The caller of an attempt that failed: the last connect() before."""
        four_tuple = failed.four_tuple
        for call in reversed(self.by_four_tuple.get(four_tuple, ())):
            if call.by == "connect" and call.time <= failed.time:
                self.remove(four_tuple, call)
                return shared_by([call]) if call.time > self.lost_until else None
        return None

    def lost(self, until: float) -> None:
        """Calls, or destroy notifications, of before this time were lost. Infinite: from now on, until it is called again."""
        until = until if self.losing else max(until, self.lost_until)
        if until == self.lost_until:
            return
        self.lost_until, self.unsure_until = until, float("inf")
        if self._log is not None:
            self._log.append(self._loss())

    @property
    def losing(self) -> bool:
        """Whether calls are missing until lost() says until when they were."""
        return self.lost_until == float("inf")

    @property
    def wants_poll(self) -> bool:
        """Whether the next poll will say which connections the last loss does not concern."""
        return self.unsure_until == float("inf") and not self.losing

    def are_whole(self, now: float) -> bool:
        """Whether none is missing that can be of a socket that is destroyed now."""
        return now >= self.unsure_until

    def polled(self, begin: float) -> None:
        """A poll that began at that time has been applied, and all notifications that were there before."""
        oldest = min(begin - _OLDEST, self.poll_before)
        for four_tuple in [one for one, calls in self.by_four_tuple.items() if calls[0].time < oldest]:
            rest = [call for call in self.by_four_tuple[four_tuple] if call.time >= oldest]
            self._count -= len(self.by_four_tuple[four_tuple]) - len(rest)
            self.taken.pop(four_tuple, None)
            self._changed.add(four_tuple)
            if rest:
                self.by_four_tuple[four_tuple] = rest
            else:
                del self.by_four_tuple[four_tuple]
        for four_tuple in [one for one, since in self._later.items() if since <= begin - _LATEST_ACCEPT]:
            del self._later[four_tuple]
            self._changed.add(four_tuple)
        self.poll_before, self.last_poll = self.last_poll, begin
        if self.unsure_until == float("inf") and begin >= self.lost_until:
            self.unsure_until = begin + LATE
            if self._log is not None:
                self._log.append(self._loss())

    def _drop_oldest(self) -> None:
        """Drop the oldest half. What they belong to is not known then, as if they had not been read."""
        times = sorted(call.time for calls in self.by_four_tuple.values() for call in calls)
        oldest = times[len(times) // 2]
        self.by_four_tuple = {
            four_tuple: rest
            for four_tuple, calls in self.by_four_tuple.items()
            if (rest := [call for call in calls if call.time >= oldest])
        }
        self.taken = {one: count for one, count in self.taken.items() if one in self.by_four_tuple}
        self._changed |= self._written - self.by_four_tuple.keys()
        self._count = sum(map(len, self.by_four_tuple.values()))
        self.lost(oldest)

    # --- a connection ------------------------------------------------------------------------------------------------

    def closed(self, four_tuple: FourTuple) -> None:
        """A socket of a reported connection was destroyed: nobody will accept it."""
        if self._later and self._later.pop(four_tuple, None) is not None:
            self._changed.add(four_tuple)

    def accepted_later(self, four_tuple: FourTuple, now: float) -> None:
        """A connection was reported before it was accepted: that call is to be dropped."""
        self._later[four_tuple] = now
        self._changed.add(four_tuple)
        if len(self._later) > _MOST_LATER:
            oldest = next(iter(self._later))
            del self._later[oldest]
            self._changed.add(oldest)

    # --- what is taken -----------------------------------------------------------------------------------------------

    def take(self, four_tuple: FourTuple, candidates: list[Call]) -> None:
        """One of the candidates is a connection's, whichever; once all are, they are gone."""
        if len(candidates) == 1:
            self.remove(four_tuple, candidates[0])
            return
        if not candidates:
            return
        self._changed.add(four_tuple)
        taken = self.taken.get(four_tuple, 0) + 1
        if taken < len(self.by_four_tuple[four_tuple]):
            self.taken[four_tuple] = taken
            return
        self.taken.pop(four_tuple, None)
        self._count -= len(self.by_four_tuple.pop(four_tuple))

    def remove(self, four_tuple: FourTuple, call: Call) -> None:
        """A call is a connection's."""
        self._changed.add(four_tuple)
        calls = self.by_four_tuple[four_tuple]
        if len(calls) > self.taken.get(four_tuple, 0) + 1:
            calls.remove(call)
            self._count -= 1
            return
        self._count -= len(calls)
        del self.by_four_tuple[four_tuple]
        self.taken.pop(four_tuple, None)

    def take_only(self, four_tuple: FourTuple) -> None:
        """The one call of a 4-tuple, of which nothing has been taken, is a connection's."""
        del self.by_four_tuple[four_tuple]
        self._count -= 1
        self._changed.add(four_tuple)

    def drop(self, four_tuple: FourTuple, call: Call) -> None:
        """It is not known whether a call made a connection."""
        self.remove(four_tuple, call)
        self.uncertain += 1

    # --- what outlives a restart -------------------------------------------------------------------------------------

    def settle(self) -> None:
        """A batch of notifications, or a poll, has been applied: put on record what is left."""
        changed, on_record, log = self._changed, self._written, self._log
        if log is not None:
            for four_tuple in changed:
                if four_tuple in self.by_four_tuple or four_tuple in self._later:
                    log.append(self._line(four_tuple))
                    on_record.add(four_tuple)
                elif four_tuple in on_record:
                    log.append(f'["r","{four_tuple.hex()}"]')
                    on_record.discard(four_tuple)
        changed.clear()

    def _line(self, four_tuple: FourTuple) -> str:
        calls = [written(call) for call in self.by_four_tuple.get(four_tuple, ())]
        later, taken = self._later.get(four_tuple), self.taken.get(four_tuple, 0)
        return json.dumps(["r", four_tuple.hex(), later, taken, calls], separators=(",", ":"))

    def _loss(self) -> str:
        """Until when calls were lost, and notifications are unsure; null for both: still."""
        times = (None if time == float("inf") else time for time in (self.lost_until, self.unsure_until))
        return json.dumps(["r", *times], separators=(",", ":"))

    def records(self) -> Iterator[str]:
        if self.lost_until > float("-inf"):
            yield self._loss()
        self._changed.clear()
        self._written = {*self.by_four_tuple, *self._later}
        yield from map(self._line, self._written)

    def load(self, record: Record) -> None:
        if not isinstance(record[1], str):
            _, until, unsure = record
            self.lost_until = float("inf") if until is None else float(until)
            self.unsure_until = float("inf") if unsure is None else float(unsure)
            return
        four_tuple = named(record[1])
        self._count -= len(self.by_four_tuple.pop(four_tuple, ()))
        self.taken.pop(four_tuple, None)
        self._later.pop(four_tuple, None)
        self._written.discard(four_tuple)
        if len(record) == 2:
            return
        _, _, later, taken, calls = record
        self._written.add(four_tuple)
        if later is not None:
            self._later[four_tuple] = float(later)
        if calls:
            self.by_four_tuple[four_tuple] = [loaded(four_tuple, *call) for call in calls]
            self._count += len(calls)
            if taken:
                self.taken[four_tuple] = int(taken)

    def clear(self) -> None:
        for state in (self.by_four_tuple, self.taken, self._later, self._written):
            state.clear()
        self._count = 0
        self.lost_until = float("-inf")
        self.unsure_until = self.since + LATE

    def __iter__(self) -> Iterator[Call]:
        return (call for calls in self.by_four_tuple.values() for call in calls)
