"""The callers of connect() and accept(), against a simulated kernel: never another's, in any order of steps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tcpnewconn.tracking.run import Notifications
from tests.model.attributed import AttributedPlay, wrong
from tests.model.generated import histories
from tests.model.histories import History, printed

EXAMPLES = int(os.environ.get("TCPNEWCONN_EXAMPLES", "10000"))

pytestmark = pytest.mark.random
often = settings(
    max_examples=max(1, EXAMPLES // 8), deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("internal", [False, True], ids=["remote", "internal"])
@pytest.mark.parametrize("notifications", Notifications, ids=lambda one: one.name.lower())
def test_no_connection_is_attributed_to_another_caller(
    notifications: Notifications, internal: bool, tmp_path: Path
) -> None:
    @often
    @given(histories(internal), st.sampled_from([1_000_000, 1_000_000, 2]), st.sampled_from([0, 0, 0, 3, 5]))
    def once(history: History, room: int, every: int) -> None:
        play = AttributedPlay(tmp_path, notifications, room, every)
        play.log += ["", printed(history)]
        play.perform(history)
        play.settle()
        assert not wrong(play), "\n".join([*wrong(play), *play.log])

    once()
