"""The kernel's own word on which TCP sockets became ESTABLISHED: its trace event sock:inet_sock_set_state.

An instance of tracefs of the test's own, so that tests (and people) do not disturb each other. The event does not tell the
network namespace: a test counts what was established at addresses that are its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_LINE = re.compile(
    r"family=(?P<family>\w+) protocol=IPPROTO_TCP sport=(?P<sport>\d+) dport=(?P<dport>\d+) "
    r"saddr=(?P<saddr>\S+) daddr=(?P<daddr>\S+) saddrv6=(?P<saddr6>\S+) daddrv6=(?P<daddr6>\S+) "
    r"oldstate=(?P<old>\S+) newstate=TCP_ESTABLISHED"
)


class Established(NamedTuple):
    """One socket that became ESTABLISHED; whether it had sent the SYN, and not accepted one."""

    local: tuple[str, int]
    remote: tuple[str, int]
    opened: bool


class Unavailable(Exception):
    """Why this machine does not show its trace events."""


class Truth:
    """The connections that become ESTABLISHED."""

    def __init__(self, instance: Path) -> None:
        self._instance = instance

    def established(self) -> list[Established]:
        """Every socket of this machine that became so since this was last asked."""
        descriptor = os.open(self._instance / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
        text = bytearray()
        try:
            while part := os.read(descriptor, 1 << 16):
                text += part
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)
        assert b"LOST" not in text, "the trace buffer is too small for this test"
        seen = []
        for match in _LINE.finditer(text.decode()):
            local, remote = match["saddr6"], match["daddr6"]
            if match["family"] == "AF_INET" or local.startswith("::ffff:"):
                local, remote = match["saddr"], match["daddr"]
            seen.append(
                Established((local, int(match["sport"])), (remote, int(match["dport"])), match["old"] == "TCP_SYN_SENT")
            )
        return seen


@contextmanager
def truth() -> Iterator[Truth]:
    """Raises Unavailable."""
    with tempfile.TemporaryDirectory(prefix="tcpnewconn-tracefs-") as directory:
        mounted = subprocess.run(["mount", "-t", "tracefs", "tracefs", directory], capture_output=True, text=True)
        if mounted.returncode:
            raise Unavailable(f"tracefs cannot be mounted: {mounted.stderr.strip()}")
        try:
            event = Path("events/sock/inet_sock_set_state")
            if not (Path(directory) / event).exists():
                raise Unavailable("this kernel has no trace event sock:inet_sock_set_state")
            instance = Path(directory) / "instances" / f"tcpnewconn-test-{os.getpid()}"
            instance.mkdir()
            try:
                (instance / "buffer_size_kb").write_text("16384")
                # 1 is TCP_ESTABLISHED, 6 is IPPROTO_TCP (an MPTCP socket above its subflows is 262).
                (instance / event / "filter").write_text("newstate == 1 && protocol == 6")
                (instance / event / "enable").write_text("1")
                yield Truth(instance)
                (instance / event / "enable").write_text("0")
            finally:
                instance.rmdir()
        finally:
            subprocess.run(["umount", directory], check=True)
