"""A month of a host in ClickHouse: every answer is what truly was, however often and in whichever order it came in."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpnewconn.report.clickhouse import Events
from tests.support import ledger_truth
from tests.support.clickhouse import Engine, engine, lines_of
from tests.support.month import BEGIN, DAY, HOUR, month

# ClickHouse has a place for every peer.
EVERY_PEER = 10**9
MONTH = month()
LINES = lines_of(MONTH)


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """It has the month, in disorder, some of it twice or three times; its edges are counted."""
    with engine(tmp_path_factory.mktemp("clickhouse")) as made:
        insert_in_disorder(made)
        made.settle()
        yield made


def insert_in_disorder(made: Engine) -> None:
    chance = random.Random(1)
    lines = list(LINES)
    chance.shuffle(lines)
    for first in range(0, len(lines), 700):
        made.insert(lines[first : first + 700])
        for _ in range(chance.randrange(3)):
            made.insert(chance.sample(lines[: first + 700], 300))


def check(made: Engine, since: float | None = None, until: float | None = None) -> None:
    server = made.server()
    try:
        source = Events(server, ["web1"]).source("web1")
        ledger_truth.check_source(source, MONTH, EVERY_PEER, since, until)
    finally:
        server.close()


@pytest.mark.parametrize(
    ("since", "until"),
    [
        (None, None),
        (BEGIN + 15 * DAY, None),
        (BEGIN + 5 * DAY + 5 * HOUR, BEGIN + 18 * DAY + 13 * HOUR),
    ],
)
def test_every_question_is_answered_with_what_truly_was(
    settled: Engine, since: float | None, until: float | None
) -> None:
    check(settled, since, until)


def test_repeats_and_disorder_change_no_edge_before_and_after_they_are_counted(tmp_path: Path) -> None:
    edges = (
        "SELECT hour, direction, port, unit, peer, connections, summarized, failed, source_bytes, first, last "
        "FROM edges_now ORDER BY ALL"
    )
    with engine(tmp_path) as made:
        # In the order of the journal, each once.
        made.insert(LINES)
        true = made.ask(edges)
        insert_in_disorder(made)
        assert made.ask("SELECT count() > 5000 FROM edges_from_events") == [[1]]
        assert made.ask(edges) == true
        made.settle()
        assert made.ask("SELECT count() FROM edges_from_events") == [[0]]
        assert made.ask(edges) == true
        assert sum(int(row[5]) for row in true) == sum(fact.connections for fact in MONTH.facts)


def test_what_comes_late_is_counted_at_once_and_stays_counted(tmp_path: Path) -> None:
    """A host whose events of some hours come when those of the rest were counted; the hours of a kill are among them."""
    late = [line for line in LINES if "2026-10-10T02" in line or "2026-10-05" in line]
    early = [line for line in LINES if line not in set(late)]
    with engine(tmp_path) as made:
        made.insert(early)
        made.settle()
        assert made.ask("SELECT count() FROM pending") == [[0]]
        made.insert(late)
        assert made.ask("SELECT count() BETWEEN 10 AND 40 FROM pending") == [[1]]
        check(made)
        made.refresh()
        made.settle()
        check(made, BEGIN + 3 * DAY, BEGIN + 12 * DAY)


def test_a_line_that_is_no_event_is_kept_and_does_no_harm(tmp_path: Path) -> None:
    broken = [
        '{"host.name":"web1"',
        "not json at all",
        "{}",
        '{"event.action": "connection-opened", "@timestamp": "then"}',
    ]
    with engine(tmp_path) as made:
        made.run("INSERT INTO tcpnewconn.incoming (event) VALUES " + "".join(f"('{line}')" for line in broken))
        made.insert(LINES[:50])
        assert {row[0] for row in made.ask("SELECT event FROM notices WHERE host = ''")} == set(broken)
        assert made.ask("SELECT sum(connections) > 10 FROM edges_now") == [[1]]
        assert Events(made.server(), []).hosts == ["web1"]
