"""The same load, observed by other tools: what each sees, what it costs, and what it needs."""

from __future__ import annotations

import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import apart
from bench.client import Client
from bench.journal import Journal
from bench.load import PORT, Nginx, accepted, storm
from bench.results import Group, Result, at_most
from bench.service import Service
from bench.timing import cpu_of

# A poller counts the rows on the port that the previous poll did not have.
_POLL_PROC = f"""
import sys, time
from tcpnewconn.model import TIME_WAIT
from tcpnewconn.kernel.procnet import ProcNet
interval = float(sys.argv[1])
proc, port = ProcNet(), ({PORT}).to_bytes(2, "big")
for _ in proc.poll().rows():
    pass
print("ready", flush=True)
begin, number = time.monotonic(), 0
while True:
    number += 1
    time.sleep(max(0.0, begin + number * interval - time.monotonic()))
    for row in proc.poll().rows():
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
# The floor for a program in Python that leaves each notification in the kernel's buffer until it is processed: it takes them as
# tcpnewconn does, and does nothing else with them, or sends an entry for each.
_TAKE = """
import select, socket, sys, time
from tcpnewconn.kernel import sockdiag
source, buffer, count = sockdiag.open_notifications(), bytearray(4096), 0
source.setblocking(False)
if sys.argv[1] == "send":
    from systemd.journal import sendv
    entry = [f"FIELD_NUMBER_{number}=some text of usual length" for number in range(20)]
print("ready", flush=True)
try:
    while True:
        select.select([source], [], [])
        time.sleep(0.005)
        try:
            while True:
                source.recvfrom_into(buffer, 0, socket.MSG_PEEK)
                if sys.argv[1] == "send":
                    sendv(*entry)
                source.recv_into(buffer, 1)
                count += 1
        except BlockingIOError:
            pass
except KeyboardInterrupt:
    print("seen\\n" * count)
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
    # Whether it sends to the journal.
    sends: bool = False


_TRACEFS = ("mount", "-t", "tracefs", "tracefs", "/sys/kernel/tracing")
# The kernel tracks connections only where a rule uses it.
TRACK = "add table inet bench; add chain inet bench input { type filter hook input priority 0; ct state new accept; }"
CONNTRACK = ("conntrack", "-E", "-e", "NEW", "-b", str(64 << 20))
_BPFTRACE = 'tracepoint:sock:inet_sock_set_state /args->newstate == 1/ { printf("%d\\n", args->sport); }'
_BPF_NEEDS = "CAP_BPF, CAP_PERFMON, a kernel with BTF"

SS = Peer("ss -E", ("ss", "-E", "-H", "-t", "-n"), "nothing", lambda line: f":{PORT} " in line)
_OURS = ("tcpnewconn, one by one", "tcpnewconn, summarized")
_TAKEN, _SENT = (
    Peer(
        name,
        ("/usr/bin/python3", "-c", _TAKE, what),
        "nothing",
        lambda line: line == "seen\n",
        "ready",
        sends=what == "send",
    )
    for name, what in (("peek and consume in Python", "take"), ("the same, and sendv()", "send"))
)
_PEERS = (
    _TAKEN,
    _SENT,
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
    SS,
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


@dataclass(frozen=True, slots=True)
class Seen:
    """What a tool saw of a load: connections, those that there were, seconds of load, and seconds of CPU time."""

    seen: int
    connections: int
    took: float
    cpu: float

    @property
    def each(self) -> float:
        return self.cpu / self.connections

    @property
    def each_seen(self) -> float:
        """The same, where a tool may end before the load does: ss -E ends when its buffer is full."""
        return self.cpu / max(1, self.seen)


def _watched(peer: Peer, client: Client, seconds: int) -> Seen | str:
    """What a peer saw; or why it does not start."""
    with tempfile.TemporaryDirectory() as directory, Nginx():
        journal = Journal() if peer.sends else None
        printed, complained = Path(directory) / "printed", Path(directory) / "complained"
        with printed.open("wb") as out, complained.open("wb") as err:
            program = subprocess.Popen(peer.command, stdout=out, stderr=err)
        until = time.monotonic() + 20
        while program.poll() is None and time.monotonic() < until and not _begun(peer, printed, complained):
            time.sleep(0.05)
        if peer.ready is None:
            time.sleep(1)
        if program.poll() is not None:
            return _why(program.returncode, printed, complained)
        cpu, before = cpu_of(program.pid), accepted()
        took = storm(client, seconds)
        time.sleep(2)
        cpu, connections = cpu_of(program.pid) - cpu, accepted() - before
        program.send_signal(signal.SIGINT)
        program.wait()
        if journal is not None:
            journal.entries()
        with printed.open(errors="replace") as lines:
            seen = sum(map(peer.counts, lines))
    return Seen(seen, connections, took, cpu)


def _begun(peer: Peer, printed: Path, complained: Path) -> bool:
    return peer.ready is None or peer.ready in printed.read_text() or peer.ready in complained.read_text()


def _why(code: int, *outputs: Path) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line.strip() for output in outputs for line in output.read_text().splitlines()]
    errors = [line for line in lines if any(word in line.lower() for word in ("unable", "cannot", "failed", "error"))]
    return (errors or [f"exit status {code}"])[0].split(". ")[0][:60]


