"""A month of a host in a ledger: every answer is what truly was, however the month came in."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from tcpnewconn.ledger import update
from tests.support import ledger_truth
from tests.support.month import BEGIN, DAY, HOUR, Month, month
from tests.support.recorded_journal import Recorded

MOST_PEERS = 12


MONTH = month()


def added(path: Path, made: Month = MONTH, count: int | None = None, first: int = 0) -> update.Outcome:
    limits = update.Limits(peers=MOST_PEERS)
    return update.update(str(path), lambda: Recorded(made, count, first), limits, "web1", lambda *_: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    added(path)
    return path


def test_every_question_is_answered_with_what_truly_was(whole: Path) -> None:
    ledger_truth.check(str(whole), MONTH, MOST_PEERS)


@pytest.mark.parametrize(
    ("since", "until"),
    [
        (BEGIN + 3 * DAY, BEGIN + 10 * DAY),
        (BEGIN + 15 * DAY, None),
        (BEGIN + 17 * DAY, BEGIN + 19 * DAY),
        (BEGIN + 26 * DAY + 5 * HOUR, BEGIN + 28 * DAY + 7 * HOUR),
        (None, BEGIN + 22 * DAY),
    ],
)
def test_a_period_holds_what_was_in_it(whole: Path, since: float | None, until: float | None) -> None:
    ledger_truth.check(str(whole), MONTH, MOST_PEERS, since, until)


@pytest.mark.parametrize("seed", range(4))
def test_many_updates_give_what_one_does(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    count = 0
    while count < len(MONTH.entries):
        count += chance.choice((1, 7, 100, 1500))
        added(tmp_path / "ledger.db", count=count)

    ledger_truth.check(str(tmp_path / "ledger.db"), MONTH, MOST_PEERS)


def test_an_update_without_news_changes_nothing(whole: Path) -> None:
    assert added(whole).entries == 0
    ledger_truth.check(str(whole), MONTH, MOST_PEERS)


def test_another_month_of_another_host_is_right_too(tmp_path: Path) -> None:
    made = month(seed=2, scale=3)
    added(tmp_path / "ledger.db", made)

    ledger_truth.check(str(tmp_path / "ledger.db"), made, MOST_PEERS)


def totals(path: Path) -> int:
    with sqlite3.connect(path) as db:
        return int(db.execute("SELECT sum(connections) FROM traffic").fetchone()[0])
