"""The systemd unit and the container of a cgroup id."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence

from tcpnewconn.attribution.cgroups import NOWHERE, Place, place

# The walks through the tree may take this share of the time. One walk took 1.7 ms for 500 cgroups (Linux 6.18).
_SHARE_OF_TIME = 0.02

# A 64-bit cgroup id is the inode number of its directory; where inode numbers have 32 bits, it is their lower half.
_INODE = 0xFFFFFFFFFFFFFFFF if sys.maxsize > 0xFFFFFFFF else 0xFFFFFFFF

# 1 is the root, and what the kernel answers where it does not know; 0 is no cgroup.
_UNKNOWN = (0, 1)


def tree(root: str) -> str | None:
    """Where the cgroups of version 2 are, in hybrid mode below "unified"; inodes of version 1 mean nothing."""
    for directory in (root, os.path.join(root, "unified")):
        if os.path.exists(os.path.join(directory, "cgroup.controllers")):
            return directory
    return None


class Units:
    """The places of cgroups.

    The kernel gives only a cgroup's id, so the tree is walked when an id is met that no walk has seen; of some the trace has
    recorded the names. Ids are never used again before the next boot: what was learnt stays true when the cgroup is gone.
    """

    def __init__(
        self, root: str = "/sys/fs/cgroup", clock: Callable[[], float] = time.monotonic, most: int = 16384
    ) -> None:
        """No more than `most` cgroups are remembered."""
        self._root = root
        self._clock = clock
        self._most = most
        # A path stands there until its place is asked for.
        self._places: dict[int, Place | str] = {}
        # The names of containers that their paths do not have, by their ids.
        self._names: dict[str, str] = {}
        self._next_walk = float("-inf")

    def unit(self, cgroup_id: int) -> str | None:
        """The unit of the cgroup with this id; None where it belongs to none, or cannot be found out now.

        nginx.service for /system.slice/nginx.service/sub; user@1000.service for what that user's own units run;
        docker-….scope and machine-….scope for containers. Never guessed.
        """
        return self.place(cgroup_id).unit

    def place(self, cgroup_id: int) -> Place:
        """Where the cgroup with this id belongs, as far as it can be found out now."""
        cgroup_id &= _INODE
        known = self._places.get(cgroup_id)
        if known is None:
            if cgroup_id in _UNKNOWN:
                return NOWHERE
            begin = self._clock()
            if begin < self._next_walk:
                return NOWHERE
            self._walk()
            end = self._clock()
            self._next_walk = end + (end - begin) / _SHARE_OF_TIME
            # It was there when its socket was made: if no walk finds it now, none ever will.
            known = self._places.setdefault(cgroup_id, NOWHERE)
            self._shorten()
        if isinstance(known, str):
            known = self._places[cgroup_id] = self._with_name(place(known.split("/")))
        return known

    def id(self, names: Sequence[str]) -> int:
        """The id of the cgroup with this path, the name below the root first; 0 where it is gone. Its place is known then."""
        top = tree(self._root)
        if top is None or not names:
            return 0
        try:
            cgroup_id = os.stat("/".join((top, *names))).st_ino
        except (OSError, ValueError):
            return 0
        self.learn(cgroup_id, (*reversed(names), ""))
        return cgroup_id

    def name_container(self, container_id: str, name: str) -> None:
        """The name of a container, whose path does not have it."""
        self._names.pop(container_id, None)
        self._names[container_id] = name
        if len(self._names) > self._most:
            del self._names[next(iter(self._names))]
        for cgroup_id, known in self._places.items():
            if isinstance(known, Place) and known.container is not None and known.container.id == container_id:
                self._places[cgroup_id] = self._with_name(known)

    def _with_name(self, known: Place) -> Place:
        container = known.container
        if container is None or container.id is None or container.id not in self._names:
            return known
        return known._replace(container=container._replace(name=self._names[container.id]))

    def learn(self, cgroup_id: int, names: Sequence[str]) -> None:
        """The names of a cgroup and its parents, innermost first: they count where they end with the root, which has none."""
        cgroup_id &= _INODE
        if len(names) < 2 or names[-1] or cgroup_id in _UNKNOWN:
            return
        known = self._places.get(cgroup_id)
        if known is None or known is NOWHERE:
            self._places[cgroup_id] = "/".join(names[-2::-1])
            self._shorten()

    def _shorten(self) -> None:
        while len(self._places) > self._most:
            del self._places[next(iter(self._places))]

    def _walk(self) -> None:
        top = tree(self._root)
        # Directory, and its path below the root.
        rest: list[tuple[str, str]] = [(top, "")] if top else []
        while rest:
            directory, above = rest.pop()
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
                below = f"{above}/{name}" if above else name
                # Taken out first, so that the oldest of those that are gone stand at the front.
                self._places.pop(inode, None)
                self._places[inode] = below
                rest.append((path, below))
