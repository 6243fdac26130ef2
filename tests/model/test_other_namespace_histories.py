"""The tracker of another network namespace: its sockets cannot be looked up, so that their cookies are not known.

Nothing is missing there. Once in a hundred histories as hostile as these a connection is logged twice: where it is an orphan in
FIN_WAIT2 at the first poll, or where sockets lose their addresses and others were never accepted.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tcpnewconn.model import FourTuple, SocketInfo
from tcpnewconn.tracking.run import Notifications
from tests.model.generated import histories
from tests.model.histories import History, parsed, printed
from tests.model.judged import compared
from tests.model.play import Play
from tests.model.test_random_histories import EXAMPLES, within


class WithoutLookUps(Play):
    def _look_up(self, four_tuple: FourTuple) -> SocketInfo | None:
        return None


@pytest.mark.random
@within
def test_nothing_is_missing_where_sockets_cannot_be_looked_up(internal: bool, tmp_path: Path) -> None:
    twice_in = 0
    examples = max(100, EXAMPLES // 20)

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(histories(internal))
    def once(history: History) -> None:
        nonlocal twice_in
        play = WithoutLookUps(tmp_path, Notifications.KEPT)
        play.perform(history)
        play.settle()
        missing, twice = compared(play)
        assert missing.total() <= play.lost, "\n".join([printed(history), *play.log])
        twice_in += bool(twice)

    once()
    assert twice_in <= examples * 0.03


def test_what_ordinary_programs_do_is_logged_once(tmp_path: Path) -> None:
    history = parsed(
        """
open r0
poll
open r1
finish r1
open r2
passive close r2
poll
finish r0
time wait expires r0
open r0
reset r0
poll
restart
    meanwhile: open r3
    meanwhile: finish r3
open r4
poll
passive close r4
receive
"""
    )
    play = WithoutLookUps(tmp_path, Notifications.KEPT)
    play.perform(history)
    play.settle()
    assert compared(play) == ({}, {})
    assert len(play.reported) == 6
