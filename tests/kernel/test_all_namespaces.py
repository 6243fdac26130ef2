"""Short connections in other network namespaces: by the kernel's destroy notifications of all of them."""

from __future__ import annotations

import itertools
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpnewconn.kernel.allnamespaces import AllNotifications, open_for_all
from tcpnewconn.kernel.sockdiag import open_notifications
from tests.kernel.test_others import every, here, number_of, number_of_
from tests.support.containers import CONTAINER_ID, Host, child_of, container, join
from tests.support.message_ids import LOSS
from tests.support.namespace import Namespace, namespace
from tests.support.program import Event, Program, flows, of_kind, running, stopped
from tests.support.supervised import DEADLINE
from tests.support.traffic import connect, listen, reset

__all__ = ["every", "here"]
# Longer than a test: what is logged in time was not seen by a poll.
SELDOM = ("--interval", "10min")
PORTS = itertools.count(33_000)
ANY = ("0.0.0.0", "::")


def short(client: Namespace, listener: socket.socket, address: str, count: int = 1) -> list[int]:
    """Connections that are closed at once, the client first. Returns its ports."""
    ports = []
    for _ in range(count):
        # No port twice: the kernel can give one again that is in TIME_WAIT (tcp_tw_reuse).
        with connect(client, address, listener.getsockname()[1], (ANY[":" in address], next(PORTS))) as opened:
            ports.append(opened.getsockname()[1])
            accepted = listener.accept()[0]
        accepted.close()
    return ports


def wait_for_notifications(received: AllNotifications, count: int) -> None:
    """The kernel sends them from a work queue, not from close(): sock_diag_broadcast_destroy(), net/core/sock_diag.c."""
    until = time.monotonic() + DEADLINE
    while count:
        if received.peek() is not None:
            received.consume()
            count -= 1
        else:
            assert select.select([received], [], [], max(0.0, until - time.monotonic()))[0], f"{count} are missing"


def whose(event: Event) -> tuple[str, str | None, str | None]:
    """Its direction, and the containers of both sides."""
    return event["network.direction"], event.get("container.id"), event.get("tcpnewconn.accepted_by_container")


def by_id(events: list[Event]) -> dict[str, Event]:
    return {event["tcpnewconn.connection_id"]: event for event in events}


def of_ports(events: list[Event], ports: list[int]) -> list[Event]:
    return [event for event in events if event["source.port"] in ports]


@pytest.fixture
def joined(here: Host) -> Iterator[Namespace]:
    """A container that is joined with the host."""
    with container(here) as one:
        join(here, one, ("10.88.0.1/24", "10.88.0.5/24"))
        yield one


def test_connections_between_two_polls_are_logged_with_the_namespace(
    here: Host, joined: Namespace, every: tuple[str, str]
) -> None:
    with listen(joined, "127.0.0.1", 8080) as listener, running(here, *every, *SELDOM) as program:
        ports = short(joined, listener, "127.0.0.1", 23)
        program.wait_for_connections(23)
        events = program.connections
    assert sorted(event["source.port"] for event in events) == sorted(ports)
    assert {event["tcpnewconn.netns"] for event in events} == {number_of(joined)}
    assert {event["tcpnewconn.detected_by"] for event in events} == {"notification"}
    assert {event["network.direction"] for event in events} == {"internal"}


def test_one_that_comes_while_the_program_runs_is_known_at_once(
    here: Host, every: tuple[str, str], cgroup: Path
) -> None:
    with running(here, *every, *SELDOM) as program, container(here, cgroup) as one:
        join(here, one, ("10.88.0.1/24", "10.88.0.5/24"))
        with listen(one, "127.0.0.1", 8080) as listener:
            short(one, listener, "127.0.0.1", 10)
        program.wait_for_connections(10)
        assert {event["tcpnewconn.netns"] for event in program.connections} == {number_of(one)}
        assert {event["container.id"] for event in program.connections} == {CONTAINER_ID}


