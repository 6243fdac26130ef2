"""
The steps inside a virtual machine, run by a unit that starts at each of its boots, with the machine's own Python.

Writes a line of JSON for each thing that was done, to the machine's second serial port: its name, and what came of it.
The tests outside judge it.
"""

import json
import os
import shlex
import subprocess
import time
import traceback
from collections.abc import Callable

from tests.support import machine_trace

CONNECTION = "74ba465b9f4e456585146b89bb95f0dc"
DEADLINE = 120.0
ONE_BOOT_DONE = "/var/lib/one-boot-done"
STATE = "/var/lib/tcpnewconn/snapshot"
# A client that is still reading when tcpnewconn polls /proc.
SLOW = "curl --silent --limit-rate 1k --output /dev/null"


def say(name: str, outcome: object) -> None:
    with open("/dev/ttyS1", "w", encoding="utf-8") as port:
        port.write(json.dumps({"name": name, "outcome": outcome}) + "\n")


def run(command: str, *, check: bool = True) -> str:
    done = subprocess.run(
        shlex.split(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout.strip()


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {DEADLINE:.0f} s for {what}")
        time.sleep(0.2)


def entries(*matches: str) -> list[dict[str, str]]:
    lines = run(f"journalctl --quiet --boot --output=json --unit=tcpnewconn {' '.join(matches)}")
    # Each once, by its place in the journal, whatever journalctl makes of several files and a clock that was set.
    return list({entry["__CURSOR"]: entry for entry in map(json.loads, lines.splitlines())}.values())


def connections(server: str) -> list[dict[str, str]]:
    return entries(f"MESSAGE_ID={CONNECTION}", f"DESTINATION_ADDRESS={server}", "DESTINATION_PORT=80")


def snapshot() -> dict[str, str]:
    with open(STATE, encoding="utf-8", errors="replace") as file:
        return {"boot_id": run("cat /proc/sys/kernel/random/boot_id"), "text": file.read()}


def first_boot() -> None:
    say("kernel", os.uname().release)
    with open("/etc/apt/sources.list.d/local.list", "w", encoding="utf-8") as sources:
        sources.write("deb [trusted=yes] file:/srv/repository ./\n")
    with open("/var/www/html/page", "w", encoding="utf-8") as page:
        page.write("x" * 300_000)
    run("apt-get update --quiet=2")
    run("apt-get install --yes --quiet=2 --no-install-recommends tcpnewconn")
    wait_for(lambda: run("systemctl is-active tcpnewconn.service", check=False) == "active", "the service")
    say("installed", {unit: run(f"systemctl is-active tcpnewconn.{unit}") for unit in ("service", "socket")})
    say("user", run(f"stat --format=%U {STATE}"))

    # Two that a poll sees, and one that is over before: each from one real program to another.
    slow = [subprocess.Popen([*SLOW.split(), f"http://{host}/page"]) for host in ("127.0.0.1", "[::1]")]
    run("systemd-run --quiet --wait --unit=caller.service curl --silent --output /dev/null http://127.0.0.2/")
    servers = ("127.0.0.1", "::1", "127.0.0.2")
    wait_for(lambda: all(connections(server) for server in servers), "three connections")
    say("connections", {server: connections(server) for server in servers})
    for client in slow:
        client.kill()
        client.wait()

    # 47 that nginx closes first: no poll can see one of them.
    for _ in range(47):
        run("curl --silent --output /dev/null --header Connection:close http://127.0.0.3/")
    wait_for(lambda: len(connections("127.0.0.3")) >= 47, "47 short connections")
    say("short connections", [entry["TCPNEWCONN_CONNECTION_ID"] for entry in connections("127.0.0.3")])
    say("warnings", [entry["MESSAGE"] for entry in entries() if int(entry["PRIORITY"]) <= 4])
    say("snapshot", snapshot())
    machine_trace.steps(say, wait_for)


def clock_step(by: str, server: str) -> dict[str, object]:
    """Sets the machine's clock by so much, then makes a connection that a poll sees and one that no poll can see."""
    before = run("systemctl show --property=MainPID,NRestarts tcpnewconn.service")
    run(f"date --set='{by}'")
    with subprocess.Popen([*SLOW.split(), f"http://{server}/page"]) as slow:
        run(f"curl --silent --output /dev/null --header Connection:close http://{server}/")
        wait_for(lambda: len(connections(server)) >= 2, f"two connections after the clock went {by}")
        slow.kill()
    after = run("systemctl show --property=MainPID,NRestarts tcpnewconn.service")
    found = connections(server)
    return {
        "same process": before == after,
        "detected_by": [entry["TCPNEWCONN_DETECTED_BY"] for entry in found],
        "ids": [entry["TCPNEWCONN_CONNECTION_ID"] for entry in found],
    }


def second_boot() -> None:
    wait_for(lambda: run("systemctl is-active tcpnewconn.service", check=False) == "active", "the service")
    say(
        "installed after reboot",
        {unit: run(f"systemctl is-active tcpnewconn.{unit}") for unit in ("service", "socket")},
    )
    run("curl --silent --output /dev/null http://127.0.0.2/")
    wait_for(lambda: connections("127.0.0.2"), "a connection")
    say("connections after reboot", connections("127.0.0.2"))
    say("clock steps", [clock_step("+1 day", "127.0.0.4"), clock_step("-2 days", "127.0.0.5")])
    say("warnings after reboot", [entry["MESSAGE"] for entry in entries() if int(entry["PRIORITY"]) <= 4])
    say("snapshot after reboot", snapshot())
    run("apt-get purge --yes --quiet=2 tcpnewconn")
    remains = run("find / -xdev -path /srv -prune -o -path /opt -prune -o -name *tcpnewconn* -print")
    say("remains", remains + run("find /run -name *tcpnewconn*"))
    say("units", run("systemctl list-unit-files --quiet --no-legend tcpnewconn*", check=False))


def main() -> None:
    boot = 2 if os.path.exists(ONE_BOOT_DONE) else 1
    try:
        (first_boot, second_boot)[boot - 1]()
        say(f"end of boot {boot}", True)
        if boot == 1:
            with open(ONE_BOOT_DONE, "w", encoding="utf-8"):
                pass
    except Exception:
        # Everything that went wrong is of interest outside, where nobody can look into the machine.
        say("failed", traceback.format_exc() + run("journalctl --boot --no-pager --lines=80", check=False))
        run("systemctl poweroff")
        return
    run("systemctl reboot" if boot == 1 else "systemctl poweroff")


if __name__ == "__main__":
    main()
