"""Debian's own tests of the installed package (debian/tests), run as ci.debian.net would: as root, in a container."""

import shutil
from collections.abc import Iterator

import pytest

from tests.support import built
from tests.support.booted import Booted
from tests.support.booted_package import booted_with_package, on_each_distribution

TESTS = built.TREE / "debian" / "tests"


def names() -> list[str]:
    lines = (TESTS / "control").read_text().splitlines()
    return [name for line in lines if line.startswith("Tests:") for name in line.removeprefix("Tests:").split()]


@pytest.fixture(scope="module", params=on_each_distribution("autopkgtest"))
def container(request: pytest.FixtureRequest) -> Iterator[Booted]:
    with booted_with_package(request.param) as container:
        shutil.copytree(TESTS, container.path("/opt/source/debian/tests"))
        container.run("mkdir", "/opt/scratch")
        yield container


@pytest.mark.parametrize("name", names())
def test_the_installed_package(container: Booted, name: str) -> None:
    run = f"cd /opt/source && AUTOPKGTEST_TMP=/opt/scratch debian/tests/{name}"
    container.run("sh", "-c", run, within=300)
