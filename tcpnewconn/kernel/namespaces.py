"""The network namespaces of other processes, found in /proc; no capability is needed, and ProtectProc=default.

A namespace is known by two inode numbers: that of its /proc/PID/net/tcp, which another one can have at once when it has gone, and
that of the kernel's own NETLINK_ROUTE socket in it, which differed each time (measured, Linux 6.1 to 6.18). The number of
/proc/PID/ns/net is hidden from a service without capabilities. No descriptor that keeps a namespace is held: it would keep its
interfaces, too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from tcpnewconn.kernel.procfile import content

# A process can enter another namespace, and a pid be used again: each is looked at again after so many looks.
AGAIN_AFTER = 8
# Seconds for which a process is new.
_NEW_FOR = 10.0
# More namespaces are not taken, whoever makes them: the rest is counted.
MOST = 1_024

# PROC_PID_INIT_INO (include/linux/proc_ns.h).
_INITIAL_PIDS = "pid:[4026531836]"

# A container has a few routes. A longer list is not read: it would take longer than the tables.
_LARGEST = 262_144


class Key(NamedTuple):
    """One namespace. `number` is the inode number of its net/tcp, `kernel` that of the kernel's own netlink socket in it."""

    number: int
    kernel: int

    def __str__(self) -> str:
        return f"{self.number}.{self.kernel}"


class Gone(Exception):
    """A process has gone, or is in another namespace."""