def test_a_connection_with_the_host_is_one_whichever_end_comes_first(
    here: Host, joined: Namespace, every: tuple[str, str]
) -> None:
    with (
        listen(joined, "10.88.0.5", 8080) as there,
        listen(here, "10.88.0.1", 8080) as at_host,
        running(here, *every, *SELDOM) as program,
    ):
        ports = short(here, there, "10.88.0.5", 23) + short(joined, at_host, "10.88.0.1", 23)
        program.wait_for_connections(46)
    assert sorted(event["source.port"] for event in program.connections) == sorted(ports)
    assert {event["network.direction"] for event in program.connections} == {"internal"}


def test_with_one_that_comes_while_the_program_runs_it_is_one_too(
    here: Host, every: tuple[str, str], cgroup: Path
) -> None:
    """Its addresses are not known yet when the host's socket is destroyed."""
    with (
        listen(here, "0.0.0.0", 8080) as at_host,
        running(here, *every, *SELDOM) as program,
        container(here, cgroup) as one,
    ):
        join(here, one, ("10.88.0.1/24", "10.88.0.5/24"))
        ports = short(one, at_host, "10.88.0.1", 10)
        with listen(one, "10.88.0.5", 8080) as there:
            ports += short(here, there, "10.88.0.5", 10)
        program.wait_for_connections(20)
    assert sorted(event["source.port"] for event in program.connections) == sorted(ports)
    assert {whose(event) for event in program.connections} == {
        ("internal", CONTAINER_ID, None),
        ("internal", None, CONTAINER_ID),
    }


def test_with_one_that_comes_it_is_one_where_the_host_accepts_slowly(here: Host, every: tuple[str, str]) -> None:
    with (
        listen(here, "0.0.0.0", 8080) as at_host,
        running(here, *every, *SELDOM) as program,
        container(here) as one,
    ):
        join(here, one, ("10.88.0.1/24", "10.88.0.5/24"))
        end_before_accept(one, "10.88.0.1")
        program.wait_for_connections(1)
        at_host.accept()[0].close()
        short(one, at_host, "10.88.0.1")
        program.wait_for_connections(2)
    assert [event["network.direction"] for event in program.connections] == ["internal"] * 2
    assert len(flows(program.events)) == 2


def test_it_is_one_too_where_the_host_has_lost_that_address_before_it_accepts(
    here: Host, every: tuple[str, str], cgroup: Path
) -> None:
    """Its end has not gone with the device."""
    with (
        listen(here, "0.0.0.0", 8080) as at_host,
        container(here, cgroup) as one,
        running(here, *every, *SELDOM) as program,
    ):
        with stopped(child_of(program.process.pid)):
            join(here, one, ("10.88.0.1/24", "10.88.0.5/24"))
            end_before_accept(one, "10.88.0.1")
            here.ip("link", "delete", "veth")
        program.wait_for_connections(1)
        at_host.accept()[0].close()
        with connect(here, "127.0.0.1", 8080), at_host.accept()[0]:
            pass
        program.wait_for_connections(2)
    of_container, of_host = (whose(event) for event in program.connections)
    assert of_container == ("internal", CONTAINER_ID, None)
    assert of_host == ("internal", None, None)
    assert len(flows(program.events)) == 2


def end_before_accept(where: Namespace, address: str) -> None:
    """The only connection of a namespace: its end there is no socket any longer, and nobody has accepted the other one.

    Without the wait the end stays for a minute where the ACK comes while close() still has the socket (net/ipv4/tcp_input.c).
    """
    with connect(where, address, 8080) as client:
        client.shutdown(socket.SHUT_WR)
        until = time.monotonic() + DEADLINE
        while not in_fin_wait2(where):
            assert time.monotonic() < until


def in_fin_wait2(where: Namespace) -> bool:
    with where.entered():
        rows = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
    return [row.split()[3] for row in rows] == ["05"]


def test_a_connection_between_two_is_one(here: Host, every: tuple[str, str]) -> None:
    with container(here) as one, container(here) as other:
        join(here, one, ("10.88.0.1/24", "10.88.0.5/24"), "one")
        join(here, other, ("10.89.0.1/24", "10.89.0.5/24"), "other")
        join(one, other, ("10.90.0.1/24", "10.90.0.5/24"), "both")
        with listen(other, "10.90.0.5", 8080) as listener, running(here, *every, *SELDOM) as program:
            ports = short(one, listener, "10.90.0.5", 23)
            program.wait_for_connections(23)
    assert sorted(event["source.port"] for event in program.connections) == sorted(ports)


