"""Connections of other network namespaces that the trace alone has shown, and who made those that others have shown.

By the kernel's own event of connect(), on this machine: the program runs in its network namespace, as on a host.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tcpnewconn.kernel.instance import DIRECTORY
from tcpnewconn.reporting.entries import MESSAGE_IDS
from tests.support.containers import CONTAINER_ID, join
from tests.support.message_ids import LOSS
from tests.support.namespace import Namespace, namespace
from tests.support.plain_event import recorded
from tests.support.program import Event, Program, of_kind, running, stopped
from tests.support.terminal import TESTS
from tests.support.traffic import connect, listen

# Those that join two namespaces have addresses of their own: each program here observes all of this machine, and where two pairs
# have the same addresses, whose a call was is not known.
pytestmark = pytest.mark.skipif(
    os.readlink("/proc/self/ns/pid") != "pid:[4026531836]", reason="in a PID namespace the event has other ids"
)

# All that these tests use: other tests, which run at the same time, would fill the rings.
PORTS = range(28000, 28100)
# Accepts, and resets: no end is in TIME_WAIT then. With an address of another end, it connects there.
PROGRAM = """
import itertools, os, random, socket, struct, sys, threading, time
address, port = sys.argv[1], int(sys.argv[2])
listener = socket.create_server(("", port), backlog=64)
# No port twice; every ten seconds the kernel would begin anywhere again.
ports = itertools.count(random.randrange(33000, 60000))
def serve():
    while True:
        accepted = listener.accept()[0]
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.recv(1)
        accepted.close()
threading.Thread(target=serve, daemon=True).start()
def make(count):
    open("/proc/thread-self/comm", "w").write("makes them")
    # A thread is surely that of a call if it is older by a tick of /proc; and it is there until it was looked up.
    older = time.monotonic() + 2 / os.sysconf("SC_CLK_TCK")
    while time.monotonic() < older:
        pass
    for _ in range(count):
        with socket.create_connection((address, port), source_address=("", next(ports))) as made:
            made.send(b"x")
            try:
                made.recv(1)
            except ConnectionResetError:
                pass
    with socket.socket() as refused:
        refused.connect_ex((address, 28009))
    print(threading.get_native_id(), flush=True)
    done.wait()
print("listening", flush=True)
for line in sys.stdin:
    done = threading.Event()
    threading.Thread(target=make, args=(int(line),), daemon=True).start()
"""


class Machine(Namespace):
    """The network namespace of this machine."""

    def __init__(self) -> None:
        self._descriptor = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"


class Maker:
    """A process in a network namespace that makes short connections there."""

    def __init__(self, where: Namespace, address: str, port: int) -> None:
        command = where.command(sys.executable, "-c", PROGRAM, address, str(port))
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._line() == "listening"
        with where.entered():
            self.netns = os.stat("/proc/thread-self/net/tcp").st_ino
        self.pid = self._process.pid

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def enter(self, cgroup: Path) -> None:
        (cgroup / "cgroup.procs").write_text(str(self.pid))

    def make(self, count: int) -> int:
        """Make so many connections, one after the other, and an attempt that is refused. Returns the id of the thread."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return int(self._line())

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait(60)


@contextmanager
def maker(where: Namespace, address: str = "127.0.0.1", port: int = 28080) -> Iterator[Maker]:
    made = Maker(where, address, port)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def observed(machine: Machine, options: tuple[str, str], interval: str) -> Iterator[tuple[Namespace, Maker, Program]]:
    """A namespace without an id, a process in it, and the program, which has polled it."""
    with (
        recorded(ports=PORTS) as mounts,
        namespace() as apart,
        maker(apart) as one,
        running(machine, *options, interval=interval, mounts=mounts) as program,
    ):
        program.poll_again(2)
        yield apart, one, program


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    yield made
    made.close()


@pytest.fixture
def every(tmp_path: Path) -> tuple[str, str]:
    file = tmp_path / "all.conf"
    text = (TESTS / "fixtures/every.conf").read_text()
    # Of this machine's namespaces some are other tests', with some thousand connections.
    ignored = f"Ignore=:1-{PORTS.start - 1} :{PORTS.stop}-65535"
    file.write_text(f"{text}\n[Report]\nFailed=yes\n{ignored}\n[Namespaces]\nInclude=all\nCPUQuota=100%\n")
    return "--config", str(file)


def of(program: Program, one: Maker) -> list[Event]:
    return [event for event in program.connections if event.get("tcpnewconn.netns") == one.netns]


