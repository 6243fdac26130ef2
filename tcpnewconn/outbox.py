"""Between the events and where they are written: nothing is lost while the sink has no room, or when the program is killed.

Entries of a read are written down before they are sent: /proc will not show them again. An announced end stays in the
kernel's buffer until its entry was sent, or written down.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from tcpnewconn.config import Settings
from tcpnewconn.ignore import ignored
from tcpnewconn.model import Closed, Connection, Event, Listener
from tcpnewconn.sinks import Renderer, Sink
from tcpnewconn.snapshot import Entry, Snapshot

# So many entries wait in memory; then nothing more is taken from the sources, which wait in the kernel.
_MOST_WAITING = 10_000
# So many entries are written down and sent at a time.
_BATCH = 500


class Outbox:
    """Renders the events that the settings want, and sends them in their order."""

    def __init__(self, sink: Sink, snapshot: Snapshot | None, renderer: Renderer, settings: Settings) -> None:
        self.settings = settings
        self.connections = 0
        self._sink = sink
        self._snapshot = snapshot
        self._renderer = renderer
        # Each with whether it is written down.
        self._waiting: deque[tuple[Entry, bool]] = deque()

    @property
    def pipe(self) -> int | None:
        """The pipe that entries go into, if it is one."""
        return self._sink.pipe

    @property
    def waiting(self) -> int:
        """How many entries the sink had no room for."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        return len(self._waiting) >= _MOST_WAITING

    def resume(self, undelivered: Iterable[Entry]) -> None:
        """Send what an earlier run wrote down and did not deliver."""
        self._waiting.extend((entry, True) for entry in undelivered)
        self.send()

    def from_read(self, events: Iterator[Event]) -> bool:
        """Take the events of a read, as many as there is room for; whether those were all."""
        while not self.full:
            batch = list(islice(events, _BATCH))
            self._take(batch, write_down=True)
            if len(batch) < _BATCH:
                return True
        return False

    def from_end(self, events: Iterable[Event], cookie: int, drops: int) -> None:
        """Take the events of one announced end, and write down that it was dealt with."""
        self._take(events, write_down=False)
        if self._snapshot is not None:
            self._snapshot.last_end(cookie, drops)
            self._snapshot.flush()

    def take(self, event: Event) -> None:
        """Take an event of the service itself."""
        self._take([event], write_down=True)

    def _take(self, events: Iterable[Event], write_down: bool) -> None:
        for event in events:
            if not self._wanted(event):
                continue
            if isinstance(event, Connection):
                self.connections += 1
            entry = self._renderer.entry(event)
            if self._snapshot is not None and write_down:
                self._snapshot.entry(entry)
            self._waiting.append((entry, self._snapshot is not None and write_down))
        if self._snapshot is not None and write_down:
            self._snapshot.flush()
        self.send()
        if self._waiting and not write_down and self._snapshot is not None:
            self._write_down()

    def _write_down(self) -> None:
        assert self._snapshot is not None
        for index, (entry, written) in enumerate(self._waiting):
            if not written:
                self._snapshot.entry(entry)
                self._waiting[index] = (entry, True)

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
            if isinstance(event, Connection) and event.seen == "startup" and not settings.existing:
                return False
            source, destination = event.source, event.destination
            return not ignored(settings.ignore, event.direction, source.address, destination.address, destination.port)
        if isinstance(event, Listener):
            return settings.listeners and (settings.existing or not event.startup)
        return True
