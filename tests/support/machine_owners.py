"""The steps about attribution: connections of processes and units that are gone, and changes underneath the service."""

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections import Counter

from tests.support.machine_guest import (
    CONNECTION,
    DEGRADED,
    FAILED,
    HOST,
    RECOVERED,
    SHORT,
    active,
    between_polls,
    connections,
    entries,
    number_of,
    one_by_one,
    peer,
    poll_interval,
    run,
    say,
    short,
    wait_for,
    wait_for_connections,
    write_unit,
)
from tests.support.machine_trace import EVENTS, state

USERS = ("nobody", "www-data", "daemon", "root")
# Each connection has an entry of its own, with its end; polls come often, so that the steps need not wait for them.
SETTINGS = "[Poll]\nInterval=2s\n[Report]\nBurstLimit=0\nTotalLimit=0\nFailed=yes\nClosed=yes\n"

# In seconds: a record takes five.
TRACE_CMD_RECORDS = 60.0

# Over IPv4, IPv6 and mapped, each by a thread with a name of its own, of a process that ends at once.
THREADS = r"""
import socket, threading
def connect(family, address):
    open("/proc/thread-self/comm", "w").write("by thread")
    with socket.socket(family) as client:
        client.connect((address, 80))
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        while client.recv(65536): pass
for family, address in ((2, "127.0.1.2"), (10, "::1"), (10, "::ffff:127.0.1.3")):
    thread = threading.Thread(target=connect, args=(family, address))
    thread.start(); thread.join()
"""


def prepare() -> None:
    """Before the package is installed: its installation has systemd load the units."""
    write_unit("gone-0@.service", f"[Service]\nUser=%i\nExecStart={SHORT} http://127.0.1.1/\n")
    write_unit("gone-1@.service", f"[Service]\nUser=%i\nExecStart={SHORT} http://127.0.1.1/\n")
    write_unit("refused@.service", f"[Service]\nUser=daemon\nExecStart={SHORT} http://127.0.1.4:9/\n")


def gone_units() -> None:
    """Each connection is of a unit of its own, with a user of its own, which is gone when it is reported."""
    units = [f"gone-{number}@{user}" for number in range(2) for user in USERS]
    with between_polls():
        run(f"systemctl start {' '.join(units)}")
        say("of gone units", wait_for_connections("127.0.1.1", len(units)))


def of_threads() -> None:
    before = len(connections("::1"))
    subprocess.run(["/usr/bin/python3", "-c", THREADS], check=True)
    of_ipv6 = wait_for_connections("::1", before + 1)[-1]
    say("of threads", [wait_for_connections("127.0.1.2")[-1], of_ipv6, wait_for_connections("127.0.1.3")[-1]])


def from_a_peer() -> None:
    """From another network namespace to nginx: this host's side is who accepted."""
    with peer() as there, between_polls():
        run(f"{there} {SHORT} 'http://{HOST}/?[1-20]'")
        say("accepted", wait_for_connections(HOST, 20, DESTINATION_PORT="80"))


def failed_attempts() -> None:
    run("systemctl start refused@0 refused@1 refused@2")
    wait_for(lambda: number_of(FAILED, "127.0.1.4") >= 3, "failed attempts")
    say("failed attempts", entries(FAILED, DESTINATION_ADDRESS="127.0.1.4"))
    run("systemctl reset-failed")


def killed_under_load() -> None:
    """Connections all the time, while the service is killed and restarted."""
    made: list[int] = []
    end = threading.Event()

    def load() -> None:
        while not end.is_set():
            with socket.socket() as client:
                client.connect(("127.0.1.5", 80))
                made.append(client.getsockname()[1])
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                while client.recv(65536):
                    pass
            time.sleep(0.05)

    thread = threading.Thread(target=load)
    thread.start()
    run("systemctl kill --signal=KILL tcpnewconn.service")
    time.sleep(0.5)
    wait_for(lambda: active("tcpnewconn.service"), "the service")
    run("systemctl restart tcpnewconn.service")
    wait_for(lambda: number_of(CONNECTION, "127.0.1.5") > 20, "connections under load")
    end.set()
    thread.join()
    # One that is repeated after SIGKILL has the same id.
    wait_for(lambda: len(_ids("127.0.1.5")) >= len(made), "every connection under load")
    found = connections("127.0.1.5")
    say(
        "killed under load",
        {
            "made": len(made),
            "ids": len(_ids("127.0.1.5")),
            "ports": sorted({int(each["SOURCE_PORT"]) for each in found}) == sorted(set(made)),
            "threads": Counter(each.get("PROCESS_THREAD_ID", "") for each in found),
            "thread": str(thread.native_id),
        },
    )


def _ids(server: str) -> set[str]:
    return {entry["TCPNEWCONN_CONNECTION_ID"] for entry in one_by_one(CONNECTION, DESTINATION_ADDRESS=server)}


def beside_trace_cmd() -> None:
    """Another tool records at the same time; then it deletes the events of everybody: the service has its own defined again."""
    made: list[str] = []
    report = ""

    def recorded() -> bool:
        # A shell, which starts programs for as long as it records. trace-cmd's recorders that begin when the shell has ended have
        # nothing.
        nonlocal report
        command = f"sh -c '{SHORT} http://127.0.1.9/; ls; ls'"
        made.append(run(f"cd /tmp && trace-cmd record -e sched:sched_process_exec -o /tmp/others.dat {command}"))
        report = run("trace-cmd report -i /tmp/others.dat")
        return "sched_process_exec" in report

    with contextlib.suppress(RuntimeError):
        wait_for(recorded, "records of trace-cmd", TRACE_CMD_RECORDS)
    say("recorded by trace-cmd", "sched_process_exec" in report or f"{made[-1]}\n{report}"[-2000:])
    say(
        "beside trace-cmd record",
        short(wait_for_connections("127.0.1.9", len(made)), "PROCESS_THREAD_NAME", "USER_NAME"),
    )
    run("systemctl reset-failed")
    run("trace-cmd reset")
    wait_for(lambda: state()["recorded"] == [*EVENTS], "the service to have the events defined again")
    wait_for(lambda: entries(RECOVERED), "the service to say that they are back")
    attributed_again("127.0.1.6")
    say("after a repair", connections("127.0.1.6")[-1])
    said = entries(DEGRADED) + entries(RECOVERED)
    say("said of the trace", [entry["MESSAGE"] for entry in said])


def restarted_underneath() -> None:
    """The oneshot is stopped and started while the service runs: the service goes on with the new events."""
    run("systemctl stop tcpnewconn-trace.service")
    run(f"{SHORT} http://127.0.1.7/")
    wait_for_connections("127.0.1.7")
    run("systemctl start tcpnewconn-trace.service")
    attributed_again("127.0.1.8")
    say("without the oneshot", connections("127.0.1.7")[-1])
    say("with the oneshot again", connections("127.0.1.8")[-1])


def attributed_again(server: str) -> None:
    """Until polls have shown which connections are older than the trace, none is attributed."""

    def attributed() -> bool:
        run(f"{SHORT} http://{server}/")
        return any("PROCESS_THREAD_ID" in entry for entry in connections(server)[-1:])

    wait_for(attributed, "a connection that is attributed again")


def set_up() -> None:
    with open("/etc/tcpnewconn.conf.d/owners.conf", "w", encoding="utf-8") as file:
        file.write(SETTINGS)
    run("systemctl reload tcpnewconn.service")
    wait_for(lambda: poll_interval() == 2, "the settings")


def take_back() -> None:
    os.unlink("/etc/tcpnewconn.conf.d/owners.conf")
    run("systemctl reload tcpnewconn.service")
