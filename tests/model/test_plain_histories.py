"""Most destroyed sockets are applied without the rules for the others: those rules come to the same, in every history."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcpnewconn.model import DestroyedSocket
from tcpnewconn.tracking.run import Notifications
from tcpnewconn.tracking.tracker import Tracker
from tests.model.generated import histories
from tests.model.histories import History, parsed
from tests.model.play import Play
from tests.model.recorded import RECORDED
from tests.model.test_dumped_histories import arrive
from tests.model.test_random_histories import EXAMPLES, often, within

# Notifications come late.
STARVED = parsed("starve\n")
# Two plays for each example.
sometimes = settings(often, max_examples=max(1, EXAMPLES // 32))


class ByAllRules(Tracker):
    """Applies every destroyed socket by all rules."""

    def _is_plain(self, destroyed: DestroyedSocket, now: float) -> bool:
        return False


class PlayByAllRules(Play):
    made_tracker = ByAllRules


def states(play: Play, history: History) -> list[object]:
    """What the program knows and has reported, after each step."""
    found: list[object] = []
    for step in history:
        play.perform([step])
        sockets = play.tracker.sockets
        found.append((list(play.reported), list(play.closed), play.lost, sorted(sockets.records())))
    return found


def same(directory: Path, history: History, notifications: Notifications) -> None:
    plays = []
    for kind in (Play, PlayByAllRules):
        (directory / kind.__name__).mkdir(exist_ok=True)
        plays.append(states(kind(directory / kind.__name__, notifications), history))
    assert plays[0] == plays[1]


@pytest.mark.random
@within
@arrive
def test_both_come_to_the_same(notifications: Notifications, internal: bool, tmp_path: Path) -> None:
    @sometimes
    @given(histories(internal), st.booleans())
    def once(history: History, starved: bool) -> None:
        same(tmp_path, [*STARVED, *history] if starved else history, notifications)

    once()


@arrive
@pytest.mark.parametrize("name", RECORDED)
def test_both_come_to_the_same_in_histories_that_once_failed(
    name: str, notifications: Notifications, tmp_path: Path
) -> None:
    same(tmp_path, parsed(RECORDED[name]), notifications)
