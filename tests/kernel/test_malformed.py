"""Rows that cannot be understood, under the running service: reported once, with their number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.events import about_connections, parsed
from tests.support.message_ids import LOSS
from tests.support.namespace import Namespace, namespace
from tests.support.program import once
from tests.support.supervised import Supervised
from tests.support.table import TITLES, Tables, line, listener


@pytest.fixture(scope="module")
def here() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


def test_a_malformed_row_is_reported_with_file_line_and_count_and_the_others_count(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    tables.write([listener("0.0.0.0:22"), line("10.0.0.5:22", "203.0.113.9:51544", inode=7)])
    table = tables.tcp.read_bytes().splitlines(keepends=True)
    tables.tcp.write_bytes(b"".join([*table[:2], b"   1: what\x1b[2Jis this\n", b"   2: and this\n", *table[2:]]))
    with Supervised("--procfs", str(tmp_path), "--output", "json", "--interval", "100ms") as service:
        service.ready()
        service.polls(3)
        assert service.stop() == 0
    events = about_connections(map(parsed, service.lines))
    assert [event["message"] for event in events[:2]] == [
        "New listener: 0.0.0.0:22",
        "New connection: 203.0.113.9:51544 -> 10.0.0.5:22",
    ]
    # One for at least four polls, each of which met both rows.
    (loss,) = [event for event in events if event["event.action"] == "events-lost"]
    assert loss["tcpnewconn.count"] == 2
    assert loss["tcpnewconn.reason"] == "malformed"
    assert loss["priority"] == 4
    assert f"2 rows could not be understood, the first in {tables.tcp} line 3: what\\x1b[2Jis this" in loss["message"]


def test_malformed_rows_of_one_poll_are_reported_in_one_loss_event(tmp_path: Path, here: Namespace) -> None:
    tables = Tables(tmp_path)
    before = line("10.0.0.5:22", "203.0.113.9:51544", inode=101)
    after = line("10.0.0.7:443", "203.0.113.9:51546", inode=103)
    tables.tcp.write_bytes(TITLES + before.text(0) + b"   1: 0600000A:\x1b[31m nonsense\n" + after.text(2) + b"\n")
    events = once(here, "--procfs", str(tables.directory))
    (loss,) = [event for event in events if event["message_id"] == LOSS]
    assert loss["tcpnewconn.count"] == 2
    assert loss["tcpnewconn.reason"] == "malformed"
    assert f"{tables.tcp} line 3: 1: " not in loss["message"]
    assert f"{tables.tcp} line 3: " in loss["message"]
    assert r"\x1b[31m nonsense" in loss["message"]
    assert len(events) == 3
