"""The tail of the state log, in memory: killed at any store, damaged, cut, missing; nothing is lost, and nothing counts twice."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tcpnewconn.eventtypes import Connection
from tcpnewconn.model import ESTABLISHED, Endpoint
from tcpnewconn.state.tail import SIZE
from tests.support.owners import Owners
from tests.support.state_file import PLACE
from tests.support.terminal import TESTS

VERSION_1 = TESTS / "fixtures" / "snapshot-version-1"
HERE, THERE = bytes([10, 0, 0, 5]), bytes([192, 0, 2, 1])


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return tmp_path / "snapshot"


@pytest.fixture
def tail(memory: Path) -> Path:
    return memory / "state.tail"


def started(snapshot: Path, tail: Path) -> Owners:
    """A run that has loaded the state and has begun to write it."""
    owners = Owners(snapshot, PLACE, tail=tail)
    assert owners.warning is None
    owners.log.save()
    assert owners.log.no_tail is None
    return owners


def change(owners: Owners, number: int, times: int = 1) -> None:
    """A destroyed socket that is counted in a summary, and so many more on record with it."""
    for _ in range(times):
        source = Endpoint(THERE, 1000 + number)
        connection = Connection(source, Endpoint(HERE, 22), "ingress", "notification", "id", ESTABLISHED)
        owners.aggregation.add(connection, 0.0, crowded=True)
    owners.tracker.cursor.handled(number)
    owners.log.flush()


def held(snapshot: Path, tail: Path | None) -> list[str] | None:
    """The state that the files give their owners, None if the snapshot was moved aside."""
    owners = Owners(snapshot, PLACE, tail=tail)
    if owners.warning is None:
        return owners.records()
    assert owners.records() == Owners(snapshot.with_name("none"), PLACE).records()
    Path(f"{snapshot}.damaged-1").rename(snapshot)
    return None


# --- a restart -------------------------------------------------------------------------------------------------------


def test_each_change_is_there_after_a_kill_though_the_snapshot_was_not_written(snapshot: Path, tail: Path) -> None:
    owners = started(snapshot, tail)
    written = snapshot.read_bytes()
    for number in range(1, 20):
        change(owners, number)
        assert held(snapshot, tail) == owners.records()
    assert snapshot.read_bytes() == written


def test_the_next_run_goes_on_with_it(snapshot: Path, tail: Path) -> None:
    for number in range(1, 20):
        owners = started(snapshot, tail)
        change(owners, number)
    assert held(snapshot, tail) == owners.records()
    assert '["g",0,"ingress",null,"0a000005",22,0,19]' in owners.records()


def test_a_state_of_version_1_is_read_and_goes_on_with_a_tail(snapshot: Path, tail: Path) -> None:
    shutil.copy(VERSION_1, snapshot)
    owners = Owners(snapshot, PLACE, tail=tail)
    assert owners.warning is None
    owners.tracker.resume(1300.0, 3)
    owners.log.save()
    change(owners, 882199)
    assert held(snapshot, tail) == owners.records()


def test_after_the_last_time_the_snapshot_stands_alone_and_earlier_versions_know_it(snapshot: Path, tail: Path) -> None:
    owners = started(snapshot, tail)
    assert b'"tcpnewconn":2' in snapshot.read_bytes()
    change(owners, 7)
    owners.log.save(last=True)
    assert not tail.exists()
    assert b'"tcpnewconn":1' in snapshot.read_bytes()
    assert held(snapshot, None) == owners.records()


# --- killed at any moment --------------------------------------------------------------------------------------------


def killed(tail: Path, content: bytes, whole: bytes, stored: Sequence[int]) -> Iterator[None]:
    """The file after a kill before the first of these bytes was stored, and after each of them."""
    cut = bytearray(content)
    tail.write_bytes(cut)
    yield
    for at in stored:
        cut[at] = whole[at]
        tail.write_bytes(cut)
        yield


def test_a_kill_between_two_stores_leaves_the_state_before_or_after(snapshot: Path, tail: Path) -> None:
    owners = started(snapshot, tail)
    change(owners, 1)
    before, content = owners.records(), tail.read_bytes()
    change(owners, 2)
    after, whole = owners.records(), tail.read_bytes()
    # In the order in which they are stored: the block, the first mark, the second.
    stored = [at for at in (*range(128, SIZE), *range(128)) if content[at] != whole[at]]
    assert len(stored) > 20
    seen = [held(snapshot, tail) for _ in killed(tail, content, whole, stored)]
    changed = seen.index(after)
    assert seen == [before] * changed + [after] * (len(stored) + 1 - changed)


@pytest.mark.parametrize("write", [lambda owners: owners.log.save(), lambda owners: owners.log.save(last=True)])
def test_a_kill_after_the_snapshot_was_written_and_before_the_tail_was_emptied_counts_nothing_twice(
    write: Callable[[Owners], None], snapshot: Path, tail: Path
) -> None:
    owners = started(snapshot, tail)
    change(owners, 1)
    content = tail.read_bytes()
    write(owners)
    tail.write_bytes(content)
    assert held(snapshot, tail) == owners.records()


def test_a_kill_of_the_first_run_before_its_snapshot_was_written_leaves_a_tail_of_nothing(
    snapshot: Path, tail: Path
) -> None:
    owners = started(snapshot, tail)
    change(owners, 1)
    owners.log.save(last=True)
    shutil.copy(snapshot, snapshot.with_name("copy"))
    started(snapshot, tail)
    shutil.copy(snapshot.with_name("copy"), snapshot)
    assert held(snapshot, tail) == owners.records()


# --- until when this host was observed ---------------------------------------------------------------------------------

NOON = 1_795_953_600.0


@pytest.mark.parametrize(
    "then", [None, lambda owners: owners.log.save(), lambda owners: owners.log._rewrite(owners.log._tail, False)]
)
def test_each_poll_is_there_after_a_kill_though_a_record_is_written_once_a_minute(
    snapshot: Path, tail: Path, then: Callable[[Owners], None] | None
) -> None:
    owners = started(snapshot, tail)
    change(owners, 1)
    owners.observation.observed(NOON)
    owners.log.save()
    written = snapshot.read_bytes()
    for second in range(10, 60, 10):
        owners.observation.observed(NOON + second)
        owners.log.save()
        assert Owners(snapshot, PLACE, tail=tail).observation.until == NOON + second
    assert snapshot.read_bytes() == written
    if then is not None:
        change(owners, 2)
        then(owners)
    found = Owners(snapshot, PLACE, tail=tail)
    assert (found.warning, found.observation.until) == (None, NOON + 50)


def test_a_kill_while_a_poll_is_stored_leaves_it_or_the_one_on_record(snapshot: Path, tail: Path) -> None:
    owners = started(snapshot, tail)
    owners.observation.observed(NOON)
    owners.observation.observed(NOON + 10)
    owners.log.flush()
    content = tail.read_bytes()
    owners.observation.observed(NOON + 20)
    whole = tail.read_bytes()
    stored = [at for at, one in enumerate(content) if one != whole[at]]
    assert 2 < len(stored) <= 12
    seen = [Owners(snapshot, PLACE, tail=tail).observation.until for _ in killed(tail, content, whole, stored)]
    assert seen == [NOON + 10, *[NOON] * (len(stored) - 1), NOON + 20]


def test_a_clock_that_was_put_back_counts(snapshot: Path, tail: Path) -> None:
    owners = started(snapshot, tail)
    for until in (NOON, NOON - 3600, NOON - 3590):
        owners.observation.observed(until)
    owners.log.flush()
    assert Owners(snapshot, PLACE, tail=tail).observation.until == NOON - 3590


def test_what_an_earlier_run_left_in_a_tail_says_nothing_of_a_later_one(snapshot: Path, tail: Path) -> None:
    owners = started(snapshot, tail)
    owners.observation.observed(NOON)
    left = tail.read_bytes()
    owners.observation.observed(NOON + 600, last=True)
    owners.log.save(last=True)
    # It could not be deleted.
    tail.write_bytes(left)
    again = started(snapshot, tail)
    change(again, 1)
    assert Owners(snapshot, PLACE, tail=tail).observation.until == NOON + 600


# --- a tail without room ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 5000])
def test_however_much_changes_between_two_writings_of_the_snapshot(snapshot: Path, tail: Path, times: int) -> None:
    """More than fits into the tail, and more at once."""
    owners = started(snapshot, tail)
    for number in range(1, 60_000 // times):
        change(owners, number, times)
    assert snapshot.stat().st_size > SIZE // 2
    assert held(snapshot, tail) == owners.records()
    owners.log.save()
    assert held(snapshot, tail) == owners.records()
    assert snapshot.stat().st_size < SIZE // 2


def test_it_says_in_time_that_it_fills(snapshot: Path, tail: Path) -> None:
    owners = started(snapshot, tail)
    number = 0
    while not owners.log.filling:
        number += 1
        change(owners, number)
    written = snapshot.stat().st_size
    owners.log.save()
    assert not owners.log.filling
    # What is needed takes less than what has changed: it was rewritten.
    assert snapshot.stat().st_size < 2 * written < SIZE // 4
    assert held(snapshot, tail) == owners.records()


# --- not to be believed ----------------------------------------------------------------------------------------------


def test_one_with_any_bit_flipped_is_not_believed(snapshot: Path, tail: Path) -> None:
    owners = started(snapshot, tail)
    for number in range(1, 5):
        change(owners, number)
    expected, content = owners.records(), tail.read_bytes()
    end = len(content.rstrip(b"\0"))
    believed = set()
    for at in range(end):
        spoilt = bytearray(content)
        spoilt[at] ^= 1 << at % 8
        tail.write_bytes(spoilt)
        found = held(snapshot, tail)
        assert found in (None, expected), f"at byte {at}"
        if found is not None:
            believed.add(at)
    # The mark stands there twice.
    assert believed == set(range(128))


def test_one_that_was_cut_is_not_believed(snapshot: Path, tail: Path) -> None:
    owners = started(snapshot, tail)
    for number in range(1, 5):
        change(owners, number)
    content = tail.read_bytes()
    for size in range(len(content.rstrip(b"\0"))):
        tail.write_bytes(content[:size])
        assert held(snapshot, tail) is None, f"{size} bytes"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda tail: tail.unlink(), "No such file or directory"),
        (lambda tail: tail.write_bytes(b""), "damaged mark"),
        (lambda tail: tail.write_bytes(b"\xff" * SIZE), "damaged mark"),
        (lambda tail: (tail.unlink(), tail.mkdir()), "Is a directory"),
    ],
)
def test_a_warning_says_why_and_the_next_run_has_a_tail_again(
    snapshot: Path, tail: Path, spoil: Callable[[Path], object], why: str
) -> None:
    change(started(snapshot, tail), 1)
    spoil(tail)
    owners = Owners(snapshot, PLACE, tail=tail)
    assert owners.warning is not None
    assert owners.warning.startswith(f"{snapshot}: {tail}: {why}; moved to {snapshot}.damaged-1: ")
    if tail.is_dir():
        tail.rmdir()
    owners.log.save()
    change(owners, 2)
    assert held(snapshot, tail) == owners.records()


def test_that_of_another_snapshot_is_not_believed(snapshot: Path, tail: Path) -> None:
    change(started(snapshot, tail), 1)
    shutil.copy(snapshot, snapshot.with_name("copy"))
    for number in range(2, 5):
        change(started(snapshot, tail), number)
    shutil.copy(snapshot.with_name("copy"), snapshot)
    assert held(snapshot, tail) is None


def test_after_a_reboot_there_is_none_and_nothing_is_wrong(snapshot: Path, tail: Path) -> None:
    owners = started(snapshot, tail)
    owners.queue.put({"MESSAGE": "waits"})
    owners.log.save()
    change(owners, 1)
    tail.unlink()
    again = Owners(snapshot, "another-boot", tail=tail)
    assert again.warning is None
    assert [entry["MESSAGE"] for entry, _ in again.queue.entries] == ["waits"]
    # Killed as soon as it had made its tail.
    shutil.copy(snapshot, snapshot.with_name("copy"))
    again.log.save()
    shutil.copy(snapshot.with_name("copy"), snapshot)
    third = Owners(snapshot, "another-boot", tail=tail)
    assert third.warning is None
    assert len(third.queue.entries) == 1


# --- where there can be none -----------------------------------------------------------------------------------------


@pytest.fixture
def on_a_disk() -> Iterator[Path]:
    """What is there outlives a reboot: file-hierarchy(7)."""
    with tempfile.TemporaryDirectory(prefix="tcpnewconn-", dir="/var/tmp") as directory:
        yield Path(directory) / "tail"


def test_on_a_disk_there_is_none(snapshot: Path, on_a_disk: Path) -> None:
    owners = Owners(snapshot, PLACE, tail=on_a_disk)
    owners.log.save()
    assert owners.log.no_tail == f"{on_a_disk} is not a file on tmpfs"
    change(owners, 1)
    assert held(snapshot, None) == owners.records()
    assert b'"tcpnewconn":1' in snapshot.read_bytes()


def test_it_is_for_nobody_else_s_eyes_and_never_a_link(snapshot: Path, tail: Path) -> None:
    started(snapshot, tail)
    assert tail.stat().st_mode & 0o777 == 0o600
    tail.rename(tail.with_name("elsewhere"))
    tail.symlink_to(tail.with_name("elsewhere"))
    owners = Owners(snapshot.with_name("other"), PLACE, tail=tail)
    owners.log.save()
    assert owners.log.no_tail == f"{tail}: Too many levels of symbolic links"
