"""Packages from npm for a test, installed once for each package-lock.json and kept in the cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

CACHE = Path.home() / ".cache" / "tcpnewconn-tests"


def modules(directory: Path) -> Path:
    """The node_modules that this directory's package-lock.json describes."""
    lock = (directory / "package-lock.json").read_bytes()
    kept = CACHE / f"npm-{hashlib.sha256(lock).hexdigest()[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "npm.lock").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                for name in ("package.json", "package-lock.json", ".npmrc"):
                    shutil.copy(directory / name, scratch)
                subprocess.run(["npm", "ci"], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
                os.rename(Path(scratch) / "node_modules", kept)
    return kept
