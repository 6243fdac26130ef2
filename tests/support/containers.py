"""A host of the tests' own, with its own processes and network, and network namespaces of processes on it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.namespace import Namespace, namespace
from tests.support.terminal import TESTS

CONTAINER_ID = "0123456789abcdef" * 4
_SAY_AND_WAIT = ("sh", "-c", "echo; exec cat")


class Host(Namespace):
    """Its process 1 is in its network namespace; its /proc shows the processes that were started by `command`."""

    def __init__(self) -> None:
        self._pid: int | None = None
        super().__init__()
        self._first = subprocess.Popen(
            super().command("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *_SAY_AND_WAIT),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._first.stdout is not None
        self._first.stdout.readline()
        self._pid = child_of(self._first.pid)

    def close(self) -> None:
        _end(self._first)
        super().close()

    def command(self, *command: str) -> list[str]:
        return self.command_in(self, *command) if self._pid is not None else super().command(*command)

    def command_in(self, network: Namespace, *command: str) -> list[str]:
        """A command line that runs another one as a process of this host, in a network namespace."""
        return [sys.executable, str(TESTS / "support/enter.py"), str(self._pid), network.path, *command]

    def process(self, network: Namespace, cgroup: Path | None = None) -> subprocess.Popen[bytes]:
        """A process in a network namespace, there when this returns, and in this cgroup."""
        made = subprocess.Popen(self.command_in(network, *_SAY_AND_WAIT), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert made.stdout is not None
        made.stdout.readline()
        if cgroup is not None:
            (cgroup / "cgroup.procs").write_text(str(child_of(made.pid)))
        return made


def child_of(pid: int) -> int:
    [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    process.wait(timeout=30)


@contextmanager
def host() -> Iterator[Host]:
    made = Host()
    try:
        yield made
    finally:
        made.close()


@contextmanager
def process(here: Host, network: Namespace, cgroup: Path | None = None) -> Iterator[None]:
    made = here.process(network, cgroup)
    try:
        yield
    finally:
        _end(made)


@contextmanager
def container(here: Host, cgroup: Path | None = None) -> Iterator[Namespace]:
    """A network namespace with a process in it."""
    with ExitStack() as stack:
        network = stack.enter_context(namespace())
        stack.enter_context(process(here, network, cgroup))
        yield network


def join(one: Namespace, other: Namespace, addresses: tuple[str, str], name: str = "veth") -> None:
    """Join two namespaces by devices with these addresses (with prefix lengths)."""
    pair = ("ip", "link", "add", name, "type", "veth", "peer", "name", name, "netns", other.path)
    # Not as a process of the host, which does not see that path.
    subprocess.run(Namespace.command(one, *pair), check=True)
    for side, address in zip((one, other), addresses, strict=True):
        side.address(address, name)
        side.ip("link", "set", name, "up")
