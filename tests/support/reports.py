"""`tcpnewconn report`, run as a program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.terminal import TREE, environment


def report(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tcpnewconn", "report", *map(str, options)],
        cwd=TREE,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def reported(*options: str | Path) -> str:
    """Its output; it must succeed and have nothing to complain of."""
    done = report(*options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