def test_what_is_open_is_logged_once_whether_a_poll_or_its_end_comes_first(
    here: Host, joined: Namespace, every: tuple[str, str]
) -> None:
    with listen(joined, "127.0.0.1", 8080) as listener, running(here, *every) as program:
        opened, accepted = connect(joined, "127.0.0.1", 8080), listener.accept()[0]
        program.wait_for_connections(1)
        ports = short(joined, listener, "127.0.0.1", 23)
        opened.close()
        accepted.close()
        program.wait_for_connections(24)
        # With what is in TIME_WAIT.
        program.poll_again(4)
    assert len(program.connections) == 24
    assert len(of_ports(program.connections, ports)) == 23
    assert of_kind(program.events, LOSS) == []


def test_nothing_is_repeated_and_nothing_missing_after_a_stop(
    here: Host, joined: Namespace, every: tuple[str, str], tmp_path: Path
) -> None:
    state = ("--state", str(tmp_path / "state"))
    with listen(joined, "127.0.0.1", 8080) as listener:
        with running(here, *every, *state) as program:
            ports = short(joined, listener, "127.0.0.1", 10)
            program.wait_for_connections(10)
        more = short(joined, listener, "127.0.0.1", 10)
        with running(here, *every, *state) as again:
            again.wait_for_connections(10)
            more += short(joined, listener, "127.0.0.1", 10)
            again.wait_for_connections(20)
            again.poll_again(3)
    assert sorted(event["source.port"] for event in program.connections) == sorted(ports)
    assert sorted(event["source.port"] for event in again.connections) == sorted(more)


def test_a_namespace_without_an_id_is_polled_alone(here: Host, every: tuple[str, str]) -> None:
    with (
        container(here) as one,
        listen(one, "127.0.0.1", 8080) as listener,
        running(here, *every) as program,
    ):
        short(one, listener, "127.0.0.1", 10)
        # In TIME_WAIT.
        program.wait_for_connections(10)
        join(here, one, ("10.88.0.1/24", "10.88.0.5/24"))
        program.poll_again(4)
        # No poll shows them open.
        with stopped(child_of(program.process.pid)):
            short(one, listener, "127.0.0.1", 10)
        program.wait_for_connections(20)
        program.poll_again(4)
    assert [event["tcpnewconn.detected_by"] for event in program.connections] == ["poll"] * 10 + ["notification"] * 10


def test_an_id_that_is_used_again_is_of_the_next_namespace(here: Host, every: tuple[str, str]) -> None:
    numbers = []
    with running(here, *every, *SELDOM) as program:
        for _ in range(20):
            with container(here) as one:
                join(here, one, ("10.88.0.1/24", "10.88.0.5/24"))
                numbers += [number_of(one)] * 3
                with listen(one, "127.0.0.1", 8080) as listener:
                    short(one, listener, "127.0.0.1", 3)
                # Before it ends: whose the id was is known by its process alone.
                program.wait_for_connections(len(numbers))
                here.ip("link", "delete", "veth")
        program.wait_for_connections(60)
    assert [event["tcpnewconn.netns"] for event in program.connections] == numbers


def test_a_namespace_of_no_process_of_this_host_is_another_host_s(here: Host, every: tuple[str, str]) -> None:
    """Where the host is a container, what it is joined with from outside is not its own."""
    with (
        running(here, *every, *SELDOM) as program,
        namespace() as apart,
        container(here) as one,
    ):
        join(here, apart, ("10.88.0.1/24", "10.88.0.5/24"), "apart")
        join(here, one, ("10.89.0.1/24", "10.89.0.5/24"), "one")
        with listen(apart, "127.0.0.1", 8080) as listener, listen(one, "127.0.0.1", 8080) as inside:
            short(apart, listener, "127.0.0.1", 3)
            ports = short(one, inside, "127.0.0.1", 3)
        program.wait_for_connections(3)
    assert sorted(event["source.port"] for event in program.connections) == sorted(ports)


