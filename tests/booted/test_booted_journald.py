"""When journald restarts, or hangs: the service waits for it, is not killed for waiting, and then says everything."""

import time
from collections.abc import Iterator

import pytest

from tests.support.booted import Booted
from tests.support.booted_events import traffic, wait_for_all
from tests.support.booted_package import assert_same_process, booted_with_package, main_pid, on_each_distribution

HANGS_FOR = 30


@pytest.fixture(scope="module", params=on_each_distribution("journald"))
def container(request: pytest.FixtureRequest) -> Iterator[Booted]:
    with booted_with_package(request.param, folded=False) as container:
        yield container


def test_a_restart_of_journald_loses_no_event(container: Booted) -> None:
    pid = main_pid(container)
    with traffic(container, 200) as made:
        made.wait_for_some(container)
        for _ in range(5):
            container.run("systemctl", "restart", "systemd-journald.service")
    wait_for_all(container, made)
    assert made.missing() == []
    assert made.repeated() == []
    assert_same_process(container, pid)


def test_a_journald_that_hangs_under_load_stops_nothing_and_gets_every_event_in_the_end(container: Booted) -> None:
    pid = main_pid(container)
    with traffic(container, 200) as made:
        made.wait_for_some(container)
        container.run("systemctl", "kill", "--signal=STOP", "systemd-journald.service")
        try:
            # The length of the outage is the experiment.
            time.sleep(HANGS_FOR)
        finally:
            container.run("systemctl", "kill", "--signal=CONT", "systemd-journald.service")
    assert made.made > 200 * HANGS_FOR * 0.8, "this machine did not make the connections that the test is about"
    wait_for_all(container, made)
    assert made.missing() == []
    assert made.repeated() == []
    assert_same_process(container, pid)
