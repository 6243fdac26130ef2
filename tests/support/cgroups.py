"""Trees of cgroups: paths, and the unit that each belongs to."""

from __future__ import annotations

import os
from pathlib import Path

# Path below the root of the cgroups, and the unit that it belongs to.
PATHS = [
    ("system.slice/foo.service", "foo.service"),
    ("system.slice/foo.service/sub/deeper", "foo.service"),
    ("system.slice/foo.service/other.service", "foo.service"),
    ("system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
    ("system.slice/system-getty.slice", None),
    ("system.slice/docker-0123456789ab.scope", "docker-0123456789ab.scope"),
    ("user.slice/user-1000.slice/user@1000.service/app.slice/x.service", "user@1000.service"),
    ("user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
    ("machine.slice/machine-web.scope/payload/system.slice/nginx.service", "machine-web.scope"),
    (r"machine.slice/systemd-nspawn@a\x2db.service/payload", r"systemd-nspawn@a\x2db.service"),
    ("init.scope", "init.scope"),
    ("system.slice/run-user-1000.mount", "run-user-1000.mount"),
    ("system.slice/dev-sda2.swap", "dev-sda2.swap"),
    ("system.slice/foo.socket", "foo.socket"),
    ("system.slice/_cpu.service", "cpu.service"),
    ("system.slice/__odd.service", "_odd.service"),
    ("_tcpnewconn.slice/foo.service", "foo.service"),
    ("system.slice/foo@.service", None),
    ("system.slice/@foo.service", None),
    ("system.slice/foo.bar", None),
    ("system.slice/.service", None),
    ("system.slice/sub/foo.service", None),
    ("foo@1.slice/foo.service", None),
    (".slice/foo.service", None),
    ("docker/0123456789ab", None),
    ("system.slice/caf\udce9.service", None),
    ("system.slice/" + "a" * 247 + ".service", "a" * 247 + ".service"),
]


def inode(path: Path) -> int:
    return os.stat(path).st_ino


def tree(root: Path) -> Path:
    """A directory that looks like the root of the cgroups of version 2."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "cgroup.controllers").touch()
    return root
