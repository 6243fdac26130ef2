"""What the trace has recorded in other network namespaces: in each, for its observer; and in those that nobody has found yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from tcpnewconn.attribution.calls import Calls
from tcpnewconn.attribution.waiting import Strange, Waiting
from tcpnewconn.eventtypes import Event
from tcpnewconn.model import Call, Caller, FailedAttempt, FourTuple
from tcpnewconn.state.owner import Log

# Calls that are kept of each one.
_MOST = 16_384


class Reader(Protocol):
    """The part of recorder.Recorder that is used here."""

    @property
    def records(self) -> bool: ...

    @property
    def shows_failures(self) -> bool: ...

    def read(self) -> float: ...


class Recorded:
    """In one of them. It has the verbs of recorder.Recorder that an observer calls."""

    stale = False
    descriptors: Sequence[int] = ()

    def __init__(self, recorder: Reader, calls: Calls) -> None:
        self.calls = calls
        self.failed: list[tuple[FailedAttempt, Caller | None]] = []
        self._recorder = recorder

    @property
    def records(self) -> bool:
        return self._recorder.records

    @property
    def shows_failures(self) -> bool:
        """Whether attempts that fail are recorded, too: without them, a call alone is no connection."""
        return self._recorder.shows_failures

    def read(self) -> float:
        """As Recorder.read()."""
        return self._recorder.read()

    def settle(self) -> None:
        """Put on record what is left of what was read."""
        self.calls.settle()

    def polled(self, now: float, report: Callable[[Event], None]) -> None:
        """A poll that began now has been applied."""
        self.calls.polled(now)

    def look_after(self, now: float, report: Callable[[Event], None]) -> None:
        """The trace is looked after once."""

    def report_losses(self, now: float, last: bool, report: Callable[[Event], None]) -> None:
        """What was lost is reported once."""


class Elsewhere:
    """In all of them, by Call.netns. `host`: the calls in the host's, which know what was lost; `clock` is CLOCK_MONOTONIC.

    `waiting` has what was recorded in those that are not found yet.
    """

    def __init__(self, recorder: Reader, host: Calls, waiting: Waiting, clock: Callable[[], float]) -> None:
        self.waiting = waiting
        # Whether something was recorded in a namespace that is not known, and was not before.
        self.strange = False
        # How many calls of such namespaces were dropped, because there were too many.
        self.dropped = 0
        self._recorder = recorder
        self._host = host
        self._clock = clock
        self._found: dict[int, Recorded] = {}
        # Since when what is recorded in those that are not found is kept; None: it is not.
        self._since: float | None = None
        # Whether that goes on where the run before ended.
        self._continues = False
        # Those that something was added to since settle().
        self._added: set[int] = set()

    def resume(self) -> None:
        """The run before took what was recorded in them, too: what it left is loaded."""
        self._continues = True

    def take(self, wanted: bool) -> None:
        """Whether what is recorded in them is kept."""
        since = float("-inf") if self._continues else self._clock()
        self._since, self._continues = since if wanted else None, False
        if not wanted:
            self._found.clear()
            for netns in self.waiting.over(float("inf")):
                self.waiting.take(netns)

    @property
    def taken(self) -> bool:
        """Whether what is recorded in them is kept."""
        return self._since is not None

    # --- what is recorded --------------------------------------------------------------------------------------------

    def add(self, recorded: Iterable[Call | FailedAttempt], now: float) -> None:
        """Of what was recorded until now, keep what was in one of them."""
        if self._since is None:
            return
        by_netns: dict[int, list[Call | FailedAttempt]] = {}
        for call in recorded:
            if not self._host.are_of(call.netns):
                by_netns.setdefault(call.netns, []).append(call)
        for netns, calls in by_netns.items():
            one = self._found.get(netns)
            if one is not None:
                one.failed += one.calls.add(calls)
                if one.calls.notified:
                    self._added.add(netns)
                else:
                    # Of some of its connections nothing else will be known.
                    one.calls.settle()
                continue
            self.strange = self.strange or netns not in self.waiting
            if dropped := self.waiting.add(netns, calls):
                self.dropped += dropped
                self._since = now

    def settle(self) -> None:
        """Put on record what is left of what was added."""
        for netns in self._added:
            if netns in self._found:
                self._found[netns].calls.settle()
        self._added.clear()

    def lost(self, until: float) -> None:
        """As Calls.lost(), in those that are found."""
        for one in self._found.values():
            one.calls.lost(until)

    def calls(self) -> Iterator[Call]:
        """All that nobody has taken."""
        yield from self.waiting
        for one in self._found.values():
            yield from one.calls

    # --- for the observer of one -------------------------------------------------------------------------------------

    def of(self, netns: int, log: Log | None, born_after: float = float("-inf")) -> Recorded:
        """One was found: what is recorded in it from now on, and was before; `log` as in Calls.

        It was not there at `born_after`: what was lost before then was not its own.
        """
        since = self._clock() if self._since is None else self._since
        calls, strange = Calls(netns, since, log, _MOST, notified=False), self.waiting.take(netns)
        one = self._found[netns] = Recorded(self._recorder, calls)
        self._fill(one, strange, born_after)
        # It waits no longer: both on record at once.
        calls.settle()
        return one

    def ended(self, netns: int) -> Recorded:
        """What was recorded in one that nobody has found, and nobody will."""
        one = Recorded(self._recorder, Calls(netns, 0.0, notified=False))
        self._fill(one, self.waiting.take(netns))
        return one

    def lend(self, four_tuple: FourTuple) -> Recorded:
        """What was recorded of a socket in the only one that nobody has found yet; nothing where it can be of several."""
        netns, calls = self.waiting.take_of(four_tuple)
        one = Recorded(self._recorder, Calls(netns, float("-inf")))
        self._fill(one, Strange(calls))
        return one

    def forget(self, netns: int) -> None:
        self._found.pop(netns, None)

    def _fill(self, one: Recorded, strange: Strange, born_after: float = float("-inf")) -> None:
        if self._host.lost_until > born_after:
            one.calls.lost(self._host.lost_until)
        one.calls.add(strange.calls)
        one.failed += strange.failed
