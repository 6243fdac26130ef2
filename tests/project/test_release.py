"""make release, for real, in a clone of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tcpnewconn
from tests.support import built
from tests.support.debfile import run

pytestmark = pytest.mark.apt

VERSION = tcpnewconn.__version__
# In a release that is under way, what is tested is its package; the release made here has its own.
SURROUNDINGS = {name: value for name, value in os.environ.items() if name != "TCPNEWCONN_PACKAGE"}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The tree as it is now, committed, without any tag."""
    directory = built.copy_of_tree(tmp_path / "clone")
    git(directory, "init", "--quiet")
    git(directory, "config", "user.name", "A Maintainer")
    git(directory, "config", "user.email", "maintainer@example.org")
    commit(directory)
    return directory


def git(directory: Path, *arguments: str) -> str:
    return run("git", *arguments, cwd=directory)


def commit(directory: Path) -> None:
    git(directory, "add", "--all")
    git(directory, "commit", "--quiet", "--message", "A change")


def release(directory: Path, version: str, test_command: str = "false") -> tuple[int, str]:
    """Exit status and output of make release."""
    done = subprocess.run(
        ["make", "--no-print-directory", "release", f"VERSION={version}"],
        cwd=directory,
        env=SURROUNDINGS | {"TEST_COMMAND": test_command},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def test_a_release_is_built_checked_tested_and_tagged(clone: Path) -> None:
    test = f"{sys.executable} -m pytest -q tests/project/test_package.py -k version_stands"
    status, output = release(clone, VERSION, test)
    assert status == 0, output
    assert re.search(r"(?m)^1 passed", output)

    results = clone / "dist" / f"tcpnewconn-{VERSION}"
    expected = {
        f"tcpnewconn-{VERSION}.tar.gz",
        f"tcpnewconn-{VERSION}-py3-none-any.whl",
        f"tcpnewconn_{VERSION}-1.dsc",
        f"tcpnewconn_{VERSION}-1.debian.tar.xz",
        f"tcpnewconn_{VERSION}-1_all.deb",
        f"tcpnewconn_{VERSION}.orig.tar.gz",
        "SHA256SUMS",
    }
    others = {path.name for path in results.iterdir()} - expected
    assert {re.sub(r"_\w+\.", ".", name.removeprefix(f"tcpnewconn_{VERSION}-1")) for name in others} == {
        ".changes",
        ".buildinfo",
    }
    assert expected <= {path.name for path in results.iterdir()}
    run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=results)
    assert len((results / "SHA256SUMS").read_text().splitlines()) == len(expected) - 1 + len(others)
    # The same bytes as in any other build of these sources.
    assert built.deb_in(results).read_bytes() == built.deb().read_bytes()

    assert git(clone, "describe", "--exact-match").strip() == f"v{VERSION}"
    message = git(clone, "for-each-ref", "--format=%(contents)", f"refs/tags/v{VERSION}").strip()
    assert message
    assert f"## {VERSION}\n\n{message}\n" in (clone / "CHANGELOG.md").read_text()
    assert git(clone, "status", "--porcelain") == ""

    status, output = release(clone, VERSION)
    assert status != 0
    assert f"the tag v{VERSION} exists" in output


def test_a_release_that_fails_its_tests_is_not_tagged(clone: Path) -> None:
    status, output = release(clone, VERSION, "ls $TCPNEWCONN_PACKAGE/no-such-file")
    assert status != 0
    assert re.search(rf"dist/tcpnewconn-{VERSION}/no-such-file.*No such file", output), output
    assert git(clone, "tag") == ""


def test_a_missing_step_is_named_in_one_line(clone: Path) -> None:
    def refused(version: str = "9.8.7") -> str:
        status, output = release(clone, version)
        assert status != 0
        (line,) = re.findall(r"(?m)^make release: (.*)", output)
        assert git(clone, "tag") == ""
        return str(line)

    assert "say for example: make release version=" in refused("").lower()
    assert "say for example: make release version=" in refused("1.0rc1").lower()

    (clone / "new").touch()
    assert refused().startswith("the tree has changes")
    (clone / "new").unlink()

    assert refused().startswith(f"tcpnewconn/__init__.py says {VERSION}")
    module = clone / "tcpnewconn" / "__init__.py"
    module.write_text(module.read_text().replace(VERSION, "9.8.7"))
    commit(clone)

    assert refused().startswith(f"CHANGELOG.md begins with {VERSION}")
    changes = clone / "CHANGELOG.md"
    changes.write_text(changes.read_text().replace(f"## {VERSION}", f"## 9.8.7\n\nNew.\n\n## {VERSION}", 1))
    commit(clone)

    refusal = refused()
    assert refusal.startswith(f"debian/changelog begins with {VERSION}-1")
    # The remedy that it names helps.
    advice = re.search(r"(dch --newversion \S+) --distribution unstable", refusal)
    assert advice is not None
    dch = [*advice[1].split(), "--distribution", "UNRELEASED", "New version."]
    subprocess.run(dch, cwd=clone, env=SURROUNDINGS | {"DEBEMAIL": "maintainer@example.org"}, check=True)
    commit(clone)

    assert refused() == f"ansible/galaxy.yml says {VERSION}; set version: 9.8.7 there"
    collection = clone / "ansible" / "galaxy.yml"
    collection.write_text(collection.read_text().replace(f"version: {VERSION}", "version: 9.8.7"))
    commit(clone)

    assert refused().startswith(f"ansible/CHANGELOG.rst begins with {VERSION}")
    its_changes = clone / "ansible" / "CHANGELOG.rst"
    its_changes.write_text(its_changes.read_text().replace(f"v{VERSION}\n", f"v9.8.7\n======\n\nv{VERSION}\n", 1))
    commit(clone)

    assert refused().startswith("debian/changelog says UNRELEASED")
