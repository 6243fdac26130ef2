"""The limits of the service's sandbox, tried from inside it; and the rating of systemd-analyze."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import booted_probe
from tests.support.booted import Booted
from tests.support.booted_package import EACH, UNITS, drop_in, metric

NAMESPACE_UNITS = ("tcpnewconn-namespaces.service", "tcpnewconn-namespaces.socket")
PROBE = "/usr/local/lib/probe.py"
STATE, METRICS = "/var/lib/tcpnewconn", "/run/tcpnewconn"
# Files that are not on a disk.
KEEP_NOTHING = re.compile(
    r"/dev/(null|zero|full|random|urandom|pts/ptmx)|/proc/pressure/\w+|/sys/fs/cgroup/.*\.pressure"
)
TRACE_UNITS = ("tcpnewconn-trace.service", "tcpnewconn-trace-repair.service", "tcpnewconn-trace-repair.path")
# The example drop-in, as the package has it.
WITHOUT_PROC = "/usr/share/tcpnewconn/protect-proc.conf"
# Only how it is started is another program's; everything else is as the package has it.
INSTEAD = f"[Service]\nType=oneshot\nExecStart=\nExecStart=/usr/bin/python3 {PROBE}\nRestart=no\n"


@pytest.fixture(scope="module")
def container(package: Booted) -> Iterator[Booted]:
    yield package
    package.run("rm", "-f", PROBE)


@pytest.fixture(scope="module")
def probed(container: Booted) -> dict[str, Any]:
    """The abilities of a program in the service's place."""
    return probe(container)


def probe(container: Booted) -> dict[str, Any]:
    def answers() -> list[str]:
        # Not by _COMM: journald asks for it when it reads the line, and the program may be gone.
        lines = container.journalctl("--output=cat", "_SYSTEMD_UNIT=tcpnewconn.service").splitlines()
        return [line for line in lines if line.startswith('{"other_processes"')]

    before = len(answers())
    container.write(PROBE, Path(booted_probe.__file__).read_text())
    container.run("systemctl", "stop", *UNITS)
    drop_in(container, "tcpnewconn.service", INSTEAD, name="probe")
    container.run("systemctl", "start", "tcpnewconn.service")
    container.run("rm", "-r", "/etc/systemd/system/tcpnewconn.service.d")
    container.run("systemctl", "daemon-reload")
    [line] = container.wait_for(lambda: answers()[before:], "what it could do")
    outcome: dict[str, Any] = json.loads(line)
    return outcome


def test_systemd_finds_nothing_to_say_about_the_units(container: Booted) -> None:
    assert container.run("systemd-analyze", "verify", *UNITS, *TRACE_UNITS, *NAMESPACE_UNITS) == ""


def exposure(container: Booted, unit: str) -> float:
    judged = container.run("systemd-analyze", "security", "--no-pager", unit)
    found = re.search(rf"Overall exposure level for {re.escape(unit)}: ([\d.]+)", judged)
    assert found, judged
    return float(found.group(1))


def test_the_exposure_is_at_most_0_8_and_with_the_drop_in_0_7(container: Booted) -> None:
    assert exposure(container, "tcpnewconn.service") <= 0.8
    container.run("mkdir", "-p", "/etc/systemd/system/tcpnewconn.service.d")
    container.run("cp", WITHOUT_PROC, "/etc/systemd/system/tcpnewconn.service.d")
    container.run("systemctl", "daemon-reload")
    try:
        assert exposure(container, "tcpnewconn.service") <= 0.7
        assert probe(container)["other_processes"] == []
    finally:
        container.run("rm", "-rf", "/etc/systemd/system/tcpnewconn.service.d")
        container.run("systemctl", "daemon-reload")


def test_the_exposure_of_the_oneshot_is_at_most_1_5(container: Booted) -> None:
    assert exposure(container, "tcpnewconn-trace.service") <= 1.5
    assert exposure(container, "tcpnewconn-trace-repair.service") <= 1.5


