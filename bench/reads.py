"""What a read of a quiet table costs, beside cat, ss and psutil."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from bench import apart
from bench.figures import Figure, Group, at_most
from bench.table import Table
from bench.timing import Cost, in_turns, median, of_call, of_command, ratio
from tcpnewconn.kernel import host, sockdiag
from tcpnewconn.kernel.procnet import ProcNet, net_folder
from tcpnewconn.observer import Observer
from tcpnewconn.state.snapshot import Snapshot

CAT = ("cat", "/proc/net/tcp", "/proc/net/tcp6")
SS = ("ss", "-tan")

# psutil is measured without its import: a program that polls has it loaded.
_PSUTIL = """
import sys, time, psutil
for line in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    psutil.net_connections(kind="tcp")
    print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
"""


def observer(snapshot: Snapshot | None = None) -> Observer:
    """As the service has it under systemd."""
    here = host.look("/proc", net_folder("/proc"))
    return Observer(ProcNet(users=here.users), here, sockdiag.Lookup(), True, True, snapshot, 10.0)


def read_once() -> Observer:
    """One for which all that is in the tables now is old."""
    made = observer()
    for _ in made.read(time.monotonic()):
        pass
    return made


def quiet_read(of: Observer) -> Cost:
    """A read in which nothing may be new, from open() to decision."""

    def read() -> None:
        new = sum(1 for _ in of.read(time.monotonic()))
        if new:
            raise RuntimeError(f"{new} events from a quiet table")

    return of_call(read)


def psutil_reading() -> Callable[[], Cost]:
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
    """A read of 100,000 established rows of which none is new."""
    rows, rounds = (200, 2) if small else (100_000, 15)
    table = Table()
    table.grow(rows)
    reader = read_once()
    ours, cat, ss = in_turns(rounds, lambda: quiet_read(reader), lambda: of_command(CAT), lambda: of_command(SS))
    ours_again, psutil = in_turns(max(2, rounds // 3), lambda: quiet_read(reader), psutil_reading())
    table.close()
    figures = []
    for name, mine, theirs, limit in (
        ("cat /proc/net/tcp /proc/net/tcp6", ours, cat, 1.25),
        ("ss -tan", ours, ss, 0.75),
        ("psutil.net_connections()", ours_again, psutil, 0.2),
    ):
        part = ratio(mine, theirs)
        figures.append(at_most(f"time of a read : {name}", part.wall, limit, beside=f"of CPU time {part.cpu:.2f}"))
    remarks = [
        f"medians of {len(costs)} rounds taken in turns: {name} {median(costs).wall * 1e3:.0f} ms, "
        f"CPU {median(costs).cpu * 1e3:.0f} ms"
        for name, costs in (("read", ours), ("cat", cat), ("ss -tan", ss), ("psutil", psutil))
    ]
    return Group(f"A read of {rows:,} established rows, none of them new", figures, remarks=remarks)


def linear(small: bool) -> Group:
    """The time of a read by the size of the table."""
    sizes, rounds = ((200, 400, 800), 2) if small else ((10_000, 100_000, 400_000), 7)
    table = Table()
    per_row: list[float] = []
    rows = [["rows", "read", "CPU", "per row", "cat", "read : cat"]]
    for size in sizes:
        table.grow(size)
        reader = read_once()
        ours, cat = in_turns(rounds, lambda reader=reader: quiet_read(reader), lambda: of_command(CAT))  # type: ignore[misc]
        read = median(ours)
        per_row.append(read.cpu / size)
        rows.append(
            [
                f"{size:,}",
                f"{read.wall * 1e3:.1f} ms",
                f"{read.cpu * 1e3:.1f} ms",
                f"{read.cpu / size * 1e6:.2f} us",
                f"{median(cat).wall * 1e3:.1f} ms",
                f"{ratio(ours, cat).wall:.2f}",
            ]
        )
    table.close()
    growth = per_row[-1] / per_row[-2]
    return Group(
        f"A read is linear up to {sizes[-1]:,} rows",
        [at_most(f"CPU time per row, {sizes[-1]:,} rows : {sizes[-2]:,}", growth, 1.25)],
        rows,
    )


# The hash table of a host with 2 GiB: the kernel makes one bucket for each 128 KiB of memory (net/ipv4/tcp.c, tcp_init()).
_BUCKETS = 16_384


def hash_tables() -> Iterator[str]:
    """Hash tables of sockets, each of which the network namespaces that are made meanwhile have; says which it is."""
    with open("/proc/sys/net/ipv4/tcp_ehash_entries") as file:
        buckets = abs(int(file.read()))
    # A network namespace made from this one shares this host's table, or gets one of its own of this size.
    for entries, what in ((0, f"this host's {buckets:,} buckets"), (_BUCKETS, f"{_BUCKETS:,} buckets, as with 2 GiB")):
        with open("/proc/sys/net/ipv4/tcp_child_ehash_entries", "w") as file:
            file.write(str(entries))
        yield what


def little(small: bool) -> Group:
    """What a read of a usual host's table costs. The kernel walks its whole hash table for that, twice, however empty."""
    rows, rounds = (200, 3) if small else (200, 300)
    figures = []
    for what in hash_tables():
        printed = apart.run("bench.little", str(rows), str(rounds))
        if printed is None:
            raise RuntimeError("the read could not be measured")
        cpu, wall = (float(each) for each in printed.split())
        figures += [at_most(f"CPU time, {what}", cpu, 2, " ms"), Figure(f"by the clock, {what}", f"{wall:.2f} ms")]
    return Group(f"A read of {rows} rows", figures)
