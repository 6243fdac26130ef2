"""Between the events and the sink: which are wanted, which are summarized. Bounded, and nothing is lost in a crash.

Entries of a poll are written to the state log before they are sent: /proc will not show them again. A destroy notification stays
in the kernel's buffer until its entry was sent, or is on record, or its connection was counted in a group that is; where that
buffer goes with the program, its entry is put on record first, too.
"""

from __future__ import annotations

import time

from tcpnewconn.eventtypes import Closed, Connection, Event, Failed, Listener, Loss, PortScan, Reason
from tcpnewconn.health.counters import Counters
from tcpnewconn.reporting.aggregation import Aggregation, Group, RateLimit
from tcpnewconn.reporting.entries import Renderer
from tcpnewconn.reporting.fields import Entry
from tcpnewconn.reporting.portscan import PortScans
from tcpnewconn.reporting.queue import Queue
from tcpnewconn.reporting.seldom import Seldom
from tcpnewconn.reporting.sinks import Sink
from tcpnewconn.reporting.template import Template
from tcpnewconn.settings.config import Settings
from tcpnewconn.settings.ignore import ignored
from tcpnewconn.state.log import StateLog

# So many entries wait for the sink; then connections are counted, and reported in summaries once fewer wait.
_MOST_WAITING = 10_000
# So many events of a poll are put on record and sent at a time. Their records are a large block (state/log.py): smaller ones fill
# the tail, of which 1.3 MiB become resident. With 500 the peak of memory was 1.6 MiB higher (measured).
_BATCH = 25


