"""When journald restarts, or hangs: the service waits for it, is not killed for waiting, and then logs everything."""

import time

import pytest

from tests.support.booted import Booted
from tests.support.booted_events import traffic, wait_for_all
from tests.support.booted_package import assert_same_process, installed, main_pid

HANGS_FOR = 30


@pytest.fixture(scope="module")
def container(long_life: Booted) -> Booted:
    return installed(long_life, each=True)


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
