"""tcpnewconn as systemd runs it: under the system's Python, with the announcements' socket passed to it, and notifying."""

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
from tcpnewconn.kernel import sockdiag

_TREE = Path(__file__).resolve().parent.parent
_PYTHON = "/usr/bin/python3"
_PATIENCE = 120.0


class Service:
    """Running from its first complete read on, until the end of the `with` block."""

    def __init__(self, output: str = "journal", interval: str = "10s", folded: bool = False) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tcpnewconn-bench-")
        folder = Path(self._folder.name)
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(folder / "notify"))
        self._notified.settimeout(_PATIENCE)
        # Unless `folded`, every connection is told one by one: what is measured is the cost of that.
        (folder / "conf").write_text("" if folded else "[Report]\nBurstLimit=0\nTotalLimit=0\n")
        with sockdiag.open_notifications() as ends:
            # As systemd passes a socket (sd_listen_fds(3)): number 3, and for this process id only.
            passing = ["bash", "-c", f'exec 3<&{ends.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', "bash"]
            self._program = subprocess.Popen(
                [
                    *(*passing, _PYTHON, "-m", "tcpnewconn", "run", "--output", output, "--interval", interval),
                    *("--config", str(folder / "conf"), "--state", str(folder / "snapshot")),
                    *("--metrics", str(folder / "metrics")),
                ],
                cwd=_TREE,
                env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify")},
                stdout=subprocess.DEVNULL,
                pass_fds=[ends.fileno()],
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

    def cpu(self) -> float:
        """Seconds of CPU time used so far."""
        return cpu_of(self._program.pid)

    def peak_memory(self) -> float:
        """MiB."""
        with open(f"/proc/{self._program.pid}/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
        raise RuntimeError("no VmHWM")

    def lost(self) -> int:
        """Announcements that did not fit into its receive buffer."""
        return self._buffer()[1]

    def caught_up(self) -> None:
        """Wait until its receive buffer is empty."""
        while self._buffer()[0]:
            time.sleep(0.05)

    def _buffer(self) -> tuple[int, int]:
        """Rmem and Drops in /proc/net/netlink, of its socket in groups 1 and 3."""
        with open("/proc/net/netlink") as file:
            (row,) = [row for row in map(str.split, file) if row[1] == "4" and row[3] == "00000005"]
        return int(row[4]), int(row[8])