class Outbox:
    """Sends the events that the settings want, in their order; summarizes those of a burst.

    `connections` counts what was reported, by itself or in a summary.
    """

    def __init__(self, sink: Sink, log: StateLog | None, renderer: Renderer, settings: Settings) -> None:
        self.connections = 0
        self.counters = Counters()
        self._settings = settings
        self._sink = sink
        self._log = log
        self._renderer = renderer
        renderer.attribution.set(settings.command_line)
        self._aggregation = Aggregation(settings.burst_limit, settings.total_limit, log)
        self._failed = Aggregation(settings.burst_limit, settings.total_limit)
        self._scans = PortScans(settings.ports, settings.within)
        self._queue = Queue(sink, log)
        # Entries of events that were taken; they are not in the queue yet.
        self._taken: list[Entry] = []
        self._since_delivery = 0
        # Closed connections, listeners and port scans, which are not summarized, have the same limit per second as connections.
        self._rate = RateLimit()
        self._left_out = 0
        self._losses = Seldom()

    @property
    def pipe(self) -> int | None:
        """The pipe that entries go into, if it is one."""
        return self._sink.pipe

    @property
    def waiting(self) -> int:
        """How many entries the sink has not taken yet."""
        return len(self._queue.entries)

    def set(self, settings: Settings) -> None:
        """Other settings from now on."""
        self._settings = settings
        self._renderer.attribution.set(settings.command_line)
        for aggregation in (self._aggregation, self._failed):
            aggregation.burst, aggregation.total = settings.burst_limit, settings.total_limit
        self._scans.ports, self._scans.within = settings.ports, settings.within

    def take(self, event: Event) -> None:
        """Take an event; it is in the sink, or safe from SIGKILL, after the next `deliver` at the latest."""
        if self._wanted(event):
            self._select(event)
        self._one_more()

    def _one_more(self) -> None:
        self._since_delivery += 1
        if self._since_delivery >= _BATCH:
            self.deliver()

    def repeatable(self, event: Connection, logged: bool) -> Group | Template | None:
        """How others like an event that has just been taken are reported: counted in its group, or logged by a template.

        None if it is ignored, or cannot say of others how. Each is logged where the settings ask for that, and only if others
        can be `logged` like it.
        """
        group, settings = self._aggregation.group_of(event), self._settings
        if group is None and (not logged or settings.burst_limit or settings.total_limit):
            return None
        if not self._wanted(event):
            return None
        return group if group is not None else Template(event, self._renderer)

    def another(self, group: Group) -> None:
        """Count one more connection in a group; with `counted`, later on, it is reported."""
        self._aggregation.another(group)

    def log(self, template: Template, port: int, name: str) -> bool:
        """Log one with this port and id; later on it is `counted`. False, and nothing is done, if no more entries can wait."""
        if self._crowded():
            return False
        self._taken.append(template.entry(port, name))
        self._one_more()
        return True

    def counted(self, like: Connection, count: int, summarized: bool) -> None:
        """So many were `summarized` in the group of an event, or logged by its template: they differ in the opener's port alone.

        In case of a port scan, source and port were noticed with that event.
        """
        self.connections += count
        self.counters.connection(like, summarized, count)

    def deliver(self, redeliverable: bool = False) -> None:
        """Send the events that were taken, as far as the sink takes them; the rest waits, on record.

        They are put on record first, unless they are `redeliverable`: then their source shows them again after SIGKILL.
        """
        self._since_delivery = 0
        if redeliverable and not self._queue.entries:
            if self._taken:
                self._queue.send_at_once(self._taken)
                self._taken.clear()
            return
        for entry in self._taken:
            self._queue.put(entry)
        self._taken.clear()
        if self._log is not None:
            self._log.flush()
        self._queue.send()

    def send(self) -> None:
        """Send waiting entries, as far as the sink takes them."""
        self._queue.send()

    def interval_over(self) -> None:
        """Report the summaries of the interval, unless too many entries wait."""
        if len(self._queue.entries) >= _MOST_WAITING:
            return
        # That they are counted no longer, and that they are to be delivered, is put on record in one write.
        for summary in self._aggregation.flush():
            self._select(summary)
        self._taken += map(self._renderer.entry, self._failed.flush_failed())
        self._report_losses(time.monotonic())
        self.deliver()

    def _crowded(self) -> bool:
        """Whether no more entries can wait."""
        return len(self._queue.entries) + len(self._taken) >= _MOST_WAITING

    def _select(self, event: Event) -> None:
        """Report an event at once: itself, nothing, or more."""
        crowded = self._crowded()
        now = time.monotonic()
        if isinstance(event, Connection):
            self.connections += 1
            trusted = self._settings.trusted.given and self._trusted(event)
            scan = self._scans.notice(event, now) if not trusted else None
            summarized = self._aggregation.add(event, now, crowded) is not None
            self.counters.connection(event, summarized)
            if not summarized:
                self._taken.append(self._renderer.entry(event))
            if scan is None:
                return
            event = scan
        if isinstance(event, Failed):
            self.counters.event(event)
            if self._failed.add(event, now, crowded) is None:
                self._taken.append(self._renderer.entry(event))
            return
        if isinstance(event, Closed | Listener | PortScan) and (
            crowded or not self._rate.allows(now, self._settings.total_limit)
        ):
            self._left_out += 1
        else:
            self.counters.event(event)
            self._taken.append(self._renderer.entry(event))

    def _wanted(self, event: Event) -> bool:
        settings = self._settings
        if isinstance(event, Connection) and event.detected_by == "startup" and not settings.existing:
            return False
        if settings.ignore.given and isinstance(event, Connection | Closed | Failed):
            source, destination = event.source, event.destination
            # Names are looked up only where a rule asks for them.
            unit = user = process = None
            if settings.ignore.by_owner:
                unit, user, process = self._renderer.attribution.names(event, settings.ignore.processes is not None)
            container = self._renderer.attribution.container(event) if settings.ignore.by_container else None
            return not ignored(
                settings.ignore,
                event.direction,
                source.address,
                destination.address,
                destination.port,
                unit,
                user,
                process,
                event.caller.thread_name if event.caller is not None else None,
                (container.name, container.id) if container is not None else (),
                container.runtime if container is not None else None,
                event.netns,
            )
        if isinstance(event, Listener):
            return settings.listeners and (settings.existing or not event.startup)
        return True

    def _trusted(self, event: Connection) -> bool:
        """Whether the source of a connection is trusted not to scan ports."""
        return ignored(self._settings.trusted, event.direction, event.source.address, event.destination.address, None)

    def _report_losses(self, now: float) -> None:
        losses: list[tuple[int, Reason, str]] = [
            (
                self._aggregation.coarse,
                "aggregation",
                "connections were counted without their addresses: there were too many different ones at once. "
                "Nothing is missing from the counts",
            ),
            (
                self._left_out,
                "journal",
                "closed connections, listeners and port scans were not logged: there were more than TotalLimit= in a "
                "second, or the journal took none for too long. Closed=no logs less",
            ),
            (
                self._scans.evicted,
                "port-scan",
                "sources could not be watched for port scans: there were too many at once. Their connections are logged "
                "all the same",
            ),
        ]
        if any(count for count, _, _ in losses) and self._losses.due(now):
            self._aggregation.coarse = self._left_out = self._scans.evicted = 0
            for count, reason, what in losses:
                if count:
                    self._select(Loss(count, reason, f"{count} {what}"))
