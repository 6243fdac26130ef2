"""A table of established connections, in a network namespace that nothing else uses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess

from bench.client import allow_many_files

# File descriptors that a holder needs besides its connections.
_SPARE = 100


class Table:
    """Rows of established connections on loopback; child processes hold them until `close`."""

    def __init__(self) -> None:
        self.rows = 0
        self._holders: list[int] = []
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
            file.write("1024 65000")

    def grow(self, rows: int) -> None:
        """Grow to `rows` rows in all (an even number: each connection has two)."""
        most = min(9000, (allow_many_files() - _SPARE) // 2)
        while self.rows < rows:
            connections = min(most, (rows - self.rows) // 2)
            self._holders.append(_hold(connections, len(self._holders)))
            self.rows += 2 * connections

    def close(self) -> None:
        for holder in self._holders:
            os.kill(holder, signal.SIGKILL)
            os.waitpid(holder, 0)
        self._holders.clear()
        self.rows = 0


def _hold(connections: int, number: int) -> int:
    """A process that holds both sockets of the connections; returns when they are established."""
    reading, writing = os.pipe()
    holder = os.fork()
    if holder:
        os.close(writing)
        done = os.read(reading, 1)
        os.close(reading)
        if not done:
            raise RuntimeError(f"could not make {connections} connections")
        return holder
    try:
        with socket.create_server((f"127.1.{number}.1", 80), backlog=4096) as listener:
            held = []
            for _ in range(connections):
                held += [socket.create_connection(listener.getsockname()), listener.accept()[0]]
        os.write(writing, b"x")
        signal.pause()
    finally:
        os._exit(1)
