"""Units of sockets, from trees of directories that look like cgroups."""

from pathlib import Path

import pytest

from tcpnewconn.attribution.units import Units
from tests.support.cgroups import PATHS, inode, tree
from tests.support.clock import Clock


@pytest.mark.parametrize(("path", "unit"), PATHS)
def test_the_unit_is_the_first_component_below_the_slices(tmp_path: Path, path: str, unit: str | None) -> None:
    directory = tree(tmp_path) / path
    directory.mkdir(parents=True)
    assert Units(str(tmp_path)).unit(inode(directory)) == unit


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
