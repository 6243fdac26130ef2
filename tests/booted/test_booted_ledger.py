"""The ledger of a booted system: real traffic, a real journal that is rotated and vacuumed, and the timer's sandbox."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tcpnewconn.ledger import firstseen
from tests.support import booted_probe, message_ids
from tests.support.booted import CONTAINER_ADDRESS, CONTAINER_ADDRESS6, PEER_ADDRESS, PEER_ADDRESS6, Booted
from tests.support.booted_package import UNITS, drop_in, installed

LEDGER = "/var/lib/tcpnewconn-ledger/ledger.db"
CONNECT = """
import socket, sys
for _ in range(int(sys.argv[3])):
    socket.create_connection((sys.argv[1], int(sys.argv[2]))).close()
"""
SERVE = """
import socket
server = socket.create_server(("::", 7017), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    server.accept()[0].close()
"""
PROBE = "/usr/local/lib/probe.py"
# Only what is started is another program; everything else is as the package has it.
INSTEAD = f"[Service]\nExecStart=\nExecStart=/usr/bin/python3 {PROBE}\n"
OF_THE_NAMESPACE = ("systemd-journald@tcpnewconn.socket", "systemd-journald-varlink@tcpnewconn.socket")


@pytest.fixture(scope="module")
def container(long_life: Booted) -> Iterator[Booted]:
    """An empty journal and no ledger, in spite of the files before."""
    if long_life.path("/usr/bin/tcpnewconn").exists():
        units = ("tcpnewconn-ledger.timer", "tcpnewconn-ledger.service", *UNITS)
        long_life.run("systemctl", "stop", *units)
        long_life.run("rm", "-rf", "/var/lib/tcpnewconn", "/var/lib/tcpnewconn-ledger")
    long_life.run("journalctl", "--rotate")
    long_life.run("journalctl", "--vacuum-time=1s")
    container = installed(long_life, each=True)
    # `systemctl start` would join a run of the timer's, which has read the journal already.
    container.run("systemctl", "stop", "tcpnewconn-ledger.timer", "tcpnewconn-ledger.service")
    container.write("/usr/local/lib/serve.py", SERVE)
    container.start_unit("answers", "/usr/bin/python3", "/usr/local/lib/serve.py")
    container.wait_for(lambda: ":7017" in container.run("ss", "-tln"), "the server to listen")
    yield container
    container.run("systemctl", "stop", "answers.service")
    installed(container)
    container.run("systemctl", "stop", *OF_THE_NAMESPACE, "systemd-journald@tcpnewconn.service", check=False)


def connect(container: Booted, count: int, address: str = CONTAINER_ADDRESS) -> None:
    """Connections from another host, and the wait for all of them in the journal."""
    before = len(logged(container))
    container.from_peer("python3", "-c", CONNECT, address, "7017", str(count))
    container.wait_for(lambda: len(logged(container)) == before + count, f"{count} connections in the journal")


def logged(container: Booted, *where: str) -> list[dict[str, Any]]:
    """The connections to the server; not by the unit, which systemd 252 does not know of a process that was killed."""
    found = container.journal(*where, f"MESSAGE_ID={message_ids.CONNECTION}")
    return [entry for entry in found if entry.get("DESTINATION_PORT") == "7017"]


def update(container: Booted) -> None:
    container.run("systemctl", "start", "tcpnewconn-ledger.service")


def report(container: Booted, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(container.run("tcpnewconn", "report", *options, "--output", "json"))
    return found


def counted(container: Booted) -> int:
    return sum(row["connections"] for row in report(container, "who", "7017")["clients"])


def test_the_timer_is_enabled_and_runs(container: Booted) -> None:
    container.run("systemctl", "start", "tcpnewconn-ledger.timer")
    assert container.run("systemctl", "is-enabled", "tcpnewconn-ledger.timer").strip() == "enabled"
    assert container.run("systemctl", "is-active", "tcpnewconn-ledger.timer").strip() == "active"
    assert container.run("systemd-analyze", "verify", "tcpnewconn-ledger.service", "tcpnewconn-ledger.timer") == ""
    container.run("systemctl", "stop", "tcpnewconn-ledger.timer", "tcpnewconn-ledger.service")


def test_its_sandbox_has_no_network_and_no_capability(container: Booted) -> None:
    judged = container.run("systemd-analyze", "security", "--no-pager", "tcpnewconn-ledger.service")
    exposure = re.search(r"Overall exposure level for tcpnewconn-ledger.service: ([\d.]+)", judged)
    assert exposure, judged
    assert float(exposure.group(1)) <= 0.6, judged
    for name, value in (("PrivateNetwork", "yes"), ("CapabilityBoundingSet", ""), ("Group", "systemd-journal")):
        assert container.property("tcpnewconn-ledger.service", name) == value


def test_another_program_in_its_place_could_only_write_the_ledger(container: Booted) -> None:
    container.write(PROBE, Path(booted_probe.__file__).read_text())
    drop_in(container, "tcpnewconn-ledger.service", INSTEAD, name="probe")
    update(container)
    container.run("rm", "-r", "/etc/systemd/system/tcpnewconn-ledger.service.d", PROBE)
    container.run("systemctl", "daemon-reload")

    def answer() -> list[str]:
        lines = container.journalctl("--output=cat", "_SYSTEMD_UNIT=tcpnewconn-ledger.service").splitlines()
        return [line for line in lines if line.startswith('{"other_processes"')]

    (line,) = container.wait_for(answer, "what it could do")
    probed = json.loads(line)

    assert {family for family, outcome in probed["sockets"].items() if outcome == "opened"} == {"AF_UNIX"}
    assert sorted(probed["writable_directories"]) == ["/run/tcpnewconn-ledger", "/var/lib/tcpnewconn-ledger"]
    assert (set(probed["capabilities"]), probed["no_new_privileges"]) == ({"0000000000000000"}, "1")
    assert [attempt for attempt, outcome in probed["attempts"].items() if outcome == "done"] == []
    assert probed["other_processes"] == []


def test_where_there_is_no_ledger_the_report_says_what_makes_one(container: Booted) -> None:
    container.run("rm", "-rf", "/var/lib/tcpnewconn-ledger")
    said = container.run("tcpnewconn", "report", check=False)
    wanted = re.fullmatch(rf"tcpnewconn: {LEDGER}: there is no ledger; (.+) makes that of this host\n", said)
    assert wanted is not None, said
    container.run(*wanted[1].split())
    container.run("tcpnewconn", "report")


def test_real_traffic_is_in_the_report(container: Booted) -> None:
    connect(container, 20)
    update(container)

    answer = report(container, "who", "7017")
    (client,) = answer["clients"]
    assert (client["client"], client["unit"], client["connections"]) == (PEER_ADDRESS, "answers.service", 20)
    assert answer["head"][0].startswith("1 client used port 7017")
    assert answer["coverage"]["share"] > 0.3
    assert answer["coverage"]["lost"] == {}
    # The unit may read its own ledger; a user who may not read the journal may not.
    assert container.run("stat", "--format=%U:%G %a", LEDGER).strip() == "_tcpnewconn-ledger:systemd-journal 640"
    assert container.property("tcpnewconn-ledger.service", "Result") == "success"


def test_members_of_the_group_may_read_it_and_others_may_not(container: Booted) -> None:
    for group, status in (("systemd-journal", 0), ("nogroup", 1)):
        command = (
            "setpriv",
            "--reuid=nobody",
            f"--regid={group}",
            "--clear-groups",
            "tcpnewconn",
            "report",
            "who",
            "7017",
        )
        assert container.status_of(*command) == status


def test_an_update_by_hand_leaves_nothing_that_the_timer_could_not_write(container: Booted) -> None:
    before = counted(container)
    container.run("sh", "-c", f"rm {LEDGER}*")
    container.run("tcpnewconn", "ledger", "update")
    owners = container.run("sh", "-c", f"stat --format=%U {LEDGER}* | sort --unique").split()
    connect(container, 3)
    update(container)

    assert owners == ["_tcpnewconn-ledger"]
    assert container.property("tcpnewconn-ledger.service", "Result") == "success"
    assert counted(container) == before + 3


def test_what_is_rotated_counts_once_and_what_is_vacuumed_stays(container: Booted) -> None:
    before = counted(container)
    for _ in range(3):
        connect(container, 7)
        container.run("journalctl", "--rotate")
        update(container)
    assert counted(container) == before + 21

    container.run("journalctl", "--rotate")
    container.run("journalctl", "--vacuum-files=1")
    update(container)
    update(container)

    assert counted(container) == before + 21


def test_a_killed_service_and_a_killed_update_count_nothing_twice(container: Booted) -> None:
    before, had = counted(container), len(ids(container))
    for _ in range(3):
        container.from_peer("python3", "-c", CONNECT, CONTAINER_ADDRESS, "7017", "5")
        container.run("systemctl", "kill", "--signal=SIGKILL", "tcpnewconn.service")
        container.run("systemctl", "start", "--no-block", "tcpnewconn-ledger.service")
        container.run("systemctl", "kill", "--signal=SIGKILL", "tcpnewconn-ledger.service", check=False)
        container.wait_for(
            lambda: container.property("tcpnewconn.service", "ActiveState") == "active", "the service to run again"
        )
    container.wait_for(lambda: len(ids(container)) == had + 15, "15 connections in the journal")
    container.wait_for(
        lambda: container.property("tcpnewconn-ledger.service", "ActiveState") in ("inactive", "failed"),
        "no update to run",
    )
    update(container)

    assert counted(container) == before + 15


def ids(container: Booted) -> set[str]:
    return {entry["TCPNEWCONN_CONNECTION_ID"] for entry in logged(container)}


def test_a_stop_is_seen_in_the_coverage(container: Booted) -> None:
    container.run("systemctl", "stop", "tcpnewconn.service")
    container.run("systemctl", "start", "tcpnewconn.service")
    update(container)

    assert 0 < report(container)["coverage"]["share"] < 1


def test_the_page_says_what_it_needs(container: Booted) -> None:
    """Jinja is recommended, and not installed here."""
    done = container.run("tcpnewconn", "report", "--output", "html", check=False)

    assert done == "tcpnewconn: --output html needs Jinja; install python3-jinja2, or use --output text\n"


def test_the_report_says_what_owners_of_addresses_need(container: Booted) -> None:
    done = container.run("tcpnewconn", "report", "--mmdb", "/var/lib/owners.mmdb", check=False)

    assert done == "tcpnewconn: --mmdb needs Python's maxminddb; install python3-maxminddb\n"


def test_what_is_first_seen_is_an_event_of_the_ledger_s_unit(container: Booted) -> None:
    container.write("/etc/tcpnewconn.conf.d/first-seen.conf", "[FirstSeen]\nLog=yes\nLearning=0s\n")
    # Peers that are there when it is switched on are known.
    update(container)
    connect(container, 2)
    connect(container, 3, CONTAINER_ADDRESS6)
    update(container)
    update(container)

    (event,) = container.journal("_SYSTEMD_UNIT=tcpnewconn-ledger.service", "EVENT_ACTION=peer-first-seen")
    assert event["MESSAGE"] == "First seen: fd77::/64 -> answers.service, port 7017"
    assert (event["MESSAGE_ID"], event["PRIORITY"]) == (firstseen.MESSAGE_ID, "5")
    assert (event["SOURCE_ADDRESS"], event["DESTINATION_PORT"]) == (PEER_ADDRESS6, "7017")
    assert (event["NETWORK_DIRECTION"], event["OBJECT_SYSTEMD_UNIT"]) == ("ingress", "answers.service")
    container.run("rm", "/etc/tcpnewconn.conf.d/first-seen.conf")


def test_it_reads_the_service_s_own_journal_namespace_too(container: Booted) -> None:
    before = counted(container)
    place = "/etc/systemd/system/tcpnewconn.service.d/journal-namespace.conf"
    container.run("install", "-D", "-m", "644", "/usr/share/tcpnewconn/journal-namespace.conf", place)
    container.run("systemctl", "daemon-reload")
    container.run("systemctl", "restart", "tcpnewconn.service")
    container.from_peer("python3", "-c", CONNECT, CONTAINER_ADDRESS, "7017", "9")
    container.wait_for(lambda: len(logged(container, "--namespace=tcpnewconn")) == 9, "9 connections in the namespace")
    update(container)

    assert counted(container) == before + 9

    # That namespace alone, into another ledger.
    other = "/var/tmp/namespace.db"
    container.run("tcpnewconn", "ledger", "update", "--namespace=tcpnewconn", f"--ledger={other}")
    clients = report(container, "who", "7017", f"--ledger={other}")["clients"]
    assert sum(row["connections"] for row in clients) == 9
    container.run("sh", "-c", f"rm {other}*")
