"""The names of containers from a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tcpnewconn.attribution.names import ContainerNames

ID, OTHER = "0123456789abcdef" * 4, "f" * 64


class Read:
    """A file, and the names that were read from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: dict[str, str] = {}
        self.file = ContainerNames(self._name)
        self.file.path = str(path)

    def _name(self, container_id: str, name: str) -> None:
        self.names[container_id] = name

    def refresh(self, text: str | None = None) -> dict[str, str]:
        if text is not None:
            # As a program writes it that replaces it.
            new = self.path.with_suffix(".new")
            new.write_text(text)
            new.rename(self.path)
        self.names.clear()
        self.file.refresh()
        return self.names


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return Read(tmp_path / "names")


def test_each_line_names_a_container(read: Read) -> None:
    # docker ps --no-trunc --format '{{.ID}} {{.Names}}'; docker inspect has a slash before the name.
    assert read.refresh(f"{ID} web\n{OTHER}\t/data_base.1\n") == {ID: "web", OTHER: "data_base.1"}


def test_it_is_read_again_where_it_has_changed(read: Read) -> None:
    read.refresh(f"{ID} web\n")
    assert read.refresh() == {}
    assert read.refresh(f"{ID} web2\n") == {ID: "web2"}


@pytest.mark.parametrize(
    "line",
    ["", "# web", "web", ID, f"{ID} ", f"{ID} a b", f"{ID} -a", f"{ID} a\x1b", f"{ID} é", "0123 web", f"{ID}\0web"],
)
def test_other_lines_are_passed_over(read: Read, line: str) -> None:
    assert read.refresh(f"{line}\n{OTHER} web") == {OTHER: "web"}
    assert read.file.problem is None


def test_a_file_that_cannot_be_read_is_a_problem_until_it_can(read: Read) -> None:
    assert read.refresh() == {}
    assert read.file.problem == f"{read.path}: No such file or directory"
    assert read.refresh(f"{ID} web\n") == {ID: "web"}
    assert read.file.problem is None
    read.file.path = str(read.path.parent)
    read.refresh()
    assert read.file.problem is not None
    read.file.path = None
    read.refresh()
    assert read.file.problem is None


def test_a_named_pipe_is_not_waited_for(read: Read) -> None:
    os.mkfifo(read.path)
    read.refresh()
    assert read.file.problem == f"{read.path}: not a file"