def test_where_tracefs_is_not_there_the_oneshot_says_so_and_is_no_failure(container: Booted) -> None:
    container.run("systemctl", "restart", "tcpnewconn.service")
    assert container.property("tcpnewconn-trace.service", "ActiveState") == "active"
    assert container.property("tcpnewconn-trace.service", "Result") == "success"
    assert container.run("cat", "/run/tcpnewconn-trace/missing").startswith("tracefs is not mounted")
    container.run("systemctl", "stop", "tcpnewconn.service")
    container.wait_for(
        lambda: container.property("tcpnewconn-trace.service", "ActiveState") == "inactive",
        "it to stop with the service",
    )


def test_it_can_open_no_ip_socket(probed: dict[str, Any]) -> None:
    opened = {family for family, outcome in probed["sockets"].items() if outcome == "opened"}
    assert opened == {"AF_UNIX", "AF_NETLINK"}


def test_it_can_write_nowhere_but_its_state_and_its_metrics(probed: dict[str, Any]) -> None:
    assert sorted(probed["writable_directories"]) == [METRICS, STATE]
    elsewhere = [path for path in probed["writable_files"] if not path.startswith((f"{STATE}/", f"{METRICS}/"))]
    assert [path for path in elsewhere if not KEEP_NOTHING.fullmatch(path)] == []


def test_it_sees_of_other_processes_what_every_user_may_read(container: Booted, probed: dict[str, Any]) -> None:
    assert int(container.property("systemd-journald.service", "MainPID")) in probed["other_processes"]
    assert probed["private_files"] == []


def test_it_has_no_capability_and_gets_none(probed: dict[str, Any]) -> None:
    assert set(probed["capabilities"]) == {"0000000000000000"}
    assert probed["no_new_privileges"] == "1"
    assert 0 < probed["user"] < 1000, "a system user"
    assert [attempt for attempt, outcome in probed["attempts"].items() if outcome == "done"] == []


def test_where_netlink_is_forbidden_it_polls_and_says_what_is_missing(container: Booted) -> None:
    only_unix = ("RestrictAddressFamilies=AF_UNIX",)
    container.start_unit("reader.service", "/usr/bin/tcpnewconn", "--output=text", properties=only_unix)
    said = ("The kernel sends no destroy notifications here", "New listener: 0.0.0.0:80")
    container.wait_for(
        lambda: all(part in container.journalctl("--unit=reader.service") for part in said),
        "it to say what is missing, and what it polls",
    )
    assert container.property("reader.service", "ActiveState") == "active"
    container.run("systemctl", "stop", "reader.service")


# A connection within its own network, that stays open.
APART = """
import signal, socket
listener = socket.create_server(("127.0.0.1", 8123))
client = socket.create_connection(listener.getsockname())
accepted = listener.accept()
signal.pause()
"""


def test_a_service_with_a_network_of_its_own_is_observed_too_and_after_sigkill_not_again(container: Booted) -> None:
    setting = "/etc/tcpnewconn.conf.d/namespaces.conf"
    container.write(setting, "[Poll]\nInterval=1s\n[Namespaces]\nInclude=all\n")
    container.run("systemctl", "restart", "tcpnewconn.service")
    container.write("/usr/local/lib/apart.py", APART)
    properties = ("PrivateNetwork=yes", "DynamicUser=yes")
    container.start_unit("apart.service", "/usr/bin/python3", "/usr/local/lib/apart.py", properties=properties)

    def logged() -> list[dict[str, Any]]:
        return container.journal("EVENT_ACTION=connection-opened", "DESTINATION_PORT=8123")

    [entry] = container.wait_for(logged, "the connection within the other namespace")
    pid = container.property("apart.service", "MainPID")
    assert entry["TCPNEWCONN_NETNS"] == container.run("stat", "-c", "%i", f"/proc/{pid}/net/tcp").strip()
    assert entry["OBJECT_SYSTEMD_UNIT"] == "apart.service"
    assert entry["NETWORK_DIRECTION"] == "internal"
    # Within PrivateUsers= it is not known.
    assert "USER_ID" not in entry
    polls = metric(container, "tcpnewconn_namespace_polls_total")
    container.wait_for(lambda: metric(container, "tcpnewconn_namespace_polls_total") > polls, "one more poll")
    started = metric(container, "tcpnewconn_process_start_time_seconds")
    container.run("systemctl", "kill", "--signal=KILL", "tcpnewconn.service")
    container.wait_for(
        lambda: metric(container, "tcpnewconn_process_start_time_seconds") > started, "a poll after the restart"
    )
    polls = metric(container, "tcpnewconn_namespace_polls_total")
    container.wait_for(lambda: metric(container, "tcpnewconn_namespace_polls_total") > polls, "one more poll")
    assert len(logged()) == 1
    container.run("systemctl", "stop", "apart.service")
    container.run("rm", setting, "/usr/local/lib/apart.py")
    container.run("systemctl", "restart", "tcpnewconn.service")


