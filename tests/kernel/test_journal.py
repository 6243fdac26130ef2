"""The journal, by its native protocol: the content of an entry, and that none is lost while journald hangs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpnewconn.reporting.fields import document
from tcpnewconn.reporting.sinks import open_sink
from tests.support.events import parsed
from tests.support.journal import MOUNT, Entry, Journal, about_the_observation, nothing_else, received
from tests.support.supervised import Supervised
from tests.support.table import Tables, line
from tests.support.terminal import SAMPLE_EXPECTED, TREE, environment, run, sample


@pytest.fixture
def procfs(tmp_path: Path) -> str:
    return str(sample(tmp_path / "proc"))


@pytest.fixture
def journal() -> Iterator[Journal]:
    with Journal() as made:
        yield made


@pytest.fixture
def opened(journal: Journal) -> Journal:
    journal.open()
    return journal


def said(entries: list[Entry]) -> list[str]:
    return [entry["MESSAGE"].decode() for entry in entries]


def waiting(service: Supervised) -> int:
    """How many entries its status says are waiting."""
    found = re.search(r"; journal blocked, ([\d,]+) waiting", service.status)
    return int(found[1].replace(",", "")) if found else 0


# --- what an entry holds ---------------------------------------------------------------------------------------------


def test_the_journal_gets_every_event_in_its_order_with_the_fields_that_json_has(procfs: str, opened: Journal) -> None:
    with Supervised("--procfs", procfs, "--output", "journal", journal=opened) as service:
        entries = received(opened, len(SAMPLE_EXPECTED))
        service.ready()
        assert nothing_else(opened)
        assert service.stop() == 0
        assert service.lines == service.said == []
    assert said(entries) == SAMPLE_EXPECTED
    for entry, line_ in zip(
        entries, run("--once", "--procfs", procfs, "--output", "json").stdout.splitlines(), strict=True
    ):
        assert entry.pop("SYSLOG_IDENTIFIER") == b"tcpnewconn"
        # Neither CODE_FILE nor its like: finding them would walk the stack.
        shown = parsed(line_)
        fields = {field: value.decode() for field, value in entry.items()}
        assert document(fields, shown["@timestamp"], shown["host.name"]) == shown


NASTY = [
    "one line\nPRIORITY=0\nMESSAGE=forged",
    "ends in a newline\n",
    "",
    "=",
    "\x00\x1b[2J\x7f",
    "not UTF-8: \udcff\udc80",
    "e\u0301\u202e\U0001f600",
    "x" * 100_000,
]


def test_a_value_arrives_as_it_is_whatever_is_in_it(opened: Journal) -> None:
    program = (
        "import json, sys; from tcpnewconn.reporting.sinks import Journal; sink = Journal(); "
        "[sink.write({'MESSAGE': value, 'USER_NAME': value}) for value in json.load(sys.stdin)]"
    )
    step = MOUNT.format(directory=shlex.quote(str(opened.directory)))
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            f'{step} && exec "$@"',
            "sh",
            sys.executable,
            "-c",
            program,
        ],
        cwd=TREE,
        env=environment(),
        input=json.dumps(NASTY),
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for value, entry in zip(NASTY, opened.entries(len(NASTY)), strict=True):
        exact = value.encode(errors="surrogateescape")
        assert entry == {"MESSAGE": exact, "USER_NAME": exact, "SYSLOG_IDENTIFIER": b"tcpnewconn"}


# --- where auto reports ----------------------------------------------------------------------------------------------


def test_auto_takes_the_journal_where_stderr_is_the_journal(procfs: str, opened: Journal) -> None:
    with Supervised("--procfs", procfs, journal=opened, auto=True) as service:
        assert said(received(opened, len(SAMPLE_EXPECTED))) == SAMPLE_EXPECTED
        service.ready()
        assert service.stop() == 0
        assert service.lines == []


@pytest.mark.parametrize("stream", ["1:1", "", "nonsense", "8:", "a:b", "99999999999999999999:1"])
def test_auto_takes_text_where_stderr_is_something_else(procfs: str, opened: Journal, stream: str) -> None:
    with Supervised("--procfs", procfs, journal=opened, more={"JOURNAL_STREAM": stream}) as service:
        service.wait(lambda: len(service.lines) == len(SAMPLE_EXPECTED), "the sample")
        service.ready()
        assert nothing_else(opened)


def test_every_output_has_its_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert {output: type(open_sink(output)).__name__ for output in ("auto", "text", "json", "journal")} == {
        "auto": "Text",
        "text": "Text",
        "json": "Json",
        "journal": "Journal",
    }
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    assert type(open_sink("auto")).__name__ == "Journal"


def test_messages_for_people_have_their_level_there(procfs: str, opened: Journal, tmp_path: Path) -> None:
    state = tmp_path / "snapshot"
    state.write_text("damaged")
    with Supervised("--procfs", procfs, "--state", str(state), journal=opened, auto=True) as service:
        service.ready()
        assert service.stop() == 0
        (warning,) = service.said
        assert warning.startswith(f"<4>{state}: ")


# --- a journal that does not read ------------------------------------------------------------------------------------


def test_a_journal_that_hangs_stops_nothing_and_gets_everything_in_the_end(tmp_path: Path, opened: Journal) -> None:
    tables = Tables(tmp_path)
    rows = [line("10.0.0.5:22", f"203.0.113.9:{40000 + number}", inode=100 + number) for number in range(600)]
    expected = [f"New connection: 203.0.113.9:{40000 + number} -> 10.0.0.5:22" for number in range(600)]
    tables.write(rows[:100])
    options = ["--procfs", str(tmp_path), "--output", "journal", "--interval", "100ms"]
    with Supervised(*options, journal=opened, watchdog=0.2) as service:
        service.ready()
        service.wait(lambda: waiting(service) > 0, "status that says so")
        # It goes on polling, and pings its watchdog.
        tables.write(rows)
        service.wait(lambda: waiting(service) > 400, "more that wait")
        alive = service.count("WATCHDOG=1")
        service.wait(lambda: service.count("WATCHDOG=1") > alive + 5, "further pings")
        # It wakes up, for a moment and then for good.
        some = received(opened, 5)
        service.wait(lambda: 0 < waiting(service) < 590, "less that wait")
        assert said(some + received(opened, 595)) == expected
        service.wait(lambda: waiting(service) == 0, "status without it")
        assert nothing_else(opened)
        assert service.stop() == 0


def test_a_journal_that_is_full_when_it_starts_does_not_hold_it_up(procfs: str, opened: Journal) -> None:
    others = opened.fill()
    with Supervised("--procfs", procfs, "--output", "journal", journal=opened, watchdog=0.2) as service:
        service.ready()
        service.notice("WATCHDOG")
        service.wait(lambda: waiting(service) == len(SAMPLE_EXPECTED) + 1, "status that says so")
        opened.entries(others)
        assert said(received(opened, len(SAMPLE_EXPECTED))) == SAMPLE_EXPECTED


def test_a_journal_that_is_not_there_is_waited_for(procfs: str, journal: Journal) -> None:
    options = ["--procfs", procfs, "--output", "journal", "--interval", "100ms"]
    with Supervised(*options, journal=journal, watchdog=0.2) as service:
        service.ready()
        service.notice("WATCHDOG")
        service.wait(lambda: waiting(service) == len(SAMPLE_EXPECTED) + 1, "status that says so")
        journal.open()
        assert said(received(journal, len(SAMPLE_EXPECTED))) == SAMPLE_EXPECTED
        service.wait(lambda: waiting(service) == 0, "status without it")
        assert nothing_else(journal)


@pytest.mark.parametrize("leave", [False, True])
def test_a_journal_that_is_restarted_misses_nothing(tmp_path: Path, opened: Journal, leave: bool) -> None:
    tables = Tables(tmp_path)
    tables.write([line("10.0.0.5:22", "203.0.113.9:50001", inode=1)])
    options = ["--procfs", str(tmp_path), "--output", "journal", "--interval", "100ms"]
    with Supervised(*options, journal=opened) as service:
        first = opened.receive()
        service.ready()
        assert about_the_observation(opened.receive())
        opened.close(leave)
        tables.write([line("10.0.0.5:22", f"203.0.113.9:5000{number}", inode=number) for number in (1, 2)])
        service.wait(lambda: waiting(service) == 1, "status that says so")
        (opened.directory / "socket").unlink(missing_ok=True)
        opened.open()
        assert said([first, *received(opened, 1)]) == [
            f"New connection: 203.0.113.9:5000{n} -> 10.0.0.5:22" for n in (1, 2)
        ]
        service.wait(lambda: waiting(service) == 0, "status without it")
        assert nothing_else(opened)


@pytest.mark.parametrize("stopped", [False, True])
def test_entries_that_wait_when_it_ends_are_delivered_by_the_next(
    procfs: str, opened: Journal, tmp_path: Path, stopped: bool
) -> None:
    options = ["--procfs", procfs, "--output", "journal", "--state", str(tmp_path / "snapshot"), "--interval", "100ms"]
    with Supervised(*options, journal=opened) as service:
        service.wait(lambda: waiting(service) > 0, "status that says so")
        service.wait(lambda: service.count("STATUS") > 3, "further polls")
        held = waiting(service)
        if stopped:
            assert service.stop() == 0
    # Killed otherwise, by the end of the block.
    with Supervised(*options, journal=opened) as service:
        service.ready()
        assert said(received(opened, len(SAMPLE_EXPECTED))) == SAMPLE_EXPECTED
        service.wait(lambda: waiting(service) == 0 and service.count("STATUS") > 2, "status without it")
        assert nothing_else(opened)
    assert 0 < held <= len(SAMPLE_EXPECTED)
    # That was all.
    with Supervised(*options, journal=opened) as service:
        service.ready()
        assert nothing_else(opened)


def test_waiting_entries_are_delivered_even_after_another_boot(procfs: str, opened: Journal, tmp_path: Path) -> None:
    options = ["--procfs", procfs, "--output", "journal", "--state", str(tmp_path / "snapshot")]
    with Supervised(*options, journal=opened) as service:
        service.wait(lambda: waiting(service) > 0, "status that says so")
    boot = Path(procfs) / "sys/kernel/random/boot_id"
    boot.parent.mkdir(parents=True)
    boot.write_text("0123456789abcdef0123456789abcdef\n")
    with Supervised(*options, journal=opened) as service:
        service.ready()
        # All that waited at the end of the first run, then what is open in this boot.
        assert said(received(opened, 2 * len(SAMPLE_EXPECTED))) == 2 * SAMPLE_EXPECTED
        assert nothing_else(opened)
