"""The container of a namespace, from the cgroups of its processes, and its name from conmon's command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcpnewconn.attribution.cgroups import Container, place
from tcpnewconn.attribution.containers import podman_name, shared
from tcpnewconn.attribution.units import Units
from tests.support.cgroups import tree
from tests.support.clock import Clock

ID, OTHER = "0123456789abcdef" * 4, "f" * 64
UID = "01234567-89ab-cdef-0123-456789abcdef"
POD = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}.slice"
PODMAN = f"/machine.slice/libpod-{ID}.scope/container"


@pytest.mark.parametrize(
    ("paths", "container"),
    [
        ([PODMAN, PODMAN], Container(ID, "podman")),
        ([f"{PODMAN}/init.scope", f"{PODMAN}/system.slice/nginx.service"], Container(ID, "podman")),
        # rootlessport, and whoever looks into it.
        (["/user.slice/user-1000.slice/session-1.scope", PODMAN, "/"], Container(ID, "podman")),
        # A pod of podman: which of them is not known.
        ([PODMAN, f"/machine.slice/libpod-{OTHER}.scope/container"], None),
        ([f"{POD}/cri-containerd-{ID}.scope"], Container(ID, "containerd", None, UID)),
        # pause, and the container of the pod.
        ([f"{POD}/cri-containerd-{ID}.scope", f"{POD}/cri-containerd-{OTHER}.scope"], Container(None, None, None, UID)),
        ([f"/kubepods/pod{UID}/{ID}", f"/kubepods/pod{UID}/{OTHER}"], Container(None, None, None, UID)),
        (
            [
                "/machine.slice/systemd-nspawn@web.service/payload/init.scope",
                "/machine.slice/systemd-nspawn@web.service/payload",
            ],
            Container(None, "systemd-nspawn", "web"),
        ),
        (["/lxc.payload.web/init.scope", "/lxc.payload.web/system.slice/cron.service"], Container(None, "lxc", "web")),
        (["/system.slice/apart.service"], None),
        (["/"], None),
        ([], None),
    ],
)
def test_a_namespace_has_the_container_that_its_processes_share(paths: list[str], container: Container | None) -> None:
    assert place(shared(paths)).container == container


def test_a_namespace_of_a_service_has_its_unit() -> None:
    paths = ["/system.slice/apart.service/a", "/system.slice/apart.service/b"]
    assert place(shared(paths)).unit == "apart.service"
    assert place(shared([*paths, "/system.slice/other.service"])).unit is None


class Proc:
    """A directory that looks like /proc."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def process(self, pid: int, parent: int, comm: str, cgroup: str, *arguments: str) -> None:
        directory = self.root / str(pid)
        directory.mkdir()
        (directory / "stat").write_text(f"{pid} ({comm}) S {parent} {pid} {pid} 0 -1 4194304 100 0\n")
        (directory / "comm").write_text(f"{comm}\n")
        (directory / "cgroup").write_text(f"1:name=systemd:/\n0::{cgroup}\n")
        (directory / "cmdline").write_bytes(b"".join(one.encode() + b"\0" for one in arguments))

    def name(self, pid: int) -> str | None:
        return podman_name(pid, ID, str(self.root))


def conmon(container_id: str = ID, name: str = "web") -> list[str]:
    """As podman 5.4.2 starts it, shortened."""
    return [
        *("/usr/bin/conmon", "--api-version", "1", "-c", container_id, "-u", container_id, "-r", "/usr/bin/crun"),
        *("-b", f"/var/lib/containers/storage/overlay-containers/{ID}/userdata", "-p", "/run/pidfile", "-n", name),
        *("--exit-dir", "/run/libpod/exits", "--full-attach", "-s", "-l", "journald", "--log-level", "warning"),
        *("--exit-command", "/usr/bin/podman", "--exit-command-arg", "-n", "--exit-command-arg", "-c"),
        *("--exit-command-arg", "container", "--exit-command-arg", "cleanup", "--exit-command-arg", ID),
    ]


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    made = Proc(tmp_path)
    made.process(1, 0, "systemd", "/init.scope", "/sbin/init")
    return made


CONMON = f"/machine.slice/libpod-conmon-{ID}.scope"


def test_the_name_is_that_which_conmon_was_started_with(proc: Proc) -> None:
    proc.process(50, 1, "conmon", CONMON, *conmon())
    proc.process(51, 50, "sh (1) S 7", PODMAN, "sh")
    proc.process(52, 51, "nginx", PODMAN, "nginx")
    assert (proc.name(51), proc.name(52)) == ("web", "web")


def test_the_conmon_of_another_container_does_not_count(proc: Proc) -> None:
    proc.process(50, 1, "conmon", CONMON, *conmon(OTHER))
    proc.process(51, 50, "sh", PODMAN, "sh")
    assert proc.name(51) is None


def test_a_container_cannot_name_itself(proc: Proc) -> None:
    proc.process(50, 1, "conmon", CONMON, *conmon())
    proc.process(51, 50, "conmon", PODMAN, *conmon(name="forged"))
    proc.process(52, 51, "sh", PODMAN, "sh")
    assert proc.name(52) == "web"


def test_another_program_with_such_arguments_is_no_conmon(proc: Proc) -> None:
    proc.process(50, 1, "sh", "/system.slice/cron.service", *conmon(name="forged"))
    proc.process(51, 50, "sh", PODMAN, "sh")
    assert proc.name(51) is None


@pytest.mark.parametrize("name", ["", "a b", "-x", "a\nb"])
def test_what_podman_would_not_take_for_a_name_is_none(proc: Proc, name: str) -> None:
    proc.process(50, 1, "conmon", CONMON, *conmon(name=name))
    proc.process(51, 50, "sh", PODMAN, "sh")
    assert proc.name(51) is None


def test_without_a_conmon_there_is_no_name(proc: Proc) -> None:
    proc.process(51, 1, "sh", PODMAN, "sh")
    assert proc.name(51) is None
    assert proc.name(4711) is None


def test_parents_that_go_round_in_a_circle_end_the_search(proc: Proc) -> None:
    proc.process(51, 52, "sh", PODMAN, "sh")
    proc.process(52, 51, "sh", PODMAN, "sh")
    assert proc.name(51) is None


def test_the_cgroup_of_a_path_has_its_place(tmp_path: Path) -> None:
    directory = tree(tmp_path) / PODMAN[1:]
    directory.mkdir(parents=True)
    units = Units(str(tmp_path), Clock())
    cgroup = units.id(PODMAN[1:].split("/"))
    assert cgroup == directory.stat().st_ino
    assert units.place(cgroup).container == Container(ID, "podman")
    units.name_container(ID, "web")
    assert units.place(cgroup).container == Container(ID, "podman", "web")


def test_a_name_that_is_known_first_is_given_too(tmp_path: Path) -> None:
    (tree(tmp_path) / PODMAN[1:]).mkdir(parents=True)
    units = Units(str(tmp_path), Clock())
    units.name_container(ID, "web")
    assert units.place(units.id(PODMAN[1:].split("/"))).container == Container(ID, "podman", "web")


def test_a_path_that_is_gone_has_no_cgroup(tmp_path: Path) -> None:
    units = Units(str(tree(tmp_path)), Clock())
    assert units.id(["gone.service"]) == units.id([]) == units.id(["a\0b"]) == 0
