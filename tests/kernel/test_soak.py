"""A soak, compressed: memory and disk do not grow with the number of connections that were seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
TOTAL = 2_000_000


def test_two_million_connections_leave_memory_as_it_was(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.soak", str(tmp_path), str(TOTAL)],
        cwd=TREE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    early, late, end = (line.split() for line in done.stdout.splitlines())
    assert int(late[1]) <= 1.05 * int(early[1]), done.stdout
    assert int(end[0]) == TOTAL
    assert int(end[1]) < 64_000_000
