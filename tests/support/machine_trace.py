"""What machine_steps does about the trace: the oneshot, its events and rings, and what others do to them."""

import os
import re
import subprocess
from collections.abc import Callable

TRACEFS = "/sys/kernel/tracing"
OURS = f"{TRACEFS}/instances/tcpnewconn"
SEEN = "/run/tcpnewconn-trace/instance"
EVENTS = ("connect", "accept", "failed")
ASK_FOR_REPAIR = (
    "setpriv --reuid=_tcpnewconn --regid=_tcpnewconn --clear-groups sh -c ': >/run/tcpnewconn/trace.repair'"
)
OTHERS = "p:others/theirs tcp_close"


def read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def run(command: str, *, check: bool = True) -> str:
    done = subprocess.run(
        ["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout.strip()


def state() -> dict[str, object]:
    """Of the trace: which events are defined and recorded, and whose definitions there are else."""
    definitions = read(f"{TRACEFS}/dynamic_events").splitlines()
    return {
        "defined": sorted(re.findall(r"^\S:tcpnewconn/(\w+) ", "\n".join(definitions), re.MULTILINE)),
        "recorded": [each for each in EVENTS if enabled(each)],
        "instances": sorted(os.listdir(f"{TRACEFS}/instances")),
        "others": [line for line in definitions if "tcpnewconn/" not in line],
    }


def enabled(event: str) -> bool:
    try:
        return read(f"{OURS}/events/tcpnewconn/{event}/enable").strip() == "1"
    except OSError:
        return False


def open_to_the_service() -> dict[str, list[str]]:
    """What the service's user can read and write of the instance, from within the service's mount namespace."""
    pid = run("systemctl show --value --property=MainPID tcpnewconn.service")
    user = "setpriv --reuid=_tcpnewconn --regid=_tcpnewconn --clear-groups --no-new-privs"
    found = {}
    for what in ("readable", "writable"):
        listed = run(f"nsenter -t {pid} -m {user} find {SEEN} -type f -{what} 2>/dev/null", check=False)
        found[what] = sorted({re.sub(r"cpu\d+", "cpuN", line.removeprefix(f"{SEEN}/")) for line in listed.splitlines()})
    listed = run(f"nsenter -t {pid} -m {user} ls {TRACEFS} 2>&1", check=False)
    return {**found, "tracefs": listed.splitlines()}


def delete_events() -> None:
    """As `trace-cmd reset` does: events are disabled and their definitions deleted; those of others are put back."""
    write(f"{OURS}/events/enable", "0")
    write(f"{TRACEFS}/dynamic_events", "", os.O_TRUNC)
    define_others()


def define_others() -> None:
    write(f"{TRACEFS}/dynamic_events", OTHERS, os.O_APPEND)


def write(path: str, text: str, flags: int = 0) -> None:
    """As a shell's > and >> do. (Python's own append looks for the end of the file, which tracefs refuses.)"""
    descriptor = os.open(path, os.O_WRONLY | flags)
    try:
        os.write(descriptor, f"{text}\n".encode())
    finally:
        os.close(descriptor)


# The oneshot's own function, with the user of a socket looked for beside its place.
WRONG_OFFSET = """
import tempfile
from tcpnewconn import tracesetup
from tcpnewconn.kernel.btf import Btf
from tcpnewconn.kernel.tracefs import Tracefs
right = Btf.member
def wrong(self, structure, *path):
    member = right(self, structure, *path)
    return member._replace(offset=member.offset + 8) if path == ("sk_uid",) else member
Btf.member = wrong
with tempfile.TemporaryDirectory() as runtime:
    try:
        tracesetup.start(Tracefs(), runtime, tracesetup.EVENTS, 0)
    except tracesetup.Unavailable as reason:
        print(reason)
    tracesetup.stop(Tracefs(), runtime)
"""


def wrong_offset() -> dict[str, object]:
    """What the oneshot says and leaves when an event records something else than it should. The service must be stopped."""
    done = subprocess.run(
        ["/usr/bin/python3", "-c", WRONG_OFFSET],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return {"said": done.stdout.strip(), **state()}


def steps(say: Callable[[str, object], None], wait_for: Callable[[Callable[[], object], str], None]) -> None:
    """The oneshot under the package's own units; the service runs before and after."""
    say("trace", state())
    say("open to the service", open_to_the_service())

    define_others()
    delete_events()
    say("trace after a deletion", state())
    # As the service does when it notices.
    run(ASK_FOR_REPAIR)
    wait_for(lambda: state()["recorded"] == [*EVENTS], "the events to be defined again")
    say("trace after a repair", state())
    run("systemctl start tcpnewconn-trace.service; systemctl reload tcpnewconn-trace.service")
    say("trace after a reload", state())

    run("systemctl stop tcpnewconn-trace.service")
    say("trace after its stop", state())
    run(ASK_FOR_REPAIR)
    wait_for(
        lambda: "failed" in run("systemctl is-failed tcpnewconn-trace-repair.service", check=False), "a refused repair"
    )
    say("trace after a refused repair", state())
    run("systemctl reset-failed tcpnewconn-trace-repair.service")
    run("systemctl start tcpnewconn-trace.service")
    say("trace after its start", state())

    run("systemctl kill --signal=KILL tcpnewconn.service")
    wait_for(lambda: run("systemctl is-active tcpnewconn.service", check=False) == "active", "the service")
    say("trace after a kill of the service", state())
    run("systemctl stop tcpnewconn.service tcpnewconn-trace.service")
    say("trace after a stop of the service", state())
    say("wrong offset", wrong_offset())
    run("systemctl mask tcpnewconn-trace.service; systemctl start tcpnewconn.service")
    say("trace when masked", state())
    run(
        "systemctl stop tcpnewconn.service; systemctl unmask tcpnewconn-trace.service; systemctl start tcpnewconn.service"
    )
    say("trace when unmasked", state())
