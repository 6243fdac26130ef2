"""The steps about other network namespaces: their connections, each once, with who made it. The kernel's own trace is the truth.

The truth is an instance of tracefs of its own, in which the events of the service are recorded once more.
"""

import contextlib
import os
import socket
from collections import Counter
from typing import TYPE_CHECKING

from tests.support.machine_guest import (
    CONNECTION,
    LOSS,
    Entry,
    active,
    entries,
    one_by_one,
    run,
    say,
    wait_for,
    write_unit,
)
from tests.support.machine_load import PROGRAM

if TYPE_CHECKING:
    from tcpnewconn.kernel.tracefs import Instance

SETTINGS = "/etc/tcpnewconn.conf.d/namespaces.conf"
TRUTH = "truth"
EACH, PORT = 20, 7030
# Without a network device but its own loopback. Its sockets leave nothing in TIME_WAIT that a poll could show.
APART = f"""
sysctl --quiet --write net.ipv4.tcp_max_tw_buckets=0
{PROGRAM} serve 127.0.0.1 {PORT} &
until {PROGRAM} once 127.0.0.1 {PORT} 2>/dev/null; do sleep 0.05; done
{PROGRAM} fork {EACH} 127.0.0.1 {PORT}
kill %1
"""
# Joined with the host, where nginx listens.
JOINED = f"""
ip netns add joined; ip link add there type veth peer name inside netns joined
ip address add 10.72.0.1/24 dev there; ip link set there up
ip -n joined address add 10.72.0.2/24 dev inside; ip -n joined link set inside up
ip netns exec joined {PROGRAM} fork {EACH} 10.72.0.1 80
ip link delete there; ip netns delete joined
"""
# Those that nobody has found are logged when they have surely ended.
UNSEEN_WITHIN = 240.0
KILLS = 3

Flow = tuple[str, str, str, str]


def prepare() -> None:
    """Before the package is installed: its installation has systemd load the units."""
    for name, script, more in (("apart", APART, "PrivateNetwork=yes\n"), ("joined", JOINED, "")):
        path = f"/srv/{name}.sh"
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"set -e -m\n{script}")
        write_unit(f"{name}@.service", f"[Service]\nType=oneshot\n{more}ExecStart=/bin/bash {path}\n")


def steps() -> None:
    with open(SETTINGS, "w", encoding="utf-8") as file:
        file.write("[Namespaces]\nInclude=all\nCPUQuota=100%\n")
    run("systemctl reload tcpnewconn")
    instance = _recording()
    try:
        _unseen(instance)
        run("systemctl start apart@1 joined@1 && systemctl start apart@2 joined@2")
        _compared("other namespaces", instance, 120.0)
        _killed(instance)
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
    instance.enable("tcpnewconn/failed", "sent != 0")
    return instance


def _unseen(instance: "Instance") -> None:
    """Of a namespace that has ended before the service could see it."""
    run("systemctl kill --signal=STOP tcpnewconn.service && systemctl start apart@0")
    run("systemctl kill --signal=CONT tcpnewconn.service")
    _compared("an unseen namespace", instance, UNSEEN_WITHIN)


def _killed(instance: "Instance") -> None:
    run("systemctl start --no-block apart@3 joined@3")
    for _ in range(KILLS):
        _kill_the_service()
    wait_for(lambda: not active("apart@3") and not active("joined@3"), "the units to end")
    _compared("namespaces and a killed service", instance, 30.0)


def _kill_the_service() -> None:
    before = _pid()
    run("systemctl kill --signal=KILL tcpnewconn.service")
    wait_for(lambda: active("tcpnewconn.service") and _pid() not in ("0", before), "the service")


def _pid() -> str:
    return run("systemctl show --value --property=MainPID tcpnewconn.service")


def _compared(name: str, instance: "Instance", within: float) -> None:
    """What was made since the last time, and what was logged of it."""
    made = _made(instance)
    count = sum(made.values())
    # The test outside says what is missing.
    with contextlib.suppress(RuntimeError):
        wait_for(lambda: sum(_logged(made).values()) >= count, name, within)
    logged = _logged(made)
    found = [entry for entry in entries(CONNECTION) if _flow(entry) in made]
    say(
        name,
        {
            "made": count,
            "logged": sum(logged.values()),
            "missing": [flow for flow in made if logged[flow] < made[flow]][:5],
            "more": [flow for flow in made if logged[flow] > made[flow]][:5],
            "lost": sum(int(entry["TCPNEWCONN_COUNT"]) for entry in entries(LOSS, TCPNEWCONN_REASON="namespaces")),
            "detected by": Counter(entry["TCPNEWCONN_DETECTED_BY"] for entry in found),
            "units": Counter(entry.get("OBJECT_SYSTEMD_UNIT", "-") for entry in found),
            "threads": Counter(entry.get("PROCESS_THREAD_NAME", "-") for entry in found),
            "in none": sum("TCPNEWCONN_NETNS" not in entry for entry in found),
            "in an unknown one": sum(entry.get("TCPNEWCONN_NETNS") == "0" for entry in found),
        },
    )


def _made(instance: "Instance") -> Counter[Flow]:
    """The connections that were opened in other namespaces, and did not fail."""
    from tcpnewconn.kernel.namespaces import kernel_socket
    from tcpnewconn.kernel.trace import Trace
    from tcpnewconn.model import Call, endpoints

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
            made[flow] += 1 if isinstance(each, Call) else -1  # type: ignore[index]
    trace.close()
    return +made


def _logged(made: Counter[Flow]) -> Counter[Flow]:
    """How many connections with these addresses and ports were logged; one that is repeated after SIGKILL has the same id."""
    ids = {(_flow(entry), entry["TCPNEWCONN_CONNECTION_ID"]) for entry in one_by_one(CONNECTION)}
    return Counter(flow for flow, _ in ids if flow in made)


def _flow(entry: Entry) -> Flow:
    names = ("SOURCE_ADDRESS", "SOURCE_PORT", "DESTINATION_ADDRESS", "DESTINATION_PORT")
    return tuple(entry.get(name, "") for name in names)  # type: ignore[return-value]
