"""Network namespaces of the tests' own: each has a table of TCP sockets that nothing else writes to."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000

# Ports that a test binds its clients to: the kernel gives them to no other one, so that none is in TIME_WAIT there. They are few:
# where the kernel comes upon one of them, it takes the next port behind all, which would be taken again and again.
CLIENT_PORTS = range(40_000, 40_032)


class Namespace:
    """One namespace, with its loopback up. It is there for as long as its file descriptor is open, and no longer."""

    def __init__(self) -> None:
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_LIBC.unshare(_CLONE_NEWNET))
            try:
                self._descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            finally:
                _check(_LIBC.setns(before, _CLONE_NEWNET))
        finally:
            os.close(before)
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        self.ip("link", "set", "lo", "up")
        self.sysctl("net.ipv4.ip_local_reserved_ports", f"{CLIENT_PORTS.start}-{CLIENT_PORTS.stop - 1}")
        # A row in TIME_WAIT stays its 60 s. On a busy machine the end of a connection is sent twice, the second answer meets a
        # socket that has gone, and the reset that comes of it takes the row away (net/ipv4/tcp_minisocks.c).
        self.sysctl("net.ipv4.tcp_rfc1337", "1")

    def close(self) -> None:
        os.close(self._descriptor)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Puts this thread into the namespace. A socket that it opens there keeps that namespace."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _check(_LIBC.setns(self._descriptor, _CLONE_NEWNET))
        try:
            yield
        finally:
            _check(_LIBC.setns(before, _CLONE_NEWNET))
            os.close(before)

    def socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0, user: int = 0
    ) -> socket.socket:
        with self.entered():
            made = socket.socket(family, kind, protocol)
        # As if this user had made it (net/socket.c, sockfs_setattr).
        os.fchown(made.fileno(), user, -1)
        return made

    def command(self, *command: str) -> list[str]:
        """A command line that runs another one in the namespace."""
        return ["nsenter", f"--net={self.path}", "--", *command]

    def output(self, *command: str) -> str:
        """The output of a command that runs in the namespace."""
        done = subprocess.run(self.command(*command), capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def ip(self, *arguments: str) -> None:
        self.output("ip", *arguments)

    def address(self, address: str, device: str = "lo") -> None:
        """Give the namespace an address with its prefix length: 10.9.8.7/24, 2001:db8::1/64."""
        self.ip("address", "add", address, "dev", device, *(["nodad"] if ":" in address else []))

    def sysctl(self, name: str, value: str) -> None:
        with self.entered(), open(f"/proc/sys/{name.replace('.', '/')}", "w") as file:
            file.write(value)

    def table(self, name: str = "tcp") -> bytes:
        """/proc/net/tcp, or another file beside it."""
        with self.entered(), open(f"/proc/thread-self/net/{name}", "rb") as file:
            return file.read()

    def tcp_counter(self, name: str) -> int:
        """The kernel's count of something that its TCP has done there: PassiveOpens, RetransSegs."""
        names, values = [line.split() for line in self.table("snmp").decode().splitlines() if line.startswith("Tcp:")]
        return int(dict(zip(names, values, strict=True))[name])


@contextmanager
def namespace() -> Iterator[Namespace]:
    made = Namespace()
    try:
        yield made
    finally:
        made.close()


@contextmanager
def joined(here: Sequence[str], there: Sequence[str]) -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces, joined by two veth devices that have these addresses (with prefix lengths)."""
    with namespace() as one, namespace() as other:
        one.ip("link", "add", "veth", "type", "veth", "peer", "name", "veth", "netns", other.path)
        for side, addresses in ((one, here), (other, there)):
            for address in addresses:
                side.address(address, "veth")
            side.ip("link", "set", "veth", "up")
        yield one, other


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
