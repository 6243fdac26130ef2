"""docs/report.md: its reports are those that the program makes of the month in tests/support/month.py."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tcpnewconn.ledger import update
from tests.support.month import month
from tests.support.terminal import TREE, environment
from tests.unit.test_ledger_truth import Recorded

DOCUMENT = (TREE / "docs" / "report.md").read_text()
SHOWN = re.findall(r"(?m)^    \$ tcpnewconn report(.*)\n((?:    .*\n|\n(?=    [^$]))+)", DOCUMENT)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("document") / "ledger.db"
    made = month()
    update.update(str(path), lambda: Recorded(made), update.Limits(), "web1", lambda *_: None)
    return path


def test_there_is_one_of_most_questions() -> None:
    assert len(SHOWN) >= 6


@pytest.mark.parametrize(("options", "block"), SHOWN, ids=[shown[0].strip() or "overview" for shown in SHOWN])
def test_a_report_is_what_the_program_prints(options: str, block: str, ledger: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tcpnewconn", "report", *shlex.split(options), "--ledger", str(ledger)],
        cwd=TREE,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    expected = re.sub(r"(?m)^    ", "", block).strip()

    assert (done.returncode, done.stderr) == (0, "")
    # Long ones are cut.
    assert done.stdout.startswith(expected)
    assert len(expected.splitlines()) > 5
