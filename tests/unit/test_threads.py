"""The thread of a call, looked up a moment after: in a tree that looks like /proc, and on this kernel."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from tcpnewconn.attribution.processes import Processes
from tcpnewconn.attribution.threads import Threads
from tcpnewconn.kernel.namespaces import kernel_socket
from tcpnewconn.model import Thread
from tests.support.cgroups import tree
from tests.support.processes import process
from tests.support.terminal import TESTS

# Of a namespace whose kernel socket is 430314.
NETLINK = next((TESTS / "fixtures").glob("linux-*")) / "counters/netlink"
STATUS = b"Name:\tcurl\nTgid:\t4711\nPid:\t4711\nUid:\t%d\t%d\t%d\t%d\n"


def made(
    root: Path, started: float = 10.0, uids: tuple[int, ...] = (1, 2, 3, 4), cgroup: str = "/a.slice/b.service"
) -> Path:
    """A thread in the network namespace of this program."""
    process(root / "proc", 4711, "curl", started)
    there = root / "proc" / "4711"
    (there / "status").write_bytes(STATUS % uids)
    (there / "cgroup").write_text(f"1:name=systemd:/old\n0::{cgroup}\n")
    for one in ("self", "4711"):
        (root / "proc" / one / "net").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/net/tcp").touch()
    (root / "proc/self/net/netlink").write_bytes(NETLINK.read_bytes())
    os.link(root / "proc/self/net/tcp", there / "net/tcp")
    (tree(root / "cgroups") / "a.slice/b.service").mkdir(parents=True)
    return root


def threads(root: Path, users: bool = True, now: float = 20.0) -> Threads:
    processes = Processes("boot", str(root / "proc"), lambda: 0.0)
    return Threads(processes, users, str(root / "proc"), str(root / "cgroups"), lambda: now)


def test_a_thread_that_is_older_than_the_event_has_user_cgroup_and_name(tmp_path: Path) -> None:
    cgroup = os.stat(made(tmp_path) / "cgroups/a.slice/b.service").st_ino
    # The user is that of new sockets: the file system's.
    assert threads(tmp_path).look(4711) == Thread(10.01, 430314, 4, cgroup, ("b.service", "a.slice", ""), "curl")


def test_the_names_of_a_cgroup_that_has_gone_are_known_and_its_id_is_not(tmp_path: Path) -> None:
    made(tmp_path, cgroup="/a.slice/gone.service")
    found = threads(tmp_path).look(4711)
    assert found is not None
    assert found.cgroup == 0


def elsewhere(root: Path, netlink: bytes | None) -> None:
    """The thread is in another namespace, whose file `netlink` is this."""
    there = root / "proc/4711/net"
    (there / "tcp").unlink()
    (there / "tcp").touch()
    if netlink is not None:
        (there / "netlink").write_bytes(netlink)


def test_a_thread_in_another_network_namespace_has_the_number_of_that_one(tmp_path: Path) -> None:
    elsewhere(made(tmp_path), NETLINK.read_bytes().replace(b"430314", b"500000"))
    found = threads(tmp_path).look(4711)
    assert found is not None
    assert found.netns == 500000


@pytest.mark.parametrize("netlink", [None, b"", b"sk Eth Pid\n", b"0 0 0 no number\n"])
def test_a_network_namespace_that_is_not_known_has_no_number(tmp_path: Path, netlink: bytes | None) -> None:
    elsewhere(made(tmp_path), netlink)
    found = threads(tmp_path).look(4711)
    assert found is not None
    assert found.netns == 0


@pytest.mark.parametrize(("users", "uid", "expected"), [(False, 65534, None), (True, 65534, 65534), (False, 0, 0)])
def test_a_user_that_a_user_namespace_hides_is_left_out(
    tmp_path: Path, users: bool, uid: int, expected: int | None
) -> None:
    made(tmp_path, uids=(uid,) * 4)
    found = threads(tmp_path, users).look(4711)
    assert found is not None
    assert found.uid == expected


@pytest.mark.parametrize(
    ("ran", "since"), [(None, 20.002), (2_000_000, 20.000002), (20_000_000, 19.98202)], ids=["unknown", "short", "long"]
)
def test_it_was_there_a_tick_after_its_start_or_for_as_long_as_it_has_run(
    tmp_path: Path, ran: int | None, since: float
) -> None:
    """Half of the time it waited for a CPU."""
    made(tmp_path, started=20.0)
    if ran is not None:
        (tmp_path / "proc/4711/schedstat").write_text(f"{ran // 2} {ran // 2} 3\n")
    found = threads(tmp_path, now=20.002).look(4711)
    assert found is not None
    assert found.since == pytest.approx(since)


@pytest.mark.parametrize("damage", [("status", b"Name: x"), ("cgroup", None), ("stat", b""), ("net/tcp", None)])
def test_what_is_not_there_is_not_guessed(tmp_path: Path, damage: tuple[str, bytes | None]) -> None:
    name, content = damage
    file = made(tmp_path) / "proc/4711" / name
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert threads(tmp_path).look(4711) is None


def test_on_this_kernel_a_thread_is_found_and_one_that_has_gone_is_not() -> None:
    if os.readlink("/proc/self/ns/pid") != "pid:[4026531836]":
        pytest.skip("in a PID namespace the trace has other ids")
    look = Threads(Processes("boot"), True).look
    found: list[Thread | None] = []

    def call() -> None:
        Path("/proc/thread-self/comm").write_text("looked up")
        until = time.monotonic() + 0.05
        while time.monotonic() < until:
            pass
        found.append(look(threading.get_native_id()))

    before = time.monotonic()
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    (one,) = found
    assert one is not None
    assert (one.netns, one.uid, one.name) == (kernel_socket("/proc/self/net"), os.getuid(), "looked up")
    assert before < one.since < time.monotonic()
    assert thread.native_id is not None
    assert look(thread.native_id) is None
