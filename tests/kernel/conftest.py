"""What several files need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import CONTAINER_ID

CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A place of the test's own in the real tree of version 2, taken away afterwards."""
    [root] = [root for root in (CGROUPS, CGROUPS / "unified") if (root / "cgroup.controllers").exists()]
    place = root / f"tcpnewconn_kernel_{os.getpid()}.slice"
    inner = place / f"libpod-{CONTAINER_ID}.scope" / "container"
    inner.mkdir(parents=True)
    yield inner
    for directory, _, _ in os.walk(place, topdown=False):
        os.rmdir(directory)
