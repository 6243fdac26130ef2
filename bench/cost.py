"""Memory of the service, and CPU time of a new connection."""

from __future__ import annotations

import os
import socket
import statistics
import tempfile
import time

from bench.client import Client, allow_many_files
from bench.journal import Journal
from bench.load import Nginx, accepted, storm
from bench.polls import observer
from bench.results import Group, Result, at_most
from bench.service import Service
from bench.table import Table
from bench.timing import Cost, in_turns, median, of_call
from tcpnewconn.attribution.units import Units
from tcpnewconn.attribution.users import Users
from tcpnewconn.kernel import sockdiag
from tcpnewconn.reporting.entries import Renderer
from tcpnewconn.reporting.fields import Entry
from tcpnewconn.reporting.outbox import Outbox
from tcpnewconn.reporting.sinks import Sink, open_sink
from tcpnewconn.settings import config
from tcpnewconn.state.log import StateLog


def memory(small: bool) -> Group:
    """Peak memory of the service after its first poll, in which everything is new, and two more."""
    sizes = ((20, 24), (200, 24)) if small else ((200, 24), (100_000, 64))
    table = Table()
    journal = Journal()
    results = []
    for rows, limit in sizes:
        table.grow(rows)
        for output in ("journal", "json"):
            with Service(output, "1s") as service:
                service.polls(2)
                peak = service.peak_memory()
            results.append(at_most(f"{rows:,} rows, --output {output}", peak, limit, " MiB", 1))
    table.close()
    journal.entries()
    return Group("Peak memory of the service (VmHWM)", results)


class _Reporting:
    """The modules from a row to the datagram, in this process, connected as the service connects them."""

    def __init__(self, path: str, burst: int = 0, sink: Sink | None = None) -> None:
        self._notifications = sockdiag.Notifications(sockdiag.open_notifications())
        self._log = StateLog(path, "here", tail_path=f"/dev/shm/tcpnewconn-bench-{os.getpid()}.tail")
        settings = config.load(os.devnull)._replace(burst_limit=burst, total_limit=0)
        self._outbox = Outbox(sink or open_sink("journal"), self._log, Renderer(Units(), Users()), settings)
        self._observer = observer(self._outbox.take, self._log, self._outbox)
        self.poll()

    def poll(self) -> None:
        self._observer.poll(time.monotonic())
        self._outbox.deliver()
        while self._outbox.waiting:
            self._outbox.send()
        self._log.save()

    def take_notifications(self) -> None:
        """Every destroy notification that has arrived by now."""
        while (destroyed := self._notifications.peek()) is not None:
            self._observer.destroyed(destroyed, time.monotonic())
            self._outbox.deliver(redeliverable=True)
            self._observer.tracker.cursor.handled(destroyed.cookie)
            self._log.flush()
            while self._outbox.waiting:
                self._outbox.send()
            self._notifications.consume()
            if self._log.filling:
                self._log.save()

    def close(self) -> None:
        self._log.save(last=True)


class _Nowhere:
    """A sink that accepts everything, so that sending costs nothing."""

    pipe: int | None = None

    def write(self, entry: Entry) -> None: ...


def notified(small: bool) -> Group:
    """CPU time of a destroy notification, from recv() until the connection is counted or queued, and saved in the state file."""
    seconds, rounds = (1, 1) if small else (2, 5)
    results = []
    with open("/proc/sys/net/ipv4/tcp_max_tw_buckets", "w") as file:
        file.write("0")
    for what, burst, goal in (("logged one by one", 0, 6), ("summarized", 1, 4)):
        each = []
        with Client() as client, tempfile.TemporaryDirectory() as directory, Nginx():
            for number in range(rounds):
                reporting = _Reporting(f"{directory}/{number}", burst, _Nowhere())
                before = accepted()
                storm(client, seconds)
                time.sleep(0.5)
                each.append(of_call(reporting.take_notifications).cpu / (accepted() - before))
                reporting.close()
        results.append(at_most(f"CPU time of each, {what}", statistics.median(each) * 1e6, goal, " us", 1))
    return Group("Destroy notifications, from recv to counted or queued", results)


def ended(small: bool) -> Group:
    """CPU time of connections that opened and closed between two polls, with nothing else to do meanwhile."""
    seconds, rounds = (1, 1) if small else (2, 5)
    costs = []
    with open("/proc/sys/net/ipv4/tcp_max_tw_buckets", "w") as file:
        # No connection stays in TIME_WAIT from one round to the next.
        file.write("0")
    with Client() as client, tempfile.TemporaryDirectory() as directory, Nginx():
        for number in range(rounds):
            journal = Journal()
            reporting = _Reporting(f"{directory}/{number}")
            storm(client, seconds)
            time.sleep(0.5)
            cost = of_call(reporting.take_notifications)
            reported = sum(entry.detected_by == b"notification" for entry in journal.entries())
            costs.append(Cost(cost.wall / reported, cost.cpu / reported))
            reporting.close()
    cost = median(costs)
    return Group(
        "Connections between two polls, from destroy notification to journal datagram, alone",
        [
            Result("CPU time of each", f"{cost.cpu * 1e6:.1f} us"),
            Result("each, elapsed", f"{cost.wall * 1e6:.1f} us"),
            at_most("cores at 20,000 per second", cost.cpu * 20_000, 1),
        ],
    )


def new(small: bool) -> Group:
    """CPU time of new connections from row to datagram: a poll in which they are new, less one in which they are not."""
    count, rounds = (20, 2) if small else (1000, 9)
    allow_many_files()
    journal = Journal()
    costs, quiet = [], []
    with (
        Client() as client,
        tempfile.TemporaryDirectory() as directory,
        socket.create_server((client.host_address, 8080), backlog=4096) as listener,
    ):
        for number in range(rounds):
            reporting = _Reporting(f"{directory}/{number}")
            held = client.hold(count, 8080)
            accepted = [listener.accept()[0] for _ in range(count)]
            costs.append(of_call(reporting.poll))
            quiet += in_turns(3, lambda: of_call(reporting.poll))[0]  # noqa: B023
            client.release(held)
            for connection in accepted:
                connection.close()
            reporting.close()
    cost, less = median(costs), median(quiet)
    each = (cost.cpu - less.cpu) / count
    # Each round is a first start: rows in TIME_WAIT of an earlier round are logged again, with the same id.
    reported = len({entry.id for entry in journal.entries()})
    return Group(
        "New connections, from row to journal datagram",
        [
            at_most(
                f"{count:,} new connections, CPU time", each * 1e3 * count, 30, " ms", 1, f"{each * 1e6:.0f} us each"
            ),
            Result("the poll in which they are new", f"CPU {cost.cpu * 1e3:.1f} ms, elapsed {cost.wall * 1e3:.1f} ms"),
            Result("a poll in which they are not", f"CPU {less.cpu * 1e3:.1f} ms, elapsed {less.wall * 1e3:.1f} ms"),
            Result("reported", f"{reported:,} of {count * rounds:,}", "all", reported == count * rounds),
        ],
    )
