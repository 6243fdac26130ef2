"""Destroyed sockets of connections within this host whose addresses the kernel had cleared at both ends, as MPTCP has it."""

from __future__ import annotations

from collections.abc import Callable
from socket import inet_aton

import pytest

from tcpnewconn.model import DestroyedSocket, FourTuple, SocketInfo, Traffic, four_tuple_of, mirrored
from tcpnewconn.tracking.outcomes import ClosedSocket, NewConnection
from tcpnewconn.tracking.run import Notifications, Stage
from tcpnewconn.tracking.tracker import Tracker

NOTHING = Traffic(0, 0, 0, 0, 0)
HERE, THERE, ANY = inet_aton("127.0.0.1"), inet_aton("127.0.2.20"), inet_aton("0.0.0.0")
TIME_WAIT = SocketInfo(0, 0, None, 0, 6, True)


def whole(port: int) -> FourTuple:
    return four_tuple_of(HERE, port, THERE, 80)


class World:
    stage = Stage.STARTING

    def __init__(self, *in_time_wait: FourTuple) -> None:
        self.new: list[NewConnection] = []
        self._in_time_wait = in_time_wait
        self._cookie = 100
        self.tracker = Tracker(self._look_up, lambda _: True, self._report, Notifications.KEPT)
        self.tracker.run.stage = self.stage

    def _look_up(self, four_tuple: FourTuple) -> SocketInfo | None:
        return TIME_WAIT if four_tuple in self._in_time_wait else None

    def _report(self, outcome: NewConnection | ClosedSocket, now: float) -> None:
        if isinstance(outcome, NewConnection):
            self.new.append(outcome)

    def destroyed(self, four_tuple: FourTuple, now: float, unaddressed: bool = True, idle: float = 0.0) -> None:
        self._cookie += 1
        self.tracker.destroyed(DestroyedSocket(four_tuple, self._cookie, True, unaddressed, NOTHING, idle), now)

    def opener(self, port: int, now: float) -> None:
        self.destroyed(four_tuple_of(ANY, port, THERE, 0), now)

    def acceptor(self, now: float) -> None:
        self.destroyed(four_tuple_of(THERE, 80, HERE, 0), now)


@pytest.fixture(autouse=True, params=[Stage.STARTING, Stage.RUNNING], ids=lambda one: one.name.lower())
def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all runs, most sockets are applied without the rules for the others."""
    monkeypatch.setattr(World, "stage", request.param)


@pytest.mark.parametrize("opener_first", [True, False])
@pytest.mark.parametrize("end", [whole, lambda port: mirrored(whole(port))])
def test_both_together_are_a_connection_that_is_in_time_wait(
    opener_first: bool, end: Callable[[int], FourTuple]
) -> None:
    world = World(end(40_000))
    if opener_first:
        world.opener(40_000, 10.0)
    world.acceptor(10.0)
    if not opener_first:
        world.opener(40_000, 10.0)
    assert world.new == []
    world.tracker.tick(11.5)
    world.tracker.tick(200.0)
    [new] = world.new
    assert new.four_tuple in (whole(40_000), mirrored(whole(40_000)))
    assert (new.detected_by, new.internal, new.incomplete) == ("notification", True, False)


def test_of_several_each_is_a_connection() -> None:
    ports = range(40_000, 40_050)
    world = World(*map(whole, ports))
    for port in ports:
        world.opener(port, 10.0)
    for _ in ports:
        world.acceptor(10.1)
    world.tracker.tick(12.0)
    found = {min(new.four_tuple, mirrored(new.four_tuple)) for new in world.new}
    assert len(found) == len(world.new) == 50


def test_two_that_were_reset_are_none_of_their_own() -> None:
    """Programs keep their other ends open: those show what connections they were."""
    world = World()
    world.opener(40_000, 10.0)
    world.acceptor(10.0)
    world.tracker.tick(12.0)
    assert world.new == []


def test_the_match_is_undone_where_the_notification_of_the_one_that_was_meant_comes() -> None:
    world = World(whole(40_000))
    world.opener(40_000, 10.0)
    world.acceptor(10.0)
    world.tracker.tick(11.5)
    assert len(world.new) == 1
    world.destroyed(world.new[0].four_tuple[6:] + world.new[0].four_tuple[:6], 30.0, unaddressed=False, idle=20.0)
    world.tracker.tick(32.0)
    assert len(world.new) == 1
