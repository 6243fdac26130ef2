"""Look-ups of sockets of one network namespace: each by itself, or many by one dump while a poll is applied."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from tcpnewconn.kernel.lookup import Lookup
from tcpnewconn.kernel.procnet import Poll
from tcpnewconn.model import FourTuple, SocketInfo
from tcpnewconn.tracking.answers import Answers

# Where a poll shows so many new rows, and at least this share of all are new, all sockets are asked for at once: that takes a
# third of the time that asking for one takes, for each that there is (measured).
_MANY, _SHARE = 1000, 0.25


class Lookups:
    """`lookup` asks the kernel, where there is one; `internal` as in Tracker."""

    def __init__(self, lookup: Lookup | None, internal: Callable[[FourTuple], bool]) -> None:
        # Whether the kernel can be asked.
        self.possible = lookup is not None
        # While the rows of a poll are applied, where many of them are new.
        self.answers: Answers | None = None
        self._lookup = lookup
        self._internal = internal

    def socket(self, four_tuple: FourTuple) -> SocketInfo | None:
        """The socket of a 4-tuple, as the kernel has it now, or had it since the tables were read."""
        if self.answers is not None and (answer := self.answers.about(four_tuple)) is not None:
            return answer
        return self._lookup.socket_info(four_tuple) if self._lookup is not None else None

    def opened_here(self, four_tuple: FourTuple) -> bool | None:
        """Whether the open socket of a 4-tuple opened its connection, or accepted it; None where that is undecided."""
        return self._lookup.opened_here(four_tuple) if self._lookup is not None else None

    def poll_begins(self, poll: Poll, new: int) -> None:
        """A poll in which so many rows are new is applied now: ask for all sockets where that takes less time."""
        if self._lookup is None or new < max(_MANY, poll.count * _SHARE):
            return
        with suppress(OSError):
            self.answers = Answers(poll.inodes(), self._lookup.established(), self._internal)

    def poll_ends(self) -> None:
        """The rows of the poll have been applied."""
        self.answers = None
