"""Booted systems that several files share.

A file that shares one finds the package installed, with its defaults and running, whatever the files before it did; and
nothing in the journal of before. `whole_life` is one system from its first boot to the purge of the package.
"""

from collections.abc import Iterator

import pytest

from tests.support import built
from tests.support.booted import Booted, booted
from tests.support.booted_package import add_repository, files, installed, on_each_distribution


def system(distribution: str) -> Iterator[Booted]:
    """Booted, with the package in a repository."""
    with booted(distribution) as container:
        add_repository(container, built.deb())
        yield container


@pytest.fixture(scope="session", params=on_each_distribution("whole-life"))
def first_boot(request: pytest.FixtureRequest) -> Iterator[tuple[Booted, dict[str, str]]]:
    for container in system(request.param):
        yield container, files(container)


@pytest.fixture(scope="session")
def whole_life(first_boot: tuple[Booted, dict[str, str]]) -> Booted:
    """Shared by test_booted_install, _configuration, _sandbox, _autopkgtest and _purge."""
    return first_boot[0]


@pytest.fixture(scope="session")
def before(first_boot: tuple[Booted, dict[str, str]]) -> dict[str, str]:
    """The files of that system before it ever had the package."""
    return first_boot[1]


@pytest.fixture(scope="session", params=on_each_distribution("long-life"))
def long_life(request: pytest.FixtureRequest) -> Iterator[Booted]:
    """Shared by test_booted_state, _journald and _ledger."""
    yield from system(request.param)


@pytest.fixture(scope="module")
def package(whole_life: Booted) -> Booted:
    """The package in a system that is shared, as if it had just been installed."""
    return installed(whole_life)
