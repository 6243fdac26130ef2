"""The bench runs with tiny sizes; its results are not checked here."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import GROUPS

TREE = Path(__file__).resolve().parents[2]


# Its steps run in tests/machine, which has booted a machine anyway.
@pytest.mark.parametrize("group", sorted(set(GROUPS) - {"owners", "callers"}))
def test_every_group_of_the_bench_can_be_measured(group: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--small", group], cwd=TREE, capture_output=True, text=True, timeout=300
    )

    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(rows) > 2, done.stdout
    # Under a tiny load every connection is logged, and nothing else.
    for row in rows:
        if row.startswith("| reported"):
            assert "| reached" in row, done.stdout


def test_an_entry_that_comes_as_a_file_is_counted_as_any_other() -> None:
    """libsystemd sends one so that found the buffer full, and a moment later not (sd-journal/journal-send.c)."""
    program = """
import os, socket
from bench.journal import Journal
journal = Journal()
number = os.memfd_create("entry")
os.write(number, b"MESSAGE_ID=74ba465b9f4e456585146b89bb95f0dc\\nTCPNEWCONN_CONNECTION_ID=7\\n")
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
    sender.connect("/run/systemd/journal/socket")
    socket.send_fds(sender, [b""], [number])
print([entry.id for entry in journal.entries()])
"""
    alone = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-c", program]
    done = subprocess.run(alone, cwd=TREE, capture_output=True, text=True, timeout=60)

    assert done.stdout == "[b'7']\n", done.stderr


def test_an_unknown_group_is_named() -> None:
    done = subprocess.run([sys.executable, "-m", "bench", "speed"], cwd=TREE, capture_output=True, text=True)

    assert done.returncode == 2
    assert "no such group: speed" in done.stderr
