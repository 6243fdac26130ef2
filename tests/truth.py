"""The kernel's own word on which TCP sockets became ESTABLISHED: its trace event sock:inet_sock_set_state.

An instance of tracefs of the test's own, so that tests (and people) do not disturb each other. The event does not tell the
network namespace: a test counts what was established at addresses that are its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LINE = re.compile(
    r"family=(?P<family>\w+) protocol=IPPROTO_TCP sport=(?P<sport>\d+) dport=(?P<dport>\d+) "
    r"saddr=(?P<saddr>\S+) daddr=(?P<daddr>\S+) saddrv6=(?P<saddr6>\S+) daddrv6=(?P<daddr6>\S+) "
    r"oldstate=(?P<old>\S+) newstate=TCP_ESTABLISHED"
)

# Local address and port, remote address and port: one socket.
Ends = tuple[str, int, str, int]


class Unavailable(Exception):
    """Why this machine does not show its trace events."""


class Truth:
    """What became ESTABLISHED since this was made."""

    def __init__(self, instance: Path) -> None:
        self._instance = instance
        self._seen: Counter[Ends] = Counter()

    def established(self) -> Counter[Ends]:
        """How often each pair of ends, as a socket of this machine sees it, became ESTABLISHED."""
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
        for match in _LINE.finditer(text.decode()):
            local, remote = match["saddr6"], match["daddr6"]
            if match["family"] == "AF_INET" or local.startswith("::ffff:"):
                local, remote = match["saddr"], match["daddr"]
            self._seen[local, int(match["sport"]), remote, int(match["dport"])] += 1
        return self._seen


@contextmanager
def truth() -> Iterator[Truth]:
    """Raises Unavailable."""
    with tempfile.TemporaryDirectory(prefix="tcpnewconn-tracefs-") as folder:
        mounted = subprocess.run(["mount", "-t", "tracefs", "tracefs", folder], capture_output=True, text=True)
        if mounted.returncode:
            raise Unavailable(f"tracefs cannot be mounted: {mounted.stderr.strip()}")
        try:
            event = Path("events/sock/inet_sock_set_state")
            if not (Path(folder) / event).exists():
                raise Unavailable("this kernel has no trace event sock:inet_sock_set_state")
            instance = Path(folder) / "instances" / f"tcpnewconn-test-{os.getpid()}"
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
            subprocess.run(["umount", folder], check=True)