# So many connections within its network, closed at once. Prints the ports of the clients.
SHORT = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 8124))
for _ in range(int(sys.argv[1])):
    client = socket.create_connection(listener.getsockname())
    accepted = listener.accept()[0]
    print(client.getsockname()[1])
    client.close()
    accepted.close()
"""


def test_short_connections_in_another_namespace_are_all_logged_over_restarts_and_sigkill(container: Booted) -> None:
    setting, program = "/etc/tcpnewconn.conf.d/namespaces.conf", "/usr/local/lib/short.py"
    container.write(setting, f"[Namespaces]\nInclude=all\n{EACH.replace('Interval=2s', 'Interval=10min')}")
    # It is started when nothing is open that its first poll could show.
    drop_in(container, "tcpnewconn.service", "[Service]\nRestartSec=1h\n")
    container.run("systemctl", "restart", "tcpnewconn.service")
    assert container.property("tcpnewconn-namespaces.service", "Result") == "success"
    container.write(program, SHORT)
    # With Type=exec it is in its namespace when it has started.
    apart = ("PrivateNetwork=yes", "Type=exec")
    container.start_unit("apart.service", "/usr/bin/sleep", "infinity", properties=apart)
    pid = container.property("apart.service", "MainPID")
    container.run("ip", "link", "add", "apart", "type", "veth", "peer", "name", "apart", "netns", pid)
    ports: list[str] = []

    def logged() -> list[dict[str, Any]]:
        return container.journal("EVENT_ACTION=connection-opened", "DESTINATION_PORT=8124")

    def make(count: int) -> None:
        entered = ("nsenter", "--net", f"--target={pid}", "python3", program, str(count))
        ports.extend(container.run(*entered).split())

    # Whose the id is, is known then.
    make(1)
    container.wait_for(logged, "the first connection")
    for killed in (True, False, True):
        make(20)
        if killed:
            container.run("systemctl", "kill", "--signal=KILL", "tcpnewconn.service")
            make(20)
        # Not "start", which would wait for RestartSec=.
        container.run("systemctl", "restart", "tcpnewconn.service")
        make(20)

    container.wait_for(lambda: len({entry["SOURCE_PORT"] for entry in logged()}) >= len(ports), "all connections")
    entries = {entry["TCPNEWCONN_CONNECTION_ID"]: entry for entry in logged()}
    assert sorted(entry["SOURCE_PORT"] for entry in entries.values()) == sorted(ports)
    assert {entry["TCPNEWCONN_NETNS"] for entry in entries.values()} == {
        container.run("stat", "-c", "%i", f"/proc/{pid}/net/tcp").strip()
    }
    assert {entry["TCPNEWCONN_DETECTED_BY"] for entry in entries.values()} == {"notification"}
    container.run("systemctl", "stop", "apart.service", "tcpnewconn.service")
    container.wait_for(
        lambda: {container.property(unit, "ActiveState") for unit in NAMESPACE_UNITS} == {"inactive"},
        "the socket and the oneshot to stop with the service",
    )
    container.run("rm", "-r", setting, program, "/etc/systemd/system/tcpnewconn.service.d")
    container.run("systemctl", "daemon-reload")
    container.run("systemctl", "start", "tcpnewconn.service")


def test_the_exposure_of_the_oneshot_for_namespaces_is_at_most_1_2(container: Booted) -> None:
    assert exposure(container, "tcpnewconn-namespaces.service") <= 1.2
