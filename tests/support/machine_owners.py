"""The steps of machine_steps about attribution: connections of processes and units that are gone before they are reported."""

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.support.machine_trace import EVENTS, delete_events, run, state

CONNECTION = "74ba465b9f4e456585146b89bb95f0dc"
FAILED = "f2a2bc9384a24a388b7c94454c74adf4"
DEGRADED, RECOVERED = "ac71ee2a2e8443a59039d1319c802aa2", "9bd8673752994bd08028b0299ca2c261"
PEER, HOST = "10.71.0.2", "10.71.0.1"
SHORT = "curl --silent --output /dev/null --header Connection:close"
USERS = ("nobody", "www-data", "daemon", "root")
# Each connection has an entry of its own.
SETTINGS = "[Report]\nBurstLimit=0\nTotalLimit=0\nFailed=yes\n"

Say = Callable[[str, object], None]
WaitFor = Callable[[Callable[[], object], str], None]


def entries(*matches: str) -> list[dict[str, Any]]:
    found = run(f"journalctl --quiet --boot --output=json --unit=tcpnewconn {' '.join(matches)}")
    return list({entry["__CURSOR"]: entry for entry in map(json.loads, found.splitlines())}.values())


def connections(server: str) -> list[dict[str, Any]]:
    return entries(f"MESSAGE_ID={CONNECTION}", f"DESTINATION_ADDRESS={server}")


def gone_units(say: Say, wait_for: WaitFor) -> None:
    """Each connection is of a unit of its own, with a user of its own, which is gone when it is reported."""
    for number in range(8):
        run(
            f"systemd-run --quiet --wait --unit=gone-{number}.service --uid={USERS[number % len(USERS)]} {SHORT} http://127.0.1.1/"
        )
    wait_for(lambda: len(connections("127.0.1.1")) >= 8, "connections of units that are gone")
    say("of gone units", connections("127.0.1.1"))


def families(say: Say, wait_for: WaitFor) -> None:
    """Over IPv4, IPv6 and mapped, each by a thread with a name of its own, of a process that ends at once."""
    program = (
        "import socket, threading, sys\n"
        "def connect(family, address):\n"
        "    open('/proc/thread-self/comm', 'w').write('by thread')\n"
        "    with socket.socket(family) as client:\n"
        "        client.connect((address, 80))\n"
        "        client.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')\n"
        "        while client.recv(65536): pass\n"
        "for family, address in ((2, '127.0.1.2'), (10, '::1'), (10, '::ffff:127.0.1.3')):\n"
        "    thread = threading.Thread(target=connect, args=(family, address))\n"
        "    thread.start(); thread.join()\n"
    )
    before = len(connections("::1"))
    subprocess.run(["/usr/bin/python3", "-c", program], check=True)
    wait_for(
        lambda: connections("127.0.1.2") and connections("127.0.1.3") and len(connections("::1")) > before,
        "connections of threads",
    )
    say("of threads", [connections("127.0.1.2")[-1], connections("::1")[-1], connections("127.0.1.3")[-1]])


def from_a_peer(say: Say, wait_for: WaitFor) -> None:
    """From another network namespace to nginx: this host's side is who accepted."""
    run("ip netns add peer; ip link add here type veth peer name there netns peer")
    run(f"ip address add {HOST}/24 dev here; ip link set here up")
    run(f"ip -n peer address add {PEER}/24 dev there; ip -n peer link set there up")
    run(f"for i in $(seq 20); do ip netns exec peer {SHORT} http://{HOST}/; done")
    wait_for(lambda: len(connections(HOST)) >= 20, "connections from a peer")
    say("accepted", connections(HOST))
    run("ip link delete here; ip netns delete peer")


def failed_attempts(say: Say, wait_for: WaitFor) -> None:
    for number in range(3):
        run(
            f"systemd-run --quiet --wait --unit=refused-{number}.service --uid=daemon {SHORT} http://127.0.1.4:9/",
            check=False,
        )
    wait_for(lambda: len(entries(f"MESSAGE_ID={FAILED}")) >= 3, "failed attempts")
    say("failed attempts", entries(f"MESSAGE_ID={FAILED}"))


def killed_under_load(say: Say, wait_for: WaitFor) -> None:
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
            time.sleep(0.02)

    thread = threading.Thread(target=load)
    thread.start()
    run("systemctl kill --signal=KILL tcpnewconn.service")
    time.sleep(0.5)
    wait_for(lambda: run("systemctl is-active tcpnewconn.service", check=False) == "active", "the service")
    run("systemctl restart tcpnewconn.service")
    wait_for(lambda: len(connections("127.0.1.5")) > 20, "connections under load")
    end.set()
    thread.join()
    wait_for(lambda: len({each["SOURCE_PORT"] for each in connections("127.0.1.5")}) >= len(set(made)), "all of them")
    found = connections("127.0.1.5")
    say(
        "killed under load",
        {
            "made": len(made),
            "ids": len({each["TCPNEWCONN_CONNECTION_ID"] for each in found}),
            "ports": sorted({int(each["SOURCE_PORT"]) for each in found}) == sorted(set(made)),
            "threads": sorted({each.get("PROCESS_THREAD_ID", "") for each in found}),
            "thread": str(thread.native_id),
        },
    )


def deleted_underneath(say: Say, wait_for: WaitFor) -> None:
    """The service notices by itself that events were deleted, and has them defined again."""
    run("systemctl reset-failed")
    delete_events()
    wait_for(lambda: state()["recorded"] == [*EVENTS], "the service to have the events defined again")
    wait_for(lambda: entries(f"MESSAGE_ID={RECOVERED}"), "the service to say that they are back")
    attributed_again("127.0.1.6", wait_for)
    say("after a repair", connections("127.0.1.6")[-1])
    said = entries(f"MESSAGE_ID={DEGRADED}") + entries(f"MESSAGE_ID={RECOVERED}")
    say("said of the trace", [entry["MESSAGE"] for entry in said])


def restarted_underneath(say: Say, wait_for: WaitFor) -> None:
    """The oneshot is stopped and started while the service runs: the service goes on with the new events."""
    run("systemctl stop tcpnewconn-trace.service")
    run(f"{SHORT} http://127.0.1.7/")
    wait_for(lambda: connections("127.0.1.7"), "a connection without the trace")
    run("systemctl start tcpnewconn-trace.service")
    attributed_again("127.0.1.8", wait_for)
    say("without the oneshot", connections("127.0.1.7")[-1])
    say("with the oneshot again", connections("127.0.1.8")[-1])


def attributed_again(server: str, wait_for: WaitFor) -> None:
    """Until polls have shown which connections are older than the trace, none is attributed."""

    def attributed() -> bool:
        run(f"{SHORT} http://{server}/")
        return any("PROCESS_THREAD_ID" in entry for entry in connections(server)[-1:])

    wait_for(attributed, "a connection that is attributed again")


def steps(say: Say, wait_for: WaitFor) -> None:
    with open("/etc/tcpnewconn.conf.d/owners.conf", "w", encoding="utf-8") as file:
        file.write(SETTINGS)
    run("systemctl reload tcpnewconn.service")
    # After a deletion, short connections are not attributed until two seconds after the next poll: the kill comes before.
    for step in (
        gone_units,
        families,
        from_a_peer,
        failed_attempts,
        killed_under_load,
        deleted_underneath,
        restarted_underneath,
    ):
        step(say, wait_for)
    os.unlink("/etc/tcpnewconn.conf.d/owners.conf")
    run("systemctl reload tcpnewconn.service")
