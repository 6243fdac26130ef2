"""Where the kernel has no kprobes: its own event of connect(), and threads that are looked up at once. The whole program."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from tcpnewconn.attribution.processes import Processes
from tcpnewconn.attribution.threads import Threads
from tcpnewconn.reporting.entries import MESSAGE_IDS
from tests.support.events import Event
from tests.support.namespace import Namespace, namespace
from tests.support.plain_event import recorded
from tests.support.program import Program, of_kind, running, stopped
from tests.support.traffic import listen

pytestmark = pytest.mark.skipif(
    os.readlink("/proc/self/ns/pid") != "pid:[4026531836]", reason="in a PID namespace the event has other ids"
)

CGROUPS = Path("/sys/fs/cgroup")
DAEMON = 1
# One for each listener, below those that the kernel chooses: it can choose one twice, and a connection is known by it here.
PORTS = itertools.count(29_000)
# A thread with a name that connects, closes, and waits.
CLIENT = """
import os, socket, sys, threading, time
address, port, local, name = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
def call():
    open("/proc/thread-self/comm", "w").write(name)
    # A thread is surely that of a call if it is older by a tick of /proc: then it is looked up, however late.
    older = time.monotonic() + 2 / os.sysconf("SC_CLK_TCK")
    while time.monotonic() < older:
        pass
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as client:
        if local:
            client.bind((address, local))
        client.connect_ex((address, port))
    print(threading.get_native_id(), flush=True)
    sys.stdin.read()
