"""A poll is saved only where the counters show that nothing has happened, and never six times in a row."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tcpnewconn.kernel.activity import Activity

COUNTERS = {"ActiveOpens": 7, "PassiveOpens": 5, "CurrEstab": 3, "inuse": 4, "tw": 2, "inuse6": 1}


class Namespace:
    """Its files as Linux 6.18 writes them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.numbers = dict(COUNTERS)
        self.write()

    def write(self) -> None:
        number = self.numbers
        (self.directory / "snmp").write_text(
            "Ip: Forwarding DefaultTTL\nIp: 1 64\n"
            "Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs\n"
            f"Tcp: 1 200 120000 -1 {number['ActiveOpens']} {number['PassiveOpens']} 4 188 {number['CurrEstab']} 53482\n"
        )
        (self.directory / "sockstat").write_text(
            f"sockets: used 47\nTCP: inuse {number['inuse']} orphan 0 tw {number['tw']} alloc 959 mem 196\nUDP: inuse 0 mem 0\n"
        )
        (self.directory / "sockstat6").write_text(f"TCP6: inuse {number['inuse6']}\nUDP6: inuse 0\n")


@pytest.fixture
def there(tmp_path: Path) -> Namespace:
    return Namespace(tmp_path)


@pytest.fixture
def activity(there: Namespace) -> Activity:
    """Three polls have seen nothing happen: the next is saved."""
    made = Activity(str(there.directory))
    assert [made.poll_needed(False) for _ in range(3)] == [True, True, False]
    return made


@pytest.mark.parametrize("name", COUNTERS)
def test_after_any_change_two_polls_are_needed(there: Namespace, activity: Activity, name: str) -> None:
    there.numbers[name] += 1
    there.write()
    assert [activity.poll_needed(False) for _ in range(3)] == [True, True, False]
    there.numbers[name] -= 1
    there.write()
    assert [activity.poll_needed(False) for _ in range(3)] == [True, True, False]


def test_after_a_disturbance_too(activity: Activity) -> None:
    assert activity.poll_needed(True)
    assert [activity.poll_needed(False) for _ in range(3)] == [True, False, False]


def test_one_poll_in_six_is_made_all_the_same(activity: Activity) -> None:
    assert [activity.poll_needed(False) for _ in range(11)] == [*[False] * 4, True, *[False] * 5, True]


def test_without_ipv6_the_others_tell(there: Namespace) -> None:
    (there.directory / "sockstat6").unlink()
    activity = Activity(str(there.directory))
    assert [activity.poll_needed(False) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("name", ["snmp", "sockstat"])
@pytest.mark.parametrize("text", [None, "", "Tcp: ActiveOpens\nTcp: x\n", "TCP: inuse\n", "TCP: inuse x\n"])
def test_without_the_counters_every_poll_is_made(there: Namespace, name: str, text: str | None) -> None:
    if text is None:
        (there.directory / name).unlink()
    else:
        (there.directory / name).write_text(text)
    activity = Activity(str(there.directory))
    assert all(activity.poll_needed(False) for _ in range(9))


def test_its_files_are_opened_once_and_again_where_they_could_not_be_read(
    there: Namespace, activity: Activity, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = there.directory.with_name("moved")
    there.directory.rename(moved)
    assert not activity.poll_needed(False)
    moved.rename(there.directory)

    def unreadable(descriptor: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "unreadable")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", unreadable)
        assert activity.poll_needed(False)
    # Others stand in their places by now.
    for name in ("snmp", "sockstat"):
        (there.directory / name).unlink()
    there.write()
    assert [activity.poll_needed(False) for _ in range(3)] == [True, True, False]
    there.numbers["CurrEstab"] += 1
    there.write()
    assert activity.poll_needed(False)
