"""docs/report.md and the README: their reports are those that the program makes of the month in tests/support/month.py."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.support import readme, report_document
from tests.support.terminal import TREE

SHOWN = [
    pytest.param(options, block, id=f"{document.name}: {options or 'overview'}")
    for document in report_document.DOCUMENTS
    for options, block in report_document.shown(document)
]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_document.ledger(tmp_path_factory.mktemp("document"))


def test_the_page_has_one_of_each_question() -> None:
    asked = [
        options.split()[0] if options else "overview" for options, _ in report_document.shown(TREE / "docs/report.md")
    ]

    assert asked == ["overview", "who", "to", "new", "quiet", "allow"]


def test_the_readme_s_second_screen_is_a_report() -> None:
    assert list(readme.sections())[1] == "Who talks to whom"
    asked = [step.command for session in readme.sessions("Who talks to whom") for step in session]
    assert asked == [f"tcpnewconn report {options}".strip() for options, _ in report_document.shown(readme.README)]
    assert len(asked) == 2


@pytest.mark.parametrize(("options", "block"), SHOWN)
def test_a_report_is_what_the_program_prints(options: str, block: str, ledger: Path) -> None:
    expected = textwrap.dedent(block).strip()

    # Long ones are cut.
    assert report_document.printed(ledger, options).startswith(expected)
    assert len(expected.splitlines()) > 2
