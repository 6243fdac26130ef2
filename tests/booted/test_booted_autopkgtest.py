"""Debian's own tests of the installed package (debian/tests), run as ci.debian.net would: as root, in a container."""

import shutil
from collections.abc import Iterator

import pytest

from tests.support import built
from tests.support.booted import Booted

TESTS = built.TREE / "debian" / "tests"


def names() -> list[str]:
    lines = (TESTS / "control").read_text().splitlines()
    return [name for line in lines if line.startswith("Tests:") for name in line.removeprefix("Tests:").split()]


@pytest.fixture(scope="module")
def container(package: Booted) -> Iterator[Booted]:
    shutil.copytree(TESTS, package.path("/opt/source/debian/tests"))
    package.run("mkdir", "/opt/scratch")
    yield package
    package.run("rm", "--recursive", "/opt/source", "/opt/scratch")


@pytest.mark.parametrize("name", names())
def test_the_installed_package(container: Booted, name: str) -> None:
    run = f"cd /opt/source && AUTOPKGTEST_TMP=/opt/scratch debian/tests/{name}"
    container.run("sh", "-c", run, within=300)
