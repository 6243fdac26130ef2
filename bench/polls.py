"""CPU time of polling a quiet table, compared with cat, ss and psutil."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from bench import apart
from bench.results import Group, Result, at_most
from bench.table import Table
from bench.timing import Cost, in_turns, median, of_call, of_command, ratio
from tcpnewconn.eventtypes import Event
from tcpnewconn.kernel import host
from tcpnewconn.kernel.lookup import Lookup
from tcpnewconn.kernel.procnet import ProcNet, net_directory
from tcpnewconn.observing.observer import Observer
from tcpnewconn.observing.similar import Repeats
from tcpnewconn.state.log import StateLog
from tcpnewconn.tracking.run import Notifications

CAT = ("cat", "/proc/net/tcp", "/proc/net/tcp6")
SS = ("ss", "-tan")
TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")

# Measured without the import: a program that polls has psutil loaded.
_PSUTIL = """
import sys, time, psutil
for line in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    psutil.net_connections(kind="tcp")
    print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
"""


def observer(report: Callable[[Event], None], log: StateLog | None = None, repeats: Repeats | None = None) -> Observer:
    """Built as the service builds it under systemd."""
    here = host.look("/proc", net_directory("/proc"))
    return Observer(ProcNet(users=here.users), here, Lookup(), report, Notifications.KEPT, log, 1, repeats=repeats)


def read_bare() -> Cost:
    """Read both tables and discard them: the time the kernel needs to print them, and a loop around it."""

    def read() -> None:
        for name in TABLES:
            with open(name, "rb", buffering=0) as file:
                while file.read(65536):
                    pass

    return of_call(read)


class PolledOnce:
    """An observer that has already seen everything in the tables."""

    def __init__(self) -> None:
        self._events = 0
        self._observer = observer(self._count)
        self.poll()

    def _count(self, _: Event) -> None:
        self._events += 1

    def poll(self) -> None:
        self._observer.poll(time.monotonic())

    def quiet_poll(self) -> Cost:
        """A poll in which nothing may be new, from open() to decision."""
        self._events = 0
        cost = of_call(self.poll)
        if self._events:
            raise RuntimeError(f"{self._events} events from a quiet table")
        return cost


def psutil_polling() -> Callable[[], Cost]:
    program = subprocess.Popen(
        [sys.executable, "-c", _PSUTIL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert program.stdin is not None
    assert program.stdout is not None
    ask, answer = program.stdin, program.stdout

    def measure() -> Cost:
        print(file=ask, flush=True)
        wall, cpu = answer.readline().split()
        return Cost(float(wall), float(cpu))

    return measure


def compared(small: bool) -> Group:
    """A poll of 100,000 established rows of which none is new."""
    rows, rounds = (200, 2) if small else (100_000, 15)
    table = Table()
    table.grow(rows)
    first = [of_call(PolledOnce) for _ in range(min(3, rounds))]
    observed = PolledOnce()
    ours, cat, ss, bare = in_turns(
        rounds, observed.quiet_poll, lambda: of_command(CAT), lambda: of_command(SS), read_bare
    )
    ours_again, psutil = in_turns(max(2, rounds // 3), observed.quiet_poll, psutil_polling())
    table.close()
    results = []
    for name, mine, theirs, limit in (
        ("cat /proc/net/tcp /proc/net/tcp6", ours, cat, 1.1),
        ("ss -tan", ours, ss, 0.75),
        ("psutil.net_connections()", ours_again, psutil, 0.2),
    ):
        part = ratio(mine, theirs)
        results.append(at_most(f"time of a poll : {name}", part.wall, limit, beside=f"of CPU time {part.cpu:.2f}"))
    part = ratio(bare, cat)
    results.append(
        Result("reading both tables and nothing else : cat", f"{part.wall:.2f} (of CPU time {part.cpu:.2f})")
    )
    part = Cost(median(first).wall / median(ours).wall, median(first).cpu / median(ours).cpu)
    results.append(at_most("CPU time of the first poll : a poll", part.cpu, 4, beside=f"{median(first).cpu:.2f} s"))
    remarks = [
        f"medians of {len(costs)} rounds taken in turns: {name} {median(costs).wall * 1e3:.0f} ms, "
        f"CPU {median(costs).cpu * 1e3:.0f} ms"
        for name, costs in (("poll", ours), ("cat", cat), ("ss -tan", ss), ("psutil", psutil))
    ]
    return Group(f"A poll of {rows:,} established rows, none of them new", results, remarks=remarks)


def linear(small: bool) -> Group:
    """Time of a poll by the size of the table."""
    sizes, rounds = ((200, 400, 800), 2) if small else ((10_000, 100_000, 400_000), 7)
    table = Table()
    per_row: list[float] = []
    rows = [["rows", "poll", "CPU", "per row", "cat", "poll : cat"]]
    for size in sizes:
        table.grow(size)
        observed = PolledOnce()
        ours, cat = in_turns(rounds, observed.quiet_poll, lambda: of_command(CAT))
        poll = median(ours)
        per_row.append(poll.cpu / size)
        rows.append(
            [
                f"{size:,}",
                f"{poll.wall * 1e3:.1f} ms",
                f"{poll.cpu * 1e3:.1f} ms",
                f"{poll.cpu / size * 1e6:.2f} us",
                f"{median(cat).wall * 1e3:.1f} ms",
                f"{ratio(ours, cat).wall:.2f}",
            ]
        )
    table.close()
    growth = per_row[-1] / per_row[-2]
    return Group(
        f"A poll is linear up to {sizes[-1]:,} rows",
        [at_most(f"CPU time per row, {sizes[-1]:,} rows : {sizes[-2]:,}", growth, 1.25)],
        rows,
    )


# The hash table of a host with 2 GiB: one bucket for each 128 KiB of memory (kernel: net/ipv4/tcp.c, tcp_init()).
_BUCKETS = 16_384


def hash_tables() -> Iterator[str]:
    """Sets the size of the socket hash table for namespaces created during each step; yields its description."""
    with open("/proc/sys/net/ipv4/tcp_ehash_entries") as file:
        buckets = abs(int(file.read()))
    # 0: a network namespace created from this one shares this host's table; else it gets its own of this size.
    for entries, what in ((0, f"this host's {buckets:,} buckets"), (_BUCKETS, f"{_BUCKETS:,} buckets, as with 2 GiB")):
        with open("/proc/sys/net/ipv4/tcp_child_ehash_entries", "w") as file:
            file.write(str(entries))
        yield what


def little(small: bool) -> Group:
    """CPU time of a poll on a usual host. The kernel walks its whole hash table twice, even if that is almost empty."""
    rows, rounds = (200, 3) if small else (200, 300)
    results = []
    for what in hash_tables():
        printed = apart.run("bench.little", str(rows), str(rounds))
        if printed is None:
            raise RuntimeError("the poll could not be measured")
        cpu, wall = (float(each) for each in printed.split())
        results += [at_most(f"CPU time, {what}", cpu, 2, " ms"), Result(f"elapsed, {what}", f"{wall:.2f} ms")]
    return Group(f"A poll of {rows} rows", results)
