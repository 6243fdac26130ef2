"""The kernel's own event of connect(), where it has no kprobes: of whom short connections are known, and what it costs who connects.

The kernel of these measurements has none. With events of our own the share is 100 %, whatever has gone (tests/machine).
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.load import PORT, Nginx, accepted, storm
from bench.results import Group, Result
from bench.timing import cpu_of
from tcpnewconn.attribution.units import tree
from tcpnewconn.kernel.instance import DIRECTORY, WANTED
from tcpnewconn.kernel.plainevent import FILTER, GROUP, NAME, PLAIN
from tcpnewconn.kernel.tracefs import ROOT, Instance, Tracefs

_TREE = Path(__file__).resolve().parent.parent
_CGROUP = Path(tree("/sys/fs/cgroup") or "/sys/fs/cgroup") / "tcpnewconn_bench.slice/short.service"
# Notifications from before the start are waited for.
_ATTRIBUTES_AFTER = 2.5

_IN_C = f"""
#include <arpa/inet.h>
#include <sys/socket.h>
int main(void) {{
    struct sockaddr_in to = {{.sin_family = AF_INET, .sin_port = htons({PORT}), .sin_addr.s_addr = htonl(0x7f000001)}};
    return connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&to, sizeof to) != 0;
}}
"""
# A process for each connection, at a rate per second.
_FORKS = f"""
import os, socket, sys, time
count, rate = int(sys.argv[1]), int(sys.argv[2])
begin = time.monotonic()
for number in range(count):
    time.sleep(max(0.0, begin + number / rate - time.monotonic()))
    child = os.fork()
    if child == 0:
        with socket.socket() as client:
            client.connect(("127.0.0.1", {PORT}))
        os._exit(0)
    os.waitpid(child, 0)
"""


@contextmanager
def _recorded() -> Iterator[Instance]:
    """An instance that the service finds, in a mount namespace of its own."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["mount", "-t", "tracefs", "none", ROOT], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    instance = Tracefs().instance(f"tcpnewconn-bench-{os.getpid()}")
    instance.make(4096)
    instance.wake_at_once()
    os.makedirs(DIRECTORY)
    subprocess.run(["mount", "--bind", instance.directory, DIRECTORY], check=True)
    try:
        yield instance
    finally:
        subprocess.run(["umount", DIRECTORY], check=True)
        instance.remove()


def _record(instance: Instance, on: bool) -> None:
    if on:
        instance.enable(f"{GROUP}/{NAME}", FILTER)
    else:
        instance.disable()


@contextmanager
def _service(trace: bool, printed: Path) -> Iterator[subprocess.Popen[bytes]]:
    """It writes JSON lines to a file."""
    marker = Path(DIRECTORY).parent / WANTED
    marker.write_text(PLAIN if trace else "")
    configuration = printed.with_suffix(".conf")
    configuration.write_text("[Report]\nBurstLimit=0\nTotalLimit=0\nListeners=no\nExisting=no\n[PortScan]\nPorts=off\n")
    with printed.open("wb") as output:
        program = subprocess.Popen(
            ["/usr/bin/python3", "-m", "tcpnewconn", "--output", "json", "--config", str(configuration)],
            cwd=_TREE,
            stdout=output,
        )
        try:
            time.sleep(_ATTRIBUTES_AFTER)
            yield program
        finally:
            program.send_signal(signal.SIGTERM)
            program.wait()


def _known(printed: Path) -> tuple[int, int]:
    """Short connections to nginx, and those whose unit is known."""
    with printed.open() as lines:
        events = [json.loads(line) for line in lines]
    short = [event for event in events if event.get("destination.port") == PORT and "network.connection.state" in event]
    return len(short), sum(event.get("object.systemd_unit") == _CGROUP.name for event in short)


def _in_unit(*command: str) -> None:
    enter = f'echo $$ >{_CGROUP}/cgroup.procs && exec "$@"'
    subprocess.run(["sh", "-c", enter, "sh", *command], check=True, stdout=subprocess.DEVNULL)


