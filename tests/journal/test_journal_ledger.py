"""The ledger of real journal files: read in parts, killed, vacuumed, of several hosts, on a disk that is full."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tcpnewconn.ledger import update
from tcpnewconn.ledger.journal import hosts_of, of_files
from tests.support import journal_files, ledger_truth, ledgers, reports
from tests.support.month import BEGIN, DAY, Month, month
from tests.support.terminal import TREE, environment

MOST_PEERS = 12
CONFIGURATION = f"[Ledger]\nPeers={MOST_PEERS}\n"
MONTH = month()
# Commits often, so that a kill finds it anywhere.
SMALL_BATCHES = (
    "from tcpnewconn import cli; from tcpnewconn.ledger import update; update.BATCH = update._PROGRESS = 200; "
)
# Kills itself after so many calls and returns, of all functions or in this one: a moment that no load of the machine changes.
KILLED = """
import os, sys
left = {calls}
def called(frame, *_):
    global left
    left -= not {function!r} or frame.f_code.co_name == {function!r}
    if not left:
        os.kill(os.getpid(), 9)
sys.setprofile(called)
"""
# Those of an update of all that is new, about.
CALLS = {"": 240_000, "transaction": 140}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "config").write_text(CONFIGURATION)
    (tmp_path / "ledgers").mkdir()
    return tmp_path


def command(place: Path, python: str = "from tcpnewconn import cli; ") -> list[str]:
    options = ["ledger", "update", "--directory", str(place / "journal"), "--ledger", str(place / "ledgers")]
    return [sys.executable, "-c", f"{python}raise SystemExit(cli.main())", *options, "--config", str(place / "config")]


def updated(place: Path, more: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(place),
        cwd=TREE,
        env=environment(more),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


def ledger(place: Path, host: str = "web1") -> str:
    return str(place / "ledgers" / f"{host}.db")


def parts(count: int, made: Month = MONTH) -> Iterator[tuple[int, list[Any]]]:
    """The month's entries in so many parts, each with the number of its first."""
    size = -(-len(made.entries) // count)
    for first in range(0, len(made.entries), size):
        yield first, made.entries[first : first + size]


def test_the_journal_of_a_month_gives_what_truly_was(place: Path) -> None:
    journal_files.write(place / "journal" / "remote-web1.journal", MONTH.entries)

    done = updated(place)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    ledger_truth.check(ledger(place), MONTH, MOST_PEERS)


def test_entries_of_the_service_s_user_count_where_the_journal_does_not_know_their_unit(place: Path) -> None:
    """As of a process that was killed before journald came to its last entries."""
    entries = []
    for number, (when, entry) in enumerate(MONTH.entries):
        without = {
            name: value for name, value in entry.items() if name not in ("_SYSTEMD_UNIT", "_SYSTEMD_INVOCATION_ID")
        }
        ours = entry["_SYSTEMD_UNIT"] == "tcpnewconn.service"
        entries.append((when, (without if ours and number % 7 == 3 else entry) | {"_UID": "998"}))
        if entry["EVENT_ACTION"] == "connection-opened" and number % 7 == 4:
            entries.append((when, without | {"_UID": "1000", "TCPNEWCONN_CONNECTION_ID": f"of another user {number}"}))
    journal_files.write(place / "journal/remote-web1.journal", entries)

    assert updated(place).returncode == 0
    ledger_truth.check(ledger(place), MONTH, MOST_PEERS)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_it_counts_every_entry_once(seed: int, place: Path) -> None:
    """The journal grows, over several files; updates are killed before, while and after they write."""
    chance = random.Random(seed)
    ended = []
    for number, (first, entries) in enumerate(parts(5)):
        journal_files.write(place / "journal" / f"remote-web1@{number // 3:04}.journal", entries, first)
        for _ in range(3):
            function, calls = chance.choice(list(CALLS.items()))
            killed = command(place, SMALL_BATCHES + KILLED.format(calls=chance.randrange(calls), function=function))
            ended.append(subprocess.run(killed, cwd=TREE, env=environment(), check=False).returncode)
    assert updated(place).returncode == 0

    assert set(ended) <= {0, -signal.SIGKILL}
    assert ended.count(-signal.SIGKILL) >= 5, ended
    ledger_truth.check(ledger(place), MONTH, MOST_PEERS)


def test_files_that_were_read_may_be_vacuumed(place: Path) -> None:
    for number, (first, entries) in enumerate(parts(4)):
        journal_files.write(place / "journal" / f"remote-web1@{number:04}.journal", entries, first)
        done = updated(place)
        assert (done.returncode, done.stderr) == (0, "")
        if number:
            (place / "journal" / f"remote-web1@{number - 1:04}.journal").unlink()

    ledger_truth.check(ledger(place), MONTH, MOST_PEERS)


def test_what_was_vacuumed_before_it_was_read_is_a_gap(place: Path) -> None:
    (_, early), (first, late) = parts(2)
    read, unread = early[: len(early) // 2], early[len(early) // 2 :]
    journal_files.write(place / "journal" / "remote-web1@0000.journal", read)
    assert updated(place).stderr == ""
    journal_files.write(place / "journal" / "remote-web1@0001.journal", unread, len(read))
    for number in (0, 1):
        (place / "journal" / f"remote-web1@000{number}.journal").unlink()
    journal_files.write(place / "journal" / "remote-web1@0002.journal", late, first)

    done = updated(place)

    assert "gone from the journal" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    report = json.loads(reported(place, "--output", "json"))
    (gap,) = report["coverage"]["gaps"]
    own = [one for one in read if one[1]["_SYSTEMD_UNIT"] == "tcpnewconn.service"]
    next_own = next(one for one in late if one[1]["_SYSTEMD_UNIT"] == "tcpnewconn.service")
    assert gap["start"] == pytest.approx(own[-1][0] / 1e6, abs=1e-3)
    assert gap["stop"] == pytest.approx(next_own[0] / 1e6, abs=1e-3)
    # Lost entries were not observed, and all others count.
    assert report["coverage"]["share"] < 1 - (gap["stop"] - gap["start"]) / (30 * DAY) + 0.001
    assert ledgers.connections_in(Path(ledger(place))) == opened(read) + opened(late)
    assert updated(place).stderr == ""


def opened(entries: list[Any]) -> int:
    """Connections that entries tell of one by one, each id once."""
    return len(
        {
            entry["TCPNEWCONN_CONNECTION_ID"]
            for _, entry in entries
            if entry["EVENT_ACTION"] == "connection-opened" and entry["_SYSTEMD_UNIT"] == "tcpnewconn.service"
        }
    )


def reported(place: Path, *options: str) -> str:
    return reports.reported("--ledger", ledger(place), *options)


def test_hosts_of_a_log_server_are_kept_apart(place: Path) -> None:
    other = month(seed=5, days=3)
    journal_files.write(place / "journal" / "remote-web1.journal", MONTH.entries)
    journal_files.write(place / "journal" / "remote-db1.journal", other.entries)

    assert updated(place).returncode == 0

    ledger_truth.check(ledger(place, "web1"), MONTH, MOST_PEERS)
    ledger_truth.check(ledger(place, "db1"), other, MOST_PEERS)


def test_a_damaged_ledger_is_rebuilt_and_said_once(place: Path) -> None:
    journal_files.write(place / "journal" / "remote-web1.journal", MONTH.entries)
    assert updated(place).returncode == 0
    with open(ledger(place), "r+b") as file:
        size = os.path.getsize(ledger(place))
        for at in range(4096, size, 4096):
            file.seek(at)
            file.write(b"\xff" * 2048)

    done = updated(place)

    assert done.returncode == 0
    assert "was damaged, and is rebuilt" in done.stderr
    ledger_truth.check(ledger(place), MONTH, MOST_PEERS)
    assert updated(place).stderr == ""


def test_a_file_that_is_no_ledger_is_left_alone(place: Path) -> None:
    journal_files.write(place / "journal" / "remote-web1.journal", MONTH.entries[:10])
    Path(ledger(place)).write_text("a letter\n" * 1000)

    done = updated(place)

    assert done.returncode == 1
    assert "not a database" in done.stderr
    assert Path(ledger(place)).read_text() == "a letter\n" * 1000


def test_a_full_disk_is_said_once_and_made_good_later(place: Path) -> None:
    journal_files.write(place / "journal" / "remote-web1.journal", MONTH.entries)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", place / "ledgers"], check=True)
    try:
        (place / "run").mkdir()
        runtime = {"RUNTIME_DIRECTORY": str(place / "run")}
        first, second = updated(place, runtime), updated(place, runtime)
        subprocess.run(["mount", "-o", "remount,size=16m", place / "ledgers"], check=True)
        third = updated(place, runtime)
        ledger_truth.check(ledger(place), MONTH, MOST_PEERS)
    finally:
        subprocess.run(["umount", place / "ledgers"], check=True)

    assert (first.returncode, second.returncode) == (75, 75)
    assert "cannot be written" in first.stderr
    assert second.stderr == ""
    assert (third.returncode, third.stderr) == (0, "")


def test_a_big_backlog_shows_its_progress_in_a_terminal_and_can_be_interrupted(place: Path) -> None:
    journal_files.write(place / "journal" / "remote-web1.journal", MONTH.entries)
    # Long enough for its progress to be shown; then until it is interrupted.
    slow = SMALL_BATCHES + "import time; from tcpnewconn.ledger import retention; keep = retention.keep; "
    slow += "pauses = iter([0.6, 0, 0, 0, 600]); retention.keep = lambda *a: (time.sleep(next(pauses)), keep(*a)); "
    leader, follower = pty.openpty()
    # Where the tests run in the background of a shell, they ignore SIGINT, and what they start does.
    interruptible = ["env", "--default-signal=INT", *command(place, slow)]
    running = subprocess.Popen(interruptible, cwd=TREE, env=environment(), stderr=follower)
    os.close(follower)
    said = ""
    while not re.search(r"[0-9,]+ entries read, up to 2026-10-\d\d \d\d:\d\d UTC$", said):
        said += os.read(leader, 4096).decode()
    wait_for(lambda: entries_in(ledger(place)) > 0)
    running.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):
        while more := os.read(leader, 4096):
            said += more.decode()
    os.close(leader)

    assert running.wait(60) == 130
    # The progress is gone, and one line stays.
    assert (
        said.split("\r\033[K")[-1]
        == f"tcpnewconn: {ledger(place)}: interrupted; the next update goes on from the last batch\r\n"
    )
    assert 0 < entries_in(ledger(place)) < len(MONTH.entries)
    assert updated(place).returncode == 0
    ledger_truth.check(ledger(place), MONTH, MOST_PEERS)


def entries_in(path: str) -> int:
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            found = db.execute("SELECT value FROM fact WHERE name = 'entries'").fetchone()
    except sqlite3.OperationalError:
        return 0
    return int(found[0]) if found else 0


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_updates_at_once_do_not_disturb_each_other(place: Path) -> None:
    journal_files.write(place / "journal" / "remote-web1.journal", MONTH.entries)
    running = [subprocess.Popen(command(place, SMALL_BATCHES), cwd=TREE, env=environment()) for _ in range(3)]

    assert [one.wait(120) for one in running] == [0, 0, 0]
    ledger_truth.check(ledger(place), MONTH, MOST_PEERS)


def test_the_cursor_outlives_a_clock_that_is_set_back(place: Path) -> None:
    """Read up to the moment before the clock is set back, and on from there."""
    back = next(
        at for at, (one, two) in enumerate(zip(MONTH.entries, MONTH.entries[1:], strict=False)) if two[0] < one[0] - 1e9
    )
    assert MONTH.entries[back][0] / 1e6 > BEGIN + 20 * DAY
    for first, last in ((0, back + 1), (back + 1, back + 3), (back + 3, len(MONTH.entries))):
        journal_files.write(place / "journal" / "remote-web1.journal", MONTH.entries[first:last], first)
        assert updated(place).stderr == ""

    ledger_truth.check(ledger(place), MONTH, MOST_PEERS)


def test_a_cursor_that_is_none_does_not_count_anything_twice(place: Path) -> None:
    journal_files.write(place / "journal" / "remote-web1.journal", MONTH.entries)
    files = hosts_of(str(place / "journal"))["web1"]
    limits = update.Limits(peers=MOST_PEERS)
    before = update.update(ledger(place), lambda: of_files(files), limits, "web1", lambda *_: None)
    after = update.update(ledger(place), lambda: of_files(files), limits, "web1", lambda *_: None)

    assert (before.entries > 0, after.entries) == (True, 0)
