"""A machine of its own for what is measured, as far as the kernel gives one."""

from __future__ import annotations

import subprocess
import sys

# TCP tables, mounts, and processes, which all end with the first of them.
_UNSHARE = (
    "unshare",
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--propagation",
    "private",
)


def run(module: str, *arguments: str, apart: bool = True) -> str | None:
    """What `python -m MODULE ARGUMENTS` prints when it runs apart; None if it fails, which it has told on stderr."""
    unshare = _UNSHARE if apart else ()
    done = subprocess.run([*unshare, sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True)
    return done.stdout if done.returncode == 0 else None
