"""tcpnewconn.service and tcpnewconn.socket, without starting them; the booted containers do that."""

import re
import shutil
from pathlib import Path

import pytest

from tests.support import built
from tests.support.debfile import run, unpacked

pytestmark = pytest.mark.apt


def test_the_units_are_well_formed_and_tight(tmp_path: Path) -> None:
    root = unpacked(built.deb(), tmp_path)
    service, socket = (root / "usr/lib/systemd/system" / f"tcpnewconn.{kind}" for kind in ("service", "socket"))
    # The program that it starts is found here.
    text = service.read_text()
    program = tmp_path / "tcpnewconn"
    program.symlink_to(root / "usr/bin/tcpnewconn")
    verified = tmp_path / "verified"
    verified.mkdir()
    (verified / service.name).write_text(text.replace("=/usr/bin/tcpnewconn", f"={program}"))
    shutil.copy(socket, verified)
    assert run("systemd-analyze", "verify", "--man=no", verified / service.name, verified / socket.name) == ""
    score = re.search(
        r"Overall exposure level for \S+ ([\d.]+)", run("systemd-analyze", "security", "--offline=yes", service)
    )
    assert score is not None
    # docs/security.md; with the drop-in that hides other processes it is 0.7 (tests/booted/test_booted_sandbox.py).
    assert float(score[1]) <= 0.8
    for empty in ("CapabilityBoundingSet=", "AmbientCapabilities="):
        assert f"\n{empty}\n" in text
