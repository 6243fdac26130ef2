"""The tracker against a simulated kernel: every connection exactly once, whatever happens in whatever order.

TCPNEWCONN_EXAMPLES sets how many histories are generated (10,000 in all by default). A history that fails is printed as it is
recorded in recorded.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tcpnewconn.tracking.run import Notifications
from tests.model.generated import histories
from tests.model.histories import History
from tests.model.judged import judge
from tests.model.play import played

EXAMPLES = int(os.environ.get("TCPNEWCONN_EXAMPLES", "10000"))
TESTS = 8

pytestmark = pytest.mark.random
often = settings(
    max_examples=max(1, EXAMPLES // TESTS), deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
within = pytest.mark.parametrize("internal", [False, True], ids=["remote", "internal"])


@within
@pytest.mark.parametrize("notifications", Notifications, ids=lambda one: one.name.lower())
def test_every_connection_is_reported_exactly_once(
    notifications: Notifications, internal: bool, tmp_path: Path, memory: Path
) -> None:
    @often
    @given(histories(internal), st.booleans())
    def once(history: History, with_tail: bool) -> None:
        judge(played(tmp_path, history, notifications, tail=memory / "tail" if with_tail else None))

    once()


@within
def test_connections_whose_notifications_were_lost_are_counted(internal: bool, tmp_path: Path, memory: Path) -> None:
    """Connections reported and connections counted as lost are together those that were."""

    @often
    @given(histories(internal), st.integers(1, 4), st.booleans())
    def once(history: History, room: int, with_tail: bool) -> None:
        judge(played(tmp_path, history, Notifications.KEPT, room, tail=memory / "tail" if with_tail else None))

    once()
