"""Traffic between the hosts of a small fleet, as real connections: some are closed at once, others stay open."""

from __future__ import annotations

import heapq
import math
import random
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from monitoring.grafana.picture.fleet import Host

# Period of the load, in seconds.
WAVE = 900.0


@dataclass(frozen=True)
class Flow:
    """`rate` new connections per second from one host to a port of another, on average; each stays open for `lasting` seconds."""

    source: Host
    target: Host
    port: int
    rate: float
    lasting: float = 0.0
    ipv6: bool = False


@dataclass(order=True)
class _Open:
    until: float
    ends: tuple[socket.socket, ...] = field(compare=False)


class Traffic(threading.Thread):
    """Makes the flows until it is stopped. This one program opens the sockets inside the namespaces."""

    def __init__(self, flows: Sequence[Flow]) -> None:
        super().__init__()
        self._flows = flows
        self._listeners: dict[tuple[str, int, bool], socket.socket] = {}
        self._open: list[_Open] = []
        self._stopping = threading.Event()
        self._alone = threading.Lock()

    def run(self) -> None:
        random.seed(1)
        queue = [(time.monotonic() + self._wait(flow), number) for number, flow in enumerate(self._flows)]
        heapq.heapify(queue)
        while not self._stopping.wait(max(0.0, queue[0][0] - time.monotonic())):
            due, number = heapq.heappop(queue)
            flow = self._flows[number]
            self.connect(flow)
            heapq.heappush(queue, (due + self._wait(flow), number))
            self._close_those_that_are_due()

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def connect(self, flow: Flow, count: int = 1) -> None:
        """`count` connections of this flow at once."""
        with self._alone:
            listener = self._listener(flow)
            for _ in range(count):
                client = flow.source.where.socket(socket.AF_INET6 if flow.ipv6 else socket.AF_INET)
                client.connect(self._address(flow))
                accepted = listener.accept()[0]
                if flow.lasting:
                    until = time.monotonic() + random.expovariate(1 / flow.lasting)
                    heapq.heappush(self._open, _Open(until, (client, accepted)))
                else:
                    client.close()
                    accepted.close()

    def scan(self, source: Host, target: Host, ports: range) -> None:
        for port in ports:
            self.connect(Flow(source, target, port, 1))

    def _address(self, flow: Flow) -> tuple[str, int]:
        if flow.source is flow.target:
            return ("::1" if flow.ipv6 else "127.0.0.1"), flow.port
        return flow.target.addresses[flow.ipv6], flow.port

    def _listener(self, flow: Flow) -> socket.socket:
        key = (flow.target.name, flow.port, flow.ipv6)
        if key not in self._listeners:
            listener = flow.target.where.socket(socket.AF_INET6 if flow.ipv6 else socket.AF_INET)
            if flow.ipv6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(("::" if flow.ipv6 else "0.0.0.0", flow.port))
            listener.listen(4096)
            self._listeners[key] = listener
        return self._listeners[key]

    def _wait(self, flow: Flow) -> float:
        now = 1 + 0.5 * math.sin(2 * math.pi * time.monotonic() / WAVE)
        return random.expovariate(flow.rate * now)

    def _close_those_that_are_due(self) -> None:
        with self._alone:
            while self._open and self._open[0].until <= time.monotonic():
                for end in heapq.heappop(self._open).ends:
                    end.close()
