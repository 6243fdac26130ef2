"""The steps about other network namespaces: their connections, each once, with who made it. The kernel's own trace is the truth.

The truth is an instance of tracefs of its own, in which the service's event of connect() is recorded once more.
"""

import contextlib
import os
import socket
import subprocess
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from tests.support.machine_guest import (
    CONNECTION,
    DEGRADED,
    LOSS,
    RECOVERED,
    Entry,
    active,
    entries,
    last_poll,
    one_by_one,
    run,
    say,
    short,
    stopped,
    wait_for,
    write_unit,
)
from tests.support.machine_load import PROGRAM

if TYPE_CHECKING:
    from tcpnewconn.kernel.tracefs import Instance

SETTINGS = "/etc/tcpnewconn.conf.d/namespaces.conf"
TRUTH = "truth"
EACH = 20
# Where nobody listens. That an attempt has failed is recorded for the service alone: the kernel records an event probe in one
# instance, that in which it was enabled first (kernel/trace/trace_eprobe.c, enable_trace_eprobe()).
REFUSED = "7039"
# STEP: of the steps each has addresses or ports of its own. The instances of a unit are 0 in the first, 1 and 2 in the second.
# Without a network device but its own loopback. Its sockets leave nothing in TIME_WAIT that a poll could show.
APART = f"""
sysctl --quiet --write net.ipv4.tcp_max_tw_buckets=0
{PROGRAM} serve 127.0.0.1 703$STEP &
sleep $PAUSE
until grep -q "0100007F:$(printf %X 703$STEP) 00000000:0000 0A" /proc/net/tcp; do sleep 0.05; done
! {PROGRAM} once 127.0.0.1 {REFUSED} 2>/dev/null
{PROGRAM} fork {EACH} 127.0.0.1 703$STEP
sleep $PAUSE
kill %1; wait %1 || true
"""
# Joined with the host, where nginx listens; polled before it connects, or never. With more, by another network then.
JOINED = f"""
join() {{
    ip link add $1 type veth peer name $1 netns joined
    ip address add $2.1/24 dev $1; ip link set $1 up
    ip -n joined address add $2.2/24 dev $1; ip -n joined link set $1 up
}}
ip netns add joined; join first 10.72.$STEP
ip netns exec joined sleep 600 &
sleep $PAUSE
network=10.72.$STEP
if [ -n "$MORE" ]; then network=10.73.$STEP; join second $network; fi
ip netns exec joined {PROGRAM} fork {EACH} $network.1 80
kill %1
ip link delete first; ip netns delete joined
"""
# Seconds in which a namespace is found and polled: two intervals, and the time that an emulated machine takes.
PAUSE = 6
UNITS = {
    "apart": (APART, "PrivateNetwork=yes", 0),
    "long": (APART, "PrivateNetwork=yes", PAUSE),
    "joined": (JOINED, "", PAUSE),
    "fresh": (JOINED, "", 0),
    # When any namespace that is new has become old.
    "later": (f"MORE=yes\n{JOINED}", "", 2 * PAUSE),
}
# Those that nobody has found are logged when they have surely ended.
WITHIN = 240.0

# Seconds; as in attribution/calls.py.
LATE = 2.0

# Of an entry that is wrong.
DETAILS = (
    *("MESSAGE", "NETWORK_DIRECTION", "NETWORK_CONNECTION_STATE", "TCPNEWCONN_DETECTED_BY", "TCPNEWCONN_NETNS", "_PID"),
    *("TCPNEWCONN_CONNECTION_ID", "TCPNEWCONN_ATTRIBUTED_BY", "OBJECT_SYSTEMD_UNIT", "EVENT_START"),
    "__MONOTONIC_TIMESTAMP",
)

Flow = tuple[str, str, str, str]
# What the truth has recorded, by both ports.
RECORDS: defaultdict[tuple[str, str], list[str]] = defaultdict(list)


def prepare() -> None:
    """Before the package is installed: its installation has systemd load the units."""
    for name, (script, more, pause) in UNITS.items():
        path = f"/srv/{name}.sh"
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"set -e -m\nPAUSE={pause} MORE= STEP=$((($1 + 1) / 2))\n{script}")
        write_unit(f"{name}@.service", f"[Service]\nType=oneshot\n{more}\nExecStart=/bin/bash {path} %i\n")


def steps() -> None:
    with open(SETTINGS, "w", encoding="utf-8") as file:
        file.write("[Namespaces]\nInclude=all\nCPUQuota=100%\n")
    run("systemctl reload tcpnewconn")
    # What a poll shows that began sooner can be from before calls of other namespaces were taken: it has no caller.
    include = time.time()
    wait_for(lambda: last_poll() > include + LATE, "a poll of them")
    instance = _recording()
    try:
        made = {
            "an unseen namespace": _unseen(instance),
            "other namespaces": _seen(instance),
            "killed": _killed(instance),
        }
        for name, flows in made.items():
            _compared(name, flows)
    finally:
        instance.remove()
        os.unlink(SETTINGS)
        run("systemctl reload tcpnewconn")


def _recording() -> "Instance":
    # The package is installed by now.
    from tcpnewconn.kernel.tracefs import Tracefs

    instance = Tracefs().instance(TRUTH)
    instance.make(4096)
    instance.enable("tcpnewconn/connect")
    return instance


