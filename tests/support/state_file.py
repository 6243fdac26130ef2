"""A service that keeps its state in a file: what the tables hold, and what it reports of them."""

from __future__ import annotations

from pathlib import Path

from tests.support.table import Line, Tables, line, listener
from tests.support.terminal import messages, run

PLACE = "0123456789abcdef0123456789abcdef-4026531840"
SSH = listener("0.0.0.0:22", inode=10)


def incoming(number: int) -> Line:
    return line("10.0.0.5:22", f"203.0.113.9:{20000 + number}", inode=100 + number)


def reported(*numbers: int) -> list[str]:
    return [f"New connection: 203.0.113.9:{20000 + number} -> 10.0.0.5:22" for number in numbers]


def once(tables: Tables, state: Path) -> list[str]:
    """The output of a single poll, which must report no error."""
    done = run("--once", "--procfs", str(tables.directory), "--state", str(state))
    assert (done.returncode, done.stderr) == (0, "")
    return messages(done.stdout)
