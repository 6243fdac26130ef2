"""Every question in every form of output: the same rows, and the coverage of the answer."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tcpnewconn import cli
from tcpnewconn.report.options import QUESTIONS
from tests.support import report_document

SUBJECTS = {"who": "5432", "to": "app.service", "allow": "postgresql.service"}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_document.ledger(tmp_path_factory.mktemp("outputs"))


def asked(question: str, ledger: Path, output: str, capsys: pytest.CaptureFixture[str]) -> str:
    subject = [SUBJECTS[question]] if question in SUBJECTS else []
    options = ["--since", "2026-10-20"] if question == "new" else []
    assert cli.main(["report", question, *subject, *options, "--output", output, "--ledger", str(ledger)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def tables(document: dict[str, Any]) -> list[list[dict[str, Any]]]:
    return [
        value for name, value in document.items() if isinstance(value, list) and value and isinstance(value[0], dict)
    ]


@pytest.mark.parametrize("question", QUESTIONS)
def test_text_says_how_much_was_observed_and_for_what(
    question: str, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, coverage, *_ = asked(question, ledger, "text", capsys).splitlines()

    assert first.startswith("web1: TCP connections from 2026-10-01 00:00:00 to 2026-10-30")
    assert coverage.startswith("Coverage: observed 99.09 % of that time, 1100 lost")
    assert "Ignore=10.9.0.0/16 :9100" in coverage


@pytest.mark.parametrize("question", QUESTIONS)
def test_json_has_the_coverage_and_csv_the_same_rows(
    question: str, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(asked(question, ledger, "json", capsys))
    printed = asked(question, ledger, "csv", capsys)

    assert document["coverage"]["lost"] == {"notifications": 1100}
    assert document["coverage"]["ignored"] == ["10.9.0.0/16", ":9100"]
    assert 0.99 < document["coverage"]["share"] < 1
    parts = [list(csv.DictReader(io.StringIO(part))) for part in printed.split("\n\n")]
    in_csv = [rows for rows in parts if rows]
    assert [len(rows) for rows in in_csv] == [len(rows) for rows in tables(document)]
    for rows, exact in zip(in_csv, tables(document), strict=True):
        for row, its in zip(rows, exact, strict=True):
            for name, value in row.items():
                if not name.endswith("_time"):
                    assert value == ("" if its[name] is None else str(its[name]))


def test_the_allow_list_is_in_every_form(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = json.loads(asked("allow", ledger, "json", capsys))["verbatim"]

    assert "#IPAddressDeny=any" in lines
    assert "\n".join(lines) in asked("allow", ledger, "text", capsys)
    assert asked("allow", ledger, "csv", capsys).splitlines() == [
        "side,port,network",
        "client,5432,10.0.1.11",
        "client,5432,10.0.1.12",
    ]
