"""Completion in bash, zsh and fish, each asked itself: it offers what the parser of the command line takes, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tcpnewconn import arguments
from tests.support.shells import SCRIPTS, SHELLS, TREE, offered

EACH_SHELL = pytest.mark.parametrize(
    "shell", [shell if shell == "bash" else pytest.param(shell, marks=pytest.mark.apt) for shell in SHELLS]
)


def options(command: str) -> dict[str, str]:
    """The options of a command, each with its help."""
    return {
        option: action.help or ""
        for action in arguments.parser(command)._actions
        for option in action.option_strings
        if option.startswith("--")
    }


def choices(option: str) -> set[str]:
    (found,) = [action.choices for action in arguments.parser()._actions if option in action.option_strings]
    assert found is not None
    return set(found)


def in_words(text: str) -> str:
    """A sentence as a shell shows it."""
    return text[0].lower() + text[1:].removesuffix(".")


def same(shell: str, found: dict[str, str], expected: dict[str, str]) -> None:
    """bash shows no descriptions; zsh and fish show those of --help."""
    if shell == "bash":
        assert found.keys() == expected.keys()
    else:
        assert found == expected


def test_bash_uses_it_for_this_command() -> None:
    script = f"source {SCRIPTS / 'tcpnewconn'}; complete -p tcpnewconn"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("complete -F _tcpnewconn tcpnewconn\n", "")


@EACH_SHELL
def test_every_command_is_offered_first_and_only_there(shell: str) -> None:
    commands = {name: in_words(text) for name, text in arguments.COMMANDS.items()}
    found = offered(shell, "tcpnewconn ")
    same(shell, {word: text for word, text in found.items() if not word.startswith("-")}, commands)
    assert offered(shell, "tcpnewconn chec").keys() == {"check-config"}
    for line in ("tcpnewconn run ", "tcpnewconn --once ", "tcpnewconn status "):
        assert arguments.COMMANDS.keys().isdisjoint(offered(shell, line)), line


@EACH_SHELL
def test_without_a_command_the_options_of_run_are_offered(shell: str) -> None:
    same(shell, offered(shell, "tcpnewconn --"), options(""))
    further = offered(shell, "tcpnewconn --ignore ::1 --")
    # zsh does not offer an option again that may stand once; this one may be repeated.
    same(shell, further, options("run"))


@EACH_SHELL
@pytest.mark.parametrize("command", arguments.COMMANDS)
def test_the_options_of_each_command_are_offered_and_no_others(shell: str, command: str) -> None:
    same(shell, offered(shell, f"tcpnewconn {command} --"), options(command))


@EACH_SHELL
def test_a_beginning_narrows_it(shell: str) -> None:
    found = offered(shell, "tcpnewconn --o").keys()
    assert {word for word in found if word.startswith("--o")} == {"--once", "--output"}
    # fish also finds an option by a part of its name.
    assert all("o" in word if shell == "fish" else word.startswith("--o") for word in found)
    assert offered(shell, "tcpnewconn status --j").keys() == {"--json"}


@EACH_SHELL
@pytest.mark.parametrize("joint", [" ", "="])
def test_every_kind_of_output_is_offered(shell: str, joint: str) -> None:
    assert offered(shell, f"tcpnewconn run --output{joint}").keys() == choices("--output")
    assert offered(shell, f"tcpnewconn --output{joint}j").keys() == {"journal", "json"}


@EACH_SHELL
def test_time_spans_are_offered_and_rules_are_not(shell: str) -> None:
    spans = offered(shell, "tcpnewconn --interval ")
    assert len(spans) >= 3
    for span in spans:
        arguments.parser().parse_args(["--interval", span])
    assert not offered(shell, "tcpnewconn --ignore ")


@EACH_SHELL
def test_files_and_directories_are_offered(shell: str, tmp_path: Path) -> None:
    (tmp_path / "some.conf").touch()
    (tmp_path / "some.d").mkdir()
    for before in ("--config", "run --state", "status --metrics", "check-config --config", "metrics-http --metrics"):
        found = offered(shell, f"tcpnewconn {before} som", tmp_path)
        assert found.keys() == {"some.conf", "some.d"}, before
    assert offered(shell, "tcpnewconn --procfs som", tmp_path).keys() == {"some.d"}


def test_each_shell_has_its_script_and_the_package_puts_it_where_the_shell_looks() -> None:
    installed = (TREE / "debian" / "tcpnewconn.install").read_text()
    for line in (
        "completion/tcpnewconn usr/share/bash-completion/completions",
        "completion/_tcpnewconn usr/share/zsh/vendor-completions",
        "completion/tcpnewconn.fish usr/share/fish/vendor_completions.d",
    ):
        assert line in installed.splitlines()
    assert {path.name for path in SCRIPTS.iterdir()} == {"tcpnewconn", "_tcpnewconn", "tcpnewconn.fish"}
