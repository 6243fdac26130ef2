"""Short connections in other network namespaces: in ten of them at a time, and in containers that come and go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.results import Group, Result, at_most
from bench.service import Service

_CGROUPS = Path("/sys/fs/cgroup")
_ALL = "[Namespaces]\nInclude=all\n"

# So many connections over loopback, so many a second; begins with a line, and prints how many it made.
_CONNECTS = """
import socket, sys, time
sys.stdin.readline()
count, rate = int(sys.argv[1]), float(sys.argv[2])
listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
began = time.monotonic()
for number in range(count):
    with socket.create_connection(("127.0.0.1", 8080)):
        accepted = listener.accept()[0]
    accepted.close()
    ahead = began + number / rate - time.monotonic()
    if ahead > 0:
        time.sleep(ahead)
print(count, flush=True)
"""


class _Container:
    """A process in a network namespace that has a device with its peer here. It connects after start()."""

    def __init__(self, number: int, count: int, rate: float, cgroup: Path | None) -> None:
        self._process = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-S", "-E", "-c", _CONNECTS, str(count), str(rate)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        pid = str(self._process.pid)
        while os.stat(f"/proc/{pid}/net/tcp").st_ino == os.stat("/proc/self/net/tcp").st_ino:
            time.sleep(0.001)
        if cgroup is not None:
            (cgroup / "cgroup.procs").write_text(pid)
        name = f"bench{number}"
        subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", pid], check=True)
        subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "link", "set", "lo", "up"], check=True)

    def start(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def end(self) -> None:
        self._process.communicate()


def at_a_time(small: bool) -> Group:
    """Ten namespaces, together as many connections per second as the goal says."""
    namespaces, count, rate = (3, 20, 100.0) if small else (10, 5_000, 500.0)
    with ExitStack() as stack:
        containers = [_Container(number, count, rate, None) for number in range(namespaces)]
        file = stack.enter_context(tempfile.NamedTemporaryFile())
        with Service(output="json", more=_ALL, written=file.fileno()) as service:
            cpu, began = service.cpu(), time.monotonic()
            for one in containers:
                one.start()
            for one in containers:
                one.end()
            took = time.monotonic() - began
            made = namespaces * count
            found = _wait_for(file.name, made)
            cpu = service.cpu() - cpu
    return Group(
        f"Short connections over {namespaces} network namespaces",
        [
            Result("rate reached", f"{made / took:,.0f} per second for {took:.0f} s", "5,000"),
            Result("logged", f"{len(found):,} of {made:,}", "all", len(found) == made),
            Result("with their namespace", f"{sum(1 for netns, _ in found.values() if netns):,}", "all"),
            Result("CPU time of each, logged one by one as JSON", f"{cpu / made * 1e6:.1f} us"),
        ],
    )


def come_and_go(small: bool) -> Group:
    """A container starts, makes ten connections and stops, again and again."""
    containers, count = (5, 10) if small else (500, 10)
    with (
        tempfile.NamedTemporaryFile() as file,
        _slice() as place,
        Service(output="json", more=_ALL, written=file.fileno()) as service,
    ):
        before = 0.0
        for number in range(containers):
            cgroup = place / f"libpod-{number:064x}.scope"
            cgroup.mkdir()
            one = _Container(number, count, 1e6, cgroup)
            one.start()
            one.end()
            if number == containers // 5:
                before = service.peak_memory()
        made = containers * count
        found = _wait_for(file.name, made)
        after = service.peak_memory()
    identified = sum(1 for _, container in found.values() if container)
    return Group(
        f"Containers that come and go: {containers} with {count} short connections each",
        [
            Result("logged", f"{len(found):,} of {made:,}", "all", len(found) == made),
            Result(
                "with the id of the container",
                f"{identified / made * 100:.1f} %",
                "at least 99 %",
                identified >= 0.99 * made,
            ),
            at_most("peak memory at the end : after a fifth of them", after / before, 1.05, "", 3),
        ],
    )


def _wait_for(path: str, made: int) -> dict[str, tuple[int, str]]:
    """Namespace and container of the connections that were logged, by their id, once all are or no more come."""
    until = time.monotonic() + 20
    while True:
        found = {}
        for line in Path(path).read_text().splitlines():
            event = json.loads(line) if line.endswith("}") else {}
            if event.get("event.action") == "connection-opened" and event.get("destination.port") == 8080:
                found[event["tcpnewconn.connection_id"]] = (
                    event.get("tcpnewconn.netns", 0),
                    event.get("container.id", ""),
                )
        if len(found) >= made or time.monotonic() > until:
            return found
        time.sleep(0.2)


@contextmanager
def _slice() -> Iterator[Path]:
    """A place in the tree of cgroups, taken away afterwards."""
    [root] = [root for root in (_CGROUPS, _CGROUPS / "unified") if (root / "cgroup.controllers").exists()]
    place = root / f"tcpnewconn_bench_{os.getpid()}.slice"
    place.mkdir()
    try:
        yield place
    finally:
        for directory, _, _ in os.walk(place, topdown=False):
            os.rmdir(directory)
