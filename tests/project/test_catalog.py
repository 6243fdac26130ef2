"""The journal's catalog: what `journalctl -x` says of each event."""

import re
import shutil
from pathlib import Path

import pytest

from tcpnewconn.ledger import firstseen
from tcpnewconn.reporting.entries import MESSAGE_IDS
from tcpnewconn.reporting.fields import FIELDS
from tcpnewconn.settings.setting import SETTINGS
from tests.support.debfile import run
from tests.support.terminal import TREE

pytestmark = pytest.mark.apt


def test_the_catalog_explains_every_event(tmp_path: Path) -> None:
    for directory in ("usr/lib/systemd/catalog", "var/lib/systemd/catalog"):
        (tmp_path / directory).mkdir(parents=True)
    shutil.copy(TREE / "systemd" / "tcpnewconn.catalog", tmp_path / "usr/lib/systemd/catalog")
    run("journalctl", "--update-catalog", f"--root={tmp_path}")
    entries = re.split(r"(?m)^-- ", run("journalctl", "--dump-catalog", f"--root={tmp_path}"))[1:]
    explained = {entry[:32]: entry[32:] for entry in entries}
    assert len(entries) == len(explained)
    assert set(explained) == {*MESSAGE_IDS.values(), firstseen.MESSAGE_ID}
    for text in explained.values():
        assert re.search(r"(?m)^Subject: \S", text)
        assert "Defined-By: tcpnewconn\n" in text
        # The meaning, and what to do.
        assert len(re.split(r"\n\n+", text.strip())) >= 3
        for name in re.findall(r"@(\w+)@", text):
            assert name in FIELDS
        for name in re.findall(r"\b(?:TCPNEWCONN|EVENT|SOURCE|DESTINATION|NETWORK|USER|OBJECT)_\w+", text):
            assert name in FIELDS
        for action in re.findall(r"EVENT_ACTION=(\S+)", text):
            assert action in MESSAGE_IDS
        for name in re.findall(r"\b([A-Z]\w+)=(?:yes|no| in /etc)", text):
            assert name in {setting.name for setting in SETTINGS}
