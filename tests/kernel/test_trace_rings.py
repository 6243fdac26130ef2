"""Rings of this kernel, filled by its own event of a socket's change of state; and the oneshot, which can record here or not."""

from __future__ import annotations

import grp
import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.terminal import TREE

# In a mount namespace of its own: tracefs is mounted for these tests alone.
RUN = ("unshare", "--mount", "--propagation=private", sys.executable, "-c")
MOUNT = """
import ctypes, json, os, socket, subprocess, sys
subprocess.run(["mount", "-t", "tracefs", "none", "/sys/kernel/tracing"], check=True)
"""


def in_tracefs(program: str) -> dict[str, Any]:
    done = subprocess.run([*RUN, MOUNT + program], cwd=TREE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    return read


@pytest.mark.parametrize("count", [3, 50, 4000], ids=["some", "pages", "more than it holds"])
def test_every_record_is_read_or_counted_as_overwritten(count: int) -> None:
    found = in_tracefs(f"""
from tcpnewconn.kernel.ring import Ring
from tcpnewconn.kernel.tracefs import Tracefs
instance = Tracefs().instance(f"tcpnewconn-test-{{os.getpid()}}")
instance.make(64)
event = f"{{instance.directory}}/events/sock/inet_sock_set_state"
rings = [Ring(f"{{instance.directory}}/per_cpu/{{cpu}}") for cpu in os.listdir(f"{{instance.directory}}/per_cpu")]
try:
    # Of this process alone: CLOSE to LISTEN and back. Other changes can be of any socket whose packet comes while it runs.
    ours = f"common_pid == {{os.getpid()}} && protocol == 6 && (oldstate == 10 || newstate == 10)"
    open(f"{{event}}/filter", "w").write(ours)
    open(f"{{event}}/enable", "w").write("1")
    for _ in range({count}):
        with socket.socket() as listener:
            listener.listen()
    read = damaged = 0
    times = []
    for ring in rings:
        while page := ring.read():
            read += len(page.records)
            damaged += page.damaged
            times += [time for time, _, _ in page.records]
    counted = sum(ring.read_by_anybody() for ring in rings)
    kept = not instance.remove()
finally:
    for ring in rings:
        ring.close()
    gone = instance.remove()
overwritten = sum(ring.overwritten for ring in rings)
print(json.dumps(dict(read=read, counted=counted, overwritten=overwritten, damaged=damaged, kept=kept, gone=gone)))
""")
    assert found["damaged"] == 0
    assert found["read"] > 0
    assert found["read"] + found["overwritten"] == 2 * count
    # So it is known, after SIGKILL, how many had been read.
    assert found["counted"] == found["read"]
    assert (found["overwritten"] > 0) == (count == 4000)
    # An instance with an open ring stays; else it is removed.
    assert found["kept"]
    assert found["gone"]


# Both have the instance and the events of the service.
@pytest.mark.xdist_group("oneshot")
def test_the_oneshot_records_the_plain_event_where_it_is_asked_to_and_leaves_nothing() -> None:
    found = in_tracefs("""
import tempfile
from tcpnewconn import tracesetup
from tcpnewconn.kernel.tracefs import Tracefs
from tcpnewconn.kernel.traceevents import GROUP
tracefs = Tracefs()
ours = tracefs.instance(GROUP).directory
shared = ["events/sock/inet_sock_set_state/enable", "events/sock/inet_sock_set_state/format", "tracing_on"]
def start(*arguments):
    raise tracesetup.Unavailable("no kprobes here")
tracesetup.start, tracesetup.SERVICE_GROUP = start, "daemon"
with tempfile.TemporaryDirectory() as runtime:
    tracesetup.RUNTIME, tracesetup.DIRECTORY = runtime, f"{runtime}/instance"
    for _ in range(2):
        assert tracesetup.main(["start", "plain-event"]) == 0
    recorded = open(f"{runtime}/events").read().split()
    groups = {os.stat(f"{ours}/{name}").st_gid for name in (*shared, "per_cpu/cpu0/trace_pipe_raw", "per_cpu/cpu0/stats")}
    modes = {os.stat(f"{ours}/{name}").st_mode & 0o777 for name in (*shared, "per_cpu/cpu0/trace_pipe_raw", "per_cpu/cpu0/stats")}
    others = {os.stat(f"{ours}/{name}").st_gid for name in ("trace", "trace_pipe", "events/sock/enable", "per_cpu/cpu0/trace")}
    kept = {name: open(f"{ours}/{name}").read() for name in ("events/sock/inet_sock_set_state/filter", "buffer_percent")}
    assert tracesetup.main(["start"]) == 0
    reason, there = open(f"{runtime}/missing").read(), os.path.exists(ours)
    assert tracesetup.main(["stop"]) == 0
    left = sorted(os.listdir(runtime))
print(json.dumps(dict(recorded=recorded, groups=sorted(groups), modes=sorted(modes), others=sorted(others), kept=kept,
    reason=reason, left=left, there=there)))
""")
    assert found["recorded"] == ["plain"]
    assert (found["groups"], found["modes"], found["others"]) == ([grp.getgrnam("daemon").gr_gid], [0o440], [0])
    assert found["kept"]["buffer_percent"].strip() == "0"
    assert "newstate == 2 || oldstate == 2" in found["kept"]["events/sock/inet_sock_set_state/filter"]
    # Without the drop-in, the next start records nothing.
    assert found["reason"] == "no kprobes here\n"
    assert not found["there"]
    assert found["left"] == ["instance"]


@pytest.mark.xdist_group("oneshot")
def test_the_oneshot_records_or_says_why_not_and_leaves_nothing() -> None:
    found = in_tracefs("""
import tempfile
from tcpnewconn import tracesetup
from tcpnewconn.kernel.traceevents import EVENTS, GROUP
from tcpnewconn.kernel.tracefs import Tracefs
tracefs = Tracefs()
def seen():
    # Other tests have instances of their own.
    own = [name for name in os.listdir("/sys/kernel/tracing/instances") if name.startswith(GROUP) and "test" not in name]
    return open("/sys/kernel/tracing/dynamic_events").read(), sorted(own)
before = seen()
with tempfile.TemporaryDirectory() as runtime:
    try:
        reason, notes = None, tracesetup.start(tracefs, runtime, EVENTS, os.getgid())
        recorded = open(f"{runtime}/events").read().split()
    except tracesetup.Unavailable as error:
        reason, notes, recorded = str(error), [], []
    there = os.path.exists(tracefs.instance(GROUP).directory)
    notes += tracesetup.stop(tracefs, runtime)
    left = os.listdir(runtime)
after = seen()
print(json.dumps(dict(reason=reason, notes=notes, recorded=recorded, there=there, left=left, same=before == after)))
""")
    assert found["same"]
    assert found["left"] == []
    if found["reason"] is None:
        assert found["there"]
        assert "connect" in found["recorded"]
    else:
        # A kernel without kprobes.
        assert not found["there"]
        assert found["reason"].startswith("cannot record connect(): the kernel does not take the event")
