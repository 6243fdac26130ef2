"""User, cgroup and name of a thread that did something a moment ago, and since when it is surely that one: from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from tcpnewconn.attribution.processes import Processes, content, directory, stat
from tcpnewconn.attribution.units import tree
from tcpnewconn.kernel.namespaces import kernel_socket
from tcpnewconn.model import Thread

# /proc/PID/schedstat counts by another clock than the events have; adjusted, that one goes faster or slower by half a thousandth.
_AT_LEAST = 0.999
# Cgroups whose ids are remembered.
_MOST = 4096
# A user of another user namespace (/proc/sys/kernel/overflowuid).
_OVERFLOW = 65534


class Threads:
    """`users`: whether user ids in /proc are shown as they are; else only root and the user of this program are known."""

    def __init__(
        self,
        processes: Processes,
        users: bool,
        root: str = "/proc",
        cgroups: str = "/sys/fs/cgroup",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._processes = processes
        self._users = users
        self._root = root
        self._tree = tree(cgroups)
        self._clock = clock
        self._ids: dict[str, int] = {}
        self._here, self._netns = _table(f"{root}/self/net/tcp"), kernel_socket(f"{root}/self/net") or 0

    def look(self, thread_id: int) -> Thread | None:
        """The thread that has this id now; None where there is none, or /proc does not show it."""
        if not self._processes.visible:
            return None
        try:
            with directory(f"{self._root}/{thread_id}") as there:
                name, started = stat(there)
                ran, now = self._ran(there), self._clock()
                since = min(self._processes.since(started, now), now - ran)
                uid = _filesystem_uid(content(there, "status"))
                path = _cgroup(content(there, "cgroup"))
                netns = self._network_namespace(there)
        except (OSError, ValueError, IndexError):
            return None
        names = (*reversed(path.strip("/").split("/")), "") if path else ()
        return Thread(since, netns, uid if self._users or uid != _OVERFLOW else None, self._id(path), names, name)

    def _network_namespace(self, there: int) -> int:
        if os.stat("net/tcp", dir_fd=there).st_ino == self._here:
            # Of a namespace that lives, as this program's does, no other has the number.
            return self._netns
        return kernel_socket(f"/proc/self/fd/{there}/net") or 0

    @staticmethod
    def _ran(there: int) -> float:
        """For how many seconds it has run, and waited to run: its age at least. For those that start and connect at once."""
        try:
            run, waited, _ = content(there, "schedstat").split()
        except (OSError, ValueError):
            return 0.0
        return (int(run) + int(waited)) / 1e9 * _AT_LEAST

    def _id(self, path: str) -> int:
        """The id of a cgroup; 0 where it is not known. Of one that was made again the names are the same."""
        known = self._ids.get(path)
        if known is None:
            if self._tree is None or not path:
                return 0
            try:
                known = os.stat(f"{self._tree}{path}").st_ino
            except OSError:
                return 0
            if len(self._ids) >= _MOST:
                self._ids.clear()
            self._ids[path] = known
        return known


def _table(table: str) -> int | None:
    try:
        return os.stat(table).st_ino
    except OSError:
        return None


def _filesystem_uid(status: bytes) -> int:
    """The user that owns the sockets it makes: the last of four."""
    begin = status.index(b"\nUid:") + 5
    return int(status[begin : status.index(b"\n", begin)].split()[3])


def _cgroup(cgroups: bytes) -> str:
    """The path in the tree of version 2; empty for the root."""
    for line in os.fsdecode(cgroups).splitlines():
        if line.startswith("0::"):
            return line[3:].rstrip("/")
    return ""
