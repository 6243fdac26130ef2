"""Units of sockets, from the real tree of cgroups."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpnewconn.attribution.units import Units
from tests.support.cgroups import PATHS, inode
from tests.support.clock import Clock

CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def cgroups() -> Iterator[Path]:
    """A place of the test's own in the real tree of version 2, taken away afterwards."""
    [root] = [root for root in (CGROUPS, CGROUPS / "unified") if (root / "cgroup.controllers").exists()]
    place = root / f"tcpnewconn_test_{os.getpid()}.slice"
    place.mkdir()
    yield place
    for directory, _, _ in os.walk(place, topdown=False):
        os.rmdir(directory)


@pytest.fixture
def sleeper(cgroups: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "infinity"]) as sleeper:
        yield sleeper
        sleeper.kill()


def unit_by_systemd(pid: int) -> str | None:
    """The answer of sd_pid_get_unit(3)."""
    libsystemd = ctypes.CDLL("libsystemd.so.0")
    unit = ctypes.c_char_p()
    if libsystemd.sd_pid_get_unit(pid, ctypes.byref(unit)) < 0:
        return None
    assert unit.value is not None
    return os.fsdecode(unit.value)


def test_real_cgroups_have_the_units_that_systemd_says(cgroups: Path, sleeper: subprocess.Popen[bytes]) -> None:
    units = Units(clock=Clock())
    answers = {}
    for path, _ in PATHS:
        directory = cgroups / path
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").write_text(str(sleeper.pid))
        answers[path] = (units.unit(inode(directory)), unit_by_systemd(sleeper.pid))
    assert {path: ours for path, (ours, _) in answers.items()} == {path: its for path, (_, its) in answers.items()}
    # The same as below the root, because the place of the test is a slice.
    assert {path: ours for path, (ours, _) in answers.items()} == dict(PATHS)


def test_a_unit_is_remembered_when_its_cgroup_is_gone(cgroups: Path) -> None:
    units = Units(clock=Clock())
    directory = cgroups / "gone.service"
    directory.mkdir()
    cgroup_id = inode(directory)
    assert units.unit(cgroup_id) == "gone.service"
    directory.rmdir()
    (cgroups / "next.service").mkdir()
    assert units.unit(inode(cgroups / "next.service")) == "next.service"
    assert units.unit(cgroup_id) == "gone.service"
