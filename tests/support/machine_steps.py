"""
The steps inside a virtual machine, run by a unit that starts at each of its boots, with the machine's own Python.

Writes a line of JSON for each thing that was done, to the machine's second serial port: its name, and what came of it.
The tests outside judge it.
"""

import base64
import os
import subprocess
import traceback

from tests.support import (
    machine_load,
    machine_many,
    machine_namespaces,
    machine_owners,
    machine_peers,
    machine_plain,
    machine_programs,
    machine_trace,
)
from tests.support.machine_guest import (
    PLAN,
    SHORT,
    active,
    run,
    say,
    wait_for,
    wait_for_connections,
)

ONE_BOOT_DONE = "/var/lib/one-boot-done"
STATE = "/var/lib/tcpnewconn/snapshot"
UNITS = ("tcpnewconn.service", "tcpnewconn.socket")
# A client that is still reading when tcpnewconn polls /proc.
SLOW = "curl --silent --limit-rate 1k --output /dev/null"
WARNINGS = "journalctl --quiet --boot --unit=tcpnewconn --priority=warning --output=cat"


def install() -> None:
    with open("/etc/apt/sources.list.d/local.list", "w", encoding="utf-8") as sources:
        sources.write("deb [trusted=yes] file:/srv/repository ./\n")
    run("apt-get update --quiet=2")
    run("apt-get install --yes --quiet=2 --no-install-recommends tcpnewconn")
    wait_for(lambda: active("tcpnewconn.service"), "the service")
    say("installed", {unit.partition(".")[2]: run(f"systemctl is-active {unit}") for unit in UNITS})


def snapshot() -> dict[str, str]:
    with open(STATE, encoding="utf-8", errors="replace") as file:
        return {"boot_id": run("cat /proc/sys/kernel/random/boot_id"), "text": file.read()}


def with_default_settings() -> None:
    """Two that a poll sees, and some that are over before: each from one real program to another."""
    with open("/var/www/html/page", "w", encoding="utf-8") as page:
        page.write("x" * 300_000)
    slow = [subprocess.Popen([*SLOW.split(), f"http://{host}/page"]) for host in ("127.0.0.1", "[::1]")]
    run(f"{SHORT} http://127.0.0.2/")
    # 47 that nginx closes first: no poll can see one of them.
    run(f"{SHORT} 'http://127.0.0.3/?[1-47]'")
    found = {server: wait_for_connections(server) for server in ("127.0.0.1", "::1", "127.0.0.2")}
    say("connections", found)
    for client in slow:
        client.kill()
        client.wait()
    say("short connections", [entry["TCPNEWCONN_CONNECTION_ID"] for entry in wait_for_connections("127.0.0.3", 47)])
    say("warnings", run(WARNINGS).splitlines())
    say("snapshot", snapshot())


def first_boot() -> None:
    for steps in (machine_owners, machine_programs, machine_load, machine_namespaces, machine_plain):
        steps.prepare()
    install()
    with_default_settings()
    machine_owners.set_up()
    machine_programs.steps()
    machine_owners.gone_units()
    machine_owners.of_threads()
    machine_owners.from_a_peer()
    machine_owners.failed_attempts()
    machine_load.ways()
    machine_load.mixed()
    machine_owners.killed_under_load()
    # After records were lost or events deleted, connections are not attributed until polls have shown those that are open.
    machine_load.small_rings()
    machine_owners.beside_trace_cmd()
    machine_owners.restarted_underneath()
    machine_namespaces.steps()
    machine_plain.steps()
    machine_trace.steps()


def many_connections() -> None:
    """For a measurement."""
    machine_load.prepare()
    install()
    machine_owners.set_up()
    machine_load.ways()
    machine_many.mixed()
    machine_load.small_rings()


def plain_event() -> None:
    """The kernel's own event of connect() alone."""
    machine_plain.prepare()
    install()
    machine_owners.set_up()
    machine_plain.steps()