def _loads(directory: Path) -> dict[str, Callable[[int], None]]:
    """Programs that open so many connections, each a process of its own that ends at once."""
    (directory / "connect.c").write_text(_IN_C)
    subprocess.run(["cc", "-O2", "-o", str(directory / "connect"), str(directory / "connect.c")], check=True)

    def again(command: str) -> Callable[[int], None]:
        return lambda count: _in_unit("bash", "-c", f"for i in $(seq {count}); do {command}; done")

    return {
        "curl": again(f"curl --silent --output /dev/null http://127.0.0.1:{PORT}/"),
        "a shell's /dev/tcp": again(f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{PORT}'"),
        "connect and exit, in C": again(str(directory / "connect")),
        "a fork for each, 500 per second": lambda count: _in_unit(sys.executable, "-c", _FORKS, str(count), "500"),
    }


def shares(small: bool) -> Group:
    """The share of short connections whose unit is known by the plain event."""
    count = 20 if small else 1000
    results = []
    _CGROUP.mkdir(parents=True, exist_ok=True)
    try:
        with _recorded() as instance, tempfile.TemporaryDirectory() as name, Nginx():
            _record(instance, True)
            for load, run in _loads(Path(name)).items():
                printed = Path(name) / "printed"
                with _service(True, printed):
                    run(count)
                    time.sleep(1)
                seen, known = _known(printed)
                results.append(Result(f"reported, {load}", f"{seen:,} of {count:,}", "all", seen == count))
                results.append(Result(f"with unit, {load}", f"{known / count:.1%}"))
    finally:
        while (_CGROUP / "cgroup.procs").read_text():
            time.sleep(0.05)
        _CGROUP.rmdir()
        _CGROUP.parent.rmdir()
    return Group(
        "Short connections by the kernel's own event of connect(): processes that are looked up at once", results
    )


def throughput(small: bool) -> Group:
    """nginx and wrk over loopback, with the plain event recorded and without, in turns."""
    seconds, rounds = (1, 1) if small else (3, 7)
    rates: dict[tuple[bool, bool], list[float]] = {}
    costs: dict[bool, list[float]] = {True: [], False: []}
    with _recorded() as instance, tempfile.TemporaryDirectory() as name, Nginx():
        for number in range(rounds):
            turns = [(served, recorded) for served in (False, True) for recorded in (False, True)]
            for served, recorded in turns if number % 2 else turns[::-1]:
                _record(instance, recorded)
                if not served:
                    rates.setdefault((False, recorded), []).append(_rate(seconds))
                    continue
                with _service(recorded, Path(name) / "printed") as program:
                    cpu, before = cpu_of(program.pid), accepted()
                    rates.setdefault((True, recorded), []).append(_rate(seconds))
                    time.sleep(1)
                    costs[recorded].append((cpu_of(program.pid) - cpu) / (accepted() - before))
    return Group(
        "nginx and wrk over loopback, with the kernel's own event of connect() recorded and without",
        [
            _compared("recorded, read by nobody : not recorded", rates[False, True], rates[False, False]),
            _compared("the service with it : the service without", rates[True, True], rates[True, False]),
            Result("CPU time of the service for each, with it", f"{statistics.median(costs[True]) * 1e6:.1f} us"),
            Result("CPU time of the service for each, without", f"{statistics.median(costs[False]) * 1e6:.1f} us"),
        ],
    )


def _rate(seconds: int) -> float:
    """Connections per second."""
    before = accepted()
    took = storm(None, seconds)
    return (accepted() - before) / took


def _compared(what: str, on: list[float], off: list[float]) -> Result:
    ratios = sorted(one / other for one, other in zip(on, off, strict=True))
    middle = statistics.median(ratios)
    measured = f"{middle:.3f} ({ratios[0]:.2f} to {ratios[-1]:.2f}; {statistics.median(on):,.0f} per second)"
    return Result(what, measured, "at least 0.97", middle >= 0.97)
