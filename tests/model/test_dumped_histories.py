"""All established sockets are asked for at once after each poll, as after one in which many rows are new.

What the kernel says then is older, and not of one moment: connections come and go while it is dumped, and until it is used.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpnewconn.tracking.run import Notifications
from tests.model.generated import histories
from tests.model.histories import History, parsed
from tests.model.judged import judge
from tests.model.play import PLENTY, Play, played
from tests.model.recorded import RECORDED
from tests.model.test_random_histories import often, within

arrive = pytest.mark.parametrize(
    "notifications", [Notifications.OWN, Notifications.KEPT], ids=lambda one: one.name.lower()
)


@pytest.mark.random
@within
@arrive
def test_every_connection_is_reported_exactly_once(
    notifications: Notifications, internal: bool, tmp_path: Path
) -> None:
    @often
    @given(histories(internal), st.sampled_from([1, 3, PLENTY]))
    def once(history: History, room: int) -> None:
        judge(
            played(
                tmp_path, history, notifications, room if notifications is Notifications.KEPT else PLENTY, dumped=True
            )
        )

    once()


@arrive
@pytest.mark.parametrize("name", RECORDED)
def test_histories_that_once_failed(name: str, notifications: Notifications, tmp_path: Path) -> None:
    judge(played(tmp_path, parsed(RECORDED[name]), notifications, dumped=True))


@arrive
@pytest.mark.parametrize("name", ["r0", "i0"])
def test_one_whose_addresses_another_has_by_then(name: str, notifications: Notifications, tmp_path: Path) -> None:
    history = f"""
open {name}
poll
    before look-up: finish {name}
    before look-up: time wait expires {name}
    before look-up: open {name}
receive
poll
"""
    play = Play(tmp_path, notifications, dumped=True)
    play.perform(parsed(history))
    play.settle()
    judge(play)