def namespaces() -> None:
    """Other network namespaces alone."""
    machine_namespaces.prepare()
    install()
    machine_owners.set_up()
    machine_namespaces.steps()


def beside_peers() -> None:
    """For a measurement."""
    machine_peers.prepare()
    install()
    machine_owners.set_up()
    machine_peers.steps()


def trace_fixture() -> None:
    """For tests/fixtures: the directory that capture_trace.py makes, as a tar. In a network namespace of its own."""
    run("unshare --net sh -c 'ip link set lo up && exec python3 /srv/tests/fixtures/capture_trace.py'")
    run("tar -C /srv/tests/fixtures/trace -czf /tmp/fixture.tar.gz .")
    with open("/tmp/fixture.tar.gz", "rb") as file:
        say("fixture", base64.b64encode(file.read()).decode())


def few_connections() -> None:
    """For an architecture that is emulated slowly."""
    machine_owners.prepare()
    install()
    with_default_settings()
    machine_owners.set_up()
    machine_owners.gone_units()
    machine_owners.of_threads()
    machine_owners.from_a_peer()
    machine_owners.failed_attempts()
    machine_owners.killed_under_load()


def clock_step(by: str, server: str) -> dict[str, object]:
    """Sets the machine's clock by so much, then makes a connection that a poll sees and one that no poll can see."""
    show = "systemctl show --property=MainPID,NRestarts tcpnewconn.service"
    before = run(show)
    run(f"date --set='{by}'")
    with subprocess.Popen([*SLOW.split(), f"http://{server}/page"]) as slow:
        run(f"{SHORT} http://{server}/")
        found = wait_for_connections(server, 2)
        slow.kill()
    return {
        "same process": before == run(show),
        "detected_by": [entry["TCPNEWCONN_DETECTED_BY"] for entry in found],
        "ids": [entry["TCPNEWCONN_CONNECTION_ID"] for entry in found],
    }


def second_boot() -> None:
    wait_for(lambda: active("tcpnewconn.service"), "the service")
    say("installed after reboot", {unit.partition(".")[2]: run(f"systemctl is-active {unit}") for unit in UNITS})
    run(f"{SHORT} http://127.0.0.2/")
    say("connections after reboot", wait_for_connections("127.0.0.2"))
    say("clock steps", [clock_step("+1 day", "127.0.0.4"), clock_step("-2 days", "127.0.0.5")])
    say("warnings after reboot", run(WARNINGS).splitlines())
    say("snapshot after reboot", snapshot())
    machine_owners.take_back()
    run("apt-get purge --yes --quiet=2 tcpnewconn")
    remains = run("find / -xdev -path /srv -prune -o -path /opt -prune -o -name '*tcpnewconn*' -print")
    say("remains", remains + run("find /run -name '*tcpnewconn*'"))
    say("units", run("systemctl list-unit-files --quiet --no-legend 'tcpnewconn*'", check=False))


# The steps of each boot.
STEPS = {
    "all": (first_boot, second_boot),
    "many": (many_connections,),
    "few": (few_connections,),
    "plain": (plain_event,),
    "namespaces": (namespaces,),
    "peers": (beside_peers,),
    "fixture": (trace_fixture,),
}


def main() -> None:
    steps = STEPS[PLAN["steps"]]
    boot = 1 if os.path.exists(ONE_BOOT_DONE) else 0
    try:
        say(f"boot {boot + 1}", {"kernel": os.uname().release, "machine": os.uname().machine})
        steps[boot]()
    except Exception:
        # Everything that went wrong is of interest outside, where nobody can look into the machine.
        say("failed", traceback.format_exc() + run("journalctl --boot --no-pager --lines=80", check=False))
        run("systemctl poweroff")
        return
    if boot + 1 < len(steps):
        with open(ONE_BOOT_DONE, "w", encoding="utf-8"):
            pass
        run("systemctl reboot")
    else:
        say("end", True)
        run("systemctl poweroff")


if __name__ == "__main__":
    main()
