"""The state file in /var/lib: a full disk, a read-only one, a damaged file, a reboot. The service runs, and says so."""

from collections.abc import Callable, Iterator

import pytest

from tests.support import booted_events, message_ids
from tests.support.booted import Booted
from tests.support.booted_events import traffic, wait_for_all
from tests.support.booted_package import (
    assert_same_process,
    installed,
    is_active,
    main_pid,
)
from tests.support.booted_traffic import HOLD

STATE = "/var/lib/tcpnewconn"
BEFORE = f"{STATE}.before"


@pytest.fixture(scope="module")
def container(long_life: Booted) -> Iterator[Booted]:
    yield installed(long_life, each=True)
    long_life.run("systemctl", "disable", "--now", "--quiet", "hold.service", check=False)


@pytest.fixture
def small_disk(container: Booted) -> Iterator[None]:
    """A tmpfs of 1 MiB in place of the directory, with what was there."""
    container.run("systemctl", "stop", "tcpnewconn.service")
    container.run("cp", "-a", STATE, BEFORE)
    container.run("mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", STATE)
    container.run("cp", "-a", f"{BEFORE}/.", STATE)
    container.run("systemctl", "start", "tcpnewconn.service")
    yield
    container.run("systemctl", "stop", "tcpnewconn.service")
    container.run("umount", STATE)
    container.run("rm", "-r", BEFORE)
    container.run("systemctl", "start", "tcpnewconn.service")


def fill(container: Booted) -> None:
    container.run("sh", "-c", f"cat /dev/zero >{STATE}/filler", check=False)


def free(container: Booted) -> None:
    container.run("rm", f"{STATE}/filler")


def make_read_only(container: Booted) -> None:
    container.run("mount", "-o", "remount,ro", STATE)


def make_writable(container: Booted) -> None:
    container.run("mount", "-o", "remount,rw", STATE)


def said(container: Booted, what: str) -> Callable[[], int]:
    """How often the journal has a line about the state file."""
    return lambda: sum("/snapshot" in line and what in line for line in booted_events.messages(container).splitlines())


@pytest.mark.usefixtures("small_disk")
def test_a_disk_that_fills_up_is_said_and_survived(container: Booted) -> None:
    pid = main_pid(container)
    warned, written_again = said(container, "No space left on device"), said(container, "is written again")
    with traffic(container, 50) as made:
        fill(container)
        container.wait_for(warned, "a warning that names the file and the reason")
        container.wait_for(
            lambda: "No space left on device" in container.property("tcpnewconn.service", "StatusText"), "the status"
        )
        free(container)
        container.wait_for(written_again, "the news that it is written again")
    assert_same_process(container, pid)
    wait_for_all(container, made)
    assert made.missing() == []
    assert made.repeated() == []

    # The state saved since then is accepted, and complete.
    container.run("systemctl", "restart", "tcpnewconn.service")
    made.read(container)
    assert made.repeated() == []


@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize(
    ("break_it", "undo_it", "why"),
    [(fill, free, "No space left on device"), (make_read_only, make_writable, "Read-only file system")],
)
def test_it_starts_and_works_on_a_disk_that_takes_nothing(
    container: Booted, break_it: Callable[[Booted], None], undo_it: Callable[[Booted], None], why: str
) -> None:
    container.run("systemctl", "stop", "tcpnewconn.service")
    warned = said(container, why)
    before = warned()
    break_it(container)
    container.run("systemctl", "start", "tcpnewconn.service")
    with traffic(container, 20) as made:
        made.wait_for_some(container)
    wait_for_all(container, made)
    assert made.missing() == []
    assert made.repeated() == []
    assert warned() > before
    assert why in container.property("tcpnewconn.service", "StatusText")

    # systemd made the service's own mount of a read-only one: only a restart makes that writable.
    undo_it(container)
    container.run("systemctl", "restart", "tcpnewconn.service")
    container.wait_for(
        lambda: "snapshot" not in container.property("tcpnewconn.service", "StatusText"), "the state to be written"
    )


def test_a_damaged_snapshot_is_moved_aside_and_named(container: Booted) -> None:
    container.run("systemctl", "stop", "tcpnewconn.service")
    container.path(f"{STATE}/snapshot").write_bytes(b"\x00\xff not a snapshot\n" * 100)
    container.run("systemctl", "start", "tcpnewconn.service")
    container.wait_for(lambda: "snapshot.damaged-1" in booted_events.messages(container), "a line that names it")
    assert container.path(f"{STATE}/snapshot.damaged-1").read_bytes().startswith(b"\x00\xff not a snapshot")
    assert is_active(container)


def test_after_a_reboot_the_old_snapshot_is_not_believed(container: Booted) -> None:
    """The same addresses and ports after a reboot are another connection, and are reported."""

    def held() -> list[str]:
        matches = ("DESTINATION_PORT=9000", "NETWORK_DIRECTION=internal")
        return [
            event["TCPNEWCONN_CONNECTION_ID"]
            for event in booted_events.events(container, message_ids.CONNECTION, *matches)
        ]

    container.write("/opt/hold.py", HOLD)
    container.write(
        "/etc/systemd/system/hold.service",
        "[Service]\nExecStart=/usr/bin/python3 /opt/hold.py\n[Install]\nWantedBy=multi-user.target\n",
    )
    container.run("systemctl", "enable", "--now", "hold.service")
    container.wait_for(lambda: len(held()) == 1, "the connection to be reported")
    old = container.path(f"{STATE}/snapshot").read_bytes()

    container.reboot()
    container.wait_for(lambda: is_active(container), "the service to run after the reboot")
    container.wait_for(lambda: len(held()) == 2, "the connection of this boot to be reported")
    assert len(set(held())) == 2
    # A file of another boot is not damaged: it is not moved aside, and there is no warning.
    this_boot = container.journal("--boot", "--unit=tcpnewconn")
    assert [event["MESSAGE"] for event in this_boot if int(event["PRIORITY"]) <= 4] == []
    assert not container.path(f"{STATE}/snapshot").read_bytes().startswith(old)
