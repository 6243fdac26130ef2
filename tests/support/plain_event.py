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
# When the oneshot defined the events, for each program that finds them so: each makes the file of its own.
_DEFINED = "2026-01-01"


def _in_tracefs(action: str, name: str, *more: str) -> None:
    command = f'{_TRACEFS} && exec {sys.executable} -m tests.support.plain_event "$@"'
    subprocess.run(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", command, "sh", action, name, *more],
        cwd=TREE,
        check=True,
    )


def _one_of(field: str, ports: range) -> str:
    return f"({field} >= {ports.start} && {field} < {ports.stop})"


@contextmanager
def recorded(kilobytes: int = 1024, ports: range | None = None) -> Iterator[list[str]]:
    """The mounts (see Supervised) with which a program finds the instance; `kilobytes`: of the ring of each CPU.

    What the whole machine does is recorded; with `ports`, only what has one of these.
    """
    name = f"tcpnewconn-test-{os.getpid()}"
    # One that failed has no remote port any more.
    either = f"{_one_of('sport', ports)} || {_one_of('dport', ports)} || dport == 0" if ports is not None else ""
    having = f" && ({either})" if either else ""
    _in_tracefs("make", name, str(kilobytes), f"({FILTER}){having}")
    runtime = os.path.dirname(DIRECTORY)
    try:
        yield [
            _TRACEFS,
            "mount -t tmpfs none /run",
            f"mkdir -p {DIRECTORY}",
            f"mount --bind {ROOT}/instances/{name} {DIRECTORY}",
            f"echo {PLAIN} >{runtime}/{WANTED}",
            f"touch -d {_DEFINED} {runtime}/{WANTED}",
        ]
    finally:
        _in_tracefs("remove", name)


def main(arguments: Sequence[str]) -> None:
    action, name, *more = arguments
    instance = Tracefs().instance(name)
    if action == "remove":
        assert instance.remove()
        return
    kilobytes, wanted = more
    instance.make(int(kilobytes))
    instance.wake_at_once()
    instance.enable(f"{GROUP}/{NAME}", wanted)


if __name__ == "__main__":
    main(sys.argv[1:])
