"""The tracker against a simulated kernel: every connection exactly once, whatever happens in whatever order.

TCPNEWCONN_EXAMPLES sets how many examples are tried (10,000 in all by default).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tcpnewconn.model import ESTABLISHED, DestroyedSocket, FourTuple, Row, mirrored
from tcpnewconn.tracking.tracker import Over, Tracker
from tests.model.histories import FOUND, FOUND_LOST, HISTORIES
from tests.model.simulated_kernel import NO_TRAFFIC, Connection, Kernel, remote_pair
from tests.model.tracked import Run, played

EXAMPLES = int(os.environ.get("TCPNEWCONN_EXAMPLES", "10000"))
VARIANTS = 8
OFTEN = settings(
    max_examples=EXAMPLES // VARIANTS,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


def alike(four_tuple: FourTuple) -> bytes:
    """What tells connections apart for those who read of them: where addresses were wiped, port and peer remain."""
    if not Run.is_internal(four_tuple):
        return four_tuple[4:10]
    return four_tuple if four_tuple.endswith(b"\0\0") else min(four_tuple, mirrored(four_tuple))


def reported(run: Run) -> Counter[bytes]:
    numbers = [new.number for new in run.reported]
    assert len(numbers) == len(set(numbers)), "\n".join(["one id was reported twice", *run.log])
    return Counter(alike(new.four_tuple) for new in run.reported)


def alike_of(connections: Iterable[Connection]) -> Counter[bytes]:
    return Counter(alike(connection.four_tuple) for connection in connections)


@pytest.mark.parametrize("internal", [False, True], ids=["remote", "internal"])
@pytest.mark.parametrize("source", ["rows", "kept", "own"])
def test_every_connection_is_reported_exactly_once(source: str, internal: bool, tmp_path: Path) -> None:
    @OFTEN
    @given(HISTORIES)
    def once(history: bytes) -> None:
        run = played(tmp_path, history, source, internal)
        told, connections = reported(run), run.kernel.connections
        # One that a read has shown while nobody heard its announcement may be told, and need not be.
        must = alike_of(one for one in connections if one.in_rows or one.announced)
        may = alike_of(one for one in connections if one.shown or one.named or one.announced)
        assert must <= told <= may, "\n".join([f"not told {must - told}, told twice {told - may}", *run.log])

    for history in FOUND:
        once = example(history)(once)
    once()


@pytest.mark.parametrize("internal", [False, True], ids=["remote", "internal"])
def test_what_is_lost_is_declared(internal: bool, tmp_path: Path) -> None:
    """Announcements are dropped: connections reported and connections declared lost are together those that were."""

    @OFTEN
    @given(HISTORIES, st.integers(1, 4))
    def once(history: bytes, room: int) -> None:
        run = played(tmp_path, history, "kept", internal, room)
        told, connections = reported(run), run.kernel.connections
        must = alike_of(one for one in connections if one.in_rows or one.announced or one.dropped)
        may = alike_of(one for one in connections if one.shown or one.named or one.announced)
        missing = sum((must - told).values())
        assert told <= may, "\n".join([f"told twice {told - may}", *run.log])
        assert missing <= run.told, "\n".join([f"{missing} missing, {run.told} declared", *run.log])

    for history in FOUND_LOST:
        once = example(history, 1)(once)
    once()


def test_one_that_its_program_holds_is_not_taken_for_one_that_was_lost() -> None:
    kernel = Kernel()
    tracker = Tracker(kernel.identify, Run.is_internal, announced=True)
    held, lost = remote_pair(0), remote_pair(3)
    for now, four_tuple in ((1.0, held), (50.0, lost)):
        kernel.open(four_tuple, True, False)
        assert (
            tracker.row(Row(four_tuple, ESTABLISHED, 1000, kernel.sockets[four_tuple].inode), "read", now) is not None
        )
        kernel.aborted(four_tuple)
        tracker.gone(four_tuple, now + 5)
    tracker.lose(1, 56.0)
    # A read has shown it before: no connection was lost.
    assert tracker.lost(61.0) == 0
    assert not tracker.losing
    over = tracker.end(DestroyedSocket(held, kernel.held[0].cookie, True, False, NO_TRAFFIC, 90.0), 100.0)
    assert isinstance(over, Over)
    assert not tracker.losing
