"""Aggregation: entries and counts add up to all connections, whatever they and the limits are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpnewconn.eventtypes import Connection, Failed, Summary
from tcpnewconn.model import ESTABLISHED, Endpoint
from tcpnewconn.reporting import aggregation as module
from tcpnewconn.reporting.aggregation import Aggregation
from tcpnewconn.state.log import StateLog

DESTINATION = bytes([10, 0, 0, 5])


def connection(source: int = 1, port: int = 80, direction: str = "ingress", cgroup: int = 0) -> Connection:
    address = bytes([192, 0, source // 256 % 256, source % 256])
    return Connection(
        Endpoint(address, 40000),
        Endpoint(DESTINATION, port),
        direction,
        "notification",
        "id",
        ESTABLISHED,
        None,
        cgroup,
    )


Step = tuple[int, int, str, float, bool]
STEPS = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.integers(80, 84),
        st.sampled_from(["ingress", "egress"]),
        st.floats(0, 0.4),
        st.booleans(),
    ),
    max_size=300,
)


@given(STEPS, st.integers(0, 5), st.integers(0, 8), st.integers(1, 400))
def test_entries_and_counts_add_up_to_all_connections(steps: list[Step], burst: int, total: int, every: int) -> None:
    aggregation = Aggregation(burst, total)
    now, logged, counted = 0.0, Counter[tuple[str, int]](), Counter[tuple[str, int | None]]()
    for index, (source, port, direction, later, crowded) in enumerate(steps, 1):
        now += later
        if aggregation.add(connection(source, port, direction), now, crowded) is None:
            assert not crowded
            logged[direction, port] += 1
        if index % every == 0:
            counted += summed(aggregation)
    counted += summed(aggregation)
    assert logged + counted == Counter((direction, port) for _, port, direction, _, _ in steps)
    if not burst and not total and not any(step[4] for step in steps):
        assert not counted


def summed(aggregation: Aggregation) -> Counter[tuple[str, int | None]]:
    counts: Counter[tuple[str, int | None]] = Counter()
    for summary in aggregation.flush():
        assert sum(count for _, count in summary.top) <= summary.count
        counts[summary.direction, summary.destination.port] += summary.count
    assert not list(aggregation.flush())
    return counts


def test_the_first_of_a_burst_are_logged_one_by_one_and_the_rest_in_one_summary() -> None:
    aggregation = Aggregation(burst=100, total=0)
    logged = [aggregation.add(connection(), 0.0) is None for _ in range(1234)]
    assert logged == [True] * 100 + [False] * 1134
    [summary] = aggregation.flush()
    assert summary == Summary(
        Endpoint(bytes([192, 0, 0, 1]), None), Endpoint(DESTINATION, 80), "ingress", 0, 1134, 0, True, ()
    )


def test_a_new_interval_begins_from_zero() -> None:
    aggregation = Aggregation(burst=1, total=0)
    assert aggregation.add(connection(), 0.0) is None
    assert aggregation.add(connection(), 0.0) is not None
    list(aggregation.flush())
    assert aggregation.add(connection(), 0.0) is None


def test_units_are_groups_of_their_own() -> None:
    aggregation = Aggregation(burst=1, total=0)
    for cgroup in (7, 7, 8, 8):
        aggregation.add(connection(cgroup=cgroup), 0.0)
    assert [(summary.cgroup, summary.count) for summary in aggregation.flush()] == [(7, 1), (8, 1)]


def test_a_flood_from_many_sources_is_counted_by_destination_with_the_busiest() -> None:
    aggregation = Aggregation(burst=100, total=10)
    flood = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] + [11] * 5 + [12] * 4 + [13] * 3 + [14] * 2 + [15, 16, 17]
    logged = [aggregation.add(connection(source), 0.5) is None for source in flood]
    assert sum(logged) == 10
    [summary] = aggregation.flush()
    assert (summary.source, summary.destination) == (Endpoint(None, None), Endpoint(DESTINATION, 80))
    assert (summary.count, summary.sources, summary.exact) == (17, 7, True)
    assert [(address[3], count) for address, count in summary.top] == [(11, 5), (12, 4), (13, 3), (14, 2), (15, 1)]


def test_the_limit_per_second_ends_with_the_second() -> None:
    aggregation = Aggregation(burst=0, total=2)
    assert [aggregation.add(connection(), now) is None for now in (0.0, 0.5, 0.9, 1.1, 1.2, 1.3)] == [
        True,
        True,
        False,
        True,
        True,
        False,
    ]


def test_the_tables_stay_within_their_bounds_and_the_counts_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_GROUPS", 5)
    monkeypatch.setattr(module, "_MOST_COARSE", 8)
    monkeypatch.setattr(module, "_MOST_SOURCES", 10)
    aggregation = Aggregation(burst=1, total=0)
    logged = sum(
        aggregation.add(connection(source, port), 0.0) is None for source in range(50) for port in range(80, 90)
    )
    summaries = list(aggregation.flush())
    assert logged == 5
    assert len(summaries) <= 9
    assert logged + sum(summary.count for summary in summaries) == 500
    assert any(not summary.exact for summary in summaries)
    assert summaries[-1].destination == Endpoint(None, None)
    assert aggregation.coarse == summaries[-1].count


@pytest.mark.parametrize("rewritten", [False, True])
def test_connections_counted_before_a_restart_are_summarized_after_it(rewritten: bool, tmp_path: Path) -> None:
    log = StateLog(str(tmp_path / "state"), "here")
    before = Aggregation(1, 0, log)
    log.save()
    for _ in range(5):
        before.add(connection(), 0.0)
    if rewritten:
        log.close()
    log.save()
    log = StateLog(str(tmp_path / "state"), "another boot")
    after = Aggregation(1, 0, log)
    assert log.load() is None
    assert [summary.count for summary in after.flush()] == [4]


def test_a_source_that_all_of_a_group_share_is_named() -> None:
    aggregation = Aggregation(burst=100, total=1)
    for port in (80, 81, 81):
        aggregation.add(connection(7, port), 0.5)
    [summary] = aggregation.flush()
    assert (summary.source, summary.destination.port) == (Endpoint(bytes([192, 0, 0, 7]), None), 81)
    assert (summary.count, summary.sources, summary.top) == (2, 0, ())


# --- users, and failed attempts --------------------------------------------------------------------------------------


def counted(*events: Connection | Failed) -> Aggregation:
    """All of them are counted, none is logged by itself."""
    aggregation = Aggregation(burst=1, total=0)
    for event in (events[0], *events):
        aggregation.add(event, 0.0)
    return aggregation


@pytest.mark.parametrize(
    ("uids", "shared"), [((7, 7), 7), ((0, 0), 0), ((7, 8), None), ((7, None), None), ((None, 7), None)]
)
def test_a_summary_has_the_user_that_all_of_its_connections_have(
    uids: tuple[int | None, ...], shared: int | None
) -> None:
    (summary,) = counted(*(connection()._replace(uid=uid) for uid in uids)).flush()
    assert (summary.uid, summary.count) == (shared, 2)


def test_after_a_restart_the_user_of_those_before_is_not_known(tmp_path: Path) -> None:
    for run in range(2):
        log = StateLog(str(tmp_path / "snapshot"), "here")
        aggregation = Aggregation(1, 0, log)
        log.load()
        log.save()
        for _ in range(3):
            aggregation.add(connection()._replace(uid=7), 0.0)
        log.flush()
        log.close()
        if run:
            (summary,) = aggregation.flush()
            assert (summary.uid, summary.count) == (None, 4)


@pytest.mark.parametrize(("errors", "shared"), [((111, 111), 111), ((111, 110), 0), ((0, 0), 0)])
def test_failed_attempts_are_counted_with_the_error_that_all_have(errors: tuple[int, ...], shared: int) -> None:
    source, destination = Endpoint(DESTINATION, 41906), Endpoint(bytes([192, 0, 2, 7]), 5432)
    (failed,) = counted(
        *(Failed(source, destination, "egress", error, 7, 9, ("connect",)) for error in errors)
    ).flush_failed()
    assert failed == Failed(Endpoint(DESTINATION, None), destination, "egress", shared, 7, 9, ("connect",), None, 2)


def test_connections_of_two_namespaces_are_never_one_group() -> None:
    aggregation = Aggregation(1, 0)
    for netns in (0, 7, 7, 0, 7):
        aggregation.add(connection()._replace(netns=netns), 0.0)
    assert [(summary.netns, summary.count) for summary in aggregation.flush()] == [(0, 1), (7, 2)]


def test_counts_of_namespaces_outlive_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    log = StateLog(path, "here")
    aggregation = Aggregation(1, 0, log)
    log.save()
    for netns in (0, 0, 7, 7, 7):
        aggregation.add(connection()._replace(netns=netns), 0.0)
    log.flush()
    log.close()
    again = StateLog(path, "here")
    loaded = Aggregation(1, 0, again)
    assert again.load() is None
    assert [(summary.netns, summary.count) for summary in loaded.flush()] == [(0, 1), (7, 2)]
