"""tcpnewconn as systemd runs it: under the system's Python, with a socket passed to it (LISTEN_FDS) and sd_notify."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from types import TracebackType

from bench.timing import Cost, cpu_of
from tcpnewconn.kernel import sockdiag

_TREE = Path(__file__).resolve().parent.parent
_PYTHON = "/usr/bin/python3"
_UNIT = _TREE / "systemd" / "tcpnewconn.service"
_DEADLINE = 120.0


@cache
def _compile() -> None:
    """The modules are compiled, as the package has them: also where this environment writes no compiled modules."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([_PYTHON, "-m", "compileall", "-q", "tcpnewconn"], cwd=_TREE, env=environment, check=True)


@cache
def _environment() -> dict[str, str]:
    """Environment= of the unit."""
    return dict(re.findall(r"^Environment=(\w+)=(\S+)$", _UNIT.read_text(), re.MULTILINE))


class Service:
    """Runs until the end of the `with` block; its first poll is complete before that begins."""

    def __init__(
        self,
        output: str = "journal",
        interval: str = "10s",
        summarized: bool = False,
        place: str | None = None,
        kept: socket.socket | None = None,
        more: str = "",
        written: int = subprocess.DEVNULL,
    ) -> None:
        """`place` is a directory where the state is kept, `kept` a socket in which notifications wait, as over a restart.

        `more` are lines of the configuration; `written` is where its standard output goes.
        """
        self._directory = tempfile.TemporaryDirectory(prefix="tcpnewconn-bench-")
        # As /run is: in memory.
        self._memory = tempfile.TemporaryDirectory(prefix="tcpnewconn-bench-", dir="/dev/shm")
        directory = Path(self._directory.name)
        state = Path(place or directory) / "snapshot"
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(directory / "notify"))
        self._notified.settimeout(_DEADLINE)
        # Unless `summarized`, every connection is logged one by one: the cost of that is measured.
        (directory / "conf").write_text(("" if summarized else "[Report]\nBurstLimit=0\nTotalLimit=0\n") + more)
        _compile()
        begin = time.monotonic()
        with sockdiag.open_notifications() if kept is None else kept.dup() as notifications:
            # As systemd passes a socket (sd_listen_fds(3)): number 3, and for this process id only.
            passing = ["bash", "-c", f'exec 3<&{notifications.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', "bash"]
            self._program = subprocess.Popen(
                [
                    *(*passing, _PYTHON, "-m", "tcpnewconn", "run", "--output", output, "--interval", interval),
                    *("--config", str(directory / "conf"), "--state", str(state)),
                    *("--metrics", f"{self._memory.name}/metrics"),
                ],
                cwd=_TREE,
                env={
                    **os.environ,
                    **_environment(),
                    "NOTIFY_SOCKET": str(directory / "notify"),
                    "RUNTIME_DIRECTORY": self._memory.name,
                },
                stdout=written,
                pass_fds=[notifications.fileno()],
            )
        self._wait_for(b"READY=1")
        # From the start to READY=1.
        self.start = Cost(time.monotonic() - begin, self.cpu())

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._program.send_signal(signal.SIGTERM)
        self._program.wait(_DEADLINE)
        self._notified.close()
        self._directory.cleanup()
        self._memory.cleanup()

    def _wait_for(self, start: bytes) -> str:
        while not (message := self._notified.recv(4096)).startswith(start):
            pass
        return message.decode()

    def polls(self, count: int) -> str:
        """Wait for `count` more polls; returns STATUS= after the last one."""
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
        """Notifications that did not fit into its receive buffer."""
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
