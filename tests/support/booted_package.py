"""The package in a booted container: a local apt repository that holds it, and its installation."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from tests.support import built, exposition, root_image
from tests.support.booted import Booted, booted

REPOSITORY = "/srv/repository"
UNITS = ("tcpnewconn.service", "tcpnewconn.socket")
METRICS = "/run/tcpnewconn/tcpnewconn.prom"
EACH = f"""
[Poll]
Interval=2s
{(built.TREE / "tests" / "fixtures" / "every.conf").read_text()}
"""
HIGHER_VERSION = "0.99.0"


def on_each_distribution(module: str) -> list[ParameterSet]:
    """For a module's fixture that boots: its tests on one distribution share a worker and a boot, in their order."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(f"{module}-{name}")) for name in root_image.DISTRIBUTIONS]


# Files of apt, dpkg, systemd and the journal, which change with any package.
NOT_THE_PACKAGES = re.compile(
    r"/var/(log|cache|backups|tmp)/|/var/lib/(apt|dpkg|private$|systemd/(catalog/|timers/|random-seed))|/root/|/etc/ld.so.cache"
)


def files(container: Booted) -> dict[str, str]:
    """Type, mode, owner and link target of every file on the root file system, by path."""
    found = container.run("find", "/", "-xdev", "-printf", "%p\\t%y %m %U:%G %l\\n")
    listed = (line.split("\t", 1) for line in found.splitlines())
    return {path: what for path, what in listed if not NOT_THE_PACKAGES.match(path)}


def make_repository(directory: Path, *debs: Path) -> None:
    """A directory that apt can install from; one that has packages already keeps them."""
    directory.mkdir(parents=True, exist_ok=True)
    for deb in debs:
        shutil.copy(deb, directory)
    scan = ["dpkg-scanpackages", "--multiversion", "."]
    packages = subprocess.run(scan, cwd=directory, capture_output=True, text=True, check=True)
    (directory / "Packages").write_text(packages.stdout)


def add_repository(container: Booted, *debs: Path) -> None:
    make_repository(container.path(REPOSITORY), *debs)
    container.write("/etc/apt/sources.list.d/local.list", f"deb [trusted=yes] file:{REPOSITORY} ./\n")
    container.run("apt-get", "update", "--quiet=2")


def install(container: Booted, *what: str) -> str:
    """Installs; returns the output of apt when the service has sent READY=1."""
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


def metric(container: Booted, name: str) -> float:
    """As exposition.summed(), after the last poll."""
    return exposition.summed(container.run("cat", METRICS), name)


def assert_same_process(container: Booted, pid: int) -> None:
    """Asserts that neither the watchdog nor a crash ended the service."""
    now = main_pid(container)
    if now != pid:
        lines = container.journalctl("--unit=tcpnewconn", "--priority=5").splitlines()
        last = "\n".join([line for line in lines if "New listener" not in line][-40:])
        by_systemd = container.journalctl("_PID=1", "UNIT=tcpnewconn.service", "--lines=40")
        raise AssertionError(f"the service's process was {pid} and is {now}\n{last}\n{by_systemd}")


def drop_in(container: Booted, unit: str, text: str, *, name: str = "test") -> None:
    container.write(f"/etc/systemd/system/{unit}.d/{name}.conf", text)
    container.run("systemctl", "daemon-reload")


@contextmanager
def booted_with_package(distribution: str, *, each: bool = False) -> Iterator[Booted]:
    """With `each`, as installed() has it."""
    with booted(distribution) as container:
        add_repository(container, built.deb())
        yield installed(container, each=each)


def installed(container: Booted, *, each: bool = False) -> Booted:
    """The package as it is after its installation, in a system where a test may have changed it.

    With `each`, every connection has an entry of its own, so that a test can find it; and polls come quickly.
    """
    for unit in UNITS:
        if container.path(f"/etc/systemd/system/{unit}.d").exists():
            container.run("rm", "--recursive", f"/etc/systemd/system/{unit}.d")
    container.run("sh", "-c", "rm -f /etc/tcpnewconn.conf.d/*")
    if each:
        container.write("/etc/tcpnewconn.conf.d/each.conf", EACH)
    container.run("systemctl", "daemon-reload")
    container.run("systemctl", "reset-failed")
    if not container.path("/usr/bin/tcpnewconn").exists():
        install(container)
    # Stopped by name: it stops in a job of its own otherwise, for which nothing waits.
    container.run("systemctl", "stop", *UNITS)
    container.forget_journal()
    container.run("systemctl", "start", UNITS[0])
    return container