thread = threading.Thread(target=call)
thread.start()
thread.join()
"""


@pytest.fixture(scope="module")
def where() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


@pytest.fixture(scope="module")
def program(where: Namespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """It has attributed a connection: notifications from before its start are no longer expected."""
    configuration = tmp_path_factory.mktemp("plain") / "tcpnewconn.conf"
    configuration.write_text("[Report]\nBurstLimit=0\nTotalLimit=0\nFailed=yes\nListeners=no\n[PortScan]\nPorts=off\n")
    with (
        recorded() as mounts,
        listen(where, "127.0.0.1", next(PORTS)) as listener,
        running(where, "--config", str(configuration), interval="1h", mounts=mounts) as made,
    ):
        port = listener.getsockname()[1]
        until = time.monotonic() + 30.0
        while not any("process.thread.id" in each for each in made.connections):
            assert time.monotonic() < until
            before = len(made.connections)
            with client(where, "127.0.0.1", port):
                made.wait_for_connections(before + 1)
        yield made


@pytest.fixture(scope="module")
def unit() -> Iterator[Path]:
    [root] = [root for root in (CGROUPS, CGROUPS / "unified") if (root / "cgroup.controllers").exists()]
    made = root / f"tcpnewconn_plain_{os.getpid()}.slice" / "plain.service"
    made.mkdir(parents=True)
    yield made
    made.rmdir()
    made.parent.rmdir()


def started(
    where: Namespace, address: str, port: int, local: int = 0, name: str = "a thread", unit: Path | None = None
) -> subprocess.Popen[str]:
    """A client of another user; it has connected once it prints the id of its thread, and ends when its input does."""
    enter = ["sh", "-c", f'echo $$ >{unit}/cgroup.procs && exec "$@"', "sh"] if unit is not None else []
    become = ["setpriv", f"--reuid={DAEMON}", "--clear-groups", "--"]
    return subprocess.Popen(
        [*enter, *where.command(*become, sys.executable, "-c", CLIENT, address, str(port), str(local), name)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def client(where: Namespace, address: str, port: int, local: int = 0, **more: object) -> Iterator[tuple[int, int]]:
    """Process and thread of a client that has connected, and is still there."""
    with started(where, address, port, local, **more) as process:  # type: ignore[arg-type]
        assert process.stdout is not None
        assert process.stdin is not None
        yield process.pid, int(process.stdout.readline())
        process.stdin.close()


def free_port(where: Namespace, address: str) -> int:
    with where.socket() as found:
        found.bind((address, 0))
        port: int = found.getsockname()[1]
        return port


def to(program: Program, port: int, kind: str | None = None) -> Event:
    """The one event of a connection to a port."""

    def found() -> list[Event]:
        events = of_kind(program.events, kind) if kind else program.connections
        return [each for each in events if each.get("destination.port") == port]

    program.wait(found, f"a connection to port {port}")
    (event,) = found()
    return event


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_short_connection_has_user_unit_process_and_thread_of_who_opened_it(
    where: Namespace, program: Program, unit: Path, address: str
) -> None:
    with listen(where, "::", next(PORTS)) as listener:
        port = listener.getsockname()[1]
        before = time.time()
        with client(where, address, port, name="opens it", unit=unit) as (process, thread):
            found = to(program, port)
    assert found["tcpnewconn.detected_by"] == "notification"
    assert (found["user.id"], found["user.name"]) == (str(DAEMON), "daemon")
    assert found["object.systemd_unit"] == "plain.service"
    assert (found["process.thread.id"], found["process.thread.name"]) == (thread, "opens it")
    assert found.get("process.pid", process) == process
    assert thread != process
    assert found["tcpnewconn.attributed_by"] == ["connect"]
    assert before - 1.0 < _seconds(found["event.start"]) < time.time() + 1.0


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_of_a_thread_that_has_gone_only_its_id_and_the_time_are_known(where: Namespace, program: Program) -> None:
    with listen(where, "127.0.0.1", next(PORTS)) as listener:
        port = listener.getsockname()[1]
        with stopped(program.process.pid), client(where, "127.0.0.1", port) as (_, thread):
            pass
        found = to(program, port)
    assert found["process.thread.id"] == thread
    assert found["event.start"]
    assert not {"user.id", "object.systemd_unit", "process.thread.name", "process.pid"} & found.keys()


def test_a_thread_that_has_its_id_now_is_not_taken_for_it(where: Namespace, program: Program) -> None:
    with listen(where, "127.0.0.1", next(PORTS)) as listener:
        port = listener.getsockname()[1]
        with stopped(program.process.pid):
            with client(where, "127.0.0.1", port) as (_, thread):
                pass
            with another_with_id(thread):
                program.signal(signal.SIGCONT)
                found = to(program, port)
    assert found["process.thread.id"] == thread
    assert not {"user.id", "object.systemd_unit", "process.thread.name", "process.pid"} & found.keys()


@contextmanager
def another_with_id(wanted: int) -> Iterator[None]:
    """A process with this id. Others may take it first."""
    until = time.monotonic() + 30.0
    while True:
        assert time.monotonic() < until, f"nobody got the id {wanted}"
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(wanted - 1))
        with subprocess.Popen(["sleep", "1000"]) as process:
            try:
                if process.pid == wanted:
                    yield
                    return
            finally:
                process.kill()


def test_a_thread_of_another_network_namespace_is_not_taken_for_it(where: Namespace, program: Program) -> None:
    """Both connections have the same addresses and ports; the thread of this one has gone, that of the other is there."""
    with namespace() as elsewhere, listen(where, "127.0.0.1", next(PORTS)) as listener:
        port, local = listener.getsockname()[1], free_port(where, "127.0.0.1")
        with listen(elsewhere, "127.0.0.1", port), stopped(program.process.pid):
            with client(where, "127.0.0.1", port, local) as (_, thread):
                pass
            with client(elsewhere, "127.0.0.1", port, local):
                program.signal(signal.SIGCONT)
                found = to(program, port)
    assert found["process.thread.id"] == thread
    assert "user.id" not in found


def test_a_refused_attempt_is_an_event_with_who_tried(where: Namespace, program: Program) -> None:
    # A port that nobody else can take, and nobody listens on.
    with where.socket() as deaf:
        deaf.bind(("127.0.0.1", port := next(PORTS)))
        with client(where, "127.0.0.1", port, name="tries it") as (_, thread):
            found = to(program, port, MESSAGE_IDS["connection-failed"])
    assert (found["process.thread.id"], found["process.thread.name"]) == (thread, "tries it")
    assert "error.code" not in found
    assert found["source.port"]


def test_of_a_connection_that_is_not_accepted_at_once_nothing_is_said_of_its_acceptor(
    where: Namespace, program: Program
) -> None:
    """accept() is not recorded: the acceptor is known by its listener alone."""
    with listen(where, "127.0.0.1", next(PORTS)) as listener:
        port = listener.getsockname()[1]
        with client(where, "127.0.0.1", port):
            accepted: socket.socket = listener.accept()[0]
            accepted.close()
            found = to(program, port)
    assert "tcpnewconn.accepted_by_process" not in found


# --- the network namespace of a thread -------------------------------------------------------------------------------


@contextmanager
def process_in(where: Namespace) -> Iterator[int]:
    with subprocess.Popen(where.command("cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as made:
        assert made.stdin is not None
        assert made.stdout is not None
        # It is in the namespace once it answers.
        made.stdin.write(b"\n")
        made.stdin.flush()
        made.stdout.read(1)
        yield made.pid
        made.stdin.close()


def number_of(where: Namespace) -> int:
    """The inode number of the kernel's own socket: protocol 0, port id 0."""
    rows = [line.split() for line in where.table("netlink").decode().splitlines()]
    [number] = [int(row[-1]) for row in rows if row[1:3] == ["0", "0"]]
    return number


def netns_of(thread: int) -> int:
    found = Threads(Processes("boot"), True).look(thread)
    assert found is not None
    return found.netns


def test_threads_in_two_network_namespaces_have_the_numbers_of_these() -> None:
    with namespace() as one, namespace() as other, process_in(one) as first, process_in(other) as second:
        assert [netns_of(first), netns_of(second)] == [number_of(one), number_of(other)]
        assert len({netns_of(os.getpid()), netns_of(first), netns_of(second)}) == 3


def test_a_network_namespace_with_many_netlink_sockets_has_its_number() -> None:
    """The kernel's own is anywhere among them, and one read() shows some forty."""
    with ExitStack() as stack:
        where = stack.enter_context(namespace())
        for _ in range(500):
            stack.enter_context(where.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)).bind((0, 0))
        assert netns_of(stack.enter_context(process_in(where))) == number_of(where)
