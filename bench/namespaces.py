"""CPU time of observing other network namespaces in which nothing happens, and of finding them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.polls import observer
from bench.results import Group, Result, at_most
from bench.timing import Cost, in_turns, median, of_call
from tcpnewconn.attribution.units import Units
from tcpnewconn.eventtypes import Event
from tcpnewconn.kernel import host
from tcpnewconn.kernel.namespaces import Namespaces
from tcpnewconn.kernel.procnet import net_directory
from tcpnewconn.namespaces.others import Others

# A namespace with so many open connections over its loopback; it is there once a line was written.
_INHABITED = """
import socket, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
listener = socket.create_server(("127.0.0.1", 8080))
kept = []
for _ in range(int(sys.argv[1])):
    kept += [socket.create_connection(("127.0.0.1", 8080)), listener.accept()[0]]
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def inhabited(connections: int) -> Iterator[None]:
    with subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", _INHABITED, str(connections)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.communicate()


def at_rest(small: bool) -> Group:
    """Whole cycles: so many intervals that each namespace has been polled as often as it is at rest."""
    count, connections, processes, intervals = (3, 2, 20, 60) if small else (50, 20, 600, 120)
    events: list[Event] = []
    here = host.look("/proc", net_directory("/proc"))
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(inhabited(connections))
        for _ in range(max(0, processes - count)):
            sleeper = subprocess.Popen(["sleep", "infinity"])
            stack.callback(sleeper.wait)
            stack.callback(sleeper.kill)
        others = Others(here, observer(events.append), events.append, Units(), None)
        others.include(True, 1.0)
        now = time.monotonic()
        for _ in range(3):
            now += 10
            others.look(now)
            others.poll()
        reported = len(events)
        spent, polled = others.schedule.budget.seconds, others.schedule.results["polled"]
        for _ in range(intervals):
            now += 10
            others.look(now)
            others.poll()
        took = (others.schedule.budget.seconds - spent) / intervals
        whole = (others.schedule.results["polled"] - polled) / intervals
        if len(events) != reported or others.known.count != count:
            raise RuntimeError(f"{len(events) - reported} events, {others.known.count} namespaces")
        namespaces = Namespaces()
        for _ in range(9):
            namespaces.look()

        def look() -> Cost:
            return of_call(namespaces.look)

        [looks] = in_turns(5 if small else 200, look)
        [tables] = in_turns(
            5, lambda: of_call(lambda: [Path(f"/proc/self/net/{name}").read_bytes() for name in ("tcp", "tcp6")])
        )
    return Group(
        f"Other network namespaces at rest: {count} with {connections} open connections each, {processes} processes",
        [
            at_most("CPU time of an interval", took * 1e3, 15, " ms", 2, f"{whole:.2f} of them polled whole"),
            at_most("CPU time of finding them, none new", median(looks).cpu * 1e3, 1, " ms"),
            Result("CPU time of reading the tables of one namespace", f"{median(tables).cpu * 1e3:.2f} ms"),
        ],
    )
