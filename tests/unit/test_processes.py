"""The process of a thread: only where it is there, and was before the event."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from tcpnewconn.attribution.processes import Process, Processes
from tests.support.processes import process

TICK = 1 / os.sysconf("SC_CLK_TCK")


def look(root: Path, thread_id: int, event: float, suspended: float = 0.0) -> Process | None:
    return Processes("boot", str(root), lambda: suspended).process(thread_id, event)


def test_a_process_that_was_there_before_the_event_is_the_caller(tmp_path: Path) -> None:
    root = process(tmp_path, 4711, "curl", started=10.0)
    found = look(root, 4711, 10.0 + 2 * TICK)
    assert found is not None
    assert (found.pid, found.name, len(found.entity)) == (4711, "curl", 32)


def test_a_thread_is_of_its_process(tmp_path: Path) -> None:
    root = process(tmp_path, 4711, "firefox", started=10.0)
    process(root, 4712, "Socket Thread", started=11.0, pid=4711)
    thread, main = look(root, 4712, 20.0), look(root, 4711, 20.0)
    assert thread is not None
    assert (thread.pid, thread.name) == (4711, "firefox")
    assert thread == main


@pytest.mark.parametrize("after", [0.0, TICK / 2, 0.9 * TICK])
def test_one_that_may_have_started_after_the_event_has_its_id_from_another(tmp_path: Path, after: float) -> None:
    # /proc says the start in whole ticks.
    assert look(process(tmp_path, 4711, "curl", started=10.0), 4711, 10.0 + after) is None


def test_one_that_has_gone_or_is_hidden_is_left_out(tmp_path: Path) -> None:
    root = process(tmp_path, 4711, "curl", started=10.0)
    assert look(root, 4712, 20.0) is None
    process(root, 4713, "thread", started=10.0, pid=4714)
    assert look(root, 4713, 20.0) is None


def test_ids_of_another_pid_namespace_are_not_looked_up(tmp_path: Path) -> None:
    root = process(tmp_path, 4711, "curl", started=10.0)
    namespace = root / "self/ns/pid"
    namespace.unlink()
    assert look(root, 4711, 20.0) is None
    namespace.symlink_to("pid:[4026532000]")
    assert look(root, 4711, 20.0) is None


def test_a_name_can_hold_anything(tmp_path: Path) -> None:
    name = ") S 1 2 \n\x1b[31m("
    found = look(process(tmp_path, 4711, name, started=10.0), 4711, 20.0)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("damage", [b"", b"4711 (curl", b"4711 (curl) S 1", b"4711 (curl) S" + b" x" * 30])
def test_what_is_not_understood_is_left_out(tmp_path: Path, damage: bytes) -> None:
    root = process(tmp_path, 4711, "curl", started=10.0)
    (root / "4711/stat").write_bytes(damage)
    assert look(root, 4711, 20.0) is None


def test_the_time_of_an_event_counts_without_that_of_being_suspended(tmp_path: Path) -> None:
    # 100 s after boot, of which the machine was suspended for 90.
    root = process(tmp_path, 4711, "curl", started=99.0)
    assert look(root, 4711, 10.0, suspended=90.0) is not None
    assert look(root, 4711, 10.0) is None


def test_an_event_before_the_machine_was_suspended_is_not_dated_after(tmp_path: Path) -> None:
    root = process(tmp_path, 4711, "curl", started=99.0)
    suspended = 0.0
    processes = Processes("boot", str(root), lambda: suspended)
    suspended = 90.0
    assert processes.process(4711, 10.0) is None
    assert processes.process(4711, time.monotonic() + 1.0) is not None


def test_entities_differ_by_boot_pid_and_start(tmp_path: Path) -> None:
    entities = set()
    for boot, pid, started in (("a", 1, 1.0), ("b", 1, 1.0), ("a", 2, 1.0), ("a", 1, 2.0)):
        root = process(tmp_path / f"{boot}{pid}{started}", pid, "x", started=started)
        found = Processes(boot, str(root), lambda: 0.0).process(pid, 20.0)
        assert found is not None
        entities.add(found.entity)
    assert len(entities) == 4


def test_on_this_kernel_a_thread_is_of_this_process() -> None:
    processes = Processes("boot")
    found: list[Process | None] = []

    def call() -> None:
        started, ticks = time.monotonic(), 2 * TICK
        while time.monotonic() < started + ticks:
            pass
        found.append(processes.process(threading.get_native_id(), time.monotonic()))

    if os.readlink("/proc/self/ns/pid") != "pid:[4026531836]":
        pytest.skip("the first pid namespace is another one")
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert found[0] is not None
    assert found[0].pid == os.getpid()
    assert found[0].name == Path("/proc/self/comm").read_text().rstrip("\n")
    # It was not there at the boot.
    assert processes.process(os.getpid(), 0.0) is None
