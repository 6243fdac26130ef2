"""The service under load: how many short connections it logs, at what cost, and with what delay."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from bench.client import Client
from bench.journal import Journal
from bench.results import Group, Result, at_most
from bench.service import Service

PORT = 8080

_NGINX = f"""
daemon off; worker_processes 1; error_log /dev/null; pid nginx.pid;
events {{ worker_connections 4096; }}
http {{ access_log off; server {{ listen {PORT} backlog=4096; return 200 "hello\\n"; }} }}
"""


class Nginx:
    """A web server on this host, until the end of the `with` block."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="tcpnewconn-bench-")
        conf = Path(self._directory.name) / "nginx.conf"
        conf.write_text(_NGINX)
        os.chmod(self._directory.name, 0o755)
        self._program = subprocess.Popen(
            ["nginx", "-p", self._directory.name, "-c", str(conf)], stderr=subprocess.DEVNULL
        )
        while not any(
            f":{PORT:04X} 00000000:0000 0A" in row for row in Path("/proc/self/net/tcp").read_text().splitlines()
        ):
            if self._program.poll() is not None:
                raise RuntimeError(f"nginx ended with exit status {self._program.returncode}")
            time.sleep(0.01)

    def __enter__(self) -> Nginx:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._program.terminate()
        self._program.wait()
        self._directory.cleanup()


def accepted() -> int:
    """Connections that this namespace has accepted so far: PassiveOpens in /proc/net/snmp."""
    with open("/proc/self/net/snmp") as file:
        names, values = [line.split() for line in file if line.startswith("Tcp:")]
    return int(dict(zip(names, values, strict=True))["PassiveOpens"])


def ended(within: float = 30.0) -> None:
    """Wait until no connection is left: on a busy machine nginx accepts the last ones after their client has exited."""
    until = time.monotonic() + within
    while any(_open()) and time.monotonic() < until:
        time.sleep(0.05)


def _open() -> Iterator[str]:
    """The rows of connections with the server, but for those in TIME_WAIT."""
    with open("/proc/self/net/tcp") as file:
        for row in file:
            _, local, remote, state, *_ = row.split()
            if f":{PORT:04X}" in (local[8:], remote[8:]) and state not in ("0A", "06"):
                yield row


def storm(client: Client | None, seconds: int, at_once: int = 100) -> float:
    """One connection per request, from another host or over loopback. Returns the seconds it took."""
    address = "127.0.0.1" if client is None else client.host_address
    wrk = ["wrk", "-t1", f"-c{at_once}", f"-d{seconds}s", "-H", "Connection: close", f"http://{address}:{PORT}/"]
    begin = time.monotonic()
    subprocess.run(wrk if client is None else client.command(*wrk), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin


def from_another_host(small: bool) -> Group:
    """As many connections per second as this machine opens, each with one socket here."""
    with Client() as client:
        return _under_load(client, 1 if small else 10, "another host")


def over_loopback(small: bool) -> Group:
    """As many connections per second as this machine opens, each with two sockets here."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return _under_load(None, 1 if small else 10, "this host itself, over loopback")


def sustained(small: bool) -> Group:
    """5,000 connections per second or more, logged one by one."""
    with Client() as client, Nginx():
        journal = Journal()
        with Service() as service:
            cpu, before = service.cpu(), accepted()
            took = storm(client, 1 if small else 20, 10)
            during = service.cpu() - cpu
            ended()
            service.caught_up()
            journal.quiet()
            made, lost = accepted() - before, service.lost()
        reported = len({entry.id for entry in journal.entries() if entry.destination_port == PORT})
    rate = made / took
    return Group(
        "Connections logged one by one, sustained",
        [
            Result("rate reached", f"{rate:,.0f} per second for {took:.0f} s", "at least 5,000", rate >= 5000),
            Result("reported", f"{reported:,} of {made:,}", "all", reported == made),
            Result("lost notifications", f"{lost:,}", "0", lost == 0),
            at_most("cores during that", during / took, 1, "", 2, f"CPU time of each: {during / made * 1e6:.1f} us"),
        ],
    )


def _under_load(client: Client | None, seconds: int, whence: str) -> Group:
    with Nginx():
        journal = Journal()
        with Service() as service:
            cpu, before = service.cpu(), accepted()
            took = storm(client, seconds)
            during = service.cpu() - cpu
            begin = time.monotonic()
            ended()
            service.caught_up()
            behind = max(0.0, journal.quiet() - begin)
            # Counted only now: the last ones are accepted after their client has exited.
            connections = accepted() - before
            cpu, lost = service.cpu() - cpu, service.lost()
            ids = [entry.id for entry in journal.entries() if entry.destination_port == PORT]
    reported, each = len(set(ids)), cpu / connections
    return Group(
        f"Connections from {whence}: nginx and wrk on the same machine, {os.cpu_count()} cores for all",
        [
            Result("rate reached", f"{connections / took:,.0f} per second for {seconds} s", "20,000"),
            Result(
                "reported",
                f"{reported:,} of {connections:,} ({reported / connections:.2%})",
                "100 %",
                reported == connections,
            ),
            Result("reported twice with one id", f"{len(ids) - reported:,}", "0", len(ids) == reported),
            Result("lost notifications", f"{lost:,}", "0", lost == 0),
            at_most("cores at 20,000 per second", each * 20_000, 1, "", 2, f"CPU time of each: {each * 1e6:.1f} us"),
        ],
        remarks=[
            f"it used {during / took:.2f} of a core during the load, and had logged all connections {behind:.1f} s after it"
        ],
    )


_SERVER = f"""
import socket
listener = socket.create_server(("", {PORT}), backlog=4096)
print("listening", flush=True)
while True:
    with listener.accept()[0] as connection:
        connection.recv(16)
"""


@contextmanager
def serving() -> Iterator[None]:
    """A server that only accepts and closes."""
    with subprocess.Popen(["/usr/bin/python3", "-c", _SERVER], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        try:
            yield
        finally:
            server.kill()


def delay(small: bool) -> Group:
    """From the close of a connection to its entry in the journal."""
    per_second, count = (200, 100) if small else (1000, 20_000)
    with ExitStack() as stack:
        client = stack.enter_context(Client())
        stack.enter_context(serving())
        journal = Journal()
        service = stack.enter_context(Service())
        begin = time.monotonic()
        closed = client.pace(per_second, count, PORT)
        took = time.monotonic() - begin
        ended()
        service.caught_up()
        journal.quiet()
        entries = [entry for entry in journal.entries() if entry.destination_port == PORT]
    delays = sorted(entry.received - closed[entry.source_port] for entry in entries)
    middle, late = statistics.median(delays), delays[int(len(delays) * 0.99)]
    return Group(
        f"From close to journal entry, at {count / took:,.0f} connections per second",
        [
            Result("reported", f"{len(entries):,} of {count:,}", "all", len(entries) == count),
            at_most("median", middle * 1e3, 50, " ms", 1),
            at_most("99th percentile", late * 1e3, 250, " ms", 1),
            Result("longest", f"{delays[-1] * 1e3:.1f} ms"),
        ],
    )
