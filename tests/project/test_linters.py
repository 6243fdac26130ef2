"""The linters, each over the whole tree: what they find is a failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.terminal import TREE


def files() -> list[Path]:
    """Every file of the project, those that are not committed yet among them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=TREE,
        capture_output=True,
        check=True,
    )
    names = [Path(name.decode()) for name in listed.stdout.split(b"\0") if name]
    return [name for name in names if (TREE / name).is_file() and not (TREE / name).is_symlink()]


def shell_files() -> list[str]:
    """Those with a shell's name in their first line, and those that a shell reads by itself."""
    found = []
    for name in files():
        with (TREE / name).open("rb") as file:
            first = file.readline(100)
        if first.startswith(b"#!") and first.split()[-1].rpartition(b"/")[2] in (b"sh", b"bash", b"dash"):
            found.append(str(name))
    return found


def lint(*command: str) -> None:
    done = subprocess.run(command, cwd=TREE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_has_nothing_to_say() -> None:
    lint(sys.executable, "-m", "ruff", "check", "--no-cache", ".")


def test_the_layout_is_ruff_s() -> None:
    lint(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", "--diff", ".")


# One after the other: they share a cache.
@pytest.mark.xdist_group("mypy")
def test_the_types_are_right() -> None:
    lint(sys.executable, "-m", "mypy")


@pytest.mark.xdist_group("mypy")
@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_the_types_are_right_in_the_oldest_and_the_newest_python(version: str) -> None:
    lint(sys.executable, "-m", "mypy", "--python-version", version, "tcpnewconn")


def test_every_word_is_spelt_right() -> None:
    lint(sys.executable, "-m", "codespell_lib", *map(str, files()))


def test_the_shell_files_are_all_found() -> None:
    assert {".ci/run", "debian/tcpnewconn.postrm", "packaging/make-deb", "packaging/make-release"} <= set(shell_files())


@pytest.mark.apt
@pytest.mark.parametrize("file", shell_files())
def test_shellcheck_has_nothing_to_say(file: str) -> None:
    lint("shellcheck", "--external-sources", "--enable=quote-safe-variables,check-unassigned-uppercase", file)


@pytest.mark.apt
def test_nor_of_bash_s_completion() -> None:
    lint("shellcheck", "--shell=bash", *(str(file) for file in files() if str(file) == "completion/tcpnewconn"))
