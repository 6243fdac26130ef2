"""The step about other programs that show who opens connections: what each sees of the same short ones, and its CPU time."""

import os
import signal
import subprocess
import time

from tests.support.machine_guest import (
    CONNECTION,
    PLAN,
    active,
    connections,
    number_of,
    run,
    say,
    wait_for,
    write_unit,
)
from tests.support.machine_load import PROGRAM
from tests.support.machine_owners import attributed_again

USER, UID, UNIT = "games", "5", "peer-load.service"
BROUGHT = "/srv/peers"
# Each prints the user, the thread's name and the server of a connection; with a line of its own once it has begun.
PEERS = {
    "tcpconnect (libbpf-tools)": ("tcpconnect-libbpf -U -P 80", "PID"),
    "bpftrace": (
        'bpftrace -B line -e \'kprobe:tcp_connect { printf("%d %s %s\\n", uid, comm, '
        "ntop(((struct sock *)arg0)->__sk_common.skc_daddr)); }'",
        "Attach",
    ),
}
OURS = "tcpnewconn"
# Seconds. bpftrace compiles, and the machine is emulated.
STARTS_WITHIN = 300.0
# Seconds without a further line.
QUIET = 5.0


def prepare() -> None:
    """Before the package is installed: its installation has systemd load the units."""
    start = f"{PROGRAM} fork {PLAN['peers']} 127.0.5.1 80"
    write_unit(UNIT, f"[Service]\nType=oneshot\nUser={USER}\nExecStart={start}\n")


def steps() -> None:
    """Each alone; ours is stopped while another runs."""
    outcome = {OURS: _ours()}
    run("systemctl stop tcpnewconn.service tcpnewconn-trace.service")
    for name, (command, begun) in PEERS.items():
        outcome[name] = _seen_by(command, begun)
    run("systemctl start tcpnewconn.service")
    wait_for(lambda: active("tcpnewconn.service"), "the service")
    say("peers", {"made": PLAN["peers"], **outcome})


def _ours() -> dict[str, object]:
    attributed_again("127.0.5.9")
    pid = int(run("systemctl show --value --property=MainPID tcpnewconn.service"))
    before = _cpu(pid)
    run(f"systemctl start {UNIT}")
    wait_for(lambda: number_of(CONNECTION, "127.0.5.1") >= PLAN["peers"], "the connections")
    cpu = _cpu(pid) - before
    found = connections("127.0.5.1")
    return {
        "seen": len(found),
        "user": sum(entry.get("USER_NAME") == USER for entry in found),
        "thread": sum(entry.get("PROCESS_THREAD_NAME") == "connections" for entry in found),
        "unit": sum(entry.get("OBJECT_SYSTEMD_UNIT") == UNIT for entry in found),
        "cpu": cpu,
    }


def _seen_by(command: str, begun: str) -> dict[str, object]:
    printed = "/tmp/peer"
    with open(printed, "w", encoding="utf-8") as out:
        program = subprocess.Popen(
            ["bash", "-c", f"exec stdbuf -oL {BROUGHT}/{command}"],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LD_LIBRARY_PATH": BROUGHT},
        )
    wait_for(lambda: program.poll() is not None or any(begun in line for line in _lines(printed)), begun, STARTS_WITHIN)
    if program.poll() is not None:
        return {"failed": "".join(_lines(printed))[-300:]}
    before = _cpu(program.pid)
    run(f"systemctl start {UNIT}")
    _wait_until_quiet(printed)
    cpu = _cpu(program.pid) - before
    program.send_signal(signal.SIGINT)
    program.wait()
    found = [line.split() for line in _lines(printed) if " 127.0.5.1" in line]
    return {
        "seen": len(found),
        "user": sum(words[0] == UID for words in found),
        "thread": sum("connections" in words for words in found),
        "unit": 0,
        "cpu": cpu,
    }


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="replace") as file:
        return list(file)


def _wait_until_quiet(path: str) -> None:
    size, since = os.path.getsize(path), time.monotonic()
    while time.monotonic() < since + QUIET:
        time.sleep(0.2)
        if os.path.getsize(path) != size:
            size, since = os.path.getsize(path), time.monotonic()


def _cpu(pid: int) -> float:
    """Seconds of CPU time of a process until now."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        user, system = file.read().rpartition(") ")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
