"""The size of an entry, and the durations that follow from it, are the same in every document."""

import re
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
SIZES = {
    "README.md": r"([\d,]+) bytes per connection",
    "docs/journal.md": r"An entry of a connection takes ([\d,]+) bytes",
    "docs/events.md": r"An entry of a connection takes ([\d,]+) bytes",
    "docs/fleet.md": r"\| journal of the log server \| ([\d,]+) bytes \|",
    "man/tcpnewconn.8.scd": r"about ([\d,]+) bytes for each connection",
}
GIB = 1024**3
SECONDS = {"min": 60, "h": 3600, "days": 86400}


def number(text: str) -> float:
    return float(text.replace(",", ""))


def size() -> float:
    return number(re.findall(SIZES["docs/journal.md"], (TREE / "docs/journal.md").read_text())[0])


def written(text: str) -> tuple[float, float]:
    """Seconds of a duration as a document has it, and half of its last digit: 26 h is 93,600 and 1,800."""
    value, unit = re.fullmatch(r"(\d+) (min|h|days)", text.strip()).groups()  # type: ignore[union-attr]
    return int(value) * SECONDS[unit], SECONDS[unit] / 2


@pytest.mark.parametrize("document", SIZES)
def test_an_entry_has_one_size(document: str) -> None:
    assert [number(found) for found in re.findall(SIZES[document], (TREE / document).read_text())] == [size()]


def test_the_table_of_retention_follows_from_it() -> None:
    head, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"(?m)^\| (?:`SystemMaxUse=`|\d+ GiB) .*\|$", (TREE / "docs/journal.md").read_text())
    ]
    rates = [number(re.match(r"[\d,]+", cell)[0]) for cell in head[2:]]  # type: ignore[index]
    assert len(rows) >= 4
    for capacity, connections, *durations in rows:
        held = int(capacity.split()[0]) * GIB / size()
        assert f"{held / 1e6:.1f} million" == connections
        for rate, text in zip(rates, durations, strict=True):
            seconds, tolerance = written(text)
            assert abs(held / rate - seconds) <= tolerance, (capacity, rate, text)


@pytest.mark.parametrize(
    ("document", "pattern", "rate"),
    [
        ("docs/journal.md", r"fills a journal of 4 GiB in (\d+) minutes", 1000),
        ("man/tcpnewconn.8.scd", r"fills a journal of 4 GiB in (\d+) minutes", 1000),
        ("docs/security.md", r"1,000 per second are 4 GiB in (\d+) minutes", 1000),
    ],
)
def test_a_flood_fills_a_journal_of_4_gib_as_fast_as_the_texts_say(document: str, pattern: str, rate: int) -> None:
    (minutes,) = re.findall(pattern, (TREE / document).read_text())
    assert round(4 * GIB / size() / rate / 60) == int(minutes)


@pytest.mark.parametrize("document", ["README.md", "man/tcpnewconn.8.scd"])
def test_a_day_at_50_per_second_is_as_large_as_the_texts_say(document: str) -> None:
    text = (TREE / document).read_text()
    ((day, hours),) = re.findall(r"([\d.]+) GB a day.*?4 GiB (?:then )?keeps (\d+) hours", text, re.DOTALL)
    assert f"{size() * 50 * 86400 / 1e9:.1f}" == day
    assert round(4 * GIB / size() / 50 / 3600) == int(hours)
