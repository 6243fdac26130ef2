"""A second host, joined to this one by a veth pair: it opens the connections to the host that is measured."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

_HOST, _CLIENT = "10.77.0.1", "10.77.0.2"


class Client:
    """Exists until the end of the `with` block. Create it in a network namespace of your own."""

    host_address = _HOST

    def __init__(self) -> None:
        self._program = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-m", "bench.client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        peer = ["peer", "name", "veth", "netns", str(self._program.pid)]
        subprocess.run(["ip", "link", "add", "veth", "type", "veth", *peer], check=True)
        for prefix, address in ((), _HOST), (self.command(), _CLIENT):
            subprocess.run([*prefix, "ip", "address", "add", f"{address}/24", "dev", "veth"], check=True)
            subprocess.run([*prefix, "ip", "link", "set", "veth", "up"], check=True)
        self._ask("use_all_ports")

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._program.terminate()
        self._program.wait()

    def command(self, *command: str) -> list[str]:
        """A command line that runs another one on that host."""
        return ["nsenter", f"--net=/proc/{self._program.pid}/ns/net", "--", *command]

    def hold(self, count: int, port: int) -> int:
        """Open `count` connections to this host; returns a number for `release`."""
        return int(self._ask("hold", count, port))

    def release(self, held: int) -> None:
        """Close connections that `hold` opened."""
        self._ask("release", held)

    def pace(self, rate: int, count: int, port: int) -> dict[int, float]:
        """Open and close `rate` connections per second; by local port the monotonic time (s) at which each was closed."""
        return {int(local): closed for local, closed in self._ask("pace", rate, count, port).items()}

    def _ask(self, what: str, *arguments: int) -> Any:
        assert self._program.stdin is not None
        print(json.dumps([what, *arguments]), file=self._program.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._program.stdout is not None
        return json.loads(self._program.stdout.readline())


def allow_many_files() -> int:
    """Raise this process's limit on open files to its hard limit; returns that."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _hold(count: int, port: int) -> list[socket.socket]:
    return [socket.create_connection((_HOST, port)) for _ in range(count)]


def pace(host: str, rate: int, count: int, port: int) -> dict[int, float]:
    """Open and close `rate` connections per second; by local port the monotonic time (s) at which each was closed."""
    closed = {}
    begin = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begin + number / rate - time.monotonic()))
        connection = socket.create_connection((host, port))
        local = connection.getsockname()[1]
        closed[local] = time.monotonic()
        connection.close()
    return closed


def _serve(requests: Sequence[str] | Any) -> None:
    allow_many_files()
    held: dict[int, list[socket.socket]] = {}
    print(json.dumps("ready"), flush=True)
    for line in requests:
        what, *arguments = json.loads(line)
        answer: Any = None
        if what == "use_all_ports":
            with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
                file.write("1024 65000")
        elif what == "hold":
            answer = len(held)
            held[answer] = _hold(*arguments)
        elif what == "release":
            for connection in held.pop(arguments[0]):
                connection.close()
        elif what == "pace":
            answer = pace(_HOST, *arguments)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve(sys.stdin)
