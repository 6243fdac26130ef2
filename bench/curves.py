"""CPU time by the rows of the table, and by the rate of new connections; as tables and as a picture."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bench.client import Client
from bench.journal import Journal
from bench.load import PORT, Nginx, accepted, serving, storm
from bench.peers import CONNTRACK, TRACK
from bench.plot import Curve, Panel, svg
from bench.polls import CAT, SS, PolledOnce, psutil_polling
from bench.results import Group, at_most
from bench.service import Service
from bench.table import Table
from bench.timing import Cost, cpu_of, in_turns, median, of_command

_PICTURE = Path(__file__).resolve().parent.parent / "docs/benchmarks.svg"
_NETSTAT = ("netstat", "-tan")


def by_rows(small: bool) -> tuple[list[list[str]], list[Curve]]:
    """CPU time of reading the whole table once."""
    sizes, rounds = ((200, 1000), 2) if small else ((1000, 10_000, 100_000, 400_000), 5)
    table, psutil = Table(), psutil_polling()
    looks: dict[str, Callable[[], Cost]] = {
        "tcpnewconn": lambda: observed.quiet_poll(),
        "cat": lambda: of_command(CAT),
        "ss -tan": lambda: of_command(SS),
        "netstat -tan": lambda: of_command(_NETSTAT),
        "psutil": psutil,
    }
    names = [name for name in looks if name != "netstat -tan" or shutil.which(_NETSTAT[0])]
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in looks}
    for size in sizes:
        # Each of its connections has two rows.
        table.grow(size)
        observed = PolledOnce()
        costs = in_turns(rounds if size < 400_000 else 2, *(looks[name] for name in names))
        for name, each in zip(names, costs, strict=True):
            points[name].append((size, median(each).cpu * 1e3))
    table.close()
    rows = [["CPU time of one pass over the table, by rows", *(f"{size:,}" for size in sizes)]]
    rows += [
        [name, *([f"{cost:.1f} ms" for _, cost in points[name]] or ["not installed" for _ in sizes])] for name in looks
    ]
    return rows, [Curve(name, points[name]) for name in names]


def _rate(client: Client, rate: int, seconds: int) -> float:
    """Open connections at a rate, as close to it as this machine comes; returns the rate that was reached."""
    before, begin = accepted(), time.monotonic()
    if rate <= 1000:
        with serving():
            client.pace(rate, rate * seconds, PORT)
            took = time.monotonic() - begin
    else:
        with Nginx():
            # Four clients at a time reach about 10,000 per second on an idle machine, 100 reach the maximum.
            took = storm(client, seconds, 4 if rate <= 10_000 else 100)
    return (accepted() - before) / took


def by_rate(small: bool) -> tuple[list[list[str]], list[Curve]]:
    """CPU time of a connection by the rate of new connections."""
    rates, seconds = ((50, 100), 1) if small else ((100, 1000, 10_000, 20_000), 5)
    rows = [["CPU time of a connection, by connections per second (rate reached)", *(f"{rate:,}" for rate in rates)]]
    curves = []
    with open("/proc/sys/net/ipv4/tcp_max_tw_buckets", "w") as file:
        # The table stays small at every rate.
        file.write("0")
    with Client() as client:
        for name, summarized in (("tcpnewconn, one by one", False), ("tcpnewconn, summarized", True)):
            journal = Journal()
            with Service(summarized=summarized) as service:
                points = [_cost(service.cpu, client, rate, seconds, service.caught_up) for rate in rates]
                lost = service.lost()
            journal.entries()
            rows.append(_row(name + (f", {lost:,} notifications lost" if lost else ""), points))
            curves.append(Curve(name, points))
        if shutil.which("nft") is None or shutil.which(CONNTRACK[0]) is None:
            rows.append(["conntrack -E", *("not installed" for _ in rates)])
            return rows, curves
        # Not ss -E: it ends at the first notification that does not fit into its buffer.
        subprocess.run(["nft", TRACK], check=True)
        with subprocess.Popen(CONNTRACK, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as program:
            points = [_cost(lambda: cpu_of(program.pid), client, rate, seconds) for rate in rates]
            program.terminate()
        rows.append(_row("conntrack -E", points))
        curves.append(Curve("conntrack -E", points))
    return rows, curves


def _cost(
    cpu: Callable[[], float], client: Client, rate: int, seconds: int, then: Callable[[], None] = lambda: None
) -> tuple[float, float]:
    """The rate that was reached, and the microseconds of CPU time for each connection."""
    before, made = cpu(), accepted()
    reached = _rate(client, rate, seconds)
    then()
    return reached, (cpu() - before) / (accepted() - made) * 1e6


def _row(name: str, points: list[tuple[float, float]]) -> list[str]:
    return [name, *(f"{each:.1f} us ({reached:,.0f})" for reached, each in points)]


def growth(small: bool) -> Group:
    """Both, and docs/benchmarks.svg."""
    # In this order: closing the rows of the table sends notifications too.
    rates, shares = by_rate(small)
    table, looks = by_rows(small)
    picture = svg(
        [
            Panel("One pass over the table", "rows", "CPU time, ms", looks),
            Panel(
                "New connections",
                "connections per second",
                "CPU time of each, us",
                # The rate that was reached may differ from the one that was requested.
                [Curve(curve.name, sorted((x, max(1e-3, y)) for x, y in curve.points)) for curve in shares],
            ),
        ]
    )
    if small:
        assert picture.endswith("</svg>\n")
    else:
        _PICTURE.write_text(picture)
    (before_rows, before), (last_rows, last) = looks[0].points[-2:]
    results = [
        at_most(
            f"CPU time per row, {last_rows:,} rows : {before_rows:,}", last / last_rows / (before / before_rows), 1.25
        )
    ]
    for curve in shares[:2]:
        each = [cost for _, cost in curve.points]
        results.append(at_most(f"CPU time of a connection, highest rate : lowest; {curve.name}", each[-1] / each[0], 1))
    # Both have the same number of columns: one table.
    return Group(f"How costs grow ({_PICTURE.name})", results, [*table, [""] * len(table[0]), *rates])
