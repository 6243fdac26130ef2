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


# The ids of processes are those of the host.
_WITH_PIDS = ("unshare", "--net", "--mount", "--propagation", "private")


def run(module: str, *arguments: str, apart: bool = True, pids: bool = True) -> str | None:
    """The output of `python -m MODULE ARGUMENTS` in a process of its own; None if it fails (the reason is on stderr).

    `pids`: in a process namespace of its own, too.
    """
    unshare = (_UNSHARE if pids else _WITH_PIDS) if apart else ()
    done = subprocess.run([*unshare, sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True)
    return done.stdout if done.returncode == 0 else None
