"""The path of a cgroup: the unit, a user's own unit, the container."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcpnewconn.attribution.cgroups import NOWHERE, Container, Place, place
from tcpnewconn.attribution.units import Units
from tests.support.cgroups import PATHS, tree
from tests.support.clock import Clock

ID = "0123456789abcdef" * 4
UID = "01234567-89ab-cdef-0123-456789abcdef"
_USERS = "user.slice/user-1000.slice/user@1000.service"
_PODS = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}.slice"
_UNMADE = f"kubepods-burstable-pod{UID.replace('-', '_')}.slice"


@pytest.mark.parametrize(("path", "unit"), PATHS)
def test_the_unit_is_that_of_the_path(path: str, unit: str | None) -> None:
    assert place(path.split("/")).unit == unit


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        (f"{_USERS}/app.slice/syncthing.service", "syncthing.service"),
        (f"{_USERS}/app.slice/app-org.gnome.slice/app-x@1.service/sub", "app-x@1.service"),
        (f"{_USERS}/init.scope", "init.scope"),
        (f"{_USERS}/app.slice", None),
        (_USERS, None),
        ("user.slice/user-1000.slice/session-3.scope/x.service", None),
        ("system.slice/foo.service/x.service", None),
        ("system.slice/user@web.service/x.service", None),
    ],
)
def test_a_user_s_unit_is_one_of_that_user_s_own_manager(path: str, unit: str | None) -> None:
    assert place(path.split("/")).user_unit == unit


@pytest.mark.parametrize(
    ("path", "container"),
    [
        (f"machine.slice/libpod-{ID}.scope/container", Container(ID, "podman")),
        (f"machine.slice/machine-libpod_pod_{ID}.slice/libpod-{ID}.scope/container", Container(ID, "podman")),
        (f"{_USERS}/user.slice/libpod-{ID}.scope/container", Container(ID, "podman")),
        # By runc; crun has one more below.
        (f"machine.slice/libpod-{ID}.scope", Container(ID, "podman")),
        (f"{_USERS}/user.slice/libpod-{ID}.scope", Container(ID, "podman")),
        (f"system.slice/web.service/libpod-payload-{ID}", Container(ID, "podman")),
        (f"libpod_parent/libpod-{ID}", Container(ID, "podman")),
        (f"system.slice/docker-{ID}.scope", Container(ID, "docker")),
        (f"docker/{ID}", Container(ID, "docker")),
        ("machine.slice/systemd-nspawn@a\\x2db.service/payload", Container(None, "systemd-nspawn", "a-b")),
        ("machine.slice/machine-web.scope/payload/system.slice", Container(None, "systemd-nspawn", "web")),
        (r"machine.slice/machine-chest\x2d2.scope/payload", Container(None, "systemd-nspawn", "chest-2")),
        ("machine.slice/systemd-nspawn@crate-1.service/payload", Container(None, "systemd-nspawn", "crate-1")),
        ("lxc.payload.web", Container(None, "lxc", "web")),
        ("lxc/web", Container(None, "lxc", "web")),
        (f"kubepods/burstable/pod{UID}/{ID}", Container(ID, None, None, UID)),
        (f"kubepods/pod{UID}/{ID}", Container(ID, None, None, UID)),
        *(
            (
                f"kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID.replace('-', '_')}.slice/"
                f"{engine}-{ID}.scope",
                Container(ID, runtime, None, UID),
            )
            for engine, runtime in (("cri-containerd", "containerd"), ("crio", "cri-o"), ("docker", "docker"))
        ),
        (f"kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice", Container(None, None, None, UID)),
        # CRI-O with kubelet's cgroup driver cgroupfs; with crun below the scope.
        (f"kubepods/besteffort/pod{UID}/crio-{ID}", Container(ID, "cri-o", None, UID)),
        (f"{_PODS}/crio-{ID}.scope/container", Container(ID, "cri-o", None, UID)),
        # kubelet has the cgroup driver systemd, containerd has not (SystemdCgroup = false).
        (f"system.slice/{_UNMADE}:cri-containerd:{ID}", Container(ID, "containerd", None, UID)),
        (f"system.slice/containerd.service/{_UNMADE}:cri-containerd:{ID}", Container(ID, "containerd", None, UID)),
        (f"{_UNMADE}:cri-containerd:{ID}", Container(ID, "containerd", None, UID)),
        # The outermost: what this host runs.
        (f"lxc.payload.web/system.slice/docker-{ID}.scope", Container(None, "lxc", "web")),
    ],
)
def test_a_container_is_what_the_path_says(path: str, container: Container) -> None:
    assert place(path.split("/")).container == container


@pytest.mark.parametrize(
    "path",
    [
        "system.slice/nginx.service",
        f"machine.slice/libpod-conmon-{ID}.scope",
        f"kubepods.slice/crio-conmon-{ID}.scope",
        "machine.slice/systemd-nspawn@web.service/supervisor",
        # A virtual machine: its sockets are those of the program that runs it.
        "machine.slice/machine-qemu\\x2d1\\x2dweb.scope/libvirt/emulator",
        "system.slice/docker.service",
        # conmon of a quadlet, of a pod; pasta, slirp4netns and rootlessport; LXC's own process.
        "system.slice/web.service/runtime",
        f"machine.slice/machine-libpod_pod_{ID}.slice/libpod-conmon-{ID}.scope",
        f"{_USERS}/user.slice/podman-302.scope",
        "lxc.monitor.web",
        f"system.slice/pod{UID}/{ID}",
        # Whoever has a cgroup to make others in.
        f"user.slice/user-1000.slice/user@1000.service/{_UNMADE}:cri-containerd:{ID}",
        "docker/buildkit",
        "lxc.payload.",
    ],
)
def test_no_container_is_made_of_what_is_none(path: str) -> None:
    assert place(path.split("/")).container is None


def test_the_names_of_a_cgroup_that_is_gone_say_its_place(tmp_path: Path) -> None:
    clock = Clock()
    units = Units(str(tree(tmp_path)), clock)
    units.learn(4711, ("backup.service", "system.slice", ""))
    clock.step = 1.0
    assert units.place(4711) == Place("backup.service")
    assert clock.now == 1000.0, "it looked at the clock, so it was about to walk"


def test_names_that_do_not_reach_the_root_say_nothing(tmp_path: Path) -> None:
    # It can be below another unit.
    units = Units(str(tree(tmp_path)))
    for number, names in enumerate([("x.service", "app.slice"), ("x.service",), ("",), ()], start=4711):
        units.learn(number, names)
        assert units.place(number) == NOWHERE


def test_names_of_a_cgroup_that_no_walk_had_found_are_believed(tmp_path: Path) -> None:
    units = Units(str(tree(tmp_path)))
    assert units.unit(4711) is None
    units.learn(4711, ("backup.service", "system.slice", ""))
    assert units.unit(4711) == "backup.service"


def test_no_more_than_so_many_are_remembered(tmp_path: Path) -> None:
    units = Units(str(tree(tmp_path)), most=10)
    for number in range(100, 200):
        units.learn(number, (f"u{number}.service", ""))
    assert units.unit(199) == "u199.service"
    assert units.unit(100) is None
