"""The path of a cgroup: the systemd unit, the user's unit, the container in it. Pure.

The paths of containers were seen with podman 4.3 and 5.4, docker 26.1, systemd-nspawn 252 and 257, LXC 5.0 and 6.0; those of
Kubernetes are as the sources of kubelet and of other tools have them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

# systemd.unit(5): a plain name or an instance, never a bare template.
_UNIT = re.compile(
    r"[A-Za-z0-9:_.\\-]+(?:@[A-Za-z0-9:_.\\@-]+)?"
    r"\.(?:service|socket|target|device|mount|automount|swap|timer|path|slice|scope)"
)
_SLICE = re.compile(r"[A-Za-z0-9:_.\\-]+\.slice")
_USER_MANAGER = re.compile(r"user@[0-9]+\.service")

_ID = r"(?P<id>[0-9a-f]{12,64})"
# libpod-conmon-... and crio-conmon-... are the engines' own processes.
_SCOPE = re.compile(
    rf"(?P<engine>libpod|docker|cri-containerd|crio)-{_ID}\.scope|libpod-payload-(?P<payload>[0-9a-f]{{12,64}})"
)
_RUNTIMES = {"libpod": "podman", "docker": "docker", "cri-containerd": "containerd", "crio": "cri-o"}
_BARE_ID = re.compile(_ID)
_LIBPOD = re.compile(rf"libpod-{_ID}")
_POD_UID = r"pod(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})"
_POD = re.compile(_POD_UID)
# CRI-O where systemd makes no cgroups.
_CRIO = re.compile(rf"crio-{_ID}")
# kubelet lets systemd make cgroups, and containerd does not: what it would ask systemd for is the name.
_UNMADE_SCOPE = re.compile(rf"kubepods(?:-[a-z]+)?-{_POD_UID}\.slice:(?P<engine>cri-containerd):{_ID}")
_NSPAWN = re.compile(r"systemd-nspawn@(?P<service>.+)\.service|machine-(?P<scope>.+)\.scope")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")


class Container(NamedTuple):
    """As far as the path says so: the id, the runtime (podman, docker, ...), the name, the UID of the Kubernetes pod."""

    id: str | None = None
    runtime: str | None = None
    name: str | None = None
    pod: str | None = None


class Place(NamedTuple):
    """Where a cgroup belongs: the system's unit, below user@.service the unit of that user's own manager, the container."""

    unit: str | None = None
    user_unit: str | None = None
    container: Container | None = None

    @property
    def kind(self) -> str:
        """The runtime of the container, where it is known; `other` where there is none."""
        if self.container is None:
            return "other"
        if self.container.runtime is not None:
            return self.container.runtime
        return "kubernetes" if self.container.pod is not None else "other"


NOWHERE = Place()


def place(names: Sequence[str]) -> Place:
    """The place of a cgroup, from the names of its path, the one below the root first: system.slice, nginx.service."""
    unit, below = _unit(names)
    user_unit = None
    if unit is not None and _USER_MANAGER.fullmatch(unit):
        user_unit, _ = _unit(below)
    return Place(unit, user_unit, container(names))


def _unit(names: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """The unit that a path belongs to, and the names below it.

    As sd_pid_get_unit(3) decides: slices are skipped, then the first name is that of a unit or there is none. systemd puts a
    "_" before what would clash with the kernel's own files.
    """
    for position, name in enumerate(names):
        name = name[1:] if name.startswith("_") else name
        if not _SLICE.fullmatch(name):
            is_unit = _UNIT.fullmatch(name) and not name.endswith(".slice")
            return (name if is_unit else None), names[position + 1 :]
    return None, ()


def container(names: Sequence[str]) -> Container | None:
    """The container of a path, the outermost where one is within another; None where it names none."""
    pod = None
    kubernetes = bool(names) and names[0].startswith("kubepods")
    for position, name in enumerate(names):
        above = names[position - 1] if position else ""
        below = names[position + 1] if position + 1 < len(names) else ""
        if (match := _UNMADE_SCOPE.fullmatch(name)) and names[0] in ("system.slice", name):
            return Container(match["id"], _RUNTIMES[match["engine"]], None, match["uid"].replace("_", "-"))
        if kubernetes and (match := _POD.search(name)):
            pod = match["uid"].replace("_", "-")
        elif match := _SCOPE.fullmatch(name):
            return Container(match["id"] or match["payload"], _RUNTIMES[match["engine"] or "libpod"], None, pod)
        elif above == "docker" and (match := _BARE_ID.fullmatch(name)):
            return Container(match["id"], "docker")
        elif above == "libpod_parent" and (match := _LIBPOD.fullmatch(name)):
            return Container(match["id"], "podman")
        elif pod is not None and (match := _BARE_ID.fullmatch(name)):
            return Container(match["id"], None, None, pod)
        elif pod is not None and (match := _CRIO.fullmatch(name)):
            return Container(match["id"], "cri-o", None, pod)
        elif below == "payload" and (match := _NSPAWN.fullmatch(name)):
            return Container(None, "systemd-nspawn", _unescaped(match["service"] or match["scope"]))
        elif name.startswith("lxc.payload.") and len(name) > len("lxc.payload."):
            return Container(None, "lxc", name[len("lxc.payload.") :])
        elif above == "lxc":
            return Container(None, "lxc", name)
    return Container(None, None, None, pod) if pod is not None else None


def _unescaped(name: str) -> str:
    """As systemd-escape(1) does it back: a\\x2db is a-b."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), name)
