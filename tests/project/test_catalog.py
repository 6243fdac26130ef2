"""The journal's catalog: what `journalctl -x` says of each event."""

import re
from pathlib import Path

import pytest

from tcpnewconn.reporting.entries import MESSAGE_IDS
from tcpnewconn.reporting.fields import FIELDS
from tcpnewconn.settings import config
from tests.support import built
from tests.support.debfile import run, unpacked

pytestmark = pytest.mark.apt

# The table of docs/events.md: a reader's filter or dashboard is written with these.
EVENTS = {
    "connection": "74ba465b9f4e456585146b89bb95f0dc",
    "listener": "2226628da8304e6994685e028202cfd5",
    "summary": "c4029bcd2a5841e3bdea3ca9ce1e0d47",
    "scan": "576316a0dc7b480ea3df1498dddde400",
    "loss": "81f4c1b5bfab4e52a63aae3dec8b0438",
    "degraded": "ac71ee2a2e8443a59039d1319c802aa2",
    "recovered": "ac71ee2a2e8443a59039d1319c802aa2",
    "closed": "be0228f916da4937bc9055c5c372b3cd",
}


def test_the_catalog_explains_every_event(tmp_path: Path) -> None:
    root = unpacked(built.deb(), tmp_path)
    run("journalctl", "--update-catalog", f"--root={root}")
    entries = re.split(r"(?m)^-- ", run("journalctl", "--dump-catalog", f"--root={root}"))[1:]
    explained = {entry[:32]: entry[32:] for entry in entries}
    assert set(explained) == set(EVENTS.values())
    assert set(MESSAGE_IDS.values()) <= set(explained)
    for kind, message_id in MESSAGE_IDS.items():
        assert EVENTS[kind] == message_id
    for text in explained.values():
        assert re.search(r"(?m)^Subject: \S", text)
        assert "Defined-By: tcpnewconn\n" in text
        # What it means, and what to do.
        assert len(re.split(r"\n\n+", text.strip())) >= 3
        for name in re.findall(r"@(\w+)@", text):
            assert name in FIELDS
        for name in re.findall(r"\b(?:TCPNEWCONN|SOURCE|DESTINATION|NETWORK|USER|OBJECT)_\w+", text):
            assert name in FIELDS
        for name in re.findall(r"\b([A-Z]\w+)=(?:yes|no| in /etc)", text):
            assert name in {setting.name for setting in config.SETTINGS}
