"""Killed or stopped at any moment, while connections come and go: none is lost, and what is reported twice has the
same id.

In a terminal nobody keeps the kernel's notifications while the program is down, nor does systemd while the service is stopped.
Every connection that a poll can show must be reported then: each one here leaves a row in TIME_WAIT on this host, for longer
than the test lasts.
"""

from __future__ import annotations

import itertools
import random
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Set
from contextlib import ExitStack
from pathlib import Path

import pytest

from tcpnewconn.kernel.sockdiag import open_notifications
from tests.support.message_ids import CONNECTION
from tests.support.namespace import Namespace, joined, namespace
from tests.support.program import Event, Flow, Program, flow, of_kind, running
from tests.support.traffic import connect, listen

HERE, THERE = "10.73.0.1", "10.73.0.2"
# With the four tests 200.
KILLS = 50
# Seconds after which a run lives until it has reported everything: a row in TIME_WAIT stays for 60 s (TCP_TIMEWAIT_LEN in tcp.h),
# and on a slow machine 50 runs take longer. A busy machine needs as much again until that run's first poll.
AT_LEAST_EVERY = 15.0
TIME_WAIT = 60.0
COUNT = 17


class Traffic(threading.Thread):
    """Opens a connection every few milliseconds, and closes it after some, so that its TIME_WAIT is on the side wanted."""

    def __init__(self, server: Namespace, client: Namespace, address: str, first: str, chance: random.Random) -> None:
        super().__init__()
        self.made: Counter[Flow] = Counter()
        self.problem: Exception | None = None
        self._server, self._client, self._address = server, client, address
        self._first = first
        self._chance = chance
        self._stopping = threading.Event()

    def run(self) -> None:
        try:
            self._run()
        except Exception as problem:
            self.problem = problem

    def _run(self) -> None:
        open_ones: list[tuple[socket.socket, socket.socket]] = []
        # No port is used twice: addresses and ports name a connection.
        ports = itertools.count(20_000)
        with listen(self._server, self._address, 8080) as listener:
            # Paced, not waited for: some 75 connections a second, up to 20 of them open at a time.
            while not self._stopping.wait(self._chance.uniform(0, 0.025)):
                client = connect(self._client, self._address, 8080, ("0.0.0.0", next(ports)))
                self.made[(*client.getsockname(), *client.getpeername())] += 1
                open_ones.append((client, listener.accept()[0]))
                for _ in range(self._chance.choice((0, 1, 1, 2)) if len(open_ones) < 20 else 2):
                    if open_ones:
                        self._close(*open_ones.pop(self._chance.randrange(len(open_ones))))
            for both in open_ones:
                self._close(*both)

    def _close(self, client: socket.socket, accepted: socket.socket) -> None:
        both = [accepted, client] if self._first == "server" else [client, accepted]
        if self._first == "either":
            self._chance.shuffle(both)
        both[0].close()
        assert both[1].recv(1) == b""
        both[1].close()

    def stop(self) -> None:
        self._stopping.set()
        self.join()
        if self.problem is not None:
            raise self.problem


def opened(host: Namespace) -> socket.socket:
    """A socket on which the notifications of a host wait for the program."""
    with host.entered():
        return open_notifications()


def report_all(program: Program, made: Set[Flow]) -> None:
    """Let it live until it has reported these connections."""
    program.wait(lambda: made <= set(map(flow, program.connections)), "every connection from before it was started")


def tables(host: Namespace) -> list[str]:
    """Its rows, and how often the kernel left out a state of a connection: it has no memory, or too many in TIME_WAIT."""
    names, values = [line.split() for line in host.table("netstat").decode().splitlines()[:2]]
    counts = [
        f"{name} {value}" for name, value in zip(names, values, strict=True) if "Abort" in name or "Overflow" in name
    ]
    return [*host.table().decode().splitlines(), ", ".join(counts)]


def what_is_known_of(flows: Iterable[Flow], state: bytes, rows: list[str]) -> list[str]:
    """What the state and the tables said before the last run, for whoever looks for the reason."""
    found = rows[-1:]
    for _, port, _, listening in flows:
        found += [row for row in rows[:-1] if f":{port:04X} " in row]
        ends = [f"{one:04x}" for one in (port, listening)]
        lines = state.decode().splitlines()
        found += [line for line in lines if all(end in line for end in ends) or str(port) in line]
    return found


@pytest.mark.parametrize("place", ["within", "opening", "accepting", "within, hardly a poll"])
def test_killed_at_any_moment(place: str, tmp_path: Path) -> None:
    interrupted(place, "own", tmp_path)


@pytest.mark.parametrize("place", ["within", "accepting, hardly a poll"])
def test_killed_at_any_moment_while_its_notifications_are_kept(place: str, tmp_path: Path) -> None:
    interrupted(place, "kept", tmp_path)


