"""Every Python that this machine has, from 3.10 to 3.14, runs the program in the same way."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.events import parsed_lines
from tests.support.terminal import SAMPLE_EXPECTED, TREE, messages, run, sample

SUPPORTED = ("3.10", "3.11", "3.12", "3.13", "3.14")


def pythons() -> dict[str, str]:
    """The interpreters by their version: on the path, in /usr/bin, and those that pyenv made."""
    directories = [
        *os.get_exec_path(),
        "/usr/bin",
        "/usr/local/bin",
        *map(str, Path.home().glob(".pyenv/versions/*/bin")),
    ]
    found: dict[str, str] = {}
    for version in SUPPORTED:
        for directory in directories:
            python = f"{directory}/python{version}"
            # A shim of pyenv's need not lead anywhere.
            if version not in found and os.access(python, os.X_OK) and runs(python):
                found[version] = python
    return found


def runs(python: str) -> bool:
    return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


FOUND = pythons()
# Without what is installed beside it, and with what the next Python will refuse refused.
STRICT = ("-S", "-W", "error::DeprecationWarning", "-W", "error::SyntaxWarning")


def test_debian_13_s_python_is_among_them() -> None:
    assert "3.13" in FOUND


@pytest.mark.parametrize("version", FOUND)
@pytest.mark.parametrize("output", ["text", "json"])
def test_the_sample_is_the_same_in_every_python(version: str, output: str, tmp_path: Path) -> None:
    procfs = str(sample(tmp_path / "proc"))
    options = ["--once", "--procfs", procfs, "--output", output, "--state", str(tmp_path / "snapshot")]
    done = run(*options, python=[FOUND[version], *STRICT])
    assert (done.returncode, done.stderr) == (0, "")
    if output == "text":
        assert messages(done.stdout) == SAMPLE_EXPECTED
    else:
        assert [event["message"] for event in parsed_lines(done.stdout.splitlines())] == SAMPLE_EXPECTED
    again = run(*options, python=[FOUND[version], *STRICT])
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


@pytest.mark.parametrize("version", FOUND)
def test_an_error_is_one_line_in_every_python(version: str, tmp_path: Path) -> None:
    for options, status in (
        (["--bogus"], 2),
        (["--config", str(tmp_path / "none")], 78),
        (["--procfs", str(tmp_path)], 1),
    ):
        done = run(*options, python=[FOUND[version], *STRICT])
        assert done.returncode == status
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
    done = run("--help", python=[FOUND[version], *STRICT])
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("version", FOUND)
def test_the_service_imports_nothing_large_that_it_does_not_need(version: str, tmp_path: Path) -> None:
    # dataclasses imports inspect, ast, dis and tokenize; the width of a terminal is in shutil, with bz2 and lzma.
    program = (
        "import sys; from tcpnewconn.cli import main; "
        "main(['--once', '--procfs', sys.argv[1]]); "
        "print(*({'ast', 'dataclasses', 'inspect', 'shutil', 'sqlite3'} & {*sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [FOUND[version], "-S", "-c", program, str(sample(tmp_path / "proc"))], cwd=TREE, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "\n")
    assert messages(done.stdout) == SAMPLE_EXPECTED
