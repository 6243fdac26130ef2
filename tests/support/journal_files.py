"""Journal files with given entries and times, written by systemd-journal-remote from the export format."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.support.month import Entry

PROGRAM = "/usr/lib/systemd/systemd-journal-remote"
_BOOT, _MACHINE = "b" * 32, "a" * 32


def write(file: Path, entries: Iterable[tuple[int, Entry]], first: int = 0) -> None:
    """Append to a journal file, made if there is none; the number of the first entry keeps the boot's clock going."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = []
    for number, (microseconds, entry) in enumerate(entries, start=first + 1):
        text.append(f"__REALTIME_TIMESTAMP={microseconds}\n__MONOTONIC_TIMESTAMP={number * 1000}\n_BOOT_ID={_BOOT}\n")
        text += [f"{name}={value}\n" for name, value in entry.items()]
        text.append(f"_MACHINE_ID={_MACHINE}\n_TRANSPORT=journal\n\n")
    subprocess.run(
        [PROGRAM, "--output", file, "-"],
        input="".join(text).encode(),
        # So that any build of the library can read it.
        env=os.environ | {"SYSTEMD_JOURNAL_COMPRESS": "0"},
        check=True,
        capture_output=True,
    )


def vacuum(directory: Path, keep: int) -> int:
    """Remove all archived files but the newest; the number that were removed."""
    archived = sorted(directory.glob("*@*.journal"), key=lambda path: path.stat().st_mtime)
    gone = archived[: max(0, len(archived) - keep)]
    for path in gone:
        path.unlink()
    return len(gone)