def test_killed_at_any_moment_while_its_notifications_are_kept_and_its_state_is_in_memory(
    tmp_path: Path, memory: Path
) -> None:
    interrupted("within", "kept", tmp_path, memory)


@pytest.mark.parametrize("place", ["within", "opening", "accepting, hardly a poll"])
def test_stopped_at_any_moment_and_started_with_another_socket(place: str, tmp_path: Path) -> None:
    interrupted(place, "renewed", tmp_path)


def interrupted(place: str, which: str, tmp_path: Path, memory: Path | None = None) -> None:
    chance = random.Random(place)
    with joined([f"{HERE}/24"], [f"{THERE}/24"]) as (here, there):
        for host in (here, there):
            host.sysctl("net.ipv4.ip_local_port_range", "20000\t60999")
        server, client, address, first = {
            "opening": (there, here, THERE, "client"),
            "accepting": (here, there, HERE, "server"),
        }.get(place.split(",")[0], (here, here, "127.0.0.1", "either"))
        # With chances of its own: shared, they would decide how many runs are killed before their first poll.
        traffic = Traffic(server, client, address, first, random.Random(f"traffic {place}"))
        options = ("--state", str(tmp_path / "state"))
        interval = "1h" if "hardly" in place else "100ms"
        runs: list[list[Event]] = []
        kept: socket.socket | None = None
        # When what the last such run reported had been made; and the longest time from there to the end of the next one.
        whole, longest = time.monotonic(), 0.0
        traffic.start()
        try:
            with ExitStack() as sockets:
                for _ in range(KILLS):
                    if kept is None or which == "renewed":
                        sockets.close()
                        kept = sockets.enter_context(opened(here)) if which != "own" else None
                    began, made = time.monotonic(), frozenset(traffic.made.copy())
                    program = Program(here, *options, interval=interval, notifications=kept, memory=memory)
                    if began > whole + AT_LEAST_EVERY:
                        report_all(program, made - {flow(event) for run in runs for event in run})
                        whole, longest = began, max(longest, time.monotonic() - whole)
                    if which == "renewed" or chance.random() < 0.7:
                        program.ready()
                    # From before its first poll to some polls later.
                    time.sleep(chance.uniform(0, 0.15))
                    if which == "renewed":
                        program.stop()
                    else:
                        program.kill()
                        assert program.said == []
                    runs.append(of_kind(program.events, CONNECTION))
                traffic.stop()
                state, rows = (tmp_path / "state").read_bytes(), tables(here)
                last = Program(here, *options, notifications=kept, memory=memory)
                last.ready()
                last.poll_again()
                longest = max(longest, time.monotonic() - whole)
                last.stop()
                runs.append(of_kind(last.events, CONNECTION))
        finally:
            traffic.stop()
    assert sum(len(run) > 0 for run in runs) > KILLS / 2
    assert set(traffic.made.values()) == {1}
    ids: dict[Flow, set[str]] = defaultdict(set)
    for event in itertools.chain(*runs):
        ids[flow(event)].add(event["tcpnewconn.connection_id"])
    missing = set(traffic.made) - set(ids)
    assert longest < TIME_WAIT, (
        f"a machine too slow for this test: a row ends before a run can see it; missing: {missing}"
    )
    assert set(ids) == set(traffic.made), what_is_known_of(missing, state, rows)
    assert {each: numbers for each, numbers in ids.items() if len(numbers) > 1} == {}
    # A run repeats entries before anything else: those that were not known to be delivered when it was killed.
    reported: set[Flow] = set()
    for run in runs:
        again = [flow(event) in reported for event in run]
        assert again == sorted(again, reverse=True)
        reported.update(flow(event) for event in run)


def test_connections_that_ended_before_the_first_start_are_reported_though_that_is_killed_at_once(
    tmp_path: Path,
) -> None:
    """Until it is known which of them the kernel had reported before. A program that has received them must not take them for
    reported then."""
    with namespace() as here:
        with listen(here, "127.0.0.1", 8080) as listener:
            for _ in range(COUNT):
                client, accepted = connect(here, *listener.getsockname()), listener.accept()[0]
                client.close()
                assert accepted.recv(1) == b""
                accepted.close()
        options = ("--state", str(tmp_path / "state"))
        runs: list[list[Event]] = []
        with opened(here) as kept:
            for _ in range(5):
                program = Program(here, *options, notifications=kept)
                program.ready()
                program.kill()
                runs.append(program.connections)
            with running(here, *options, notifications=kept) as last:
                last.wait(
                    lambda: len({flow(event) for run in [*runs, last.connections] for event in run}) == COUNT,
                    "what had ended before",
                )
                last.poll_again(2)
    ids = [event["tcpnewconn.connection_id"] for run in [*runs, last.connections] for event in run]
    assert len(ids) >= COUNT == len(set(ids))
