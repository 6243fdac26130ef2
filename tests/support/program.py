"""tcpnewconn itself, running: what it reports, and what it tells systemd of its reads."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import events
from tests.support.message_ids import CONNECTION
from tests.support.namespace import Namespace

TREE = Path(__file__).resolve().parents[2]


Event = events.Event
# Source address and port, destination address and port.
Flow = tuple[str, int, str, int]


# Tells of ends too.
CLOSED_CONFIGURATION = str(TREE / "tests/fixtures/closed.conf")


def command(*options: str) -> list[str]:
    """tcpnewconn with no configuration but the options given, reporting in JSON, every connection by itself."""
    given = [] if "--config" in options else ["--config", str(TREE / "tests/fixtures/every.conf")]
    return [sys.executable, "-m", "tcpnewconn", "--output", "json", *given, *options]


def once(where: Namespace, *options: str) -> list[Event]:
    """The events of a single read."""
    done = subprocess.run(
        where.command(*command("--once", *options)), cwd=TREE, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return events.parsed_lines(done.stdout.splitlines())


def of_kind(events: Iterable[Event], kind: str) -> list[Event]:
    return [event for event in events if event["message_id"] == kind]


def flow(event: Event) -> Flow:
    return (
        event["source.address"],
        event["source.port"],
        event["destination.address"],
        event["destination.port"],
    )


def flows(events: Iterable[Event]) -> Counter[Flow]:
    """How often each connection was reported."""
    return Counter(flow(event) for event in of_kind(events, CONNECTION))


class Program:
    """A running tcpnewconn. Its events are gathered as they come; `ready` is set after its first read.

    `notifications` is a socket for them that is kept for it, as systemd does (sd_listen_fds(3)).
    """

    def __init__(
        self, where: Namespace, *options: str, interval: str = "100ms", notifications: socket.socket | None = None
    ) -> None:
        self.events: list[Event] = []
        # Those that say since when and until when it observes.
        self.runs: list[Event] = []
        # What stands behind the last whole line.
        self.cut = ""
        self.reads = 0
        self.status = ""
        self._said = threading.Condition()
        self._directory = tempfile.TemporaryDirectory(prefix="tcpnewconn-test-")
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._notify.bind(f"{self._directory.name}/notify")
        self.started = time.monotonic()
        asked = where.command(*command("--interval", interval, *options))
        descriptors = [notifications.fileno()] if notifications is not None else []
        if descriptors:
            passed = f'exec 3<&{descriptors[0]}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
            asked = ["bash", "-c", passed, "bash", *asked]
        self.process = subprocess.Popen(
            asked,
            cwd=TREE,
            env=os.environ | {"NOTIFY_SOCKET": f"{self._directory.name}/notify"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=descriptors,
        )
        self._threads = [threading.Thread(target=each) for each in (self._gather, self._listen)]
        for thread in self._threads:
            thread.start()

    def _gather(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._said:
                if line.endswith("\n"):
                    event: Event = json.loads(line)
                    (self.runs if events.is_about_a_run(event) else self.events).append(event)
                else:
                    self.cut = line
                self._said.notify_all()

    def _listen(self) -> None:
        while message := self._notify.recv(4096):
            said = dict(line.split("=", 1) for line in message.decode().splitlines())
            with self._said:
                if "STATUS" in said and "STOPPING" not in said:
                    self.status = said["STATUS"]
                    self.reads += 1
                self._said.notify_all()

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 30) -> None:
        """Wait until a condition holds; it is looked at with each event and each read."""
        until = time.monotonic() + seconds
        with self._said:
            while not condition():
                left = until - time.monotonic()
                if self.process.poll() is not None or not self._said.wait(max(0.0, min(left, 1.0))):
                    assert self.process.poll() is None, f"it ended ({self.process.poll()}) before {what}"
                    assert left > 0, f"no {what} in {seconds} s; status: {self.status}; events: {self.messages()[-50:]}"

    def ready(self) -> None:
        """Wait for the first read to be over."""
        self.wait(lambda: self.reads > 0, "first read")

    def wait_for_connections(self, count: int) -> None:
        self.wait(lambda: len(self.connections) >= count, f"{count} connections")

    def read_again(self, times: int = 1) -> None:
        """Wait until so many reads that began after this call are over."""
        # The one that is under way now, if any, began before.
        wanted = self.reads + 1 + times
        self.wait(lambda: self.reads >= wanted, "further read")

    def messages(self) -> list[str]:
        return [event["message"] for event in self.events]

    @property
    def connections(self) -> list[Event]:
        return of_kind(self.events, CONNECTION)

    def signal(self, number: signal.Signals) -> None:
        # nsenter became the program: it does not fork.
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL; everything that it wrote before is in `events` afterwards, in whole lines."""
        self.process.kill()
        self.ended()
        assert self.cut == ""

    def stop(self) -> str:
        """SIGTERM; it must end with 0. What it wrote on stderr."""
        self.signal(signal.SIGTERM)
        said = self.ended()
        assert self.process.returncode == 0, said
        return said

    def ended(self) -> str:
        """Wait for its end; what it wrote on stderr."""
        assert self.process.stderr is not None
        said = self.process.stderr.read()
        self.process.wait(timeout=30)
        self._threads[0].join()
        # Not as they come: that would slow down what the test measures.
        for event in self.events + self.runs:
            events.check(event)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", f"{self._directory.name}/notify")
        self._threads[1].join()
        self._notify.close()
        self._directory.cleanup()
        self.process.stdout.close()  # type: ignore[union-attr]
        self.process.stderr.close()
        return said


@contextmanager
def running(
    where: Namespace, *options: str, interval: str = "100ms", notifications: socket.socket | None = None
) -> Iterator[Program]:
    """tcpnewconn after its first read; stopped at the end, when it must have had nothing to complain of."""
    program = Program(where, *options, interval=interval, notifications=notifications)
    try:
        program.ready()
        yield program
    except BaseException:
        program.kill()
        raise
    said = program.stop() if program.process.poll() is None else program.ended()
    assert said == ""
