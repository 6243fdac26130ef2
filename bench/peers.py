"""The same load, observed by other tools: what each sees, what it costs, and what it needs."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import apart
from bench.client import Client
from bench.journal import Journal
from bench.load import PORT, Nginx, accepted, storm
from bench.results import Group
from bench.service import Service
from bench.timing import cpu_of

# A poller counts the rows on the port that the previous poll did not have.
_POLL_PROC = f"""
import sys, time
from tcpnewconn.model import TIME_WAIT
from tcpnewconn.kernel.procnet import ProcNet
interval = float(sys.argv[1])
proc, port = ProcNet(), ({PORT}).to_bytes(2, "big")
for _ in proc.read().changed:
    pass
print("ready", flush=True)
begin, number = time.monotonic(), 0
while True:
    number += 1
    time.sleep(max(0.0, begin + number * interval - time.monotonic()))
    for row in proc.read().changed:
        if row.four_tuple[4:6] == port and row.state != TIME_WAIT:
            print(row.four_tuple.hex(), row.inode)
    print(end="", flush=True)
"""
_POLL_PSUTIL = f"""
import sys, time, psutil
interval, before = float(sys.argv[1]), set()
print("ready", flush=True)
begin, number = time.monotonic(), 0
while True:
    number += 1
    time.sleep(max(0.0, begin + number * interval - time.monotonic()))
    now = {{
        (each.raddr, each.fd)
        for each in psutil.net_connections(kind="tcp")
        if each.raddr and each.laddr.port == {PORT} and each.status != psutil.CONN_TIME_WAIT
    }}
    for each in now - before:
        print(each)
    print(end="", flush=True)
    before = now
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another tool that observes connections. Each printed line that `counts` is a connection that it saw."""

    name: str
    command: Sequence[str]
    needs: str
    counts: Callable[[str], bool]
    # Printed when it has started; None if it prints nothing before the first connection.
    ready: str | None = None
    # Commands to run before it starts.
    before: tuple[tuple[str, ...], ...] = ()


_TRACEFS = ("mount", "-t", "tracefs", "tracefs", "/sys/kernel/tracing")
# The kernel tracks connections only where a rule uses it.
TRACK = "add table inet bench; add chain inet bench input { type filter hook input priority 0; ct state new accept; }"
CONNTRACK = ("conntrack", "-E", "-e", "NEW", "-b", str(64 << 20))
_BPFTRACE = 'tracepoint:sock:inet_sock_set_state /args->newstate == 1/ { printf("%d\\n", args->sport); }'
_BPF_NEEDS = "CAP_BPF, CAP_PERFMON, a kernel with BTF"

_OURS = "tcpnewconn"
_PEERS = (
    Peer(
        "/proc/net/tcp every 10 s",
        (sys.executable, "-c", _POLL_PROC, "10"),
        "nothing",
        lambda line: line != "ready\n",
        "ready",
    ),
    Peer(
        "/proc/net/tcp every second",
        (sys.executable, "-c", _POLL_PROC, "1"),
        "nothing",
        lambda line: line != "ready\n",
        "ready",
    ),
    Peer(
        "psutil every second",
        (sys.executable, "-c", _POLL_PSUTIL, "1"),
        "nothing",
        lambda line: line != "ready\n",
        "ready",
    ),
    Peer("ss -E", ("ss", "-E", "-H", "-t", "-n"), "nothing", lambda line: f":{PORT} " in line),
    Peer(
        "conntrack -E",
        CONNTRACK,
        "CAP_NET_ADMIN, connection tracking",
        lambda line: f"dport={PORT} " in line,
        before=(("nft", TRACK),),
    ),
    Peer(
        "tcplife (libbpf-tools)",
        ("tcplife-libbpf", "-L", str(PORT)),
        _BPF_NEEDS,
        lambda line: f" {PORT} " in line,
        before=(_TRACEFS,),
    ),
    Peer(
        "tcpstates (libbpf-tools)",
        ("tcpstates-libbpf", "-L", str(PORT)),
        _BPF_NEEDS,
        lambda line: "SYN_RECV    -> ESTABLISHED" in line,
        before=(_TRACEFS,),
    ),
    Peer(
        "tcpconnect (libbpf-tools)",
        ("tcpconnect-libbpf", "-P", str(PORT)),
        _BPF_NEEDS + " and kprobes",
        lambda line: line.rstrip().endswith(f" {PORT}"),
        "PID",
        before=(_TRACEFS,),
    ),
    Peer(
        "bpftrace",
        ("bpftrace", "-e", _BPFTRACE),
        _BPF_NEEDS,
        lambda line: line == f"{PORT}\n",
        "Attach",
        before=(_TRACEFS,),
    ),
    Peer(
        "tcplife (bcc)",
        ("tcplife-bpfcc", "-L", str(PORT)),
        "CAP_SYS_ADMIN, kernel headers, a compiler",
        lambda line: f" {PORT} " in line,
        "PID",
        before=(_TRACEFS,),
    ),
)


def _watch(peer: Peer, client: Client, seconds: int) -> list[str]:
    """A row of the table."""
    with tempfile.TemporaryDirectory() as directory, Nginx():
        printed, complained = Path(directory) / "printed", Path(directory) / "complained"
        with printed.open("wb") as out, complained.open("wb") as err:
            program = subprocess.Popen(peer.command, stdout=out, stderr=err)
        until = time.monotonic() + 20
        while program.poll() is None and time.monotonic() < until and not _begun(peer, printed, complained):
            time.sleep(0.05)
        if peer.ready is None:
            time.sleep(1)
        if program.poll() is not None:
            return [peer.name, "does not start", "", "", _why(program.returncode, printed, complained)]
        cpu, before = cpu_of(program.pid), accepted()
        took = storm(client, seconds)
        time.sleep(2)
        cpu, connections = cpu_of(program.pid) - cpu, accepted() - before
        program.send_signal(signal.SIGINT)
        program.wait()
        with printed.open(errors="replace") as lines:
            seen = sum(map(peer.counts, lines))
    return _row(peer.name, seen, connections, took, cpu, peer.needs)


def _begun(peer: Peer, printed: Path, complained: Path) -> bool:
    return peer.ready is None or peer.ready in printed.read_text() or peer.ready in complained.read_text()


def _why(code: int, *outputs: Path) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line.strip() for output in outputs for line in output.read_text().splitlines()]
    errors = [line for line in lines if any(word in line.lower() for word in ("unable", "cannot", "failed", "error"))]
    return (errors or [f"exit status {code}"])[0].split(". ")[0][:60]


def _row(name: str, seen: int, connections: int, took: float, cpu: float, needs: str) -> list[str]:
    return [
        name,
        f"{seen / connections:.2%}",
        f"{connections / took:,.0f}",
        f"{cpu / connections * 1e6:.1f} us",
        needs,
    ]


def _ours(client: Client, seconds: int) -> list[str]:
    with Nginx():
        journal = Journal()
        with Service() as service:
            cpu, before = service.cpu(), accepted()
            took = storm(client, seconds)
            service.caught_up()
            journal.quiet()
            cpu, connections = service.cpu() - cpu, accepted() - before
        on_port = [entry for entry in journal.entries() if entry.destination_port == PORT]
        entries = [entry for entry in on_port if entry.detected_by != b"startup"]
    return _row("tcpnewconn", len({entry.id for entry in entries}), connections, took, cpu, "nothing")


def compared(small: bool) -> Group:
    """Each tool alone, under the same load, in a fresh namespace."""
    rows = [["", "share seen", "connections per second", "CPU time of each", "needs"]]
    for name in (_OURS, *(peer.name for peer in _PEERS)):
        row = apart.run("bench.peers", name, "1" if small else "10")
        rows.append(json.loads(row) if row is not None else [name, "could not be measured", "", "", ""])
    return Group(
        "The same load, seen by other tools",
        table=rows,
        remarks=[
            "seen: a connection that a poller finds in another state than TIME_WAIT, or that is printed",
            "CPU time is that of the program, without the work done for it in the kernel (BPF, connection tracking)",
        ],
    )


def _inside(name: str, seconds: int) -> list[str]:
    # A shell's background job ignores SIGINT, and its children inherit that; pollers are stopped by SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Client() as client:
        if name == _OURS:
            return _ours(client, seconds)
        (peer,) = (peer for peer in _PEERS if peer.name == name)
        if shutil.which(peer.command[0]) is None:
            return [peer.name, "not installed", "", "", peer.needs]
        for command in peer.before:
            subprocess.run(command, check=True)
        return _watch(peer, client, seconds)


if __name__ == "__main__":
    print(json.dumps(_inside(sys.argv[1], int(sys.argv[2]))))
