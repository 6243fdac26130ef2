"""A month of a host in ClickHouse: every answer is what truly was, however often and in whichever order it came in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tcpnewconn.ledger.clickhouse import Events
from tests.support import ledger_truth
from tests.support.clickhouse import Engine, engine, lines_of
from tests.support.month import BEGIN, DAY, HOUR, month

# ClickHouse has a place for every peer.
EVERY_PEER = 10**9
MONTH = month()
LINES = lines_of(MONTH)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """It has the month, each line once."""
    with engine(tmp_path_factory.mktemp("clickhouse")) as made:
        made.insert(LINES)
        yield made


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
        (BEGIN + 3 * DAY, BEGIN + 10 * DAY),
        (BEGIN + 15 * DAY, None),
        (BEGIN + 5 * DAY + 5 * HOUR, BEGIN + 18 * DAY + 13 * HOUR),
        (None, BEGIN + 22 * DAY),
    ],
)
def test_every_question_is_answered_with_what_truly_was(once: Engine, since: float | None, until: float | None) -> None:
    check(once, since, until)
