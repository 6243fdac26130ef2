"""An upgrade of the package restarts some units and leaves others as they are: the metrics exporter, and the two sockets."""

from collections.abc import Iterator

import pytest

from tests.support import built
from tests.support.booted import Booted
from tests.support.booted_package import (
    HIGHER_VERSION,
    add_repository,
    booted_with_package,
    drop_in,
    install,
    main_pid,
    on_each_distribution,
)

EXPORTER, EXPORTER_SOCKET = "tcpnewconn-metrics.service", "tcpnewconn-metrics.socket"
ADDRESS = "http://127.0.0.1:19117/metrics"
# More often than the exporter exits for want of requests (20 s).
SCRAPE = f"while :; do curl -sf -o /dev/null {ADDRESS} && echo scraped || echo failed; sleep 0.2; done"
# The size of the receive buffer of a socket that the service has from systemd: only the process itself has it open.
BUFFER = """
import ctypes, os, socket, sys
descriptor = ctypes.CDLL(None, use_errno=True).syscall(438, os.pidfd_open(int(sys.argv[1])), int(sys.argv[2]), 0)  # pidfd_getfd
print(socket.socket(fileno=descriptor).getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
"""


@pytest.fixture(scope="module", params=on_each_distribution("upgrade"))
def container(request: pytest.FixtureRequest) -> Iterator[Booted]:
    with booted_with_package(request.param) as container:
        yield container


def installed_again(container: Booted) -> None:
    """The effects of an upgrade, without another version."""
    container.run("apt-get", "install", "--yes", "--quiet", "--reinstall", "tcpnewconn")


def exporter(container: Booted) -> int:
    return int(container.property(EXPORTER, "MainPID"))


def state(container: Booted, unit: str) -> tuple[str, str]:
    """Whether it runs, and since when: an identifier of systemd's for each start."""
    return container.property(unit, "ActiveState"), container.property(unit, "InvocationID")


def scrapes(container: Booted) -> list[str]:
    """The outcome of each."""
    return [entry["MESSAGE"] for entry in container.journal("_SYSTEMD_UNIT=scraper.service")]


def buffer(container: Booted) -> int:
    """Of the first of tcpnewconn.socket: the order of the units is systemd's choice."""
    names = descriptor_names(container)
    number = 3 + next(place for place, name in enumerate(names) if name != "namespace-notifications")
    return int(container.run("/usr/bin/python3", "-c", BUFFER, str(main_pid(container)), str(number)))


def descriptor_names(container: Booted) -> list[str]:
    environment = container.run("cat", f"/proc/{main_pid(container)}/environ").split("\0")
    return next(entry.partition("=")[2] for entry in environment if entry.startswith("LISTEN_FDNAMES=")).split(":")


def test_an_exporter_that_is_scraped_all_the_time_runs_the_new_code_after_an_upgrade(container: Booted) -> None:
    container.run("systemctl", "enable", "--now", "--quiet", EXPORTER_SOCKET)
    container.start_unit("scraper", "/bin/sh", "-c", SCRAPE)
    before = container.wait_for(lambda: exporter(container), "the exporter to be started by a scrape")
    socket_before = state(container, EXPORTER_SOCKET)

    add_repository(container, built.deb_of_version(HIGHER_VERSION))
    assert f"Unpacking tcpnewconn ({HIGHER_VERSION}-1) over" in install(container)

    assert exporter(container) not in (0, before)
    assert state(container, EXPORTER_SOCKET) == socket_before == ("active", socket_before[1])
    before_these = len(scrapes(container))
    container.wait_for(lambda: scrapes(container)[before_these:][-3:] == ["scraped"] * 3, "scrapes to go on")
    container.run("systemctl", "stop", "scraper")


def test_an_exporter_that_does_not_run_is_not_started_by_an_upgrade(container: Booted) -> None:
    container.run("systemctl", "stop", EXPORTER)
    socket_before = state(container, EXPORTER_SOCKET)
    installed_again(container)
    assert container.property(EXPORTER, "ActiveState") == "inactive"
    assert state(container, EXPORTER_SOCKET) == socket_before == ("active", socket_before[1])


def test_a_socket_that_an_administrator_has_switched_off_stays_off(container: Booted) -> None:
    container.run("systemctl", "disable", "--now", "--quiet", EXPORTER_SOCKET)
    installed_again(container)
    assert container.property(EXPORTER, "ActiveState") == "inactive"
    assert container.property(EXPORTER_SOCKET, "ActiveState") == "inactive"
    assert container.property(EXPORTER_SOCKET, "UnitFileState") == "disabled"


def test_of_a_changed_socket_unit_an_upgrade_applies_what_the_news_say(container: Booted) -> None:
    """debian/NEWS: names of descriptors at the next restart, the buffer when the socket is opened again."""
    assert sorted(descriptor_names(container)) == ["destroy-notifications"] * 2 + ["namespace-notifications"]
    before = buffer(container)
    opened = state(container, "tcpnewconn.socket")
    drop_in(container, "tcpnewconn.socket", "[Socket]\nReceiveBuffer=1M\nFileDescriptorName=other\n")

    installed_again(container)
    assert sorted(descriptor_names(container)) == ["namespace-notifications", "other", "other"]
    assert buffer(container) == before
    assert state(container, "tcpnewconn.socket") == opened

    container.run("systemctl", "stop", "tcpnewconn.service")
    container.wait_for(
        lambda: container.property("tcpnewconn.socket", "ActiveState") == "inactive", "the socket to be closed"
    )
    container.run("systemctl", "start", "tcpnewconn.service")
    # The kernel doubles what is asked for (socket(7), SO_RCVBUF).
    assert buffer(container) == 2 * 1024**2 < before
