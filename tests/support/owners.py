"""Every owner of a piece of state, on one state log: what a file gives them, and what they would write of it."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from tcpnewconn.attribution.calls import Calls
from tcpnewconn.health.observation import Observation
from tcpnewconn.model import FourTuple
from tcpnewconn.reporting.aggregation import Aggregation
from tcpnewconn.reporting.queue import Queue
from tcpnewconn.state.log import StateLog
from tcpnewconn.tracking.listeners import Listeners
from tcpnewconn.tracking.run import Notifications
from tcpnewconn.tracking.tracker import Tracker
from tcpnewconn.tracking.undecided import Undecided
from tests.support.sink import Kept


def nowhere(four_tuple: FourTuple) -> None:
    """The kernel has no such socket."""


class Owners:
    """As the program connects them."""

    def __init__(self, path: Path, place: str, socket: int = 77123, tail: Path | None = None) -> None:
        self.log = StateLog(str(path), place, tail_path=str(tail) if tail is not None else None)
        self.reported: list[object] = []
        self.tracker = Tracker(
            nowhere,
            lambda _: False,
            lambda outcome, _: self.reported.append(outcome),
            Notifications.KEPT,
            self.log,
            socket,
        )
        self.listeners = Listeners(log=self.log)
        self.aggregation = Aggregation(0, 0, self.log)
        self.queue = Queue(Kept(blocked=True), self.log)
        self.undecided = Undecided(self.log)
        self.observation = Observation(self.log)
        self.calls = Calls(0, 0.0, self.log)
        self.warning = self.log.load()

    def records(self) -> list[str]:
        """All that they would write, in no particular order."""
        tracker = self.tracker
        owners = (
            tracker.cursor,
            tracker.sockets,
            tracker._unaddressed,
            tracker.run,
            self.listeners,
            self.aggregation,
            self.queue,
            self.undecided,
            self.observation,
            self.calls,
        )
        return sorted(chain.from_iterable(owner.records() for owner in owners))
