"""The steps of machine_steps about the trace: the oneshot, its events and rings, and other tools' changes to them."""

import json
import os
import re
import subprocess

from tests.support.machine_guest import SHORT, active, run, say, wait_for, wait_for_connections

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


# Of the files whose names come in: those that this user can read, and those that it can write.
TRY = """
import json, os, sys
names = sys.stdin.read().splitlines()
print(json.dumps({what: [name for name in names if os.access(name, mode)] for what, mode in (("r", os.R_OK), ("w", os.W_OK))}))
"""


def open_to_the_service() -> dict[str, list[str]]:
    """The files of the instance that the service's user can read and write, in the service's mount namespace."""
    pid = run("systemctl show --value --property=MainPID tcpnewconn.service")
    command = (
        f"nsenter -t {pid} -m setpriv --reuid=_tcpnewconn --regid=_tcpnewconn --clear-groups --no-new-privs".split()
    )
    there = run(f"find {OURS} -type f").replace(OURS, SEEN)
    tried = subprocess.run(
        [*command, "/usr/bin/python3", "-c", TRY], input=there, stdout=subprocess.PIPE, text=True, check=True, cwd="/"
    )
    found = {
        what: sorted({re.sub(r"cpu\d+", "cpuN", name.removeprefix(f"{SEEN}/")) for name in names})
        for what, names in json.loads(tried.stdout).items()
    }
    listed = run(f"{' '.join(command)} ls {TRACEFS} 2>&1", check=False)
    return {"readable": found["r"], "writable": found["w"], "tracefs": listed.splitlines()}


def delete_events() -> None:
    """As `trace-cmd reset` does: events are disabled and all definitions deleted."""
    write(f"{OURS}/events/enable", "0")
    write(f"{TRACEFS}/dynamic_events", "", os.O_TRUNC)


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
    """The oneshot's messages and remains when an event records something wrong. The service must be stopped."""
    done = subprocess.run(
        ["/usr/bin/python3", "-c", WRONG_OFFSET],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return {"said": done.stdout.strip(), **state()}


def steps() -> None:
    """The oneshot under the package's own units; the service runs before and after."""
    say("trace", state())

    # Else the service has them defined again as soon as it notices.
    run("systemctl stop tcpnewconn-trace-repair.path")
    delete_events()
    define_others()
    say("trace after a deletion", state())
    run("systemctl start tcpnewconn-trace-repair.path")
    # As the service does when it notices.
    run(ASK_FOR_REPAIR)
    wait_for(lambda: state()["recorded"] == [*EVENTS], "the events to be defined again")
    say("trace after a repair", state())
    run("systemctl start tcpnewconn-trace.service; systemctl reload tcpnewconn-trace.service")
    say("trace after a reload", state())
    # With events that were made after the instance was shared, and with one of somebody else.
    say("open to the service", open_to_the_service())

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
    wait_for(lambda: active("tcpnewconn.service"), "the service")
    say("trace after a kill of the service", state())
    run("systemctl stop tcpnewconn.service tcpnewconn-trace.service")
    say("trace after a stop of the service", state())
    say("wrong offset", wrong_offset())
    run("systemctl mask tcpnewconn-trace.service; systemctl start tcpnewconn.service")
    say("trace when masked", state())
    run(f"{SHORT} http://127.0.1.10/")
    say("connection when masked", wait_for_connections("127.0.1.10"))
    run(
        "systemctl stop tcpnewconn.service; systemctl unmask tcpnewconn-trace.service; systemctl start tcpnewconn.service"
    )
    say("trace when unmasked", state())
