"""The package in a booted container: a local apt repository that holds it, and its installation."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from tests.support import built, root_image
from tests.support.booted import Booted, booted

REPOSITORY = "/srv/repository"
UNFOLDED = built.TREE / "tests" / "fixtures" / "unfolded.conf"
HIGHER_VERSION = "0.99.0"


def on_each_distribution(module: str) -> list[ParameterSet]:
    """For a module's fixture that boots: its tests on one distribution share a worker and a boot, in their order."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(f"{module}-{name}")) for name in root_image.DISTRIBUTIONS]


def make_repository(folder: Path, *debs: Path) -> None:
    """A folder that apt can install from; one that has packages already keeps them."""
    folder.mkdir(parents=True, exist_ok=True)
    for deb in debs:
        shutil.copy(deb, folder)
    scan = ["dpkg-scanpackages", "--multiversion", "."]
    packages = subprocess.run(scan, cwd=folder, capture_output=True, text=True, check=True)
    (folder / "Packages").write_text(packages.stdout)


def add_repository(container: Booted, *debs: Path) -> None:
    make_repository(container.path(REPOSITORY), *debs)
    container.write("/etc/apt/sources.list.d/local.list", f"deb [trusted=yes] file:{REPOSITORY} ./\n")
    container.run("apt-get", "update", "--quiet=2")


def install(container: Booted, *what: str) -> str:
    """What apt says. Returns when the service has said READY=1."""
    log = container.run("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *(what or ("tcpnewconn",)))
    settled = container.wait_for(
        lambda: (state := container.property("tcpnewconn.service", "ActiveState")) in ("active", "failed") and state,
        "tcpnewconn.service to run after its installation",
    )
    if settled == "failed":
        raise AssertionError(f"tcpnewconn.service failed\n{container.report()}")
    return log


def is_active(container: Booted) -> bool:
    return container.property("tcpnewconn.service", "ActiveState") == "active"


def main_pid(container: Booted) -> int:
    return int(container.property("tcpnewconn.service", "MainPID"))


def assert_same_process(container: Booted, pid: int) -> None:
    """Neither the watchdog nor a fault of its own ended the service."""
    now = main_pid(container)
    if now != pid:
        lines = container.run("journalctl", "--quiet", "--unit=tcpnewconn", "--priority=5").splitlines()
        told = "\n".join([line for line in lines if "New listener" not in line][-40:])
        by_systemd = container.run("journalctl", "--quiet", "_PID=1", "UNIT=tcpnewconn.service", "--lines=40")
        raise AssertionError(f"the service's process was {pid} and is {now}\n{told}\n{by_systemd}")


def drop_in(container: Booted, unit: str, text: str, *, name: str = "test") -> None:
    container.write(f"/etc/systemd/system/{unit}.d/{name}.conf", text)
    container.run("systemctl", "daemon-reload")


@contextmanager
def booted_with_package(distribution: str, *, folded: bool = True) -> Iterator[Booted]:
    """Not `folded`: bursts are told one by one, so that the test can find each connection."""
    with booted(distribution) as container:
        if not folded:
            container.write("/etc/tcpnewconn.conf.d/unfolded.conf", UNFOLDED.read_text())
        add_repository(container, built.deb())
        install(container)
        yield container
