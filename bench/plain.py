"""The kernel's own event of connect(), where it has no kprobes: the share of short connections that it explains, and its cost.

The kernel of these measurements has none. With events of our own the share is 100 %, whatever has gone (tests/machine).
"""

from __future__ import annotations

import json
import os
import shutil
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
        subprocess.run(["umount", "--lazy", DIRECTORY], check=True)
        instance.remove()


def _record(instance: Instance, connect: bool, destroyed: bool = False) -> None:
    """Record connect(), and each socket that is destroyed, or not."""
    instance.disable()
    if connect:
        instance.enable(f"{GROUP}/{NAME}", FILTER)
    if destroyed:
        instance.enable("tcp/tcp_destroy_sock")


@contextmanager
def _service(trace: bool, printed: Path, metrics: Path, small: bool) -> Iterator[subprocess.Popen[bytes]]:
    """It writes JSON lines to a file. If not `small`, it attributes connections from the beginning of the block on."""
    marker = Path(DIRECTORY).parent / WANTED
    marker.write_text(PLAIN if trace else "")
    configuration = printed.with_suffix(".conf")
    configuration.write_text("[Report]\nBurstLimit=0\nTotalLimit=0\nListeners=no\nExisting=no\n[PortScan]\nPorts=off\n")
    metrics.unlink(missing_ok=True)
    with printed.open("wb") as output:
        program = subprocess.Popen(
            [
                "/usr/bin/python3",
                "-m",
                "tcpnewconn",
                "--output",
                "json",
                "--config",
                str(configuration),
                "--metrics",
                str(metrics),
            ],
            cwd=_TREE,
            stdout=output,
        )
        try:
            while not metrics.exists():
                # It has not polled yet.
                if program.poll() is not None:
                    raise RuntimeError(f"it ended with exit status {program.returncode}")
                time.sleep(0.01)
            time.sleep(0 if small else _ATTRIBUTES_AFTER)
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
    """Programs that open so many connections, each a process of its own that ends at once. One needs a compiler."""
    in_c = {}
    if shutil.which("cc"):
        (directory / "connect.c").write_text(_IN_C)
        subprocess.run(["cc", "-O2", "-o", str(directory / "connect"), str(directory / "connect.c")], check=True)
        in_c["connect and exit, in C"] = str(directory / "connect")

    def again(command: str) -> Callable[[int], None]:
        return lambda count: _in_unit("bash", "-c", f"for i in $(seq {count}); do {command}; done")

    return {
        "curl": again(f"curl --silent --output /dev/null http://127.0.0.1:{PORT}/"),
        "a shell's /dev/tcp": again(f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{PORT}'"),
        **{load: again(command) for load, command in in_c.items()},
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
                with _service(True, printed, Path(name) / "metrics", small):
                    run(count)
                    time.sleep(0.5 if small else 1)
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
    """nginx and wrk over loopback, with the plain event recorded and without, in turns; and with tcp_destroy_sock."""
    # Rates differ by tenths from one second to the next, and what is recorded costs hundredths: many short turns.
    turns, rounds, seconds = (1, 1, 1) if small else (40, 5, 3)
    # By what is recorded: nothing, connect(), destroyed sockets, too. Read by nobody, and by the service.
    alone: dict[int, list[float]] = {0: [], 1: [], 2: []}
    served: dict[int, list[float]] = {0: [], 1: []}
    costs: dict[int, list[float]] = {0: [], 1: []}
    known, ambiguous = [], []
    with _recorded() as instance, tempfile.TemporaryDirectory() as name, Nginx():
        printed, metrics = Path(name) / "printed", Path(name) / "metrics"
        for number in range(turns):
            for recorded in sorted(alone, reverse=bool(number % 2)):
                _record(instance, recorded >= 1, recorded == 2)
                alone[recorded].append(_rate(1))
        for number in range(rounds):
            for recorded in sorted(served, reverse=bool(number % 2)):
                _record(instance, bool(recorded), False)
                with _service(bool(recorded), printed, metrics, small) as program:
                    cpu, before = cpu_of(program.pid), accepted()
                    served[recorded].append(_rate(seconds))
                    time.sleep(1)
                    made = accepted() - before
                    costs[recorded].append((cpu_of(program.pid) - cpu) / made)
                if recorded:
                    counted = metrics.read_text()
                    known.append(_sum(counted, "connections_attributed_total", 'by="connect"') / made)
                    ambiguous.append(_sum(counted, "connections_not_attributed_total", 'reason="ambiguous"') / made)
    return Group(
        "nginx and wrk over loopback, with the kernel's own event of connect() recorded and without",
        [
            _compared("recorded, read by nobody : not recorded", alone[1], alone[0], 0.97),
            _compared("tcp_destroy_sock recorded, too : not", alone[2], alone[1]),
            _compared("the service with it : the service without", served[1], served[0], 0.97),
            Result("CPU time of the service for each, with it", f"{statistics.median(costs[1]) * 1e6:.1f} us"),
            Result("CPU time of the service for each, without", f"{statistics.median(costs[0]) * 1e6:.1f} us"),
            Result("attributed by connect()", f"{min(known):.2%}"),
            Result("ambiguous", f"{max(ambiguous):.2%}"),
        ],
    )


def _sum(metrics: str, name: str, label: str) -> float:
    """The sum of the samples of a metric with a label."""
    lines = [line for line in metrics.splitlines() if line.startswith(f"tcpnewconn_{name}{{") and label in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def _rate(seconds: int) -> float:
    """Connections per second."""
    before = accepted()
    took = storm(None, seconds)
    return (accepted() - before) / took


def _compared(what: str, on: list[float], off: list[float], least: float | None = None) -> Result:
    ratios = sorted(one / other for one, other in zip(on, off, strict=True))
    middle = statistics.median(ratios)
    measured = f"{middle:.3f} ({ratios[0]:.2f} to {ratios[-1]:.2f}; {statistics.median(on):,.0f} per second)"
    if least is None:
        return Result(what, measured)
    return Result(what, measured, f"at least {least}", middle >= least)
