"""Finding namespaces in a /proc made of captured files, and what their counters say."""

from __future__ import annotations

import os
import shutil
from ipaddress import ip_address
from pathlib import Path

import pytest

from tcpnewconn.kernel.activity import Counters, counters_of
from tcpnewconn.kernel.namespaces import Gone, Key, Namespaces, local_addresses

KERNELS = sorted(Path(__file__).parents[1].glob("fixtures/linux-*"))
CAPTURED = KERNELS[0] / "counters"


class Proc:
    """A directory that looks like /proc."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tables: dict[str, Path] = {}
        self._sockets = 430_314
        self.namespace("host")
        self.process("self", "host")

    def namespace(self, name: str, same_number_as: str | None = None) -> Key:
        """A namespace; it can have the number that another one had."""
        table = self.root / f"{name}.net"
        table.mkdir(parents=True)
        if same_number_as is None:
            (table / "tcp").touch()
        else:
            os.link(self._tables[same_number_as] / "tcp", table / "tcp")
        text = (CAPTURED / "netlink").read_text().replace("430314", str(self._sockets))
        (table / "netlink").write_text(text)
        self._tables[name] = table
        key = Key((table / "tcp").stat().st_ino, self._sockets)
        self._sockets += 100
        return key

    def process(self, pid: int | str, namespace: str, cgroup: str = "/") -> None:
        directory = self.root / str(pid)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        (directory / "net").symlink_to(self._tables[namespace])
        (directory / "cgroup").write_text(f"0::{cgroup}\n")

    def end(self, pid: int) -> None:
        shutil.rmtree(self.root / str(pid))


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def test_processes_are_found_by_the_namespace_that_they_are_in(proc: Proc) -> None:
    web, database = proc.namespace("web"), proc.namespace("database")
    for pid, name in ((1, "host"), (70, "web"), (71, "web"), (80, "database"), (90, "host")):
        proc.process(pid, name)
    namespaces = Namespaces(str(proc.root))
    namespaces.look()
    assert {key: list(pids) for key, pids in namespaces.found.items()} == {web: [70, 71], database: [80]}
    assert namespaces.of_first_process() is True


def test_a_program_that_is_not_in_the_namespace_of_process_1_knows_it(proc: Proc) -> None:
    namespaces = Namespaces(str(proc.root))
    assert namespaces.of_first_process() is None
    proc.namespace("web")
    proc.process(1, "web")
    assert namespaces.of_first_process() is False


def test_a_namespace_without_processes_is_not_found_any_more(proc: Proc) -> None:
    web = proc.namespace("web")
    proc.process(70, "web")
    proc.process(71, "web")
    namespaces = Namespaces(str(proc.root))
    namespaces.look()
    proc.end(70)
    namespaces.look()
    assert list(namespaces.found) == [web]
    proc.end(71)
    namespaces.look()
    assert not namespaces.found


def test_a_number_that_is_used_again_is_another_namespace(proc: Proc) -> None:
    before = proc.namespace("before")
    proc.process(70, "before")
    namespaces = Namespaces(str(proc.root))
    namespaces.look()
    after = proc.namespace("after", same_number_as="before")
    proc.process(70, "after")
    assert after.number == before.number
    # At once by who wants to poll it, and by the next looks.
    with pytest.raises(Gone), namespaces.opened(before):
        pytest.fail("another namespace was opened")
    assert not namespaces.found
    namespaces.look()
    assert list(namespaces.found) == [after]


def test_a_process_that_has_just_begun_is_looked_at_twice(proc: Proc) -> None:
    proc.process(70, "host")
    web = proc.namespace("web")
    namespaces = Namespaces(str(proc.root))
    namespaces.look()
    proc.process(70, "web")
    namespaces.look()
    assert list(namespaces.found) == [web]


def test_each_process_is_looked_at_again_now_and_then(proc: Proc) -> None:
    proc.process(70, "host")
    web = proc.namespace("web")
    namespaces = Namespaces(str(proc.root))
    namespaces.look()
    namespaces.look()
    proc.process(70, "web")
    looks = 0
    while not namespaces.found:
        namespaces.look()
        looks += 1
    assert 1 < looks <= 8
    assert list(namespaces.found) == [web]


def test_a_zombie_is_in_no_namespace(proc: Proc) -> None:
    (proc.root / "70").mkdir()
    namespaces = Namespaces(str(proc.root))
    namespaces.look()
    assert not namespaces.found


def test_a_process_that_can_be_opened_is_found_among_those_that_have_gone(proc: Proc) -> None:
    web = proc.namespace("web")
    for pid in (70, 71):
        proc.process(pid, "web")
    namespaces = Namespaces(str(proc.root))
    namespaces.look()
    proc.end(70)
    with namespaces.opened(web) as directory:
        assert os.stat(f"{directory}/tcp").st_ino == web.number
    assert list(namespaces.found[web]) == [71]


def test_no_descriptor_stays_open(proc: Proc) -> None:
    web = proc.namespace("web")
    proc.process(70, "web")
    namespaces = Namespaces(str(proc.root))
    before = os.listdir("/proc/self/fd")
    namespaces.look()
    with namespaces.opened(web) as directory:
        counters_of(directory)
    proc.end(70)
    with pytest.raises(Gone), namespaces.opened(web):
        pass
    assert os.listdir("/proc/self/fd") == before


def test_more_namespaces_than_are_taken_are_counted(proc: Proc) -> None:
    for number in range(5):
        proc.namespace(f"web{number}")
        proc.process(70 + number, f"web{number}")
    namespaces = Namespaces(str(proc.root), most=3)
    namespaces.look()
    assert (len(namespaces.found), namespaces.beyond) == (3, 2)
    proc.end(70)
    for _ in range(8):
        namespaces.look()
    assert (len(namespaces.found), namespaces.beyond) == (3, 1)
    assert sorted(pid for pids in namespaces.found.values() for pid in pids) == [71, 72, 73]
    proc.end(74)
    namespaces.look()
    assert namespaces.beyond == 0


def test_the_cgroups_of_a_namespace_are_those_of_its_processes(proc: Proc) -> None:
    web = proc.namespace("web")
    proc.process(70, "web", "/user.slice/user-1000.slice/session-1.scope")
    proc.process(71, "web", "/machine.slice/libpod-abc.scope/container")
    namespaces = Namespaces(str(proc.root))
    namespaces.look()
    assert namespaces.cgroups(web) == {
        70: "/user.slice/user-1000.slice/session-1.scope",
        71: "/machine.slice/libpod-abc.scope/container",
    }


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_the_counters_of_a_captured_namespace(kernel: Path) -> None:
    # Three were accepted, of which loopback's was also opened there; one attempt was refused.
    assert counters_of(str(kernel / "counters")) == Counters(2, 3, 3, 4, 1, 2, 1)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_the_addresses_of_a_captured_namespace(kernel: Path) -> None:
    found = {str(ip_address(address)) for address in local_addresses(str(kernel / "counters"))}
    assert {one for one in found if not one.startswith("fe80:")} == {"10.9.0.1", "127.0.0.1", "::1", "2001:db8:9::1"}


def test_counters_are_known_where_ipv6_is_off(tmp_path: Path) -> None:
    for name in ("snmp", "sockstat"):
        shutil.copy(CAPTURED / name, tmp_path)
    found = counters_of(str(tmp_path))
    assert found is not None
    assert found.inuse6 == 0


@pytest.mark.parametrize("name", ["snmp", "sockstat"])
@pytest.mark.parametrize("content", ["", "Tcp: 1\n", "Tcp:\nTcp:\n", "TCP: inuse x tw 1\n", "TCP: inuse\n"])
def test_counters_that_are_not_understood_say_nothing(tmp_path: Path, name: str, content: str) -> None:
    shutil.copytree(CAPTURED, tmp_path / "net")
    (tmp_path / "net" / name).write_text(content)
    assert counters_of(str(tmp_path / "net")) is None


def test_a_long_list_of_routes_is_not_read(tmp_path: Path) -> None:
    shutil.copytree(CAPTURED, tmp_path / "net")
    with open(tmp_path / "net" / "fib_trie", "a") as file:
        file.write("  |-- 10.0.0.0\n     /24 universe UNICAST\n" * 10_000)
    assert ip_address("10.9.0.1").packed not in local_addresses(str(tmp_path / "net"))
