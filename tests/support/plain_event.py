"""A tracefs instance that records the kernel's own event of connect(), and a program that sees it as the service does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tcpnewconn.kernel.instance import DIRECTORY, WANTED
from tcpnewconn.kernel.plainevent import FILTER, GROUP, NAME, PLAIN
from tcpnewconn.kernel.tracefs import ROOT, Tracefs
from tests.support.terminal import TREE

_TRACEFS = f"mount -t tracefs none {ROOT}"


def _in_tracefs(action: str, name: str, *more: str) -> None:
    command = f'{_TRACEFS} && exec {sys.executable} -m tests.support.plain_event "$@"'
    subprocess.run(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", command, "sh", action, name, *more],
        cwd=TREE,
        check=True,
    )


@contextmanager
def recorded(kilobytes: int = 1024) -> Iterator[list[str]]:
    """The mounts (see Supervised) with which a program finds the instance; `kilobytes`: of the ring of each CPU."""
    name = f"tcpnewconn-test-{os.getpid()}"
    _in_tracefs("make", name, str(kilobytes))
    runtime = os.path.dirname(DIRECTORY)
    try:
        yield [
            _TRACEFS,
            "mount -t tmpfs none /run",
            f"mkdir -p {DIRECTORY}",
            f"mount --bind {ROOT}/instances/{name} {DIRECTORY}",
            f"echo {PLAIN} >{runtime}/{WANTED}",
        ]
    finally:
        _in_tracefs("remove", name)


def main(arguments: Sequence[str]) -> None:
    action, name, *kilobytes = arguments
    instance = Tracefs().instance(name)
    if action == "remove":
        assert instance.remove()
        return
    instance.make(int(*kilobytes))
    instance.wake_at_once()
    instance.enable(f"{GROUP}/{NAME}", FILTER)


if __name__ == "__main__":
    main(sys.argv[1:])
