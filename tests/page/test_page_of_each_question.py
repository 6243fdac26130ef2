"""Every question has a page, with the coverage beside each of its parts."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from tcpnewconn import cli
from tcpnewconn.report.options import QUESTIONS
from tests.support import report_document

SUBJECTS = {"who": "8080", "to": "app.service", "allow": "postgresql.service"}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_document.ledger(tmp_path_factory.mktemp("questions"))


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_coverage_stands_beside_each_part(question: str, ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subject = [SUBJECTS[question]] if question in SUBJECTS else []
    assert cli.main(["report", question, *subject, "--output", "html", "--ledger", str(ledger)]) == 0
    page = capsys.readouterr().out

    sections = re.findall(r'(?s)<section aria-labelledby="([\w-]+)">(.*?)</section>', page)
    assert {"timeline", "map", "heat", "coverage"} <= {name for name, _ in sections}
    for name, text in sections:
        assert name == "notes" or "Observed 99.09 % of that time, 1100 lost" in text


def test_the_lines_to_copy_are_on_the_page_as_they_are_in_text(
    ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", "allow", "postgresql.service", "--output", "html", "--ledger", str(ledger)]) == 0
    page = capsys.readouterr().out

    (lines,) = re.findall(r"(?s)<pre[^>]*>(.*?)</pre>", page)
    assert html.unescape(lines).strip() in report_document.printed(ledger, "allow postgresql.service")


def counted_on(page: str) -> tuple[str, int]:
    """The tile of connections, and the connections that the timeline shows."""
    (tile,) = re.findall(r"<strong>([^<]*)</strong><span>connections</span>", page)
    (said,) = re.findall(r'<desc id="timeline-d">From [^:]*: ([^<]*)</desc>', page)
    return tile, sum(int(count.replace(",", "")) for count in re.findall(r"(\d[\d,]*) [a-z]+", said))


def report(ledger: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["report", *arguments, "--ledger", str(ledger)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("question", "table"), [("who", "clients"), ("to", "destinations")])
def test_the_pictures_show_what_the_question_is_about(
    question: str, table: str, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (question, SUBJECTS[question])
    answer = json.loads(report(ledger, capsys, *asked, "--output", "json"))
    connections = sum(row["connections"] for row in answer[table])
    assert connections

    assert counted_on(report(ledger, capsys, *asked, "--output", "html")) == (f"{connections:,}", connections)
    assert counted_on(report(ledger, capsys, "--output", "html"))[1] > connections


def test_the_tile_counts_the_clients_of_the_answer(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("who", "5432")
    (head,) = json.loads(report(ledger, capsys, *asked, "--output", "json"))["head"]

    page = report(ledger, capsys, *asked, "--output", "html")

    assert re.findall(r"<strong>([^<]*)</strong><span>clients</span>", page) == [head.partition(" clients used")[0]]
