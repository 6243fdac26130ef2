"""`tcpnewconn report`, run as a program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.terminal import TREE, environment


def report(*options: str | Path, more: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tcpnewconn", "report", *map(str, options)],
        cwd=TREE,
        env=environment(more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def reported(*options: str | Path, more: Mapping[str, str] | None = None) -> str:
    """Its output; it must succeed and have nothing to complain of."""
    done = report(*options, more=more)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout
