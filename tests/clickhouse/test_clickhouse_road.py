"""From a host's journal to ClickHouse by rsyslog: nothing is missing and nothing counts twice, whatever is down or killed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.clickhouse.test_clickhouse_truth import LINES, MONTH, check
from tests.support.clickhouse import Engine, engine
from tests.support.month import Entry
from tests.support.road import MEMORY, UID, Road, road, wait_for

ODD = "it's a \\ \"name\"\twith '); DROP TABLE events; -- VALUES ( and \u00fc\u2192"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Engine]:
    with engine(tmp_path / "engine") as made:
        yield made


@pytest.fixture
def way(tmp_path: Path, server: Engine) -> Iterator[Road]:
    with road(tmp_path / "road", server) as made:
        yield made


def inserts(server: Engine, status: int) -> int:
    """The answers of the engine to batches, by their HTTP status."""
    log = server.place / "log"
    return log.read_text().splitlines().count(f"INSERT {status}") if log.exists() else 0


def without_unit(entries: Iterable[tuple[int, Entry]]) -> Iterator[tuple[int, Entry]]:
    """As the journal may have some that were written right before a kill: with the user, and forged ones of another."""
    for number, (when, entry) in enumerate(entries):
        ours = entry["_SYSTEMD_UNIT"] == "tcpnewconn.service"
        if number % 7 == 3:
            entry = {name: value for name, value in entry.items() if name != "_SYSTEMD_UNIT"}
        yield when, entry | {"_UID": UID if ours else "1000"}


def wait_for_standstill(way: Road) -> None:
    """Until rsyslog reads no further, because its memory is full."""
    seen: list[str] = []

    def stands() -> bool:
        seen.append(way.read())
        return len(seen) > 20 and len(set(seen[-20:])) == 1

    wait_for(stands, "a full queue")


def test_the_server_is_down_and_fails_and_rsyslog_is_killed_meanwhile(server: Engine, way: Road) -> None:
    entries = list(without_unit(MONTH.entries))
    # One with a name that SQL, JSON and rsyslog each quote in their way. No question asks for it.
    entries.insert(100, (entries[100][0], {**entries[100][1], "EVENT_ACTION": "odd", "PROCESS_NAME": ODD}))
    third = len(entries) // 3
    way.open_front()
    way.start_rsyslog()
    way.write(entries[:third])
    # Killed while it delivers, and started again.
    wait_for(lambda: way.inserted() > third // 4, "the first batches")
    way.kill_rsyslog()

    # Nobody listens. What does not go into memory waits in the journal, over a kill.
    way.close_front()
    way.start_rsyslog()
    way.write(entries[third : 2 * third])
    wait_for_standstill(way)
    way.kill_rsyslog()
    way.start_rsyslog()
    wait_for_standstill(way)
    assert way.inserted() < third + MEMORY

    # ClickHouse answers with errors, as one that is out of memory.
    (server.place / "fails").write_text(
        "Code: 241. DB::Exception: Memory limit (total) exceeded. (MEMORY_LIMIT_EXCEEDED)"
    )
    way.open_front()
    wait_for(lambda: inserts(server, 500) >= 2, "batches that are refused")
    # It takes a batch, and its answer is lost.
    (server.place / "unanswered").touch()
    before = inserts(server, 200)
    (server.place / "fails").unlink()
    wait_for(lambda: inserts(server, 200) > before, "a batch without an answer")
    (server.place / "unanswered").unlink()
    way.write(entries[2 * third :])
    wait_for(lambda: way.inserted() > 2 * third, "the rest to begin")
    way.kill_rsyslog()
    way.start_rsyslog()
    wait_for(lambda: way.inserted() > len(LINES), "every event")

    assert way.inserted() == len(LINES) + 1
    assert server.ask("SELECT JSONExtractString(event, 'process.name') FROM notices FINAL WHERE action = 'odd'") == [
        [ODD]
    ]
    way.stop_rsyslog()
    check(server)
