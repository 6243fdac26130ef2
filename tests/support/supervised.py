"""tcpnewconn as a service manager runs it: what it says by sd_notify(3), and on stdout and stderr, while it runs."""

from __future__ import annotations

import shlex
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from tests.support.journal import MOUNT, Journal
from tests.support.namespace import Namespace
from tests.support.terminal import TREE, command, environment

# As long as anything may take on a busy machine: polls of other network namespaces, with the trace, have come 7 s apart.
DEADLINE = 60.0
# socket(7): the same number in include/uapi/asm-generic/socket.h for both.
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("qq")
_OWN = "SENT_BY_THE_TEST"


@dataclass(frozen=True)
class Notice:
    """One message of sd_notify(3): when it was sent (seconds, monotonic), and its assignments."""

    sent: float
    assigned: dict[str, str]


class Supervised:
    """Running until the end of the `with` block, where it is killed unless it was stopped before.

    `mounts` are shell commands for the mount namespace that the program then has to itself; `watchdog` is in seconds; `where` is
    its network namespace; `notifications` a socket that is kept for it, as systemd does (sd_listen_fds(3)), `namespaces` another
    one, for those of other namespaces. Each whole line of its standard output is given to `on_line` too.
    """

    def __init__(
        self,
        *options: str,
        journal: Journal | None = None,
        mounts: Sequence[str] = (),
        watchdog: float | None = None,
        watchdog_pid: str = "$$",
        more: Mapping[str, str] | None = None,
        auto: bool = False,
        where: Namespace | None = None,
        notifications: socket.socket | None = None,
        namespaces: socket.socket | None = None,
        on_line: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.notices: list[Notice] = []
        self.lines: list[str] = []
        self.said: list[str] = []
        # The text behind the last complete line.
        self.cut = ""
        self._on_line = on_line
        self._changed = threading.Condition()
        self._temporary = tempfile.TemporaryDirectory(prefix="tcpnewconn-supervised-")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind(f"{self._temporary.name}/notify")
        # With the time at which each was sent.
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._from_unix_time = time.monotonic() - time.time()
        # Notices of our own: how many were sent, and seen.
        self._own_sent = self._own_seen = 0
        given = {"NOTIFY_SOCKET": f"{self._temporary.name}/notify"} | dict(more or {})
        steps = list(mounts)
        if journal is not None:
            steps.append(MOUNT.format(directory=shlex.quote(str(journal.directory))))
        in_namespace = ["unshare", "--mount", "--propagation", "private"] if steps else []
        if watchdog is not None:
            steps.append(f"export WATCHDOG_USEC={watchdog * 1e6:.0f} WATCHDOG_PID={watchdog_pid}")
        if auto:
            # Its stderr is the journal's then, as far as it can tell.
            steps.append(r"export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/$$/fd/2)")
        named = {"destroy-notifications": notifications, "namespace-notifications": namespaces}
        kept = {name: one.fileno() for name, one in named.items() if one is not None}
        if kept:
            # First to where no other one is.
            steps += [f"exec {number}<&{one}" for number, one in enumerate(kept.values(), 200)]
            steps += [f"exec {number}<&{number + 197}" for number in range(3, 3 + len(kept))]
            steps.append(f"export LISTEN_PID=$$ LISTEN_FDS={len(kept)} LISTEN_FDNAMES={':'.join(kept)}")
        script = " && ".join([*steps, 'exec "$@"'])
        asked = [*in_namespace, "bash", "-c", script, "bash", *command(*options)]
        self.process = subprocess.Popen(
            where.command(*asked) if where is not None else asked,
            cwd=TREE,
            env=environment(given),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=list(kept.values()),
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._threads = [
            threading.Thread(target=self._listen),
            threading.Thread(target=self._gather, args=(self.process.stdout, self.lines, self._take)),
            threading.Thread(target=self._gather, args=(self.process.stderr, self.said, lambda line: None)),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Supervised:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.ended()
        self.close()

    def close(self) -> None:
        """When it has ended: nothing of it is left."""
        self._socket.close()
        self._temporary.cleanup()

    def _listen(self) -> None:
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(65536, socket.CMSG_SPACE(_TIMESPEC.size))
            if not data:
                return
            seconds, nanoseconds = _TIMESPEC.unpack(ancillary[0][2])
            assigned = dict(line.split("=", 1) for line in data.decode().splitlines())
            with self._changed:
                if _OWN in assigned:
                    self._own_seen += 1
                else:
                    self.notices.append(Notice(seconds + nanoseconds / 1e9 + self._from_unix_time, assigned))
                self._changed.notify_all()

    def caught_up(self) -> None:
        """Wait until all notices that it has sent by now are known."""
        self._own_sent += 1
        sent = self._own_sent
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(f"{_OWN}=1".encode(), f"{self._temporary.name}/notify")
        self.wait(lambda: self._own_seen >= sent, "notice of our own")

    def _take(self, line: str) -> None:
        if line.endswith("\n"):
            self._on_line(line)
        else:
            self.cut = line

    def _gather(self, stream: IO[str], lines: list[str], take: Callable[[str], None]) -> None:
        for line in stream:
            with self._changed:
                lines.append(line.rstrip("\n"))
                take(line)
                self._changed.notify_all()
        stream.close()

    # --- waiting -----------------------------------------------------------------------------------------------------

    def wait(self, condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
        """Until a condition holds; it is looked at with every notice and line."""
        until = time.monotonic() + seconds
        with self._changed:
            while not condition():
                left = until - time.monotonic()
                assert left > 0, f"no {what}: {self.notices[-3:]} {self.lines[-3:]} {self.said[-3:]}"
                assert self.process.poll() is None, f"it ended ({self.process.poll()}) before {what}: {self.said}"
                self._changed.wait(min(left, 0.5))

    def notice(self, name: str, after: int = 0) -> Notice:
        """The first notice with such an assignment behind the first `after` notices; waits for it."""

        def found() -> Notice | None:
            return next((notice for notice in self.notices[after:] if name in notice.assigned), None)

        self.wait(lambda: found() is not None, name)
        notice = found()
        assert notice is not None
        return notice

    def ready(self) -> None:
        self.notice("READY")

    def polls(self, count: int = 1) -> None:
        """Until so many polls that begin after this call are over."""

        def statuses() -> int:
            return sum("STATUS" in notice.assigned for notice in self.notices)

        self.caught_up()
        # The one that is under way now, if any, began before.
        wanted = statuses() + count + 1
        self.wait(lambda: statuses() >= wanted, "further poll")

    @property
    def status(self) -> str:
        """The last STATUS=."""
        return next((n.assigned["STATUS"] for n in reversed(self.notices) if "STATUS" in n.assigned), "")

    def count(self, assignment: str) -> int:
        """How many notices made this assignment so far: NAME or NAME=VALUE."""
        name, _, value = assignment.partition("=")
        return sum(value in ("", n.assigned[name]) for n in self.notices if name in n.assigned)

    # --- ending ------------------------------------------------------------------------------------------------------

    def send(self, number: signal.Signals) -> None:
        # The shell became the program: they are one process.
        self.process.send_signal(number)

    def ended(self) -> int:
        """Its exit status, when it has ended; everything that it said is there then."""
        self.process.wait(DEADLINE)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", f"{self._temporary.name}/notify")
        for thread in self._threads:
            thread.join(DEADLINE)
        return self.process.returncode

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.send(number)
        return self.ended()

    def inside(self, path: str | Path) -> Path:
        """A path as the program sees it, in its mount namespace."""
        return Path(f"/proc/{self.process.pid}/root{path}")

    def mount(self, *arguments: str) -> None:
        """Mount something in the program's mount namespace."""
        subprocess.run(["nsenter", f"--target={self.process.pid}", "--mount", "mount", *arguments], check=True)
