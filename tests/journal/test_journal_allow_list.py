"""The allow list is commented out; without the comment signs it is what systemd and nft take."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.support import report_document

UNITS = ("nginx.service", "postgresql.service", "app.service")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_document.ledger(tmp_path_factory.mktemp("allow"))


def lines(ledger: Path, unit: str, what: str) -> str:
    """The drop-in (what begins with [, or IPAddress), or the sets, without comment signs."""
    printed = json.loads(report_document.printed(ledger, f"allow {unit} --output json"))["verbatim"]
    assert all(line.startswith("#") for line in printed if line)
    at = printed.index("")
    if what == "drop-in":
        return "".join(line[1:] + "\n" for line in printed[:at] if re.match(r"#(\[|IPAddress)", line))
    return "".join(line[1:] + "\n" for line in printed[at + 2 :])


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_takes_the_drop_in(unit: str, ledger: Path, tmp_path: Path) -> None:
    (tmp_path / unit).write_text("[Service]\nExecStart=/bin/true\n")
    (tmp_path / f"{unit}.d").mkdir()
    drop_in = lines(ledger, unit, "drop-in")
    (tmp_path / f"{unit}.d/10-allow.conf").write_text(drop_in)

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / unit], capture_output=True, text=True, check=False
    )

    assert drop_in.startswith("[Service]\nIPAddressDeny=any\nIPAddressAllow=localhost\n")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS)
def test_nft_takes_the_sets(unit: str, ledger: Path, tmp_path: Path) -> None:
    sets = lines(ledger, unit, "sets")
    (tmp_path / "rules").write_text(f"table inet filter {{\n{sets}}}\n")

    done = subprocess.run(
        ["unshare", "--net", "nft", "--check", "--file", tmp_path / "rules"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert "elements = {" in sets
    assert (done.returncode, done.stderr) == (0, "")
