"""tcpnewconn itself, running: its reports and its polls."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support import events
from tests.support.message_ids import CONNECTION
from tests.support.namespace import Namespace
from tests.support.supervised import DEADLINE, Supervised
from tests.support.terminal import TREE, command

Event = events.Event
# Source address and port, destination address and port.
Flow = tuple[str, int, str, int]


# Closed connections are logged, too.
CLOSED_CONFIGURATION = str(TREE / "tests/fixtures/closed.conf")


def once(where: Namespace, *options: str) -> list[Event]:
    """The events of a single poll."""
    done = subprocess.run(
        where.command(*command("--output", "json", "--once", *options)),
        cwd=TREE,
        capture_output=True,
        text=True,
        timeout=60,
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


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process does nothing meanwhile, or until it is sent SIGCONT."""
    os.kill(pid, signal.SIGSTOP)
    stat = Path(f"/proc/{pid}/stat")
    while stat.read_text().rpartition(") ")[2][0] != "T":
        time.sleep(0.01)
    yield
    os.kill(pid, signal.SIGCONT)


class Program:
    """A running tcpnewconn, in a namespace: its events as they come, and its polls.

    `notifications` and `namespaces` are sockets that are kept for it, as systemd does, `memory` its runtime directory; `mounts`
    as in Supervised.
    """

    def __init__(
        self,
        where: Namespace,
        *options: str,
        interval: str = "100ms",
        notifications: socket.socket | None = None,
        memory: Path | None = None,
        namespaces: socket.socket | None = None,
        mounts: Sequence[str] = (),
    ) -> None:
        self.events: list[Event] = []
        # Those that are connections.
        self.connections: list[Event] = []
        # The events observation-started and observation-stopped.
        self.runs: list[Event] = []
        self.started = time.monotonic()
        asked = ("--output", "json", "--interval", interval, *options)
        more = {"RUNTIME_DIRECTORY": str(memory)} if memory is not None else None
        self._run = Supervised(
            *asked,
            where=where,
            notifications=notifications,
            namespaces=namespaces,
            more=more,
            mounts=mounts,
            on_line=self._take,
        )
        self.process = self._run.process

    def _take(self, line: str) -> None:
        event: Event = json.loads(line)
        (self.runs if events.is_about_a_run(event) else self.events).append(event)
        if event["message_id"] == CONNECTION:
            self.connections.append(event)

    @property
    def status(self) -> str:
        return self._run.status

    @property
    def polls(self) -> int:
        """How many are over."""
        return sum("STATUS" in each.assigned and "STOPPING" not in each.assigned for each in self._run.notices)

    def wait(self, condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
        """Wait until a condition holds; it is looked at with each event and each poll."""
        self._run.wait(condition, what, seconds)

    def ready(self) -> None:
        """Wait for the first poll to be over."""
        self.wait(lambda: self.polls > 0, "first poll")

    def wait_for_connections(self, count: int) -> None:
        self.wait(lambda: len(self.connections) >= count, f"{count} connections")

    def poll_again(self, times: int = 1) -> None:
        """Wait until so many polls that began after this call are over."""
        self._run.caught_up()
        # The one that is under way now, if any, began before.
        wanted = self.polls + 1 + times
        self.wait(lambda: self.polls >= wanted, "further poll")

    def messages(self) -> list[str]:
        return [event["message"] for event in self.events]

    def signal(self, number: signal.Signals) -> None:
        self._run.send(number)

    @property
    def said(self) -> list[str]:
        """The lines of its stderr so far."""
        return self._run.said

    def kill(self) -> None:
        """SIGKILL; everything that it wrote before is in `events` afterwards, in whole lines."""
        self.process.kill()
        self.ended()
        assert self._run.cut == ""

    def stop(self) -> str:
        """Sends SIGTERM; it must end with 0. Returns its stderr."""
        self.signal(signal.SIGTERM)
        said = self.ended()
        assert self.process.returncode == 0, said
        return said

    def ended(self) -> str:
        """Wait for its end. Returns its stderr."""
        self._run.ended()
        # Not as they come: that would slow down what the test measures.
        for event in self.events + self.runs:
            events.check(event)
        self._run.close()
        return "\n".join(self._run.said)


@contextmanager
def running(
    where: Namespace,
    *options: str,
    interval: str = "100ms",
    notifications: socket.socket | None = None,
    mounts: Sequence[str] = (),
) -> Iterator[Program]:
    """tcpnewconn after its first poll; stopped at the end, when it must have had nothing to complain of."""
    program = Program(where, *options, interval=interval, notifications=notifications, mounts=mounts)
    try:
        program.ready()
        yield program
    except BaseException:
        program.kill()
        raise
    said = program.stop() if program.process.poll() is None else program.ended()
    assert said == ""
