"""Whose socket: units from real cgroups and trees of directories, names from the system's users."""

import ctypes
import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpnewconn.attribution.owner import Units, Users

CGROUPS = Path("/sys/fs/cgroup")

# Path below the root of the cgroups, and the unit that it belongs to.
PATHS = [
    ("system.slice/foo.service", "foo.service"),
    ("system.slice/foo.service/sub/deeper", "foo.service"),
    ("system.slice/foo.service/other.service", "foo.service"),
    ("system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
    ("system.slice/system-getty.slice", None),
    ("system.slice/docker-0123456789ab.scope", "docker-0123456789ab.scope"),
    ("user.slice/user-1000.slice/user@1000.service/app.slice/x.service", "user@1000.service"),
    ("user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
    ("machine.slice/machine-web.scope/payload/system.slice/nginx.service", "machine-web.scope"),
    (r"machine.slice/systemd-nspawn@a\x2db.service/payload", r"systemd-nspawn@a\x2db.service"),
    ("init.scope", "init.scope"),
    ("system.slice/run-user-1000.mount", "run-user-1000.mount"),
    ("system.slice/dev-sda2.swap", "dev-sda2.swap"),
    ("system.slice/foo.socket", "foo.socket"),
    ("system.slice/_cpu.service", "cpu.service"),
    ("system.slice/__odd.service", "_odd.service"),
    ("_tcpnewconn.slice/foo.service", "foo.service"),
    ("system.slice/foo@.service", None),
    ("system.slice/@foo.service", None),
    ("system.slice/foo.bar", None),
    ("system.slice/.service", None),
    ("system.slice/sub/foo.service", None),
    ("foo@1.slice/foo.service", None),
    (".slice/foo.service", None),
    ("docker/0123456789ab", None),
    ("system.slice/caf\udce9.service", None),
    ("system.slice/" + "a" * 247 + ".service", "a" * 247 + ".service"),
]


def inode(path: Path) -> int:
    return os.stat(path).st_ino


def tree(root: Path) -> Path:
    """A directory that looks like the root of the cgroups of version 2."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "cgroup.controllers").touch()
    return root


class Clock:
    """A clock that a test turns on; each look at it takes `step` seconds."""

    def __init__(self, step: float = 0.0) -> None:
        self.now = 1000.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.mark.parametrize(("path", "unit"), PATHS)
def test_the_unit_is_the_first_component_below_the_slices(tmp_path: Path, path: str, unit: str | None) -> None:
    directory = tree(tmp_path) / path
    directory.mkdir(parents=True)
    assert Units(str(tmp_path)).unit(inode(directory)) == unit


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
    """What sd_pid_get_unit(3) says."""
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


def test_in_hybrid_mode_only_the_tree_of_version_2_counts(tmp_path: Path) -> None:
    (tmp_path / "old.service").mkdir()
    (tree(tmp_path / "unified") / "new.service").mkdir()
    units = Units(str(tmp_path), Clock())
    assert units.unit(inode(tmp_path / "unified" / "new.service")) == "new.service"
    assert units.unit(inode(tmp_path / "old.service")) is None


def test_without_a_tree_of_version_2_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "old.service").mkdir()
    assert Units(str(tmp_path)).unit(inode(tmp_path / "old.service")) is None
    assert Units(str(tmp_path / "nothing")).unit(4711) is None


def test_ids_that_mean_unknown_are_never_looked_up(tmp_path: Path) -> None:
    clock = Clock()
    units = Units(str(tree(tmp_path)), clock)
    clock.step = 1.0
    for cgroup_id in (0, 1):
        assert units.unit(cgroup_id) is None
    assert clock.now == 1000.0


def test_walks_take_no_more_than_a_fiftieth_of_the_time(tmp_path: Path) -> None:
    clock = Clock(step=0.25)  # a walk seems to take as long
    units = Units(str(tree(tmp_path)), clock)
    (tmp_path / "a.service").mkdir()
    assert units.unit(inode(tmp_path / "a.service")) == "a.service"
    ended = clock.now
    (tmp_path / "b.service").mkdir()
    clock.step = 0.0
    for since in (0.0, 6.0, 12.0):
        clock.now = ended + since
        assert units.unit(inode(tmp_path / "b.service")) is None
    clock.now = ended + 12.5
    assert units.unit(inode(tmp_path / "b.service")) == "b.service"


def test_an_id_that_a_walk_did_not_find_causes_no_other_walk(tmp_path: Path) -> None:
    clock = Clock()
    units = Units(str(tree(tmp_path)), clock)
    (tmp_path / "a.service").mkdir()
    missing = inode(tmp_path / "a.service") + 10_000_000
    assert units.unit(missing) is None
    clock.step = 1.0
    for _ in range(3):
        assert units.unit(missing) is None
    assert clock.now == 1000.0, "it looked at the clock, so it was about to walk"
    assert units.unit(inode(tmp_path / "a.service")) == "a.service"


def test_of_too_many_cgroups_those_that_are_gone_longest_are_forgotten(tmp_path: Path) -> None:
    root = tree(tmp_path / "cgroup")
    kept = root / "kept.service"
    kept.mkdir()
    clock = Clock()
    units = Units(str(root), clock, most=23)
    ids = []
    for number in range(50):
        directory = root / f"{number}.service"
        directory.mkdir()
        ids.append(inode(directory))
        assert units.unit(ids[-1]) == directory.name
        # Moved, not removed: the inode numbers of other directories are used again.
        directory.rename(tmp_path / f"{number}.service")
        clock.now, clock.step = 1000.0, 1.0
        assert units.unit(inode(kept)) == "kept.service"
        assert clock.now == 1000.0, "it looked at the clock, so it had forgotten one that exists"
        clock.step = 0.0
    remembered = [units.unit(cgroup_id) for cgroup_id in ids[28:]]
    assert remembered == [f"{number}.service" for number in range(28, 50)]
    assert units.unit(ids[0]) is None


def test_users_have_the_names_that_the_system_gives_them() -> None:
    users = Users()
    for entry in pwd.getpwall():
        assert users.name(entry.pw_uid) == pwd.getpwuid(entry.pw_uid).pw_name
    assert users.name(0) == "root"


@pytest.mark.parametrize("uid", [4242424242, -1, 2**32 - 1, 2**32, 2**64])
def test_a_user_without_a_name_has_none(uid: int) -> None:
    assert Users().name(uid) is None


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The user ids that the system was asked for."""
    uids: list[int] = []
    genuine = pwd.getpwuid

    def noting(uid: int) -> pwd.struct_passwd:
        uids.append(uid)
        return genuine(uid)

    monkeypatch.setattr(pwd, "getpwuid", noting)
    return uids


def test_a_name_is_believed_for_a_minute(asked: list[int]) -> None:
    clock = Clock()
    users = Users(clock)
    for _ in range(2):
        assert users.name(0) == "root"
        assert users.name(4242424242) is None
    assert asked == [0, 4242424242]
    clock.now += 59
    users.name(0)
    assert asked == [0, 4242424242]
    clock.now += 1
    users.name(0)
    users.name(4242424242)
    assert asked == [0, 4242424242] * 2


def test_of_too_many_users_the_first_is_asked_for_again(asked: list[int]) -> None:
    users = Users(Clock(), most=3)
    for uid in (0, 5_000_001, 5_000_002, 0, 5_000_003, 5_000_002, 0):
        users.name(uid)
    assert asked == [0, 5_000_001, 5_000_002, 5_000_003, 0]
