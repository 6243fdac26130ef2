"""Polls that are saved while nothing happens: whatever happens then, the next poll shows it."""

from __future__ import annotations

import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tcpnewconn.kernel.sockdiag import open_notifications
from tests.support.namespace import Namespace, joined
from tests.support.program import Program, running
from tests.support.supervised import DEADLINE
from tests.support.traffic import connect, listen

HERE, THERE = "10.80.0.1", "10.80.0.2"
TIMES = 4


@pytest.fixture
def hosts() -> Iterator[tuple[Namespace, Namespace]]:
    with joined([f"{HERE}/24"], [f"{THERE}/24"]) as made:
        yield made


def quiet(program: Program) -> None:
    """Let it find that nothing happens."""
    program.poll_again(4)


def polled(program: Program, directory: Path, polls: int) -> tuple[int, int]:
    """How often it opens a table during so many polls, and how many there were."""
    opened = directory / "opened"
    with subprocess.Popen(
        ["strace", "-qq", "-e", "trace=openat", "-o", str(opened), "-p", str(program.process.pid)]
    ) as tracer:
        # Until it is attached.
        program.wait(lambda: opened.exists() and opened.read_text(), "a traced poll")
        before, began = opened.read_text().count('/net/tcp"'), program.polls
        program.poll_again(polls)
        count, over = opened.read_text().count('/net/tcp"') - before, program.polls - began
        tracer.terminate()
    return count, over


def test_one_poll_in_six_is_made_while_nothing_happens(hosts: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    here, there = hosts
    with running(here) as program, listen(here, HERE) as listener:
        client, accepted = connect(there, *listener.getsockname()), listener.accept()[0]
        with client, accepted:
            quiet(program)
            count, polls = polled(program, tmp_path, 18)
            assert 2 <= count <= polls / 6 + 2
        assert len(program.connections) == 1


@pytest.mark.parametrize("place", ["within", "opening", "accepting", "not accepted"])
def test_a_connection_that_stays_open_is_in_the_next_poll(place: str, hosts: tuple[Namespace, Namespace]) -> None:
    here, there = hosts
    server, client, address = {"opening": (there, here, THERE), "within": (here, here, HERE)}.get(
        place, (here, there, HERE)
    )
    with running(here) as program, listen(server, address) as listener, ExitStack() as held:
        for number in range(1, TIMES + 1):
            quiet(program)
            held.enter_context(connect(client, *listener.getsockname()))
            if place != "not accepted":
                held.enter_context(listener.accept()[0])
            program.poll_again()
            # The status of that poll: its lines can be read later.
            assert program.status.startswith(f"{number} connection")
            program.wait_for_connections(number)


def test_a_listener_in_the_place_of_another_is_in_the_next_poll(hosts: tuple[Namespace, Namespace]) -> None:
    """The counters are the same; the destroy notification of the other one tells."""
    here, _ = hosts
    with here.entered():
        witness = open_notifications()
    with witness, running(here) as program, ExitStack() as held:
        last: socket.socket | None = None
        for number in range(TIMES):
            if last is not None:
                last.close()
                # The kernel sends it from a work queue: wait_for_notifications() in test_all_namespaces.py.
                assert select.select([witness], [], [], DEADLINE)[0], "no notification"
                witness.recv(4096)
            last = held.enter_context(listen(here, HERE, 9000 + number))
            program.poll_again()
            assert f"New listener: {HERE}:{9000 + number}" in program.messages()
            quiet(program)


def test_an_attempt_that_succeeds_late_while_another_connection_is_shut_down_is_in_the_next_poll(
    hosts: tuple[Namespace, Namespace],
) -> None:
    """Both were counted before, and one comes up while the other goes."""
    here, there = hosts
    with running(here) as program, listen(there, THERE) as listener, ExitStack() as held:
        first, accepted = connect(here, *listener.getsockname()), listener.accept()[0]
        held.enter_context(first)
        held.enter_context(accepted)
        # Its answers are dropped.
        there.ip("route", "add", "blackhole", f"{HERE}/32")
        second = held.enter_context(here.socket())
        second.setblocking(False)
        assert second.connect_ex(listener.getsockname()) != 0
        quiet(program)
        there.ip("route", "del", "blackhole", f"{HERE}/32")
        # The kernel tries again after a second, and longer each time.
        second.settimeout(30)
        second.setblocking(True)
        second.sendall(b"x")
        first.shutdown(socket.SHUT_WR)
        program.poll_again()
        assert program.status.startswith("2 connections open")
        program.wait_for_connections(2)