def test_short_connections_of_a_namespace_without_an_id_are_logged_from_the_trace(
    machine: Machine, every: tuple[str, str]
) -> None:
    with observed(machine, every, "500ms") as (_, one, program):
        thread = one.make(30)
        program.wait(lambda: len(of(program, one)) >= 30, "30 connections")
        program.poll_again(4)
        events = of(program, one)
        failed = [
            event
            for event in of_kind(program.events, MESSAGE_IDS["connection-failed"])
            if event.get("tcpnewconn.netns") == one.netns
        ]
    assert len(events) == 30
    assert len({event["source.port"] for event in events}) == 30
    assert len({event["tcpnewconn.connection_id"] for event in events}) == 30
    assert "trace" in {event["tcpnewconn.detected_by"] for event in events}
    assert {event["process.thread.id"] for event in events} == {thread}
    assert {event["process.thread.name"] for event in events} == {"makes them"}
    assert {event["network.direction"] for event in events} == {"internal"}
    assert {event["destination.port"] for event in events} == {28080}
    assert [event["destination.port"] for event in failed] == [28009]
    assert failed[0]["process.thread.id"] == thread


def test_a_connection_that_a_poll_has_shown_is_not_logged_again_from_the_trace(
    machine: Machine, every: tuple[str, str]
) -> None:
    with observed(machine, every, "200ms") as (apart, one, program):
        with (
            listen(apart, "127.0.0.1", 28070) as listener,
            connect(apart, "127.0.0.1", 28070),
            listener.accept()[0],
        ):
            program.wait(lambda: of(program, one), "the connection")
            program.poll_again(3)
        one.make(1)
        program.wait(lambda: len(of(program, one)) >= 2, "a connection of the maker")
        program.poll_again(4)
        assert sorted(event["destination.port"] for event in of(program, one)) == [28070, 28080]


def test_of_several_containers_in_one_namespace_it_is_that_of_who_called(
    machine: Machine, every: tuple[str, str], cgroup: Path
) -> None:
    second = cgroup.parents[1] / f"libpod-{'f' * 64}.scope"
    second.mkdir()
    with (
        recorded(ports=PORTS) as mounts,
        namespace() as apart,
        maker(apart) as one,
        maker(apart, port=28081) as other,
        running(machine, *every, interval="300ms", mounts=mounts) as program,
    ):
        one.enter(cgroup)
        other.enter(second)
        program.poll_again(2)
        one.make(5)
        other.make(5)
        program.wait(lambda: len(of(program, one)) >= 10, "10 connections")
        containers = {(event["destination.port"], event.get("container.id")) for event in of(program, one)}
    assert containers == {(28080, CONTAINER_ID), (28081, "f" * 64)}


def test_short_connections_of_a_namespace_with_an_id_have_their_thread(
    machine: Machine, every: tuple[str, str]
) -> None:
    """It has one because a device of the machine leads there; its connections are with a third one, without an id."""
    with recorded(ports=PORTS) as mounts, namespace() as apart, namespace() as there:
        join(apart, there, ("10.78.0.1/24", "10.78.0.2/24"))
        machine.ip("link", "add", "tnc-test0", "type", "veth", "peer", "name", "tnc-test1", "netns", apart.path)
        try:
            with (
                maker(there, "10.78.0.2"),
                maker(apart, "10.78.0.2") as one,
                running(machine, *every, interval="500ms", mounts=mounts) as program,
            ):
                # Until notifications from before the start are no longer expected.
                until = time.monotonic() + 60.0
                before = 0
                while not any("process.thread.id" in event for event in of(program, one)):
                    assert time.monotonic() < until
                    one.make(1)
                    before += 1
                    program.poll_again(1)
                program.wait(lambda: len(of(program, one)) >= before, "those before")
                thread = one.make(20)
                program.wait(lambda: len(of(program, one)) >= before + 20, "20 connections")
                program.poll_again(3)
                events = of(program, one)[before:]
        finally:
            machine.ip("link", "delete", "tnc-test0")
    assert len(events) == 20
    assert {event["process.thread.id"] for event in events} == {thread}
    assert {event["process.thread.name"] for event in events} == {"makes them"}


