"""What the figures for Prometheus cost: writing them after a read, and counting a connection."""

from __future__ import annotations

import tempfile

from bench.figures import Figure, Group, at_most
from bench.reads import observer
from bench.service import Service
from bench.table import Table
from bench.timing import in_turns, median, of_call
from tcpnewconn.health.counters import Counters, ServiceStatistics
from tcpnewconn.health.metrics import MetricsFile, exposition
from tcpnewconn.model import ESTABLISHED, Connection, Endpoint


def written(small: bool) -> Group:
    """CPU time of writing them, as after every read, in this process; and of the service's memory with them."""
    rows, times = (20, 3) if small else (100_000, 200)
    table = Table()
    table.grow(200 if not small else 20)
    with Service("json", "1s") as service:
        service.reads(2)
        peak = service.peak_memory()
    table.grow(rows)
    looking = observer(None)
    list(looking.read(0.0))
    counters, course = Counters(), ServiceStatistics(10.0)
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        file = MetricsFile(f"{folder}/tcpnewconn.prom")

        def write() -> None:
            course.states = looking.states
            course.measure()
            file.write(exposition(counters, course))

        (costs,) = in_turns(times, lambda: of_call(write))
        problem = file.problem
    table.close()
    event = Connection(Endpoint(bytes(4), 1), Endpoint(bytes(4), 2), "ingress", "notification", "id", ESTABLISHED)

    def count() -> None:
        for _ in range(1000):
            counters.connection(event, False)

    (counting,) = in_turns(times, lambda: of_call(count))
    return Group(
        "The figures for Prometheus",
        [
            at_most(
                "CPU time of writing them, once an interval", median(costs).cpu * 1e3, 2, " ms", 2, f"{rows:,} rows"
            ),
            Figure("the longest, by the clock", f"{max(cost.wall for cost in costs) * 1e3:.2f} ms"),
            Figure("CPU time of counting a connection", f"{median(counting).cpu * 1e3:.2f} us"),
            at_most("peak memory of the service with them, 200 rows", peak, 24, " MiB", 1),
            Figure("reported as not written", problem or "nothing", "nothing", problem is None),
        ],
    )
