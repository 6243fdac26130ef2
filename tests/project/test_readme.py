"""README.md: its order, its length, and that its links, and those of every other document, lead somewhere."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support import readme

TREE = readme.README.parent
ORDER = [
    "tcpnewconn",
    "Who talks to whom",
    "Who it is for",
    "How it differs",
    "What it does not see",
    "Install",
    "Read",
    "Configure",
    "Watch",
    "Roll it out",
    "Upgrade and remove",
    "What it costs",
    "Tested on",
    "Documentation",
    "Development",
]
# Lines of a screen.
SCREEN = 40


def documents() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=TREE,
        check=True,
        capture_output=True,
        text=True,
    )
    return [TREE / name for name in listed.stdout.splitlines() if (TREE / name).exists()]


def test_a_reader_meets_what_it_is_first_and_development_last() -> None:
    assert list(readme.sections()) == ORDER


@pytest.mark.parametrize("heading", ORDER)
def test_a_section_fits_on_a_screen(heading: str) -> None:
    assert len(readme.sections()[heading].strip().splitlines()) < SCREEN


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(TREE)))
def test_every_link_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#[^)\s]*)?\)", document.read_text())
    assert [link for link in links if link and not (document.parent / link).exists()] == []


def test_every_make_target_that_it_names_exists() -> None:
    targets = set(re.findall(r"(?m)^make ([a-z]+)", readme.README.read_text()))
    assert {"deb", "run", "check", "test", "repo"} <= targets
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=TREE, check=True, capture_output=True)