def test_what_was_lost_before_a_namespace_was_there_was_not_its_own(machine: Machine, every: tuple[str, str]) -> None:
    with recorded(kilobytes=8, ports=PORTS) as mounts, ExitStack() as stack:
        with stack.enter_context(namespace()).entered():
            for _ in range(2000):
                with socket.socket() as refused:
                    refused.connect_ex(("127.0.0.1", 28009))
        program = stack.enter_context(running(machine, *every, interval="3s", mounts=mounts))
        program.wait(lambda: of_kind(program.events, LOSS), "what was lost")
        # It has looked at every process by then, and knows that what comes is whole.
        program.poll_again(1)
        ways: set[str] = set()
        # A poll that comes meanwhile shows some of them: then once more, in another namespace.
        for _ in range(20):
            thread, events = in_one_that_comes(machine, program)
            assert {event.get("process.thread.id") for event in events} == {thread}
            ways = {event["tcpnewconn.detected_by"] for event in events}
            if ways == {"notification"}:
                break
    assert ways == {"notification"}


def in_one_that_comes(machine: Machine, program: Program) -> tuple[int, list[Event]]:
    """The thread and the events of five connections of a namespace that has an id, and has come just now."""
    # One that has ended can have had its number.
    before = len(program.connections)

    def own() -> list[Event]:
        return [event for event in program.connections[before:] if event.get("tcpnewconn.netns") == one.netns]

    with namespace() as apart, namespace() as there, ExitStack() as stack:
        join(apart, there, ("10.78.1.1/24", "10.78.1.2/24"))
        stack.enter_context(maker(there, "10.78.1.2"))
        one = stack.enter_context(maker(apart, "10.78.1.2"))
        machine.ip("link", "add", "tnc-test2", "type", "veth", "peer", "name", "tnc-test3", "netns", apart.path)
        stack.callback(machine.ip, "link", "delete", "tnc-test2")
        thread = one.make(5)
        program.wait(lambda: len(own()) >= 5, "5 connections")
        return thread, own()


def read_rings(program: Program) -> None:
    """What is in the rings is read, and lost."""
    each = f"for ring in {DIRECTORY}/per_cpu/*/trace_pipe_raw; do dd if=$ring of=/dev/null bs=64k iflag=nonblock; done; true"
    inside = ["nsenter", f"--mount=/proc/{program.process.pid}/ns/mnt", "sh", "-c", each]
    subprocess.run(inside, stderr=subprocess.DEVNULL, check=True)


def test_what_was_read_and_not_on_record_when_it_was_killed_is_counted(
    machine: Machine, every: tuple[str, str], tmp_path: Path
) -> None:
    options = (*every, "--state", str(tmp_path / "state"))
    with recorded(ports=PORTS) as mounts, namespace() as apart, maker(apart) as one:
        before = Program(machine, *options, interval="200ms", mounts=mounts)
        before.ready()
        before.poll_again(2)
        with stopped(before.process.pid):
            one.make(20)
            # As the service would have done at its next turn.
            read_rings(before)
            before.process.kill()
        before.kill()
        with running(machine, *options, interval="200ms", mounts=mounts) as program:
            program.poll_again(4)
            losses = [event for event in of_kind(program.events, LOSS) if "the service was killed" in event["message"]]
            assert of(program, one) == []
    [loss] = losses
    assert loss["tcpnewconn.reason"] == "namespaces"
    # 20, and one that was refused; of each two changes of its state.
    assert loss["tcpnewconn.count"] >= 42


def test_killed_at_any_moment_each_is_logged_once_or_counted(
    machine: Machine, every: tuple[str, str], tmp_path: Path
) -> None:
    chance = random.Random(15)
    options = (*every, "--state", str(tmp_path / "state"))
    events: list[Event] = []
    made = 0
    with recorded(ports=PORTS) as mounts, namespace() as apart, maker(apart) as one:
        for number in range(12):
            program = Program(machine, *options, interval="200ms", mounts=mounts)
            program.ready()
            one.make(10)
            made += 10
            if number == 11:
                program.poll_again(6)
                program.signal(signal.SIGTERM)
                program.ended()
            else:
                time.sleep(chance.uniform(0.0, 0.6))
                program.kill()
            events += program.events
    own = [
        event for event in events if event.get("tcpnewconn.netns") == one.netns and "tcpnewconn.connection_id" in event
    ]
    ports = [event["source.port"] for event in {event["tcpnewconn.connection_id"]: event for event in own}.values()]
    lost = sum(event["tcpnewconn.count"] for event in of_kind(events, LOSS))
    print(f"{made} made, {len(ports)} logged, {len(set(ports))} different, {lost} lost")
    assert len(ports) == len(set(ports))
    assert len(ports) <= made
    assert len(ports) + lost >= made
    assert len(ports) > made / 2
