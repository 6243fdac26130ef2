"""`make check` and `make test`: every test is in one stage, and those of `unit/` need neither root nor Debian's packages."""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from _pytest.mark.expression import Expression

from tests import __main__ as runner
from tests.__main__ import STAGES
from tests.conftest import ORDER
from tests.support import built

TESTS = built.TREE / "tests"
NEED_ROOT = ("kernel", "booted", "machine", "fleet")
DIRECTORIES = sorted({path.parent.name for path in TESTS.glob("*/test_*.py")})
# In a checkout these are there.
IN_EVERY_CHECKOUT = {"git", "python3-venv"}
# Where Debian's packages of Python modules are.
MODULES = "/usr/lib/python3/dist-packages"


def stages(directory: str, *markers: str) -> list[str]:
    """Those that take a test of this directory with these markers."""
    return [
        stage.name
        for stage in STAGES
        if directory in stage.directories
        and (not stage.markers or Expression.compile(stage.markers).evaluate(markers.__contains__))  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_every_test_is_in_exactly_one_stage(directory: str) -> None:
    assert len(stages(directory)) == 1
    if directory == "model":
        assert len(stages(directory, "random")) == 1
    if directory == "project":
        assert len(stages(directory, "apt")) == 1


def test_the_first_stage_takes_what_needs_nothing() -> None:
    first = STAGES[0].name
    assert stages("unit") == stages("model") == stages("project") == [first]
    for directory, *markers in (("model", "random"), ("project", "apt"), *((one,) for one in NEED_ROOT)):
        assert first not in stages(directory, *markers)


@pytest.mark.parametrize(
    ("free", "flags", "usable"), [(2 << 30, 0, True), (64 << 20, 0, False), (2 << 30, os.ST_NOEXEC, False)]
)
def test_files_are_in_memory_where_there_is_enough_and_they_can_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, flags: int, usable: bool
) -> None:
    assert not runner.is_usable(str(tmp_path / "missing"))
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free >> 12, f_frsize=1 << 12, f_flag=flags))
    assert runner.is_usable(str(tmp_path)) == usable


@pytest.fixture
def three_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree with tests of its own, of which those of the second stage fail."""
    for name, body in (("good", "pass"), ("bad", "raise OSError('no')"), ("later", "pass")):
        (tmp_path / "tests" / name).mkdir(parents=True)
        test = "".join(f"def test_{what}(): {body}\n" for what in ("it", "that"))
        (tmp_path / "tests" / name / f"test_{name}.py").write_text(test)
    monkeypatch.setattr(runner, "TREE", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(
        runner, "STAGES", tuple(runner.Stage(name, (name,), workers=0) for name in ("good", "bad", "later"))
    )


@pytest.mark.usefixtures("three_stages")
@pytest.mark.parametrize(
    ("arguments", "ran", "status"),
    [
        ([], ["good", "bad"], 1),
        (["--keep-going"], ["good", "bad", "later"], 1),
        (["good", "later"], ["good", "later"], 0),
    ],
)
def test_it_ends_at_the_first_stage_that_fails(
    arguments: list[str], ran: list[str], status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert runner.main(arguments) == status
    printed = capfd.readouterr().out
    assert re.findall(r"(?m)^=== (good|bad|later)$", printed) == ran
    # The last line of pytest for each stage, which CI looks for; how long each took; and the slowest.
    assert len(re.findall(r"(?m)^2 (?:passed|failed) in ", printed)) == len(ran)
    assert re.findall(r"(?m)^(good|bad|later) +\d+ min +\d+ s +2 tests  (?:ok|failed)$", printed) == ran
    assert len(re.findall(r"(?m)^ +\d+\.\d s  tests\.\w+\.test_\w+::test_it$", printed)) == len(ran)
    # At the very end, because a log may be shown from there: which tests failed, and why.
    end = "=== what failed\ntests.bad.test_bad::test_it and 1 more\n    OSError: no\n"
    assert printed.endswith(end) if status else "what failed" not in printed
    # Whatever the environment says: without them it takes a third longer.
    assert all(list(Path("tests", name, "__pycache__").glob("*.pyc")) for name in ran)


def test_an_unknown_stage_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        runner.main(["units"])
    assert ended.value.code == 2
    assert "no such stage: units; there are check, " in capfd.readouterr().err


def test_the_files_that_have_an_order_are_there() -> None:
    assert all((TESTS / f"{name}.py").exists() for name in ORDER)


def installed_for_the_tests() -> list[str]:
    """The files of the packages that the tests install, and that not every system has."""
    wanted = set((TESTS / "packages.txt").read_text().split()) - IN_EVERY_CHECKOUT
    shown = ["dpkg-query", "--show", "--showformat=${Package} ${Priority}\\n", *sorted(wanted)]
    listed = subprocess.run(shown, capture_output=True, text=True, check=True).stdout.splitlines()
    ours = [name for name, priority in map(str.split, listed) if priority != "required"]
    return subprocess.run(
        ["dpkg", "--listfiles", *ours], capture_output=True, text=True, check=True
    ).stdout.splitlines()


def link_commands(directory: Path, hidden: set[str]) -> None:
    """Links to every command that this machine has, but for these."""
    directory.mkdir()
    for place in ("/usr/bin", "/usr/sbin"):
        for command in set(os.listdir(place)) - hidden:
            if not (directory / command).is_symlink():
                (directory / command).symlink_to(f"{place}/{command}")


@pytest.fixture
def place() -> Iterator[Path]:
    """One that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="tcpnewconn-nobody-") as place:
        os.chmod(place, 0o755)
        yield Path(place)


@pytest.mark.apt
def test_the_unit_tests_need_no_root_and_no_package_of_debian(place: Path) -> None:
    """As nobody, in a copy of the tree, with the commands and Python modules of tests/packages.txt out of sight."""
    tree, commands, nothing = built.copy_of_tree(place / "tree"), place / "commands", place / "nothing"
    files = installed_for_the_tests()
    link_commands(commands, {os.path.basename(file) for file in files if re.match(r"(/usr)?/s?bin/", file)})
    modules = {file for file in files if os.path.dirname(file) == MODULES and os.path.isdir(file)}
    assert f"{MODULES}/systemd" in modules
    # Every Python imports it at its start.
    modules -= {f"{MODULES}/_distutils_hack"}
    nothing.mkdir()
    (tree / ".venv").mkdir()
    subprocess.run(["chmod", "--recursive", "a+rX", place], check=True)
    subprocess.run(["chown", "--recursive", "nobody", tree], check=True)
    mounts = [(sys.prefix, tree / ".venv"), *((nothing, module) for module in sorted(modules))]
    script = [
        *(f"mount --bind {shlex.quote(str(what))} {shlex.quote(str(over))}" for what, over in mounts),
        'exec "$@"',
    ]
    nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--bounding-set=-all"]
    environment = ["env", "--ignore-environment", f"HOME={tree}", f"PATH={commands}", "LANG=C.UTF-8"]
    done = subprocess.run(
        [
            *("unshare", "--mount", "--propagation=private", "sh", "-euc", "\n".join(script), "sh"),
            *(*nobody, *environment, ".venv/bin/python", "-m", "pytest", "-q", "--numprocesses=2", "tests/unit"),
        ],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"(?m)^\d{3,} passed", done.stdout), done.stdout
