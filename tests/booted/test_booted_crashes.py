"""A service that keeps crashing: a fast loop leaves the unit failed, a slow one does not; and how it is started again.

Ten times as fast as the package has it, RestartSec= and StartLimitIntervalSec= a tenth; the burst is the package's.
"""

import re
from collections.abc import Iterator

import pytest

from tests.support.booted import Booted
from tests.support.booted_package import booted_with_package, drop_in, is_active, on_each_distribution

SERVICE = "tcpnewconn.service"
TENTH = "[Unit]\nStartLimitIntervalSec=60s\n[Service]\nRestartSec=100ms\n"
# Only what is started is another program: it crashes after so many seconds.
CRASHES = "[Service]\nType=exec\nExecStart=\nExecStart=/bin/sh -c 'sleep {}; kill -SEGV $$$$'\nLimitCORE=0\n"


@pytest.fixture(scope="module", params=on_each_distribution("crashes"))
def container(request: pytest.FixtureRequest) -> Iterator[Booted]:
    with booted_with_package(request.param) as container:
        yield container


def crash(container: Booted, after: float) -> None:
    """Start the service as one that crashes so many seconds after each start."""
    drop_in(container, SERVICE, TENTH, name="10-tenth")
    drop_in(container, SERVICE, CRASHES.format(after), name="20-crashes")
    container.run("systemctl", "reset-failed", SERVICE, check=False)
    container.run("systemctl", "restart", SERVICE, check=False)


def mend(container: Booted) -> None:
    container.run("rm", "-r", f"/etc/systemd/system/{SERVICE}.d")
    container.run("systemctl", "daemon-reload")


def restarts(container: Booted) -> int:
    return int(container.property(SERVICE, "NRestarts"))


def test_the_numbers_are_a_tenth_of_the_packages(container: Booted) -> None:
    unit = container.run("systemctl", "cat", SERVICE)
    assert re.findall(r"(?m)^(?:RestartSec|StartLimit\w+)=(.+)", unit) == ["10min", "150", "1s"]


# One tenth of a crash at every start, and of one two seconds after it: less than four seconds from start to start.
@pytest.mark.parametrize("after", [0, 0.2])
def test_150_starts_within_ten_minutes_leave_the_unit_failed_until_it_is_reset(container: Booted, after: float) -> None:
    crash(container, after)
    container.wait_for(lambda: container.property(SERVICE, "ActiveState") == "failed", "systemd to give up")
    assert restarts(container) == 150
    assert SERVICE in container.run("systemctl", "list-units", "--failed", "--no-legend")
    # As the runbook of TcpnewconnUnitFailed says, the command that starts it again, with the socket.
    mend(container)
    container.run("systemctl", "reset-failed", SERVICE)
    container.run("systemctl", "restart", SERVICE)
    assert is_active(container)
    assert container.property("tcpnewconn.socket", "ActiveState") == "active"


def test_a_slower_loop_is_restarted_without_end(container: Booted) -> None:
    """A crash every five seconds, or here every half: more than 150 of them, in more than the interval of the limit."""
    crash(container, 0.4)
    container.wait_for(
        lambda: restarts(container) > 155 or container.property(SERVICE, "ActiveState") == "failed",
        "more restarts than the limit",
        within=180,
    )
    assert container.property(SERVICE, "ActiveState") in ("active", "activating")
    mend(container)
    container.run("systemctl", "restart", SERVICE)
    assert is_active(container)
