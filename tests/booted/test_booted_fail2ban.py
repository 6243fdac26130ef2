"""The filter and the jail for Fail2Ban: off at first; then a scan bans the scanner in nftables, and nobody else."""

import json
import re
import sys
from collections.abc import Iterator

import pytest

from tests.support import built
from tests.support.booted import CONTAINER_ADDRESS, CONTAINER_ADDRESS6, Booted
from tests.support.booted_package import add_repository, install, on_each_distribution
from tests.support.booted_readers import booted_with_readers
from tests.support.message_ids import PORT_SCAN

JAIL = "tcpnewconn-portscan"
PAGE = built.TREE / "docs" / "journal.md"
PORTS = range(20000, 20010)
# Not sshd's, which on Debian 12 would look for a file that only rsyslog writes.
WITHOUT_SSHD = "[sshd]\nenabled = false\n"
SERVER = f"""
import selectors, socket
selector = selectors.DefaultSelector()
for port in range({PORTS.start}, {PORTS.stop}):
    listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    selector.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in selector.select():
        key.fileobj.accept()[0].close()
"""
SCAN = f"""
import socket, sys
for port in range({PORTS.start}, {PORTS.start + 5}):
    socket.create_connection((sys.argv[1], port), source_address=(sys.argv[2], 0)).close()
"""
# An entry that another program may write: the same, except for the fields that journald sets.
FORGED = f"""
import subprocess
from systemd import journal
message = "Port scan: 10.77.0.99 -> 10.77.0.2 on ports 1,2,3,4"
journal.send(message, MESSAGE_ID="{PORT_SCAN}", SYSLOG_IDENTIFIER="tcpnewconn", PRIORITY="4")
# journald asks for the unit of a process that is still there.
subprocess.run(["journalctl", "--sync"], check=True)
"""


@pytest.fixture(scope="module", params=on_each_distribution("fail2ban"))
def container(request: pytest.FixtureRequest) -> Iterator[Booted]:
    with booted_with_readers(request.param) as container:
        container.write("/etc/fail2ban/jail.d/without-sshd.local", WITHOUT_SSHD)
        add_repository(container, built.deb())
        install(container)
        container.start_unit("server", "/usr/bin/python3", "-c", SERVER)
        container.wait_for(lambda: f":{PORTS[-1]} " in container.run("ss", "-Htln"), "the server's last port to listen")
        container.run("systemctl", "start", "fail2ban")
        wait_for_fail2ban(container)
        yield container


def wait_for_fail2ban(container: Booted) -> None:
    container.wait_for(lambda: container.status_of("fail2ban-client", "ping") == 0, "fail2ban to answer")


def scan(container: Booted, address: str) -> None:
    """From an address of its own, at the other end of the container's link."""
    six = ":" in address
    container.from_peer("ip", "address", "add", f"{address}/{64 if six else 24}", "dev", "peer0", *["nodad"] * six)
    container.from_peer(sys.executable, "-c", SCAN, CONTAINER_ADDRESS6 if six else CONTAINER_ADDRESS, address)


def can_connect(container: Booted, address: str) -> bool:
    try:
        container.from_peer("curl", "-s", "-o", "/dev/null", "--interface", address, f"http://{CONTAINER_ADDRESS}/")
    except AssertionError:
        return False
    return True


def jails(container: Booted) -> set[str]:
    listed = re.search(r"Jail list:\t*(.*)", container.run("fail2ban-client", "status"))
    assert listed
    return {name for name in listed[1].split(", ") if name}


def in_nftables(container: Booted) -> set[str]:
    """Every address that a rule of nftables can hold against somebody."""
    ruleset = json.loads(container.run("nft", "--json", "list", "ruleset"))["nftables"]
    sets = [entry["set"] for entry in ruleset if "set" in entry]
    return {address for one in sets for address in one.get("elem", [])}


def command(heading: str) -> str:
    """The commands of the page under a heading."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return "\n".join(line.strip() for line in re.findall(r"(?m)^    .+$", section))


def wait_for_ban(container: Booted, banned: set[str]) -> None:
    container.wait_for(lambda: in_nftables(container) >= banned, f"{banned} to be banned")
    assert in_nftables(container) == banned


def test_after_the_installation_nobody_is_banned_and_nothing_is_blocked(container: Booted) -> None:
    rules = container.run("nft", "list", "ruleset")
    scan(container, "10.77.0.50")
    container.wait_for(
        lambda: container.journal("--unit=tcpnewconn", f"MESSAGE_ID={PORT_SCAN}"), "the scan to be logged"
    )
    assert jails(container) == set()
    assert can_connect(container, "10.77.0.50")
    assert container.run("nft", "list", "ruleset") == rules


def test_a_scan_bans_the_scanner_and_nobody_else(container: Booted) -> None:
    container.run("sh", "-ec", command("Ban port scanners with Fail2Ban"))
    wait_for_fail2ban(container)
    container.wait_for(lambda: jails(container) == {JAIL}, "the jail")
    # The scan before was logged within Fail2Ban's findtime.
    wait_for_ban(container, {"10.77.0.50"})
    # A message of another unit bans nobody: that is decided before the scan that follows it bans somebody.
    container.unit("forger", "/usr/bin/python3", "-c", FORGED)
    assert len(container.journal("--unit=forger", f"MESSAGE_ID={PORT_SCAN}")) == 1
    scan(container, "10.77.0.51")
    wait_for_ban(container, {"10.77.0.50", "10.77.0.51"})
    assert not can_connect(container, "10.77.0.51")
    assert can_connect(container, "10.77.0.1")


def test_so_does_one_over_ipv6(container: Booted) -> None:
    scan(container, "fd77::51")
    wait_for_ban(container, {"10.77.0.50", "10.77.0.51", "fd77::51"})


def test_one_is_banned_after_the_journal_was_rotated_too(container: Booted) -> None:
    container.run("fail2ban-client", "unban", "--all")
    container.run("journalctl", "--rotate")
    container.run("journalctl", "--vacuum-files=1")
    scan(container, "10.77.0.52")
    wait_for_ban(container, {"10.77.0.52"})


def test_it_reads_the_journal_namespace_where_that_is_switched_on(container: Booted) -> None:
    container.run("sh", "-ec", command("Switch it on"))
    container.run("sh", "-ec", command("Fail2Ban with the namespace"))
    wait_for_fail2ban(container)
    scan(container, "10.77.0.53")
    wait_for_ban(container, {"10.77.0.52", "10.77.0.53"})
    container.run("journalctl", "--namespace=tcpnewconn", "--rotate")
    scan(container, "10.77.0.54")
    wait_for_ban(container, {"10.77.0.52", "10.77.0.53", "10.77.0.54"})


def test_fail2ban_runs_on_when_the_package_is_purged(container: Booted) -> None:
    container.run("apt-get", "purge", "--yes", "--quiet", "tcpnewconn")
    container.run("systemctl", "restart", "fail2ban")
    wait_for_fail2ban(container)
    assert jails(container) == set()
    assert container.run("find", "/etc/fail2ban", "-name", "*tcpnewconn*") == ""
