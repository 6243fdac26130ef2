"""Counts reported events and polls. The numbers are exact, since the service started."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal, get_args

from tcpnewconn.eventtypes import (
    ATTRIBUTED_BY,
    DETECTED_BY,
    Connection,
    Degraded,
    Event,
    Failed,
    Listener,
    Loss,
    PortScan,
    Reason,
    Recovered,
    Source,
)
from tcpnewconn.model import DIRECTIONS, Missing

FAMILIES = ("ipv4", "ipv6")
REASONS: tuple[Reason, ...] = get_args(Reason)
SOURCES: tuple[Source, ...] = get_args(Source)
MISSING: tuple[Missing, ...] = get_args(Missing)

# Other network namespaces, by the runtime of their container, as CONTAINER_RUNTIME has it.
NAMESPACE_KINDS = ("podman", "docker", "containerd", "cri-o", "systemd-nspawn", "lxc", "kubernetes", "other")
# In one interval: the tables of a namespace were polled; they had not changed; there was no time left for it.
NamespaceResult = Literal["polled", "unchanged", "late"]
NAMESPACE_RESULTS: tuple[NamespaceResult, ...] = get_args(NamespaceResult)


class Counters:
    """Counts events when they are reported. A connection in a summary counts like one that is logged by itself."""

    def __init__(self) -> None:
        self.connections = {(direction, name): 0 for direction in DIRECTIONS for name in FAMILIES}
        self.detected_by = dict.fromkeys(DETECTED_BY, 0)
        self.attributed_by = dict.fromkeys(ATTRIBUTED_BY, 0)
        self.not_attributed = dict.fromkeys(MISSING, 0)
        self.summarized = 0
        self.failed = 0
        self.listeners = 0
        self.port_scans = 0
        self.lost = dict.fromkeys(REASONS, 0)
        self.degraded = dict.fromkeys(SOURCES, False)

    def connection(self, event: Connection, summarized: bool, count: int = 1) -> None:
        """So many similar connections: they differ in nothing that is counted here."""
        # As model.family(), without the call: this is done with every connection.
        address = event.source.address or event.destination.address
        self.connections[event.direction, "ipv4" if address is not None and len(address) == 4 else "ipv6"] += count
        self.detected_by[event.detected_by] += count
        self.summarized += summarized * count
        for way in event.by:
            self.attributed_by[way] += count
        if event.missing is not None:
            self.not_attributed[event.missing] += count

    def event(self, event: Event) -> None:
        """Any event but a connection."""
        if isinstance(event, Listener):
            self.listeners += 1
        elif isinstance(event, PortScan):
            self.port_scans += 1
        elif isinstance(event, Failed):
            self.failed += event.count or 1
        elif isinstance(event, Loss):
            self.lost[event.reason] += event.count
        elif isinstance(event, Degraded | Recovered):
            self.degraded[event.source] = isinstance(event, Degraded)


class ServiceStatistics:
    """The state of the service.

    `interval` and `seconds` (spent in `polls`, the successful ones) are in seconds, `last_poll` and `started` Unix times,
    `waiting` counts entries that the journal does not take, `states` the sockets at the last poll by the kernel's number of
    their state. `namespaces` are the other network namespaces by kind, of which so many more are not observed;
    `namespace_results` says what was done with them, for `namespace_seconds` of CPU time. `running` is False after a clean stop.
    `cpu` is the CPU time (seconds), `memory` the resident memory (bytes) of this process.
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.polls = self.failed = self.skipped = 0
        self.seconds = self.last_poll = 0.0
        self.waiting = 0
        self.states: Mapping[int, int] = {}
        self.namespaces: Mapping[str, int] = dict.fromkeys(NAMESPACE_KINDS, 0)
        self.namespaces_beyond = 0
        self.namespace_results: Mapping[NamespaceResult, int] = dict.fromkeys(NAMESPACE_RESULTS, 0)
        self.namespace_seconds = 0.0
        self.running = True
        self.cpu = 0.0
        self.memory = 0
        self.started = time.time()
