"""CPU time of the Prometheus metrics: writing them after a poll, and counting a connection."""

from __future__ import annotations

import tempfile

from bench.polls import observer
from bench.results import Group, Result, at_most
from bench.service import Service
from bench.table import Table
from bench.timing import in_turns, median, of_call
from tcpnewconn.eventtypes import Connection
from tcpnewconn.health.counters import Counters, ServiceStatistics
from tcpnewconn.health.metrics import MetricsFile, exposition
from tcpnewconn.kernel.procfile import Held
from tcpnewconn.model import ESTABLISHED, Endpoint
from tcpnewconn.servicestatus import used


def written(small: bool) -> Group:
    """CPU time of writing them in this process, as after every poll; and memory of the service with them."""
    rows, times = (20, 3) if small else (100_000, 200)
    table = Table()
    table.grow(200 if not small else 20)
    with Service("json", "1s") as service:
        service.polls(2)
        peak = service.peak_memory()
    table.grow(rows)
    observed = observer(lambda _: None)
    observed.poll(0.0)
    counters, statistics, files = Counters(), ServiceStatistics(10.0), Held()
    with tempfile.TemporaryDirectory(dir="/run") as directory:
        file = MetricsFile(f"{directory}/tcpnewconn.prom")

        def write() -> None:
            statistics.states = observed.tables.states
            statistics.cpu, statistics.memory = used(files)
            file.write(exposition(counters, statistics))

        (costs,) = in_turns(times, lambda: of_call(write))
        problem = file.problem
    table.close()
    event = Connection(Endpoint(bytes(4), 1), Endpoint(bytes(4), 2), "ingress", "notification", "id", ESTABLISHED)

    def count() -> None:
        for _ in range(1000):
            counters.connection(event, False)

    (counting,) = in_turns(times, lambda: of_call(count))
    return Group(
        "The metrics for Prometheus",
        [
            at_most(
                "CPU time of writing them, once an interval", median(costs).cpu * 1e3, 2, " ms", 2, f"{rows:,} rows"
            ),
            Result("the longest, elapsed", f"{max(cost.wall for cost in costs) * 1e3:.2f} ms"),
            Result("CPU time of counting a connection", f"{median(counting).cpu * 1e3:.2f} us"),
            at_most("peak memory of the service with them, 200 rows", peak, 24, " MiB", 1),
            Result("errors reported", problem or "nothing", "nothing", problem is None),
        ],
    )
