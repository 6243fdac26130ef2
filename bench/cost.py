"""What memory the service needs, and what CPU time a new connection costs."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from dataclasses import replace

from bench.client import Client
from bench.figures import Figure, Group, at_most
from bench.journal import Journal
from bench.reads import observer
from bench.service import Service
from bench.table import Table
from bench.timing import in_turns, median, of_call
from tcpnewconn import config
from tcpnewconn.outbox import Outbox
from tcpnewconn.owner import Units, Users
from tcpnewconn.sinks import Renderer, open_sink
from tcpnewconn.snapshot import Snapshot


def memory(small: bool) -> Group:
    """Peak memory of the service, after its first read, in which everything is new, and two more."""
    sizes = ((20, 24), (200, 24)) if small else ((200, 24), (100_000, 64))
    table = Table()
    journal = Journal()
    figures = []
    for rows, limit in sizes:
        table.grow(rows)
        for output in ("journal", "json"):
            with Service(output, "1s") as service:
                service.reads(2)
                peak = service.peak_memory()
            figures.append(at_most(f"{rows:,} rows, --output {output}", peak, limit, " MiB", 1))
    table.close()
    journal.entries()
    return Group("Peak memory of the service (VmHWM)", figures)


class _Reporting:
    """The rooms from a row to the datagram, in this process, as the service joins them."""

    def __init__(self, folder: str) -> None:
        self._snapshot = Snapshot(f"{folder}/snapshot", "here")
        self._observer = observer(self._snapshot)
        settings = replace(config.load(os.devnull), burst_limit=0, total_limit=0)
        self._outbox = Outbox(open_sink("journal"), self._snapshot, Renderer(Units(), Users()), settings)
        self.read()

    def read(self) -> None:
        self._outbox.from_read(self._observer.read(time.monotonic()))
        while self._outbox.waiting:
            self._outbox.send()
        self._snapshot.save(self._observer.tracker, self._observer.reported_listeners, self._outbox.folding)


def new(small: bool) -> Group:
    """What new connections cost, from their rows to their datagrams."""
    count, rounds = (20, 2) if small else (1000, 9)
    journal = Journal()
    figures = []
    with Client() as client, tempfile.TemporaryDirectory() as folder:
        reporting = _Reporting(folder)
        with socket.create_server((client.host_address, 8080), backlog=4096) as listener:
            reporting.read()
            costs = []
            for _ in range(rounds):
                held = client.hold(count, 8080)
                accepted = [listener.accept()[0] for _ in range(count)]
                costs += in_turns(1, lambda: of_call(reporting.read))[0]
                quiet = in_turns(3, lambda: of_call(reporting.read))[0]
                for connection in accepted:
                    connection.close()
                client.release(held)
            cost = median(costs)
            beside = f"{cost.cpu / count * 1e6:.0f} us each; a read without new ones: {median(quiet).cpu * 1e3:.1f} ms"
            figures.append(at_most(f"{count:,} new connections, CPU time", cost.cpu * 1e3, 30, " ms", 1, beside))
            figures.append(Figure(f"{count:,} new connections, by the clock", f"{cost.wall * 1e3:.1f} ms"))
    reported = len(journal.entries())
    figures.append(Figure("reported", f"{reported:,} of {count * rounds:,}", "all", reported == count * rounds))
    return Group("New connections, from row to journal datagram", figures)
