"""Remove, install again, purge: what stays and what goes."""

import re

import pytest

from tests.support import booted_events, message_ids
from tests.support.booted import Booted
from tests.support.booted_package import files, install, is_active
from tests.support.booted_traffic import HOLD

STATE = "/var/lib/tcpnewconn/snapshot"
CONFIGURATION = "/etc/tcpnewconn.conf"


@pytest.fixture(scope="module")
def container(whole_life: Booted) -> Booted:
    """Never installed, or purged after all that the tests before did with it."""
    whole_life.run("apt-get", "purge", "--yes", "--quiet", "tcpnewconn")
    whole_life.forget_journal()
    return whole_life


def remains(container: Booted) -> str:
    """Every file with the name, except in the logs of apt and dpkg, and in the tests' own repository."""
    named = ["-name", "*tcpnewconn*", "-print"]
    on_disk = container.run("find", "/", "-xdev", "-path", "/srv", "-prune", "-o", *named)
    return on_disk + container.run("find", "/run", "-path", "/run/host", "-prune", "-o", *named)


def catalog(container: Booted) -> str:
    return container.run("journalctl", "--list-catalog")


def test_the_package_has_files_only_where_policy_allows(container: Booted, before: dict[str, str]) -> None:
    assert before
    install(container)
    configuration = r"etc(/tcpnewconn\.conf(\.d)?|/systemd(/journald@tcpnewconn\.conf)?|/fail2ban(/.*)?)?"
    allowed = re.compile(rf"/(\.|{configuration}|usr(/(bin|lib|share)(/.*)?)?)$")
    listed = container.run("dpkg", "--listfiles", "tcpnewconn").splitlines()
    assert [path for path in listed if not allowed.match(path)] == []
    assert container.run("dpkg", "--verify", "tcpnewconn") == ""


def test_removing_it_keeps_configuration_and_state(container: Booted) -> None:
    container.start_unit("hold.service", "/usr/bin/python3", "-c", HOLD)
    container.wait_for(
        lambda: booted_events.events(container, message_ids.CONNECTION, "DESTINATION_PORT=9000"), "a connection"
    )
    container.write(CONFIGURATION, container.path(CONFIGURATION).read_text() + "# changed by an administrator\n")
    container.run("apt-get", "remove", "--yes", "--quiet", "tcpnewconn")
    assert container.path(CONFIGURATION).read_text().endswith("# changed by an administrator\n")
    assert container.path(STATE).exists()
    assert not container.path("/usr/bin/tcpnewconn").exists()
    assert container.property("tcpnewconn.service", "ActiveState") == "inactive"
    assert container.property("tcpnewconn.socket", "ActiveState") == "inactive"


def test_installed_again_it_goes_on_where_it_was(container: Booted) -> None:
    install(container)
    assert is_active(container)
    assert container.path(CONFIGURATION).read_text().endswith("# changed by an administrator\n")
    assert len(booted_events.events(container, message_ids.CONNECTION, "DESTINATION_PORT=9000")) == 1


def test_purging_it_leaves_nothing(container: Booted, before: dict[str, str]) -> None:
    assert message_ids.CONNECTION in catalog(container)
    assert container.status_of("getent", "passwd", "_tcpnewconn") == 0
    container.run("systemctl", "stop", "hold.service")
    container.run("apt-get", "purge", "--yes", "--quiet", "tcpnewconn")
    assert remains(container) == ""
    after = files(container)
    assert {path: after[path] for path in after.keys() - before.keys()} == {}
    assert {path: before[path] for path in before.keys() - after.keys()} == {}
    assert {
        path: (before[path], after[path]) for path in before.keys() & after.keys() if before[path] != after[path]
    } == {}
    assert container.status_of("dpkg-query", "--status", "tcpnewconn") != 0
    assert container.run("systemctl", "list-unit-files", "--quiet", "--no-legend", "tcpnewconn*", check=False) == ""
    assert container.run("systemctl", "list-units", "--all", "--quiet", "--no-legend", "tcpnewconn*") == ""
    # Debian keeps system users: their numbers must not be given to others.
    assert container.status_of("getent", "passwd", "_tcpnewconn") == 0
    for message_id in message_ids.ALL:
        assert message_id not in catalog(container)