def row(name: str, seen: Seen | str, needs: str) -> list[str]:
    """A row of the table."""
    if isinstance(seen, str):
        return [name, "", "", "", seen]
    return [
        name,
        f"{seen.seen / seen.connections:.2%}",
        f"{seen.connections / seen.took:,.0f}",
        f"{seen.each * 1e6:.1f} us",
        needs,
    ]


def _ours(client: Client, seconds: int, summarized: bool) -> Seen:
    """What the service logged, by itself or in summaries."""
    with Nginx():
        journal = Journal()
        with Service(summarized=summarized) as service:
            cpu, before = service.cpu(), accepted()
            took = storm(client, seconds)
            service.caught_up()
            journal.quiet()
            cpu, connections = service.cpu() - cpu, accepted() - before
        # The service has stopped: its summaries are complete.
        on_port = [entry for entry in journal.entries() if entry.destination_port == PORT]
        seen = {entry.id for entry in on_port if entry.id and entry.detected_by != b"startup"}
        return Seen(len(seen) + sum(entry.count for entry in on_port), connections, took, cpu)


def compared(small: bool) -> Group:
    """Each tool alone, under the same load, in a fresh namespace."""
    rows = [["", "share seen", "connections per second", "CPU time of each", "needs"]]
    needs = {peer.name: peer.needs for peer in _PEERS}
    rows += [row(name, measured(name, small), needs.get(name, "nothing")) for name in (*_OURS, *needs)]
    return Group(
        "The same load, seen by other tools",
        table=rows,
        remarks=[
            "seen: a connection that a poller finds in another state than TIME_WAIT, or that is printed",
            "CPU time is that of the program, without the work done for it in the kernel (BPF, connection tracking)",
        ],
    )


def measured(name: str, small: bool) -> Seen | str:
    """What a tool saw, in a fresh namespace: else sockets in TIME_WAIT would be left for the next. Or why it saw nothing."""
    printed = apart.run("bench.peers", name, "1" if small else "6")
    if printed is None:
        return "could not be measured"
    seen = json.loads(printed)
    return seen if isinstance(seen, str) else Seen(**seen)


def connection(small: bool) -> Group:
    """CPU time of a connection from another host, summarized and logged one by one, beside `ss -E`: in turns."""
    rounds = 1 if small else 3
    seen: dict[str, list[Seen]] = {name: [] for name in (_OURS[1], SS.name, _TAKEN.name, _OURS[0], _SENT.name)}
    for _ in range(rounds):
        for name, each in seen.items():
            one = measured(name, small)
            if isinstance(one, str):
                raise RuntimeError(f"{name}: {one}")
            each.append(one)
    results = []
    for name, limit, floor in ((_OURS[1], 2.0, _TAKEN.name), (_OURS[0], 3.0, _SENT.name)):
        reported, made = sum(one.seen for one in seen[name]), sum(one.connections for one in seen[name])
        results += [
            at_most(f"CPU time of each, {name} : ss -E", _ratio(seen[name], seen[SS.name]), limit),
            Result(f"the floor, {floor} : ss -E", f"{_ratio(seen[floor], seen[SS.name]):.2f}"),
            Result(f"reported, {name}", f"{reported:,} of {made:,}", "all", reported == made),
        ]
    remarks = [
        f"medians of {rounds} rounds in turns: {name} {statistics.median(one.each_seen for one in each) * 1e6:.1f} us at "
        f"{statistics.median(one.connections / one.took for one in each):,.0f} per second"
        for name, each in seen.items()
    ]
    return Group("A connection from another host, beside ss -E", results, remarks=remarks)


def _ratio(ours: Sequence[Seen], theirs: Sequence[Seen]) -> float:
    return statistics.median(a.each_seen / b.each_seen for a, b in zip(ours, theirs, strict=True))


def _inside(name: str, seconds: int) -> Seen | str:
    # A shell's background job ignores SIGINT, and its children inherit that; pollers are stopped by SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Client() as client:
        if name in _OURS:
            return _ours(client, seconds, name == _OURS[1])
        (peer,) = (peer for peer in _PEERS if peer.name == name)
        if shutil.which(peer.command[0]) is None:
            return "not installed"
        for command in peer.before:
            subprocess.run(command, check=True)
        return _watched(peer, client, seconds)


if __name__ == "__main__":
    found = _inside(sys.argv[1], int(sys.argv[2]))
    print(json.dumps(found if isinstance(found, str) else asdict(found)))
