"""This host: its boot, its network namespace, its range of local ports."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

# net/ipv4/af_inet.c: inet_init_net()
DEFAULT_PORT_RANGE = (32768, 60999)

# Where the unit shows the program the few sysctls that it needs: its sandbox hides /proc/sys (ProcSubset=pid).
_SYSCTL_ENVIRONMENT = "TCPNEWCONN_SYSCTL"


class Host(NamedTuple):
    """`boot` is the boot id without its dashes, `namespace` the inode number of the network namespace; "0" if not known.

    `live` says whether the kernel that runs this program, in the namespace that it runs in, is the one looked at; `users`
    whether user ids in /proc are shown as they are, not translated into a user namespace of this program's own. `away`: the
    network namespace is not that of process 1; False also where that is hidden.
    """

    boot: str
    namespace: str
    port_range: tuple[int, int]
    live: bool
    users: bool
    away: bool = False

    @property
    def place(self) -> str:
        """The boot and network namespace for which connection ids and a state file are valid."""
        return f"{self.boot}-{self.namespace}"


def look(root: str, net_directory: str) -> Host:
    """The host under a root of /proc, whose tables are in `net_directory`."""
    sysctl = f"{root}/sys"
    if os.path.realpath(root) == "/proc":
        sysctl = os.environ.get(_SYSCTL_ENVIRONMENT, sysctl)
    process = os.path.dirname(net_directory)
    return Host(
        boot=_boot(f"{sysctl}/kernel/random/boot_id"),
        namespace=_namespace(process, net_directory),
        port_range=_port_range(f"{sysctl}/net/ipv4/ip_local_port_range"),
        live=_same(f"{net_directory}/tcp", "/proc/self/net/tcp"),
        users=(_first_line("/proc/self/uid_map") or "").split() == ["0", "0", "4294967295"],
        away=_differ(f"{net_directory}/tcp", f"{root}/1/net/tcp"),
    )


def _boot(path: str) -> str:
    boot = (_first_line(path) or "").replace("-", "")
    return boot if re.fullmatch("[0-9a-f]{32}", boot) else "0"


def _namespace(process: str, net_directory: str) -> str:
    try:
        # "net:[4026531840]"; of another user's process only root may read it.
        return os.readlink(f"{process}/ns/net")[5:-1]
    except OSError:
        pass
    try:
        return str(os.stat(f"{net_directory}/tcp").st_ino)
    except OSError:
        return "0"


def _same(one: str, other: str) -> bool:
    """Whether two names are one file: /proc/<pid>/net/tcp has one inode number in each network namespace (measured)."""
    try:
        return os.path.samestat(os.stat(one), os.stat(other))
    except OSError:
        return False


def _differ(one: str, other: str) -> bool:
    """Whether two names are surely two files."""
    try:
        return not os.path.samestat(os.stat(one), os.stat(other))
    except OSError:
        return False


def _port_range(path: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,5})\t([0-9]{1,5})", _first_line(path) or "")
    return (int(match[1]), int(match[2])) if match else DEFAULT_PORT_RANGE


def _first_line(path: str) -> str | None:
    try:
        with open(path, errors="replace") as file:
            return file.readline().rstrip("\n")
    except OSError:
        return None
