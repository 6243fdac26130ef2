"""The tracker against a simulated kernel: every connection exactly once, whatever happens in whatever order.

TCPNEWCONN_EXAMPLES sets how many examples are tried (10,000 in all by default).
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings

from tcpnewconn.model import ESTABLISHED, End, Pair, Row, mirrored
from tcpnewconn.tracker import Over, Tracker
from tests.histories import FOUND, HISTORIES
from tests.simulated_kernel import NO_TRAFFIC, Kernel, remote_pair
from tests.tracked import Run, played

EXAMPLES = int(os.environ.get("TCPNEWCONN_EXAMPLES", "10000"))
VARIANTS = 4
SERVER = (8080).to_bytes(2, "big")


def alike(pair: Pair) -> bytes:
    """What tells connections apart for those who read of them: where addresses were wiped, port and peer remain."""
    if not Run.is_internal(pair):
        return pair[4:10]
    return pair if pair.endswith(b"\0\0") else min(pair, mirrored(pair))


def reported(run: Run) -> Counter[bytes]:
    numbers = [new.number for new in run.reported]
    assert len(numbers) == len(set(numbers)), "\n".join(["one id was reported twice", *run.log])
    return Counter(alike(new.pair) for new in run.reported)


def agree(told: Counter[bytes], was: Counter[bytes]) -> bool:
    """Whether the connections told are those that were; one within the host of which both ends were wiped has one port."""
    missing, extra = list((was - told).elements()), list((told - was).elements())
    # The server's port is that of all of them: those that name a client's have less to choose from.
    for pair in sorted(extra, key=lambda pair: pair[4:6] == SERVER):
        other = next((one for one in missing if pair.endswith(b"\0\0") and pair[4:6] in (one[4:6], one[-2:])), None)
        if other is None:
            return False
        missing.remove(other)
    return not missing


def existed(run: Run) -> Counter[bytes]:
    """The connections that a read or an announcement has shown."""
    return Counter(
        alike(connection.pair)
        for connection in run.kernel.connections
        if connection.in_rows > 0 or (run.announced and connection.announced > 0)
    )


@pytest.mark.parametrize("internal", [False, True], ids=["remote", "internal"])
@pytest.mark.parametrize("announced", [False, True], ids=["rows", "announced"])
def test_every_connection_is_reported_exactly_once(announced: bool, internal: bool, tmp_path: Path) -> None:
    @settings(
        max_examples=EXAMPLES // VARIANTS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(HISTORIES)
    def once(history: bytes) -> None:
        run = played(tmp_path, history, announced, internal)
        assert agree(reported(run), existed(run)), "\n".join(run.log)

    for history in FOUND:
        once = example(history)(once)
    once()


def test_what_is_lost_is_declared(tmp_path: Path) -> None:
    """Announcements are dropped: connections reported and connections declared lost are together those that were."""

    @settings(max_examples=EXAMPLES // VARIANTS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(HISTORIES)
    def once(history: bytes) -> None:
        run = played(tmp_path, history, announced=True, internal=False, room=2)
        told, was = reported(run), Counter(alike(connection.pair) for connection in run.kernel.connections)
        assert told <= was, "\n".join(run.log)
        missing = sum((was - told).values()) - sum(one.before_start for one in run.kernel.connections)
        assert missing <= run.told, "\n".join([f"{missing} missing, {run.told} declared", *run.log])

    once()


def test_one_that_its_program_holds_is_not_taken_for_one_that_was_lost() -> None:
    kernel = Kernel()
    tracker = Tracker(kernel.identify, Run.is_internal, announced=True)
    held, lost = remote_pair(0), remote_pair(3)
    for now, pair in ((1.0, held), (50.0, lost)):
        kernel.open(pair, True, False)
        assert tracker.row(Row(pair, ESTABLISHED, 1000, kernel.sockets[pair].inode), "read", now) is not None
        tracker.gone(pair, now + 5)
    tracker.lose(1, 56.0)
    # A read has shown it before: no connection was lost.
    assert tracker.lost(61.0) == 0
    assert not tracker.losing
    over = tracker.end(End(held, kernel.sockets[held].cookie, True, False, NO_TRAFFIC, 90.0), 100.0)
    assert isinstance(over, Over)
    assert not tracker.losing