def test_a_program_that_is_killed_misses_and_repeats_nothing(
    here: Host, joined: Namespace, every: tuple[str, str], tmp_path: Path
) -> None:
    """Each connection is logged, and one that is logged twice has the same id."""
    options = (*every, "--state", str(tmp_path / "state"))
    with here.entered():
        of_host, of_all = open_notifications(), open_for_all()
    ports: list[int] = []
    events: list[Event] = []

    def program() -> Program:
        return Program(here, *options, notifications=of_host, namespaces=of_all, memory=tmp_path)

    with of_host, of_all, listen(joined, "127.0.0.1", 8080) as listener:
        with connect(joined, "127.0.0.1", 8080) as opened, listener.accept()[0]:
            ports.append(opened.getsockname()[1])
            for _ in range(10):
                one = program()
                one.ready()
                ports += short(joined, listener, "127.0.0.1", 20)
                one.wait_for_connections(1)
                one.kill()
                events += one.connections
                ports += short(joined, listener, "127.0.0.1", 5)
        last = program()
        last.ready()
        # The kernel chooses the ports, and can choose one twice.
        last.wait(lambda: len(by_id(events + last.connections)) >= len(ports), "connections")
        last.poll_again(4)
        last.stop()
        events += last.connections
    assert sorted(event["source.port"] for event in by_id(events).values()) == sorted(ports)
    assert {event["tcpnewconn.netns"] for event in events} == {number_of(joined)}
    assert of_kind(last.events, LOSS) == []


def test_one_that_came_while_the_program_did_not_run_keeps_its_connections(
    here: Host, every: tuple[str, str], tmp_path: Path
) -> None:
    """Nothing is taken between the first poll, which shows the connection, and its end."""
    with here.entered():
        of_host, of_all = open_notifications(), open_for_all()
    options = (*every, "--state", str(tmp_path / "state"), *SELDOM)
    with of_host, of_all:
        program = Program(here, *options, notifications=of_host, namespaces=of_all, memory=tmp_path)
        program.ready()
        program.kill()
        with container(here) as one:
            join(here, one, ("10.88.0.1/24", "10.88.0.5/24"))
            with listen(one, "127.0.0.1", 8080) as listener:
                client, accepted = connect(one, "127.0.0.1", 8080), listener.accept()[0]
                again = Program(here, *options, notifications=of_host, namespaces=of_all, memory=tmp_path)
                again.wait_for_connections(1)
                reset(client)
                accepted.close()
                ports = short(one, listener, "127.0.0.1")
                again.wait_for_connections(2)
                again.stop()
    assert [event["source.port"] for event in again.connections[1:]] == ports
    assert {event["tcpnewconn.netns"] for event in again.connections} == {number_of_(again.connections[0])}


def test_a_container_that_floods_takes_nothing_from_the_host(
    here: Host, joined: Namespace, every: tuple[str, str], tmp_path: Path
) -> None:
    with here.entered():
        of_host, of_all, witness = open_notifications(), open_for_all(), open_for_all()
    of_all.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    with (
        of_host,
        of_all,
        witness,
        listen(joined, "127.0.0.1", 8080) as listener,
        listen(here, "127.0.0.1", 8081) as at_host,
    ):
        program = Program(here, *every, *SELDOM, notifications=of_host, namespaces=of_all, memory=tmp_path)
        program.ready()
        sent = AllNotifications(witness)
        sent.receive(True)
        # What comes meanwhile waits in the buffers.
        with stopped(child_of(program.process.pid)):
            ports = short(here, at_host, "127.0.0.1", 100)
            short(joined, listener, "127.0.0.1", 300)
            ports += short(here, at_host, "127.0.0.1", 100)
            wait_for_notifications(sent, 1000)
        program.wait(lambda: of_kind(program.events, LOSS), "loss")
        program.wait(lambda: len(of_ports(program.connections, ports)) >= 200, "connections of the host")
        program.stop()
    [loss] = of_kind(program.events, LOSS)
    logged = [event for event in program.connections if event.get("tcpnewconn.netns")]
    assert loss["tcpnewconn.reason"] == "notifications"
    assert 300 - len(logged) <= loss["tcpnewconn.count"] <= 1000
    assert sorted(event["source.port"] for event in program.connections if event not in logged) == sorted(ports)
