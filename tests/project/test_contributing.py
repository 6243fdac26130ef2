"""CONTRIBUTING.md is the map: every module and every directory of tests is on it, and nothing else."""

import re

import pytest

from tests.__main__ import STAGES
from tests.support.terminal import TESTS, TREE

PAGE = (TREE / "CONTRIBUTING.md").read_text()
PACKAGE = TREE / "tcpnewconn"


def section(title: str) -> str:
    found = re.search(rf"(?ms)^## {title}$(.*?)(?=^## |\Z)", PAGE)
    assert found is not None, title
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_module_is_in_the_table_and_no_other() -> None:
    listed, package = [], ""
    for first, modules, knows in rows("The modules"):
        assert knows
        names = re.findall(r"`(\w+)`", modules)
        # A package is named in its first row.
        package = first.strip("`") or package
        listed += [name if package == "at the top" else f"{package}/{name}" for name in names]
    there = [path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py")]
    assert sorted(listed) == sorted(str(path) for path in there if path.name not in ("__init__", "__main__"))


def test_every_directory_of_tests_is_in_the_table() -> None:
    listed = {name for first, *_ in rows("The tests") for name in re.findall(r"`tests/(\w+)`", first)}
    assert listed == {path.name for path in TESTS.iterdir() if (path / "__init__.py").exists()} | {"fixtures"}


def test_the_stages_are_named_in_their_order() -> None:
    named = re.search(r"ends at the first that fails: (.*?)\. It prints", section("The tests"), re.DOTALL)
    assert named is not None
    assert re.findall(r"`(\w+)`", named[1]) == [stage.name for stage in STAGES]


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:tests|docs|monitoring|systemd|man)/[\w./-]+)`", PAGE))))
def test_a_path_that_it_names_is_there(path: str) -> None:
    assert (TREE / path).exists()
