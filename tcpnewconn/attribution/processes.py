"""The process of a thread, where it is sure: it is there, and was before the event."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

try:
    # The interpreter's own: hashlib would load OpenSSL, see reporting/community.py.
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

# include/linux/proc_ns.h, PROC_PID_INIT_INO: the trace has the ids of this namespace.
_FIRST_PID_NAMESPACE = "pid:[4026531836]"
# /proc/PID/stat counts in these ticks from boot on; suspended time counts, too.
_TICKS = os.sysconf("SC_CLK_TCK")
# A file of /proc is read at once.
_LARGEST = 4096


class Process(NamedTuple):
    """`entity` is unique where the pid is not: made of boot, pid and start time. `command_line` only where it is asked for."""

    pid: int
    name: str
    entity: str
    command_line: str | None = None


class Processes:
    """Looks into /proc, for what is logged by itself only: 30 us each (measured)."""

    def __init__(
        self,
        boot: str,
        root: str = "/proc",
        suspended: Callable[[], float] | None = None,
    ) -> None:
        """`boot` is the boot id; `suspended` says for how many seconds since boot CLOCK_MONOTONIC stood still."""
        # Whether command lines are read, too: they can hold secrets.
        self.command_lines = False
        self._boot = boot
        self._root = root
        self._suspended = suspended or _suspended
        # As it is, and was before it was seen to change: at this monotonic time.
        self._offset = self._offset_before = self._suspended()
        self._changed = float("-inf")
        try:
            self.visible = os.readlink(f"{root}/self/ns/pid") == _FIRST_PID_NAMESPACE
        except OSError:
            self.visible = False

    def process(self, thread_id: int, event: float) -> Process | None:
        """The process of a thread that did something at a time of CLOCK_MONOTONIC (seconds); None where that is not sure.

        A thread id is used again. The thread that has it is the one of the event if it had started before: by a whole tick,
        because that is all /proc says.
        """
        if not self.visible:
            return None
        try:
            with directory(f"{self._root}/{thread_id}") as thread:
                if event < self.since(stat(thread)[1], event):
                    return None
                pid = _tgid(thread)
                if pid == thread_id:
                    name, started = stat(thread)
                    return Process(pid, name, self._entity(pid, started), self._command_line(thread))
                with directory(f"{self._root}/{pid}") as leader:
                    name, started = stat(leader)
                    # While the thread is there, its process has that pid.
                    if _tgid(thread) != pid:
                        return None
                    return Process(pid, name, self._entity(pid, started), self._command_line(leader))
        except (OSError, ValueError, IndexError):
            # It has gone, or is hidden (ProtectProc=invisible, hidepid=).
            return None

    def since(self, started: int, event: float) -> float:
        """When one that started in this tick after boot was surely there: CLOCK_MONOTONIC, as it was at an event."""
        offset = self._suspended()
        if offset > self._offset + 1 / _TICKS:
            self._offset_before, self._offset, self._changed = self._offset, offset, time.monotonic()
        # For an event before it changed the smaller one is right, or too small.
        return (started + 1) / _TICKS - (self._offset if event > self._changed else self._offset_before)

    def _command_line(self, there: int) -> str | None:
        """Its words, separated by blanks; not more than a page of it. A process of the kernel has none."""
        if not self.command_lines:
            return None
        words = content(there, "cmdline").rstrip(b"\0").split(b"\0")
        return os.fsdecode(b" ".join(words)) or None

    def _entity(self, pid: int, started: int) -> str:
        return str(blake2b(f"{self._boot} {pid} {started}".encode(), digest_size=16).hexdigest())


def _suspended() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


@contextlib.contextmanager
def directory(path: str) -> Iterator[int]:
    """A directory of /proc that stays that of one process: once that is gone, reading in it fails."""
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def content(there: int, name: str) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=there)
    try:
        return os.read(descriptor, _LARGEST)
    finally:
        os.close(descriptor)


def stat(there: int) -> tuple[str, int]:
    """Name and start time (ticks since boot) of a thread, from stat: 42 (name) S ... A name can hold blanks and brackets."""
    text = content(there, "stat")
    begin, end = text.index(b"("), text.rindex(b")")
    return os.fsdecode(text[begin + 1 : end]), int(text[end + 2 :].split()[19])


def _tgid(there: int) -> int:
    """The id of a thread's process, from status."""
    text = content(there, "status")
    begin = text.index(b"\nTgid:") + 6
    return int(text[begin : text.index(b"\n", begin)])