class Namespaces:
    """Which processes are in which namespace other than this program's own. `root` is where /proc is."""

    def __init__(self, root: str = "/proc", most: int = MOST) -> None:
        """No more than `most` namespaces are taken."""
        self.root = root
        # The processes of each namespace, by when they were found.
        self.found: dict[Key, dict[int, None]] = {}
        # The processes of those that are not taken.
        self._beyond: dict[int, Key] = {}
        self._most = most
        self._own = _table(f"{root}/self/net")
        # Of each process: its namespace; None: this program's own, or not known.
        self._processes: dict[int, Key | None] = {}
        self._looks = 0
        # The processes that are to be looked at again, by the number of the look.
        self._due: dict[int, list[int]] = {}
        # When the newest processes were found (monotonic seconds), the first of them first.
        self._new: dict[int, float] = {}

    def of_first_process(self) -> bool | None:
        """Whether this program is in the namespace of process 1; None where that is hidden (ProtectProc=, hidepid=)."""
        first = _table(f"{self.root}/1/net")
        return None if first is None else first == self._own

    def hidden(self) -> str | None:
        """Why the namespaces of other processes cannot be observed from here; None where they can."""
        first = self.of_first_process()
        if first is None:
            return "processes of other users are hidden (ProtectProc=, hidepid=)"
        return None if first else "this is not the network namespace of process 1"

    @property
    def shows_all(self) -> bool:
        """Whether the processes of all namespaces are in this /proc: it is that of the initial pid namespace."""
        try:
            return os.readlink(f"{self.root}/self/ns/pid") == _INITIAL_PIDS
        except OSError:
            return False

    def look(self, again: bool = False) -> None:
        """Bring `found` up to date: look at new processes, at those of the last look, and at some of the others again.

        With `again`, also at all that were new a short time ago: a container's can have gone into its namespace since.
        """
        self._looks += 1
        now = time.monotonic()
        there = {int(name) for name in os.listdir(self.root) if name.isdecimal()}
        for pid in self._processes.keys() - there:
            self.forget(pid)
        # The kernel's socket, by the number of the table: within one look no number is used again.
        kernel: dict[int, int | None] = {}
        new = there - self._processes.keys()
        self._new.update(dict.fromkeys(new, now))
        while self._new and (oldest := next(iter(self._new.items())))[1] < now - _NEW_FOR:
            del self._new[oldest[0]]
        once_more = self._new.keys() - new if again else ()
        for pid in sorted(there.intersection(once_more)):
            self._place(pid, self._key(pid, kernel))
        for pid in sorted(new.union(self._due.pop(self._looks, ())) & there):
            # It may not be where it will stay, when it is seen for the first time. The others take turns.
            next_look = self._looks + (1 if pid in new else AGAIN_AFTER - pid % 2)
            self._due.setdefault(next_look, []).append(pid)
            self._place(pid, self._key(pid, kernel))

    def _place(self, pid: int, key: Key | None) -> None:
        """A process is in this namespace now."""
        if pid in self._processes and (self._processes[pid] != key or pid in self._beyond):
            self.forget(pid)
        if key is not None and key not in self.found and len(self.found) >= self._most:
            self._beyond[pid] = key
            key = None
        self._processes[pid] = key
        if key is not None:
            self.found.setdefault(key, {})[pid] = None

    @property
    def beyond(self) -> int:
        """How many more namespaces there are than are taken."""
        return len(set(self._beyond.values()))

    def forget(self, pid: int) -> None:
        """A process is not where it was: a namespace without any is not found any more."""
        key = self._processes.pop(pid, None)
        self._beyond.pop(pid, None)
        processes = self.found.get(key) if key is not None else None
        if key is not None and processes is not None:
            processes.pop(pid, None)
            if not processes:
                del self.found[key]

    def _key(self, pid: int, kernel: dict[int, int | None]) -> Key | None:
        number = _table(f"{self.root}/{pid}/net")
        if number is None or number == self._own:
            return None
        if number not in kernel:
            kernel[number] = kernel_socket(f"{self.root}/{pid}/net")
        inode = kernel[number]
        return None if inode is None else Key(number, inode)

    @contextmanager
    def opened(self, key: Key) -> Iterator[str]:
        """The directory `net` of a process in a namespace; raises Gone where no process is in it.

        It is that of one process, which can go meanwhile, but not be taken for another one. Those that have gone are forgotten.
        """
        for pid in list(self.found.get(key, ())):
            try:
                # Of the process, not of its namespace: that is kept by nothing.
                process = os.open(f"{self.root}/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                self.forget(pid)
                continue
            try:
                directory = f"/proc/self/fd/{process}/net"
                if is_in(directory, key):
                    yield directory
                    return
            finally:
                os.close(process)
            self.forget(pid)
        raise Gone

    def process(self, key: Key) -> int | None:
        """A process that is in a namespace now."""
        found = self.found.get(key, ())
        return next((pid for pid in found if _table(f"{self.root}/{pid}/net") == key.number), None)

    def cgroups(self, key: Key) -> dict[int, str]:
        """The path of the cgroup of each process in a namespace (version 2), below the root: /system.slice/nginx.service."""
        paths = {}
        for pid in list(self.found.get(key, ())):
            path = _cgroup(f"{self.root}/{pid}/cgroup")
            if path is not None:
                paths[pid] = path
        return paths


@contextmanager
def tables(directory: str, key: Key) -> Iterator[tuple[str, str]]:
    """The paths of both tables of a namespace, whatever becomes of the process meanwhile; raises Gone.

    They are open, and keep the namespace for as long as that takes. Without IPv6 there is nothing at the second path.
    """
    descriptors: list[int] = []
    paths = []
    try:
        for path in (f"{directory}/tcp", f"{directory}/tcp6"):
            try:
                descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                paths.append(f"/proc/self/fd/{descriptors[-1]}")
            except OSError:
                paths.append(path)
        # The process was there until now, and in that namespace.
        if _table(directory) != key.number:
            raise Gone
        yield paths[0], paths[1]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def is_in(directory: str, key: Key) -> bool:
    """Whether the directory `net` of a process is that of a namespace."""
    return _table(directory) == key.number and kernel_socket(directory) == key.kernel


def local_addresses(directory: str) -> set[bytes]:
    """The addresses of the interfaces of a namespace, packed: from fib_trie and if_inet6. None of IPv6 where that is off."""
    found: set[bytes] = set()
    with suppress(OSError, ValueError):
        # A leaf, |-- 10.88.0.5, and below it its routes.
        for leaf in content(f"{directory}/fib_trie", _LARGEST).decode().split("|-- ")[1:]:
            if "/32 host LOCAL" in leaf:
                found.add(bytes(map(int, leaf.split("\n", 1)[0].split("."))))
    with suppress(OSError, ValueError):
        for line in content(f"{directory}/if_inet6", _LARGEST).decode().split("\n")[:-1]:
            found.add(bytes.fromhex(line.split(" ", 1)[0]))
    return found


def _table(directory: str) -> int | None:
    """The inode number of tcp in the directory `net` of a process. A zombie has none."""
    try:
        return os.stat(f"{directory}/tcp").st_ino
    except OSError:
        return None


def kernel_socket(directory: str) -> int | None:
    """The inode number of the kernel's own NETLINK_ROUTE socket, from the directory `net` of a process.

    It has protocol 0 and port id 0 (net/netlink/af_netlink.c).
    """
    try:
        for line in content(f"{directory}/netlink").split(b"\n"):
            columns = line.split()
            if columns[1:3] == [b"0", b"0"]:
                return int(columns[-1])
    except (OSError, ValueError):
        pass
    return None


def _cgroup(path: str) -> str | None:
    try:
        lines = os.fsdecode(content(path)).split("\n")
    except OSError:
        return None
    for line in lines:
        if line.startswith("0::/"):
            return line[3:]
    return None
