"""tcpnewconn as a person runs it: in a plain environment, on the host's tables or on a directory of captured ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
TESTS = TREE / "tests"

# Variables that systemd, a shell or a test runner may have set and that change how Python or the program behaves.
_PREPARED = (
    *("PYTHON", "NOTIFY_", "WATCHDOG_", "LISTEN_", "JOURNAL_", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "TCPNEWCONN_"),
    "INVOCATION_ID",
)


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment, without the variables that change the program's behaviour, and with the given ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_PREPARED)}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1"} | dict(more or {})


def command(*options: str, python: Sequence[str] = (sys.executable,)) -> list[str]:
    """The command line; with no configuration unless the options name one, but that every connection is logged by itself."""
    configured = not options or options[0].startswith("-") or options[0] in ("run", "check-config", "show-config")
    given = [] if "--config" in options or not configured else ["--config", str(TESTS / "fixtures/every.conf")]
    return [*python, "-m", "tcpnewconn", *options, *given]


def run(
    *options: str,
    python: Sequence[str] = (sys.executable,),
    more: Mapping[str, str] | None = None,
    stdout: int = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
    """Run it until it ends."""
    return subprocess.run(
        command(*options, python=python),
        cwd=TREE,
        env=environment(more),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )


def messages(lines: str) -> list[str]:
    """The messages of text output, without their times."""
    return [line.split(": ", 1)[1] for line in lines.splitlines()]


def sample(directory: Path) -> Path:
    """A root of /proc that holds the original's sample, and nothing else."""
    (directory / "net").mkdir(parents=True)
    (directory / "net" / "tcp").write_bytes((TESTS / "fixtures/sample_proc_net_tcp.txt").read_bytes())
    return directory


SAMPLE_EXPECTED = (TESTS / "fixtures/sample_expected.txt").read_text().splitlines()
