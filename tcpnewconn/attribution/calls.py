"""Which connect() or accept() made a connection: recent calls as the kernel's trace recorded them, by 4-tuple and time. Pure.

Calls of one 4-tuple are distinguished by their order, never by likelihood:

- Each call is taken once. Calls are read after a notification or a poll came, and before it is applied: the call of what it shows
  is among those that are known by then.
- Of a socket that a poll shows, the last connect() before the poll is its own: until that socket is gone no other can have
  its 4-tuple.
- Of a socket that was destroyed, any call that no other connection has taken can be its own. Where that is one, it is sure. Where
  there are several, only what they agree on is said.
- A connect() that failed is dropped with its failure. Who accepts a connection that was reported before is not asked for
  again: that accept() is dropped, too.
- Where calls, or notifications, were lost, a call that is known could be taken for one that was lost. Of a socket that a poll
  shows, the last connect() before the poll is its own if it is newer than all that was lost; so it is of the other end of a
  connection, where the poll shows both. Of a socket that was destroyed, nothing is said until a poll that began after the loss
  has shown those that were open, and the notifications of the others have come.

- A connection that was never accepted is destroyed when its listener is closed, and the kernel has cleared its addresses then
  (Linux 6.18: established, closed by the peer, reset, with data, on one address or all). So a cleared socket never takes an
  accept(): that can be another's. One whose addresses are there was accepted, or opened here.

Cookies would be an exact join: the tracepoint tcp_destroy_sock has the address of the socket's memory and the cookie of its
notification. It is not used. To decode one more record for each socket, and to look it up, takes 1.2 us at least (Linux 6.18):
an attributed connection would cost 1.42 times one that is not, with two sockets 1.49, where it is 1.35 now and 1.4 is the limit.
The service would see the kernel's addresses. It would name the thread of connections that are ambiguous today, whose ports were
used again before their notification was read; it would take nothing back that is wrong.

What can still go wrong: after SIGKILL, the calls that were read and not yet recorded are missing, those of some milliseconds; of
half a second on a starved machine. If another connection opens on the same two ports, and its call is read before the
notification of the first was, that would be taken for the first's. And a call that was lost, whose connection was still in
SYN_SENT at the poll after the loss, followed by another on its ports within the time of a notification.

Record r is its own: calls that no connection has taken by the end of a batch of notifications, so that a restart finds them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator

from tcpnewconn.attribution.found import AMBIGUOUS, NOT_RECORDED, OVERWRITTEN, Found, loaded, shared_by, written
from tcpnewconn.model import Call, Caller, FailedAttempt, FourTuple, Missing, mirrored, named
from tcpnewconn.state.log import Log, Record

# Calls that are kept, about 400 bytes each; with more, the oldest half is dropped.
_MOST = 32_768
# Sockets whose accept() is still to come.
_MOST_LATER = 8_192
# Seconds that a connect() may take (tcp_syn_retries 6: 127 s). One that two polls later is older is of no connection any more.
_OLDEST = 150.0
# Seconds until a connection that was reported is accepted, if ever.
_LATEST_ACCEPT = 600.0
# Destroy notifications are some milliseconds late; on a starved machine more, and not more than so many seconds.
_LATE = 2.0
# tcpi_last_ack_recv is counted in ticks of the kernel. In a virtual machine whose host is busy they come late, several at once:
# what was acknowledged in the meantime seems to be older than it is, by not more than so many seconds.
_TICKS_LATE = 1.0
# Beyond so many calls it costs too much to look for one without its whole 4-tuple.
_MOST_SEARCHED = 2_000


class Calls:
    """The calls that no connection has taken yet. All times are CLOCK_MONOTONIC, in seconds.

    `netns` is the network namespace whose connections are asked about, as in Call. Before `since` nobody took calls, unless the
    log says so. `notified`: destroy notifications show the connections that no poll shows; where there are none, each call that
    is left() is a connection of its own.
    """

    def __init__(
        self, netns: int, since: float, log: Log | None = None, most: int = _MOST, notified: bool = True
    ) -> None:
        self.notified = notified
        self._netns = netns
        self._most = most
        self._calls: dict[FourTuple, list[Call]] = {}
        self._count = 0
        # Of 4-tuples with several candidates: how many connections have taken one of them, whichever.
        self._taken: dict[FourTuple, int] = {}
        # Sockets that were reported before they were accepted, and when.
        self._later: dict[FourTuple, float] = {}
        # When the last poll began, and the one before.
        self._polled = self._polled_before = float("-inf")
        # Before this time calls may be missing; infinite while they are.
        self._lost_until = float("-inf")
        # Notifications until then may be of connections whose calls were lost, or are from before the start. Infinite until a
        # poll has shown what was open at `_lost_until`.
        self._unsure = since + _LATE
        self._since = since
        # How many calls left() has dropped, because it is not known whether they made a connection.
        self.uncertain = 0
        self._log = log
        # 4-tuples of which something has changed since settle(); those that are on record.
        self._changed: set[FourTuple] = set()
        self._written: set[FourTuple] = set()
        if log is not None:
            log.register("r", self)

    def resume(self) -> None:
        """Continue where the run before ended: its calls are loaded."""
        self._since = float("-inf")
        if self._lost_until == float("-inf"):
            self._unsure = self._since

    def __len__(self) -> int:
        return self._count

    def __contains__(self, four_tuple: FourTuple) -> bool:
        return four_tuple in self._calls

    def are_of(self, netns: int) -> bool:
        """Whether calls of this network namespace are taken."""
        return netns == self._netns

    # --- what comes in -----------------------------------------------------------------------------------------------

    def add(self, calls: Iterable[Call | FailedAttempt]) -> list[tuple[FailedAttempt, Caller | None]]:
        """Take what was recorded, in order of time; the attempts of this namespace that failed, each with who made it."""
        failed: list[tuple[FailedAttempt, Caller | None]] = []
        for call in calls:
            if call.netns != self._netns:
                continue
            four_tuple = call.four_tuple
            if isinstance(call, FailedAttempt):
                failed.append((call, self._failed(call)))
                continue
            self._changed.add(four_tuple)
            if self._later and call.by == "accept" and self._later.pop(four_tuple, None) is not None:
                continue
            known = self._calls.get(four_tuple)
            if known is None:
                self._calls[four_tuple] = [call]
            else:
                known.append(call)
            self._count += 1
        if self._count > self._most:
            self._drop_oldest()
        return failed

    def _failed(self, failed: FailedAttempt) -> Caller | None:
        """The caller of an attempt that failed: the last connect() before."""
        four_tuple = failed.four_tuple
        for call in reversed(self._calls.get(four_tuple, ())):
            if call.by == "connect" and call.time <= failed.time:
                self._remove(four_tuple, call)
                return shared_by([call]) if call.time > self._lost_until else None
        return None

    def lost(self, until: float) -> None:
        """Calls, or destroy notifications, of before this time were lost. Infinite: from now on, until it is called again."""
        until = until if self.losing else max(until, self._lost_until)
        if until == self._lost_until:
            return
        self._lost_until, self._unsure = until, float("inf")
        if self._log is not None:
            self._log.append(self._loss())

    @property
    def lost_until(self) -> float:
        """Before this time calls may be missing; infinite while they are."""
        return self._lost_until

    @property
    def losing(self) -> bool:
        """Whether calls are missing until lost() says until when they were."""
        return self._lost_until == float("inf")

    @property
    def wants_poll(self) -> bool:
        """Whether the next poll will say which connections the last loss does not concern."""
        return self._unsure == float("inf") and not self.losing

    def are_whole(self, now: float) -> bool:
        """Whether none is missing that can be of a socket that is destroyed now."""
        return now >= self._unsure

    def polled(self, begin: float) -> None:
        """A poll that began at that time has been applied, and all notifications that were there before."""
        oldest = min(begin - _OLDEST, self._polled_before)
        for four_tuple in [one for one, calls in self._calls.items() if calls[0].time < oldest]:
            rest = [call for call in self._calls[four_tuple] if call.time >= oldest]
            self._count -= len(self._calls[four_tuple]) - len(rest)
            self._taken.pop(four_tuple, None)
            self._changed.add(four_tuple)
            if rest:
                self._calls[four_tuple] = rest
            else:
                del self._calls[four_tuple]
        for four_tuple in [one for one, since in self._later.items() if since <= begin - _LATEST_ACCEPT]:
            del self._later[four_tuple]
            self._changed.add(four_tuple)
        self._polled_before, self._polled = self._polled, begin
        if self._unsure == float("inf") and begin >= self._lost_until:
            self._unsure = begin + _LATE
            if self._log is not None:
                self._log.append(self._loss())

    def _drop_oldest(self) -> None:
        """Drop the oldest half. What they belong to is not known then, as if they had not been read."""
        times = sorted(call.time for calls in self._calls.values() for call in calls)
        oldest = times[len(times) // 2]
        self._calls = {
            four_tuple: rest
            for four_tuple, calls in self._calls.items()
            if (rest := [call for call in calls if call.time >= oldest])
        }
        self._taken = {one: count for one, count in self._taken.items() if one in self._calls}
        self._changed |= self._written - self._calls.keys()
        self._count = sum(map(len, self._calls.values()))
        self.lost(oldest)

    # --- a connection ------------------------------------------------------------------------------------------------

    def destroyed(self, four_tuple: FourTuple, internal: bool, now: float, idle: float) -> Found:
        """The calls of a connection that no poll has shown, one of whose sockets was destroyed.

        Its peer had acknowledged nothing for `idle` seconds: it was connected before.
        """
        if not internal and now >= self._unsure and four_tuple not in self._taken:
            # As most are: one call or none.
            known = self._calls.get(four_tuple)
            if known is None:
                return NOT_RECORDED
            if len(known) == 1 and self._can_be_of_destroyed(known[0], now - idle + _TICKS_LATE):
                return self._without_old(self._decided(four_tuple, known, four_tuple, []))
        here = self._of_destroyed(four_tuple, now - idle + _TICKS_LATE)
        other = mirrored(four_tuple) if internal else four_tuple
        there = self._of_destroyed(other, now) if other != four_tuple else []
        found = self._decided(four_tuple, here, other, there)
        if (unsure := self._unsure_because(now)) is not None:
            return unsure
        found = self._without_old(found)
        if found.accepted_here is False and other != four_tuple and not any(call.by == "accept" for call in there):
            self._accepted_later(other, now)
        return found

    def _of_destroyed(self, four_tuple: FourTuple, latest: float) -> list[Call]:
        """The calls that can be of a destroyed socket that no poll has shown, and that was connected by `latest`."""
        calls = self._calls.get(four_tuple)
        if calls is None:
            return []
        if four_tuple in self._taken:
            # Of these some are taken already, whichever.
            return list(calls)
        return [call for call in calls if self._can_be_of_destroyed(call, latest)]

    def _can_be_of_destroyed(self, call: Call, latest: float) -> bool:
        # A socket whose peer acknowledged nothing since the last poll, and that is not in it, was reset before: no call since
        # then is its own. Other than that, accept() can come later than all that the peer acknowledged.
        return call.time <= latest or (call.by == "accept" and latest >= self._polled)

    def _without_old(self, found: Found) -> Found:
        """Of a destroyed socket that no poll has shown: what was accepted before the last two would have been shown.

        Unless it had been reset; or this one was never accepted, and that accept() was another's.
        """
        accepted = found.accepted
        if accepted is None or accepted.time is None or accepted.time >= self._polled_before:
            return found
        return found._replace(accepted=None, missing="ambiguous")

    def _unsure_because(self, now: float) -> Found | None:
        if self.are_whole(now):
            return None
        return OVERWRITTEN if self._lost_until > float("-inf") else NOT_RECORDED

    def unaddressed(self, four_tuple: FourTuple, now: float, idle: float) -> Found:
        """The calls of a destroyed socket whose remote port the kernel has cleared, and maybe its local address."""
        if (unsure := self._unsure_because(now)) is not None:
            return unsure
        if len(self._calls) > _MOST_SEARCHED:
            return AMBIGUOUS
        half = len(four_tuple) // 2
        port, remote = four_tuple[half - 2 : half], four_tuple[half:-2]
        local = four_tuple[: half - 2]
        anywhere = not any(local)
        matching = [
            one
            for one in self._calls
            if len(one) == 2 * half
            and one[half - 2 : half] == port
            and one[half:-2] == remote
            and (anywhere or one[: half - 2] == local)
        ]
        if not matching:
            return NOT_RECORDED
        if len(matching) > 1:
            # It is one of them, whichever: all stay candidates of other connections.
            return AMBIGUOUS
        (whole,) = matching
        if any(call.by == "accept" for call in self._calls[whole]):
            return AMBIGUOUS
        found = self._without_old(self._decided(whole, self._of_destroyed(whole, now - idle + _TICKS_LATE), whole, []))
        return found._replace(four_tuple=whole) if found.accepted_here is not None else found

    def shown(
        self,
        four_tuple: FourTuple,
        internal: bool,
        begin: float,
        end: float,
        accepted: bool,
        now: float,
        connected: Callable[[FourTuple], bool] = lambda _: False,
    ) -> Found:
        """The calls of a connection that a poll shows; it began at that time, and the socket was not looked up after `end`.

        `accepted`: whether its socket belongs to a process, or did: else accept() is still to come, if it is the acceptor's.
        `connected`: whether the poll shows a socket there that has connected.
        """
        other = mirrored(four_tuple) if internal else four_tuple
        if not accepted:
            # The call is recorded before the socket gets its inode: it can be older than the poll, not than its connect().
            connects = [call.time for call in self._calls.get(other, ()) if call.by == "connect" and call.time <= begin]
            self._not_accepted_at(max(connects, default=begin), four_tuple, now)
        lost = self._lost_until
        # Otherwise every connection that was open at the loss was in a poll before.
        unsure = lost > self._polled
        own = self._own(four_tuple, end, accepted)
        if unsure and not (own and own[0].time <= begin):
            # Its own may be one of those that were lost.
            there = self._own(other, end, False) if other != four_tuple and connected(other) else []
            if there and there[0].time <= begin:
                # But not that of the other end, which is in the poll, too.
                accepts = [call for call in own if call.by == "accept"]
                if accepted and not accepts:
                    self._not_accepted_at(there[-1].time, four_tuple, now)
                return self._decided(four_tuple, accepts, other, there if there[-1].time > begin else there[-1:])
            return self._unknown_of(four_tuple, other, OVERWRITTEN)
        if own and own[-1].time > begin:
            # It may have come after the row was read.
            here = own
            if own[0].time > begin and begin < self._since + _LATE:
                # Another can have stood there at the start.
                return self._unknown_of(four_tuple, other, AMBIGUOUS)
        else:
            here = own[-1:]
        latest = begin if unsure else end
        there = (
            [call for call in self._calls.get(other, ()) if lost < call.time <= latest] if other != four_tuple else []
        )
        found = self._decided(four_tuple, here, other, there)
        if (
            accepted
            and found.accepted_here is False
            and other != four_tuple
            and not any(call.by == "accept" for call in there)
        ):
            self._not_accepted_at(latest, other, now)
        return found

    def _own(self, four_tuple: FourTuple, end: float, accepted: bool) -> list[Call]:
        """The calls until then that can be a shown socket's own."""
        lost = self._lost_until
        calls = self._calls.get(four_tuple, ())
        return [call for call in calls if lost < call.time <= end and (call.by == "connect" or accepted)]

    def _not_accepted_at(self, begin: float, four_tuple: FourTuple, now: float) -> None:
        """A socket that waited for accept() then was reported: that call is dropped, be it still to come or known already."""
        known = [call for call in self._calls.get(four_tuple, ()) if call.by == "accept" and call.time > begin]
        if known:
            self._remove(four_tuple, known[0])
        else:
            self._accepted_later(four_tuple, now)

    def _unknown_of(self, four_tuple: FourTuple, other: FourTuple, found: Found) -> Found:
        """A connection is reported without its calls: where others are connections of their own, they are taken all the same."""
        if not self.notified:
            for name in {four_tuple, other}:
                self._take(name, list(self._calls.get(name, ())))
        return found

    def left(
        self, stands: Callable[[FourTuple], bool], internal: Callable[[FourTuple], bool], last: bool = False
    ) -> Iterator[tuple[FourTuple, Found]]:
        """The connections that neither of the two last polls has shown, although they began after the call: one by one.

        They were opened and closed in between. `stands`: whether the last poll has a row there, where connect() waits for its
        answer. With `last`, no further poll comes. The calls of each are taken.
        """
        until = float("inf") if last else self._polled_before
        for by in ("connect", "accept"):
            # Of a connection within the namespace: both, before the other end's own turn comes.
            for four_tuple in [one for one, calls in self._calls.items() if any(call.time < until for call in calls)]:
                for call in [one for one in self._calls.get(four_tuple, ()) if one.by == by and one.time < until]:
                    known = self._calls.get(four_tuple, ())
                    if call not in known or stands(four_tuple):
                        continue
                    if call.time <= self._lost_until:
                        # That it failed may be among what was lost.
                        self._remove(four_tuple, call)
                        self.uncertain += 1
                        continue
                    caller = shared_by(list(known) if four_tuple in self._taken else [call])
                    self._remove(four_tuple, call)
                    if by == "accept":
                        yield four_tuple, Found(None, caller, True)
                        continue
                    other = mirrored(four_tuple)
                    accepts = self._accepts_after(call, other) if internal(four_tuple) and other != four_tuple else []
                    self._take(other, accepts)
                    yield four_tuple, Found(caller, shared_by(accepts) if len(accepts) == 1 else None, False)

    def _accepts_after(self, call: Call, four_tuple: FourTuple) -> list[Call]:
        return [one for one in self._calls.get(four_tuple, ()) if one.by == "accept" and one.time > call.time]

    def closed(self, four_tuple: FourTuple) -> None:
        """A socket of a reported connection was destroyed: nobody will accept it."""
        if self._later and self._later.pop(four_tuple, None) is not None:
            self._changed.add(four_tuple)

    def _accepted_later(self, four_tuple: FourTuple, now: float) -> None:
        self._later[four_tuple] = now
        self._changed.add(four_tuple)
        if len(self._later) > _MOST_LATER:
            oldest = next(iter(self._later))
            del self._later[oldest]
            self._changed.add(oldest)

    def _decided(self, here_name: FourTuple, here: list[Call], there_name: FourTuple, there: list[Call]) -> Found:
        """From the candidates at both ends; they are taken."""
        if not here and not there:
            return NOT_RECORDED
        if len(here) == 1 and not there and here_name not in self._taken:
            # As most are.
            (call,) = here
            self._remove(here_name, call)
            caller = Caller(call.by, call.uid, call.cgroup, call.thread_id, call.thread_name, call.time)
            if call.by == "connect":
                return Found(caller, None, False)
            return Found(None, caller, True)
        opened_here = any(call.by == "connect" for call in here) or any(call.by == "accept" for call in there)
        opened_there = any(call.by == "accept" for call in here) or any(call.by == "connect" for call in there)
        if opened_here == opened_there:
            self._take(here_name, here)
            self._take(there_name, there)
            return AMBIGUOUS
        connects, accepts = (here, there) if opened_here else (there, here)
        names = (here_name, there_name) if opened_here else (there_name, here_name)
        opened = accepted = None
        missing: Missing | None = None
        if len(connects) > 1:
            missing = "ambiguous"
        if connects:
            opened = shared_by(connects)
            self._take(names[0], connects)
            # It is accepted after it was opened.
            accepts = [call for call in accepts if call.time > connects[0].time]
        if accepts:
            if len(accepts) > 1:
                missing = "ambiguous"
            if len(connects) <= 1:
                accepted = shared_by(accepts)
            self._take(names[1], accepts)
        return Found(opened, accepted, not opened_here, missing)

    # --- what is taken -----------------------------------------------------------------------------------------------

    def _take(self, four_tuple: FourTuple, candidates: list[Call]) -> None:
        """One of the candidates is a connection's, whichever; once all are, they are gone."""
        if len(candidates) == 1:
            self._remove(four_tuple, candidates[0])
            return
        if not candidates:
            return
        self._changed.add(four_tuple)
        taken = self._taken.get(four_tuple, 0) + 1
        if taken < len(self._calls[four_tuple]):
            self._taken[four_tuple] = taken
            return
        self._taken.pop(four_tuple, None)
        self._count -= len(self._calls.pop(four_tuple))

    def _remove(self, four_tuple: FourTuple, call: Call) -> None:
        self._changed.add(four_tuple)
        calls = self._calls[four_tuple]
        if len(calls) > self._taken.get(four_tuple, 0) + 1:
            calls.remove(call)
            self._count -= 1
            return
        self._count -= len(calls)
        del self._calls[four_tuple]
        self._taken.pop(four_tuple, None)

    # --- what outlives a restart -------------------------------------------------------------------------------------

    def settle(self) -> None:
        """A batch of notifications, or a poll, has been applied: put on record what is left."""
        changed, on_record, log = self._changed, self._written, self._log
        if log is not None:
            for four_tuple in changed:
                if four_tuple in self._calls or four_tuple in self._later:
                    log.append(self._line(four_tuple))
                    on_record.add(four_tuple)
                elif four_tuple in on_record:
                    log.append(f'["r","{four_tuple.hex()}"]')
                    on_record.discard(four_tuple)
        changed.clear()

    def _line(self, four_tuple: FourTuple) -> str:
        calls = [written(call) for call in self._calls.get(four_tuple, ())]
        later, taken = self._later.get(four_tuple), self._taken.get(four_tuple, 0)
        return json.dumps(["r", four_tuple.hex(), later, taken, calls], separators=(",", ":"))

    def _loss(self) -> str:
        """Until when calls were lost, and notifications are unsure; null for both: still."""
        times = (None if time == float("inf") else time for time in (self._lost_until, self._unsure))
        return json.dumps(["r", *times], separators=(",", ":"))

    def records(self) -> Iterator[str]:
        if self._lost_until > float("-inf"):
            yield self._loss()
        self._changed.clear()
        self._written = {*self._calls, *self._later}
        yield from map(self._line, self._written)

    def load(self, record: Record) -> None:
        if not isinstance(record[1], str):
            _, until, unsure = record
            self._lost_until = float("inf") if until is None else float(until)
            self._unsure = float("inf") if unsure is None else float(unsure)
            return
        four_tuple = named(record[1])
        self._count -= len(self._calls.pop(four_tuple, ()))
        self._taken.pop(four_tuple, None)
        self._later.pop(four_tuple, None)
        self._written.discard(four_tuple)
        if len(record) == 2:
            return
        _, _, later, taken, calls = record
        self._written.add(four_tuple)
        if later is not None:
            self._later[four_tuple] = float(later)
        if calls:
            self._calls[four_tuple] = [loaded(four_tuple, *call) for call in calls]
            self._count += len(calls)
            if taken:
                self._taken[four_tuple] = int(taken)

    def clear(self) -> None:
        for state in (self._calls, self._taken, self._later, self._written):
            state.clear()
        self._count = 0
        self._lost_until = float("-inf")
        self._unsure = self._since + _LATE

    def __iter__(self) -> Iterator[Call]:
        return (call for calls in self._calls.values() for call in calls)
