"""A machine so starved that the kernel's work queue does not run for seconds: notifications come late, or after the end.

Notifications are some milliseconds late, as a rule; on a machine with more work than CPUs, a second or more (seen).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tcpnewconn.tracking.run import Notifications
from tests.model.histories import parsed
from tests.model.play import Play

arrive = pytest.mark.parametrize(
    "notifications", [Notifications.OWN, Notifications.KEPT], ids=lambda one: one.name.lower()
)
# After the first poll: what was in TIME_WAIT is not waited for any longer.
DECIDED = "wait 1.1 s\nwait 1.1 s\n"
ways = pytest.mark.parametrize("name", ["r0", "i0"])


def performed(directory: Path, text: str, notifications: Notifications) -> list[str]:
    """How the connections that were reported were detected."""
    play = Play(directory, notifications)
    play.perform(parsed(text))
    play.settle()
    return [new.detected_by for new in play.reported]


@arrive
@ways
def test_one_that_ended_before_the_start_and_is_notified_late(
    notifications: Notifications, name: str, tmp_path: Path
) -> None:
    history = f"starve\nopen {name}\nfinish {name}\npoll\n{DECIDED}deliver\ndeliver\nreceive\n"

    assert performed(tmp_path, history, notifications) == ["startup"]


@ways
@pytest.mark.parametrize("restart", ["restart", "restart, stopped"])
def test_one_that_ended_before_the_start_and_is_notified_after_a_restart(
    name: str, restart: str, tmp_path: Path
) -> None:
    history = f"starve\nopen {name}\nfinish {name}\npoll\n{DECIDED}{restart}\npoll\ndeliver\ndeliver\nreceive\n"

    assert performed(tmp_path, history, Notifications.KEPT) == ["startup"]


@arrive
@ways
def test_the_next_one_with_its_addresses_is_another(notifications: Notifications, name: str, tmp_path: Path) -> None:
    history = f"""
starve
open {name}
finish {name}
poll
{DECIDED}deliver
deliver
receive
open {name}
finish {name}
deliver
deliver
receive
"""
    assert performed(tmp_path, history, notifications) == ["startup", "notification"]


@ways
def test_one_that_ended_just_before_a_stop_and_is_not_notified_any_more(name: str, tmp_path: Path) -> None:
    history = f"""
poll
starve
restart, stopped, notifications lost
    between the last polls: open {name}
    between the last polls: finish {name}
poll
{DECIDED}"""
    assert performed(tmp_path, history, Notifications.KEPT) == ["poll"]


@ways
def test_one_that_ended_just_before_a_restart_and_is_notified_late(name: str, tmp_path: Path) -> None:
    history = f"""
poll
starve
restart, stopped
    between the last polls: open {name}
    between the last polls: finish {name}
poll
deliver
deliver
receive
{DECIDED}"""
    assert performed(tmp_path, history, Notifications.KEPT) == ["notification"]