def _unseen(instance: "Instance") -> Counter[Flow]:
    """Of a namespace that has ended before the service could see it."""
    with stopped():
        run("systemctl start apart@0")
    return _made(instance)


def _seen(instance: "Instance") -> Counter[Flow]:
    """The second ones get the numbers and the id of the first."""
    run("systemctl start long@1 joined@1 apart@1 && systemctl start joined@2 apart@2")
    run("systemctl start fresh@1 && systemctl start fresh@2 && systemctl start later@1")
    return _made(instance)


def _killed(instance: "Instance") -> Counter[Flow]:
    for units in (("long@3", "joined@3"), ("fresh@3",)):
        starting = subprocess.Popen(["systemctl", "start", *units])
        while starting.poll() is None:
            _kill_the_service()
        if starting.returncode:
            raise RuntimeError(f"{units} ended with {starting.returncode}")
    return _made(instance)


def _kill_the_service() -> None:
    before = _pid()
    run("systemctl kill --signal=KILL tcpnewconn.service")
    wait_for(lambda: active("tcpnewconn.service") and _pid() not in ("0", before), "the service")


def _pid() -> str:
    return run("systemctl show --value --property=MainPID tcpnewconn.service")


def _compared(name: str, made: Counter[Flow]) -> None:
    """What was made, and what was logged of that."""
    count = sum(made.values())
    # The test outside says what is missing.
    with contextlib.suppress(RuntimeError):
        wait_for(lambda: sum(_logged(made).values()) >= count, name, WITHIN)
    logged = _logged(made)
    found = [entry for entry in entries(CONNECTION) if _flow(entry) in made]
    wrong = [
        entry for entry in found if logged[_flow(entry)] != made[_flow(entry)] or "PROCESS_THREAD_NAME" not in entry
    ]
    say(
        name,
        {
            "made": count,
            "logged": sum(logged.values()),
            "missing": [[*flow, *RECORDS[flow[1], flow[3]]] for flow in made if logged[flow] < made[flow]][:5],
            "more": [flow for flow in made if logged[flow] > made[flow]][:5],
            "refused": sum(entry.get("DESTINATION_PORT") == REFUSED for entry in entries(CONNECTION)),
            "lost": sum(int(entry["TCPNEWCONN_COUNT"]) for entry in entries(LOSS, TCPNEWCONN_REASON="namespaces")),
            "detected by": Counter(entry["TCPNEWCONN_DETECTED_BY"] for entry in found),
            "directions": Counter(entry["NETWORK_DIRECTION"] for entry in found),
            "accepted by": Counter(entry.get("TCPNEWCONN_ACCEPTED_BY_UNIT", "-") for entry in found),
            "units": Counter(entry.get("OBJECT_SYSTEMD_UNIT", "-") for entry in found),
            "threads": Counter(_thread(entry, made) for entry in found),
            "examples": short(wrong[:6], *DETAILS),
            "because": _not_attributed() if wrong else [],
            "in an unknown one": sum(entry.get("TCPNEWCONN_NETNS") == "0" for entry in found),
        },
    )


def _not_attributed() -> list[str]:
    """What the service says of that."""
    said = entries(DEGRADED) + entries(RECOVERED) + entries(LOSS)
    counted = run("grep '^tcpnewconn_connections_not_attributed_total' /run/tcpnewconn/*.prom").splitlines()
    return counted + [f"{entry['__MONOTONIC_TIMESTAMP']}: {entry['MESSAGE']}" for entry in said]


def _thread(entry: Entry, made: Counter[Flow]) -> str:
    """Of a namespace that nobody has found nothing is sure where records were lost before, as in other steps.

    On a port that was used again before its last end was notified, the thread can be either's.
    """
    if "PROCESS_THREAD_NAME" in entry:
        return entry["PROCESS_THREAD_NAME"]
    if entry.get("TCPNEWCONN_NETNS") == "0":
        return "unknown"
    return "several" if made[_flow(entry)] > 1 else "-"


def _made(instance: "Instance") -> Counter[Flow]:
    """The connections that were opened in other namespaces since the last time; those that were refused are none."""
    from tcpnewconn.kernel.namespaces import kernel_socket
    from tcpnewconn.kernel.trace import Trace
    from tcpnewconn.model import endpoints

    here, made = kernel_socket("/proc/self/net"), Counter[Flow]()
    trace = Trace(instance.directory)
    for each in trace.read():
        if each.netns != here:
            source, destination = endpoints(each.four_tuple)
            flow = tuple(
                text
                for end in (source, destination)
                for text in (socket.inet_ntop(socket.AF_INET, end.address or b""), str(end.port))
            )
            RECORDS[flow[1], flow[3]].append(str(each))
            made[flow] += 1  # type: ignore[index]
    trace.close()
    return Counter({flow: count for flow, count in made.items() if flow[3] != REFUSED})


def _logged(made: Counter[Flow]) -> Counter[Flow]:
    """How many connections with these addresses and ports were logged; one that is repeated after SIGKILL has the same id."""
    ids = {(_flow(entry), entry["TCPNEWCONN_CONNECTION_ID"]) for entry in one_by_one(CONNECTION)}
    return Counter(flow for flow, _ in ids if flow in made)


def _flow(entry: Entry) -> Flow:
    names = ("SOURCE_ADDRESS", "SOURCE_PORT", "DESTINATION_ADDRESS", "DESTINATION_PORT")
    return tuple(entry.get(name, "") for name in names)  # type: ignore[return-value]
