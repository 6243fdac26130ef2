"""tcpnewconn as systemd runs it: its own process under the system's Python, with a journal to write to and somebody to notify."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from bench.timing import cpu_of

_TREE = Path(__file__).resolve().parent.parent
_PYTHON = "/usr/bin/python3"
_PATIENCE = 120.0


class Service:
    """Running from its first complete read on, until the end of the `with` block."""

    def __init__(self, output: str = "journal", interval: str = "10s") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tcpnewconn-bench-")
        folder = Path(self._folder.name)
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(folder / "notify"))
        self._notified.settimeout(_PATIENCE)
        (folder / "conf").touch()
        self._program = subprocess.Popen(
            [_PYTHON, "-m", "tcpnewconn", "run", "--output", output, "--interval", interval]
            + ["--config", str(folder / "conf"), "--state", str(folder / "snapshot")],
            cwd=_TREE,
            env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify")},
            stdout=subprocess.DEVNULL,
        )
        self._wait_for(b"READY=1")

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._program.send_signal(signal.SIGTERM)
        self._program.wait(_PATIENCE)
        self._notified.close()
        self._folder.cleanup()

    def _wait_for(self, start: bytes) -> str:
        while not (told := self._notified.recv(4096)).startswith(start):
            pass
        return told.decode()

    def reads(self, count: int) -> str:
        """Wait for so many more reads; what STATUS= says after the last."""
        status = ""
        for _ in range(count):
            status = self._wait_for(b"STATUS=")
        return status

    @property
    def process(self) -> int:
        return self._program.pid

    def cpu(self) -> float:
        """Seconds of CPU time used so far."""
        return cpu_of(self.process)

    def peak_memory(self) -> float:
        """MiB."""
        with open(f"/proc/{self.process}/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
        raise RuntimeError("no VmHWM")

    def lost(self) -> int:
        """Announcements that did not fit into its receive buffer: Drops in /proc/net/netlink, of its socket in groups 1 and 3."""
        with open("/proc/net/netlink") as file:
            rows = [line.split() for line in file][1:]
        return sum(int(row[8]) for row in rows if row[1] == "4" and row[3] == "00000005")

    def idle(self, patience: float = _PATIENCE) -> None:
        """Wait until it has nothing more to do: half a second without CPU time, but for a read's."""
        until = time.monotonic() + patience
        before = self.cpu()
        while time.monotonic() < until:
            time.sleep(0.5)
            now = self.cpu()
            if now - before < 0.01:
                return
            before = now
