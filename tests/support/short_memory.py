"""A control group whose memory is short: something in it uses more than there is, so that the kernel swaps without end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TOP = Path("/sys/fs/cgroup")
# Allocates so many bytes, and touches each page again and again; if that never paused, the kernel would find none to swap out.
_HOG = """
import sys, time
size = int(sys.argv[1])
memory = bytearray(size)
print("touching", flush=True)
while True:
    for begin in range(0, size, 4096 * 64):
        for at in range(begin, min(size, begin + 4096 * 64), 4096):
            memory[at] = (memory[at] + 1) & 0xFF
        time.sleep(0.005)
"""


class NotToBeHad(Exception):
    """This machine has no such group, or no swap. The text is the reason."""


@contextmanager
def swap(directory: Path, size: int) -> Iterator[None]:
    """A swap file. Raises NotToBeHad."""
    file = directory / "swap"
    with file.open("wb") as opened:
        os.posix_fallocate(opened.fileno(), 0, size)
    file.chmod(0o600)
    subprocess.run(["mkswap", "-q", file], check=True)
    done = subprocess.run(["swapon", file], capture_output=True, text=True)
    if done.returncode:
        raise NotToBeHad(done.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["swapoff", file], check=True)


def _made(name: str, limit: int) -> Path:
    """The group, of either version of control groups."""
    if (_TOP / "memory/memory.limit_in_bytes").exists():
        group = _TOP / "memory" / name
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))
        return group
    if "memory" not in (_TOP / "cgroup.subtree_control").read_text().split():
        raise NotToBeHad("no control groups with memory")
    group = _TOP / name
    group.mkdir()
    (group / "memory.max").write_text(str(limit))
    return group


@contextmanager
def short_memory(limit: int, hog: int) -> Iterator[Path]:
    """Its directory: a process that writes its id into cgroup.procs there has a part in `limit` bytes, of which one uses `hog`.

    Raises NotToBeHad.
    """
    try:
        group = _made(f"tcpnewconn-test-{os.getpid()}", limit)
    except OSError as error:
        raise NotToBeHad(f"no control group: {error}") from error
    try:
        # Where the kernel finds nothing to swap out in time, it kills that one: then there is another.
        enter = 'echo $$ > "$0"/cgroup.procs && echo 1000 > /proc/self/oom_score_adj && while true; do "$@"; done'
        command = ["bash", "-c", enter, str(group), sys.executable, "-c", _HOG, str(hog)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        ) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == b"touching\n"
            try:
                yield group
            finally:
                os.killpg(program.pid, signal.SIGKILL)
    finally:
        until = time.monotonic() + 30.0
        while True:
            try:
                group.rmdir()
                break
            except OSError:
                # What was killed has not gone yet.
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)


def swapped_out() -> int:
    """Pages that the kernel has written to swap since boot."""
    lines = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(dict(lines)["pswpout"])
