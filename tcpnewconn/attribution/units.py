"""The systemd unit of a cgroup id."""

import os
import re
import sys
import time
from collections.abc import Callable

# The walks through the tree may take this share of the time. One walk took 1.7 ms for 500 cgroups (Linux 6.18).
_SHARE_OF_TIME = 0.02

# A 64-bit cgroup id is the inode number of its directory; where inode numbers have 32 bits, it is their lower half.
_INODE = 0xFFFFFFFFFFFFFFFF if sys.maxsize > 0xFFFFFFFF else 0xFFFFFFFF

# 1 is the root, and what the kernel answers where it does not know; 0 is no cgroup.
_UNKNOWN = (0, 1)

# systemd.unit(5): a plain name or an instance, never a bare template.
_UNIT = re.compile(
    r"[A-Za-z0-9:_.\\-]+(?:@[A-Za-z0-9:_.\\@-]+)?"
    r"\.(?:service|socket|target|device|mount|automount|swap|timer|path|slice|scope)"
)
_SLICE = re.compile(r"[A-Za-z0-9:_.\\-]+\.slice")


def _unit_below_slices(component: str) -> tuple[str | None, bool]:
    """The unit that a component of a cgroup's path names below nothing but slices, and whether it is one more slice.

    As sd_pid_get_unit(3) decides: slices are skipped, then the first component is a unit or there is none. systemd
    puts a "_" before what would clash with the kernel's own files.
    """
    name = component[1:] if component.startswith("_") else component
    if _SLICE.fullmatch(name):
        return None, True
    if _UNIT.fullmatch(name) and not name.endswith(".slice"):
        return name, False
    return None, False


class Units:
    """The system units that cgroups belong to.

    The kernel gives only a cgroup's id, so the tree is walked when an id is met that no walk has seen. Ids are never
    used again before the next boot: what was learnt stays true when the cgroup is gone.
    """

    def __init__(
        self, root: str = "/sys/fs/cgroup", clock: Callable[[], float] = time.monotonic, most: int = 16384
    ) -> None:
        """No more than `most` cgroups are remembered."""
        self._root = root
        self._clock = clock
        self._most = most
        self._units: dict[int, str | None] = {}
        self._next_walk = float("-inf")

    def unit(self, cgroup_id: int) -> str | None:
        """The unit of the cgroup with this id; None where it belongs to none, or cannot be found out now.

        nginx.service for /system.slice/nginx.service/sub; user@1000.service for what that user's own units run;
        docker-….scope and machine-….scope for containers. Never guessed.
        """
        cgroup_id &= _INODE
        try:
            return self._units[cgroup_id]
        except KeyError:
            pass
        if cgroup_id in _UNKNOWN:
            return None
        begin = self._clock()
        if begin < self._next_walk:
            return None
        self._walk()
        end = self._clock()
        self._next_walk = end + (end - begin) / _SHARE_OF_TIME
        # It was there when its socket was made: if no walk finds it now, none ever will.
        unit = self._units.setdefault(cgroup_id, None)
        while len(self._units) > self._most:
            del self._units[next(iter(self._units))]
        return unit

    def _tree(self) -> str | None:
        """Where the cgroups of version 2 are, in hybrid mode below "unified"; inodes of version 1 mean nothing."""
        for tree in (self._root, os.path.join(self._root, "unified")):
            if os.path.exists(os.path.join(tree, "cgroup.controllers")):
                return tree
        return None

    def _walk(self) -> None:
        tree = self._tree()
        # Directory, unit it belongs to, whether only slices are above it.
        rest: list[tuple[str, str | None, bool]] = [(tree, None, True)] if tree else []
        while rest:
            directory, unit, below_slices = rest.pop()
            try:
                # Two links: no directory is in it, and its files need not be listed (about 40 for each cgroup).
                if os.stat(directory).st_nlink == 2:
                    continue
                with os.scandir(directory) as entries:
                    children = [
                        (entry.path, entry.name, entry.inode())
                        for entry in entries
                        if entry.is_dir(follow_symlinks=False)
                    ]
            except OSError:
                continue  # removed meanwhile, or not readable: what is below stays unknown
            for path, name, inode in children:
                child, child_below = _unit_below_slices(name) if below_slices else (unit, False)
                # Taken out first, so that the oldest of those that are gone stand at the front.
                self._units.pop(inode, None)
                self._units[inode] = child
                rest.append((path, child, child_below))
