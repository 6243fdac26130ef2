"""Processes in a tree that looks like /proc."""

from __future__ import annotations

import os
from pathlib import Path


def process(root: Path, thread_id: int, name: str, started: float, pid: int | None = None) -> Path:
    """A thread, of the process with that PID or of its own, that has started so many seconds after boot; the root of the tree."""
    directory = root / str(thread_id)
    directory.mkdir(parents=True, exist_ok=True)
    ticks = round(started * os.sysconf("SC_CLK_TCK"))
    zeros = " 0" * 18
    (directory / "stat").write_bytes(b"%d (%b) S%b %d 0 0\n" % (thread_id, os.fsencode(name), zeros.encode(), ticks))
    (directory / "status").write_bytes(
        b"Name:\t%b\nTgid:\t%d\nPid:\t%d\n" % (os.fsencode(name), pid or thread_id, thread_id)
    )
    namespace = root / "self" / "ns" / "pid"
    if not namespace.is_symlink():
        namespace.parent.mkdir(parents=True, exist_ok=True)
        namespace.symlink_to("pid:[4026531836]")
    return root
