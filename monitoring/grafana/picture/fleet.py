"""A small fleet on this machine: hosts in network namespaces, on one bridge, each with tcpnewconn and node_exporter."""

from __future__ import annotations

import errno
import signal
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.namespace import Namespace, namespace
from tests.support.terminal import TREE

FIRST_PORT = 19100


class Host:
    """A namespace with an IPv4 and an IPv6 address."""

    def __init__(self, name: str, number: int, where: Namespace, directory: Path) -> None:
        self.name = name
        self.where = where
        self.addresses = (f"10.0.0.{number}", f"2001:db8::{number}")
        self.exporter = f"127.0.0.1:{FIRST_PORT + number}"
        self._directory = directory / name
        self._service: subprocess.Popen[bytes] | None = None

    @contextmanager
    def watched(self, *options: str, through: Sequence[str] = ()) -> Iterator[None]:
        """tcpnewconn runs in it with these options, started by the command `through`, and node_exporter."""
        self._directory.mkdir()
        self._options = options
        self._through = through
        exporter = subprocess.Popen(
            [
                "prometheus-node-exporter",
                "--collector.disable-defaults",
                "--collector.textfile",
                f"--collector.textfile.directory={self._directory}",
                f"--web.listen-address={self.exporter}",
            ],
            stderr=subprocess.DEVNULL,
        )
        self.start()
        try:
            yield
        finally:
            self.resume()
            self.stop()
            exporter.terminate()
            exporter.wait()

    def start(self) -> None:
        command = [
            "/usr/bin/python3",
            "-m",
            "tcpnewconn",
            "--output",
            "json",
            "--state",
            str(self._directory / "state"),
        ]
        command += ["--metrics", str(self._directory / "tcpnewconn.prom"), *self._options]
        self._service = subprocess.Popen(
            self.where.command(*self._through, *command), cwd=TREE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def stop(self) -> None:
        if self._service is not None:
            self._service.terminate()
            self._service.wait()
            self._service = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def suspend(self) -> None:
        if self._service is not None:
            self._service.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._service is not None:
            self._service.send_signal(signal.SIGCONT)


def with_a_small_buffer() -> list[str]:
    """A command that runs another without the capability to have a receive buffer above net.core.rmem_max."""
    return ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--"]


def without_notifications(directory: Path) -> list[str]:
    """A command that runs another for which there is no NETLINK_SOCK_DIAG (x86-64): it receives no destroy notifications."""
    load_call, load_family, load_protocol = ((0x20, 0, 0, offset) for offset in (0, 16, 32))
    # socket(AF_NETLINK, ..., NETLINK_SOCK_DIAG); the second number says how many steps to skip otherwise.
    is_socket, is_netlink, is_diag = (0x15, 0, 5, 41), (0x15, 0, 3, 16), (0x15, 0, 1, 4)
    refuse, allow = (6, 0, 0, 0x00050000 | errno.EPROTONOSUPPORT), (6, 0, 0, 0x7FFF0000)
    steps = [load_call, is_socket, load_family, is_netlink, load_protocol, is_diag, refuse, allow]
    file = directory / "without-sock-diag"
    file.write_bytes(b"".join(struct.pack("HBBI", *step) for step in steps))
    return ["setpriv", f"--seccomp-filter={file}", "--"]


@contextmanager
def hosts(names: Sequence[str], directory: Path) -> Iterator[list[Host]]:
    """Hosts of these names on one network."""
    with ExitStack() as stack:
        switch = stack.enter_context(namespace())
        switch.ip("link", "add", "bridge", "type", "bridge")
        switch.ip("link", "set", "bridge", "up")
        made = []
        for number, name in enumerate(names, 1):
            host = Host(name, number, stack.enter_context(namespace()), directory)
            port = f"port{number}"
            switch.ip("link", "add", port, "type", "veth", "peer", "name", "veth", "netns", host.where.path)
            switch.ip("link", "set", port, "master", "bridge", "up")
            host.where.address(f"{host.addresses[0]}/24", "veth")
            host.where.address(f"{host.addresses[1]}/64", "veth")
            host.where.ip("link", "set", "veth", "up")
            # One machine makes the traffic of a fleet: its ports must last for a minute of TIME_WAIT.
            host.where.sysctl("net.ipv4.ip_local_port_range", "10000 65000")
            made.append(host)
        yield made
