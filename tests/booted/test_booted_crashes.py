"""A service that keeps crashing: a fast loop leaves the unit failed, a slow one does not; and how it is started again."""

import re
from collections.abc import Iterator

import pytest

from tests.support.booted import Booted
from tests.support.booted_package import booted_with_package, drop_in, is_active, on_each_distribution

SERVICE = "tcpnewconn.service"
# Ten times as fast as the package has it; the limit of starts is the package's.
FAST = "[Service]\nRestartSec=100ms\n"
# A tenth of it, in a tenth of the time: one start in 0.4 seconds on the average.
TENTH = "[Unit]\nStartLimitIntervalSec=6s\nStartLimitBurst=15\n"
# Only what is started is another program: it crashes after so many seconds.
CRASHES = "[Service]\nType=exec\nExecStart=\nExecStart=/bin/sh -c 'sleep {}; kill -SEGV $$$$'\nLimitCORE=0\n"


@pytest.fixture(scope="module", params=on_each_distribution("crashes"))
def container(request: pytest.FixtureRequest) -> Iterator[Booted]:
    with booted_with_package(request.param) as container:
        yield container


def crash(container: Booted, after: float, timing: str) -> None:
    """Start the service as one that crashes so many seconds after each start."""
    drop_in(container, SERVICE, timing, name="10-timing")
    drop_in(container, SERVICE, CRASHES.format(after), name="20-crashes")
    container.run("systemctl", "reset-failed", SERVICE, check=False)
    container.run("systemctl", "restart", SERVICE, check=False)


def restore(container: Booted) -> None:
    container.run("rm", "-r", f"/etc/systemd/system/{SERVICE}.d")
    container.run("systemctl", "daemon-reload")


def restarts(container: Booted) -> int:
    return int(container.property(SERVICE, "NRestarts"))


def test_the_numbers_are_those_that_the_unit_and_the_runbook_give(container: Booted) -> None:
    unit = container.run("systemctl", "cat", SERVICE)
    assert re.findall(r"(?m)^(?:RestartSec|StartLimit\w+)=(.+)", unit) == ["10min", "150", "1s"]
    assert "# 150 starts within ten minutes, one every four seconds, leave the unit failed." in unit
    runbook = container.run("cat", "/usr/share/doc/tcpnewconn/docs/runbooks/TcpnewconnUnitFailed.md")
    assert "150 starts within ten minutes" in runbook


def test_150_starts_within_ten_minutes_leave_the_unit_failed_until_it_is_reset(container: Booted) -> None:
    crash(container, 0, FAST)
    container.wait_for(lambda: container.property(SERVICE, "ActiveState") == "failed", "systemd to give up", within=580)
    assert restarts(container) == 150
    assert SERVICE in container.run("systemctl", "list-units", "--failed", "--no-legend")
    # As the runbook says, the commands that start it again, and its socket.
    restore(container)
    container.run("systemctl", "reset-failed", SERVICE)
    container.run("systemctl", "restart", SERVICE)
    assert is_active(container)
    assert container.property("tcpnewconn.socket", "ActiveState") == "active"


def test_a_slower_loop_is_restarted_without_end(container: Booted) -> None:
    """One start in half a second, which at the package's pace is one in five."""
    crash(container, 0.4, FAST + TENTH)
    container.wait_for(
        lambda: restarts(container) > 20 or container.property(SERVICE, "ActiveState") == "failed",
        "more restarts than the limit",
        within=300,
    )
    assert container.property(SERVICE, "ActiveState") in ("active", "activating")
    restore(container)
    container.run("systemctl", "restart", SERVICE)
    assert is_active(container)
