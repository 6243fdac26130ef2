"""Runs a measurement in network, mount and process namespaces of its own."""

from __future__ import annotations

import subprocess
import sys

# All processes in the namespace end with the first one.
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
    """The output of `python -m MODULE ARGUMENTS` in a process of its own; None if it fails (the reason is on stderr)."""
    unshare = _UNSHARE if apart else ()
    done = subprocess.run([*unshare, sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True)
    return done.stdout if done.returncode == 0 else None
