"""The container of a network namespace: from the cgroups of its processes; and podman's name of it."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence

from tcpnewconn.attribution.cgroups import container

# From a process of a container up to the one that started it.
_MOST_PARENTS = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# The kernel shows no more arguments than that at once.
_PAGE = 65_536


def shared(paths: Collection[str]) -> list[str]:
    """The names of the cgroup that the processes of a namespace share, the one below the root first; from their paths.

    Where some are in a container, only those count: a forwarder of ports can be in the namespace, too. Of several containers only
    what is above them is left: the pod, or nothing.
    """
    names = [path.strip("/").split("/") for path in paths]
    names = [each for each in names if container(each) is not None] or names
    if not names:
        return []
    first = names[0]
    for each in names[1:]:
        same = 0
        while same < min(len(first), len(each)) and first[same] == each[same]:
            same += 1
        first = first[:same]
    return [name for name in first if name]


def podman_name(process: int, container_id: str, root: str = "/proc") -> str | None:
    """The name that podman gave to the container of a process, from the command line of its conmon; None where that is not sure.

    conmon has started the container, and is not in it: a container cannot name itself. Everybody may read its arguments.
    """
    for _ in range(_MOST_PARENTS):
        try:
            parent = _parent(f"{root}/{process}")
            if parent < 2:
                return None
            process = parent
            if _content(f"{root}/{process}/comm") == b"conmon\n" and _is_outside(f"{root}/{process}", container_id):
                return _named(_content(f"{root}/{process}/cmdline").split(b"\0"), container_id)
        except (OSError, ValueError, IndexError):
            # It has gone meanwhile.
            return None
    return None


def _named(arguments: Sequence[bytes], container_id: str) -> str | None:
    """conmon ... -c ID ... -n NAME ... --exit-command-arg ARGUMENT ..."""
    values: dict[bytes, str] = {}
    position = 1
    while position + 1 < len(arguments):
        argument = arguments[position]
        if argument in (b"-c", b"-n"):
            values.setdefault(argument, os.fsdecode(arguments[position + 1]))
        position += 2 if argument in (b"-c", b"-n", b"--exit-command-arg") else 1
    name = values.get(b"-n", "")
    return name if values.get(b"-c") == container_id and _NAME.fullmatch(name) else None


def _is_outside(process: str, container_id: str) -> bool:
    for line in os.fsdecode(_content(f"{process}/cgroup")).split("\n"):
        if line.startswith("0::"):
            within = container(line[3:].strip("/").split("/"))
            return within is None or within.id != container_id
    return False


def _parent(process: str) -> int:
    """From stat: 42 (name) S 1 ... A name can hold blanks and brackets."""
    content = _content(f"{process}/stat")
    return int(content[content.rindex(b")") + 2 :].split()[1])


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _PAGE)
    finally:
        os.close(descriptor)
