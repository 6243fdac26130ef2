"""Bash completion: it offers what the command line takes."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support import built
from tests.support.debfile import run

SCRIPT = built.TREE / "completion" / "tcpnewconn"


def offered(line: str, directory: Path = built.TREE) -> set[str]:
    """What bash offers when Tab is pressed at the end of a line."""
    words = re.findall(r"=|[^\s=]+", line) + ([""] if line.endswith(" ") else [])
    script = f"""
        compopt() {{ :; }}  # works only where readline asks
        source {shlex.quote(str(SCRIPT))}
        COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
        _tcpnewconn
        [ "${{#COMPREPLY[@]}}" = 0 ] || printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-euc", script], cwd=directory, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split("\n")) - {""}


def help_text() -> str:
    return run("/usr/bin/python3", "-m", "tcpnewconn", "--help", cwd=built.TREE)


def choices(pattern: str) -> set[str]:
    found = re.search(pattern, help_text())
    assert found is not None
    return set(found[1].split(","))


def test_it_is_for_this_command() -> None:
    said = run("bash", "-c", f"source {shlex.quote(str(SCRIPT))}; complete -p tcpnewconn")
    assert said == "complete -F _tcpnewconn tcpnewconn\n"


def test_every_option_and_command_is_offered() -> None:
    options = set(re.findall(r"(?m)^  (?:-\w, )?(--[a-z-]+)", help_text()))
    assert len(options) >= 8
    assert offered("tcpnewconn ") == options | choices(r"(?m)^  \{([a-z,-]+)\}")
    assert offered("tcpnewconn run ") == options - {"--version", "--json"}


def test_after_a_command_only_what_it_heeds() -> None:
    assert offered("tcpnewconn check-config ") == {"--config", "--help"}
    assert offered("tcpnewconn status ") == {"--metrics", "--json", "--help"}
    assert offered("tcpnewconn metrics-http ") == {"--metrics", "--help"}


def test_a_beginning_narrows_it() -> None:
    assert offered("tcpnewconn --o") == {"--once", "--output"}
    assert offered("tcpnewconn chec") == {"check-config"}


@pytest.mark.parametrize("joint", [" ", "="])
def test_every_kind_of_output_is_offered(joint: str) -> None:
    assert offered(f"tcpnewconn --output{joint}") == choices(r"--output \{([a-z,]+)\}")
    assert offered(f"tcpnewconn --output{joint}j") == {"journal", "json"}


def test_files_and_directories_are_offered(tmp_path: Path) -> None:
    (tmp_path / "some.conf").touch()
    (tmp_path / "some.d").mkdir()
    assert offered("tcpnewconn --config som", tmp_path) == {"some.conf", "some.d"}
    assert offered("tcpnewconn run --state som", tmp_path) == {"some.conf", "some.d"}
    assert offered("tcpnewconn --procfs som", tmp_path) == {"some.d"}
