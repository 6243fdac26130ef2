"""Between the events and where they are written: bounded, and nothing is lost while the sink has no room or in a crash.

Entries of a read are written down before they are sent: /proc will not show them again. An announced end stays in the
kernel's buffer until its entry was sent, or written down, or it was counted in a group that is; where that buffer goes with
the program, its entry is written down first too.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from tcpnewconn.health.counters import Counters
from tcpnewconn.model import Closed, Connection, Event, Listener, Loss, PortScan
from tcpnewconn.reporting.aggregation import Aggregation, RateLimit
from tcpnewconn.reporting.entries import Renderer
from tcpnewconn.reporting.fields import Entry
from tcpnewconn.reporting.portscan import PortScans
from tcpnewconn.reporting.sinks import Sink
from tcpnewconn.settings.config import Settings
from tcpnewconn.settings.ignore import ignored
from tcpnewconn.state.kept import Kept
from tcpnewconn.state.snapshot import Snapshot

# So many entries wait for the sink; then connections are counted, and told when there is room again.
_MOST_WAITING = 10_000
# So many entries of a read are written down and sent at a time.
_BATCH = 500
# Seconds between two loss events of one kind.
_LOSS_EVERY = 60.0


class Outbox:
    """Sends the events that the settings want, in their order; folds those of a burst.

    `connections` counts what was reported, by itself or in a summary. `kept` says whether announced ends are kept for us
    while nobody runs.
    """

    def __init__(
        self, sink: Sink, snapshot: Snapshot | None, renderer: Renderer, settings: Settings, kept: bool = True
    ) -> None:
        self.settings = settings
        self._kept = kept
        self.connections = 0
        self.counters = Counters()
        self.folding = Aggregation(settings.burst_limit, settings.total_limit)
        self._scans = PortScans(settings.ports, settings.within)
        self._sink = sink
        self._snapshot = snapshot
        self._renderer = renderer
        # Each with whether it is written down.
        self._waiting: deque[tuple[Entry, bool]] = deque()
        # What cannot be folded, closed connections, listeners and port scans, has as much room in a second as connections.
        self._unfoldable = RateLimit()
        self._left_out = 0
        self._loss_told = float("-inf")

    @property
    def pipe(self) -> int | None:
        """The pipe that entries go into, if it is one."""
        return self._sink.pipe

    @property
    def waiting(self) -> int:
        """How many entries the sink had no room for."""
        return len(self._waiting)

    def set(self, settings: Settings) -> None:
        """Other settings from now on."""
        self.settings = settings
        self.folding.burst, self.folding.total = settings.burst_limit, settings.total_limit
        self._scans.ports, self._scans.within = settings.ports, settings.within

    def resume(self, kept: Kept) -> None:
        """Continue with what an earlier run wrote down and did not deliver."""
        self._waiting.extend((entry, True) for entry in kept.undelivered.values())
        for key, count in kept.folded.items():
            self.folding.restore(key, count)
        self.send()

    def from_read(self, events: Iterator[Event]) -> None:
        """Take the events of a read."""
        while batch := list(islice(events, _BATCH)):
            self._take(batch, write_down=True)

    def from_end(self, events: Iterable[Event], cookie: int, drops: int) -> None:
        """Take the events of one announced end, and write down that it was dealt with."""
        self._take(events, write_down=not self._kept or bool(self._waiting))
        if self._snapshot is not None:
            self._snapshot.last_end(cookie, drops)
            self._snapshot.flush()

    def take(self, event: Event) -> None:
        """Take an event of the service itself."""
        self._take([event], write_down=True)

    def interval_over(self) -> None:
        """Tell what was counted in the interval, if there is room for it."""
        if len(self._waiting) >= _MOST_WAITING:
            return
        summaries = list(self.folding.flush())
        if summaries and self._snapshot is not None:
            self._snapshot.told()
        self._take(summaries, write_down=True)
        self._tell_losses(time.monotonic())

    def _take(self, events: Iterable[Event], write_down: bool) -> None:
        snapshot = self._snapshot
        write_down = write_down and snapshot is not None
        for event in events:
            for told in self._told(event):
                entry = self._renderer.entry(told)
                if write_down and snapshot is not None:
                    snapshot.entry(entry)
                self._waiting.append((entry, write_down))
        if write_down and snapshot is not None:
            snapshot.flush()
        self.send()
        if self._waiting and not write_down and snapshot is not None:
            for entry, _ in self._waiting:
                snapshot.entry(entry)
            self._waiting = deque((entry, True) for entry, _ in self._waiting)

    def _told(self, event: Event) -> Iterator[Event]:
        """What is told of an event at once: itself, nothing, or more."""
        if not self._wanted(event):
            return
        crowded = len(self._waiting) >= _MOST_WAITING
        now = time.monotonic()
        if isinstance(event, Connection):
            self.connections += 1
            scan = self._scans.notice(event, now) if self._suspect(event) else None
            key = self.folding.add(event, now, crowded)
            self.counters.connection(event, key is not None)
            if key is None:
                yield event
            elif self._snapshot is not None:
                self._snapshot.fold(key)
            if scan is None:
                return
            event = scan
        if isinstance(event, Closed | Listener | PortScan) and (
            crowded or not self._unfoldable.allows(now, self.settings.total_limit)
        ):
            self._left_out += 1
        else:
            self.counters.event(event)
            yield event

    def send(self) -> None:
        """Send what waits, as far as the sink has room."""
        waiting = self._waiting
        delivered = False
        while waiting:
            entry, written = waiting[0]
            try:
                self._sink.write(entry)
            except BlockingIOError:
                break
            waiting.popleft()
            if written and self._snapshot is not None:
                self._snapshot.delivered()
                delivered = True
        if delivered and self._snapshot is not None:
            self._snapshot.flush()

    def _wanted(self, event: Event) -> bool:
        settings = self.settings
        if isinstance(event, Connection | Closed):
            if isinstance(event, Connection) and event.detected_by == "startup" and not settings.existing:
                return False
            source, destination = event.source, event.destination
            return not ignored(settings.ignore, event.direction, source.address, destination.address, destination.port)
        if isinstance(event, Listener):
            return settings.listeners and (settings.existing or not event.startup)
        return True

    def _suspect(self, event: Connection) -> bool:
        """Whether the source of a connection is not trusted."""
        return not ignored(
            self.settings.trusted, event.direction, event.source.address, event.destination.address, None
        )

    def _tell_losses(self, now: float) -> None:
        if now < self._loss_told + _LOSS_EVERY:
            return
        losses = []
        if self.folding.coarse:
            losses.append(
                Loss(
                    self.folding.coarse,
                    "aggregation",
                    f"{self.folding.coarse} connections were counted without their addresses: there were too many different "
                    "ones at once. Nothing is missing from the counts",
                )
            )
        if self._left_out:
            losses.append(
                Loss(
                    self._left_out,
                    "journal",
                    f"{self._left_out} closed connections, listeners and port scans were not written: there were more than "
                    "TotalLimit= in a second, or the journal did not read for too long. Closed=no writes less",
                )
            )
        if self._scans.evicted:
            losses.append(
                Loss(
                    self._scans.evicted,
                    "port-scan",
                    f"{self._scans.evicted} sources could not be watched for port scans: there were too many at once. Their "
                    "connections are reported all the same",
                )
            )
        if losses:
            self._loss_told = now
            self.folding.coarse = self._left_out = self._scans.evicted = 0
            self._take(losses, write_down=True)
