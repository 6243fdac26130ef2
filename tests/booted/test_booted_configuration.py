"""Reload and start, with configuration that is right and configuration that is wrong."""

import pytest

from tests.support import booted_events, message_ids
from tests.support.booted import CONTAINER_ADDRESS, Booted
from tests.support.booted_package import is_active, main_pid

DROP_IN = "/etc/tcpnewconn.conf.d/test.conf"
WRONG = "[Poll]\nInterval=10s\n\n[Report]\nClosed=perhaps\n"
WRONG_LINE = f"{DROP_IN}:5"


@pytest.fixture(scope="module")
def container(package: Booted) -> Booted:
    return package


def connect_once(container: Booted) -> None:
    container.from_peer("curl", "-s", "-o", "/dev/null", f"http://{CONTAINER_ADDRESS}/")


def closed_events(container: Booted) -> int:
    return len(booted_events.events(container, message_ids.CLOSED))


def test_a_reload_takes_over_what_was_changed(container: Booted) -> None:
    pid = main_pid(container)
    connect_once(container)
    container.wait_for(lambda: booted_events.events(container, message_ids.CONNECTION, "DESTINATION_PORT=80"), "it")
    assert closed_events(container) == 0
    container.write(DROP_IN, "[Report]\nClosed=yes\n")
    container.run("systemctl", "reload", "tcpnewconn.service")

    def closed() -> int:
        connect_once(container)
        return closed_events(container)

    container.wait_for(closed, "closed events, which the reload asked for")
    assert main_pid(container) == pid


def test_a_reload_with_a_wrong_setting_fails_with_the_reason_and_the_running_ones_stay(container: Booted) -> None:
    pid = main_pid(container)
    container.write(DROP_IN, WRONG)
    assert container.status_of("systemctl", "reload", "tcpnewconn.service") != 0
    container.wait_for(lambda: WRONG_LINE in booted_events.messages(container), "the reason in the journal")
    assert is_active(container)
    assert main_pid(container) == pid
    before = closed_events(container)
    connect_once(container)
    container.wait_for(lambda: closed_events(container) > before, "closed events, as before the reload")


def test_a_start_with_a_wrong_setting_fails_once_and_says_why(container: Booted) -> None:
    container.write(DROP_IN, WRONG)
    assert container.status_of("systemctl", "restart", "tcpnewconn.service") != 0
    container.wait_for(
        lambda: container.property("tcpnewconn.service", "ActiveState") == "failed", "the service to give up"
    )
    assert container.property("tcpnewconn.service", "ExecMainStatus") == "78"
    assert container.property("tcpnewconn.service", "NRestarts") == "0"
    container.run("journalctl", "--sync")
    status = container.run("systemctl", "status", "tcpnewconn.service", check=False)
    (line,) = [line for line in status.splitlines() if WRONG_LINE in line]
    for part in ("Closed", "perhaps", "yes"):
        assert part in line, "what was given, and what would be right"
    assert "Traceback" not in status
    # The same line, without running it.
    checked = container.run("tcpnewconn", "check-config", check=False)
    assert line[line.index(WRONG_LINE) :] in checked
    assert container.status_of("tcpnewconn", "check-config") == 78


def test_once_the_setting_is_right_it_starts_again(container: Booted) -> None:
    container.write(DROP_IN, "[Report]\nClosed=no\n")
    assert container.status_of("tcpnewconn", "check-config") == 0
    container.run("systemctl", "start", "tcpnewconn.service")
    assert is_active(container)
