"""The direction of a connection whose ports are both ephemeral and whose listener is gone: passive FTP, RMI, port 0."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.support.namespace import Namespace, joined, namespace
from tests.support.program import flow, running
from tests.support.traffic import reset

ROUNDS = 13
Close = Callable[[socket.socket, socket.socket], None]


def in_order(first: socket.socket, second: socket.socket) -> None:
    first.shutdown(socket.SHUT_WR)
    assert second.recv(1) == b""
    second.close()
    assert first.recv(1) == b""
    first.close()


def with_data(first: socket.socket, second: socket.socket) -> None:
    for sender, receiver in ((first, second), (second, first)):
        sender.sendall(b"x" * 1000)
        assert len(receiver.recv(1000, socket.MSG_WAITALL)) == 1000
    in_order(first, second)


def with_unread_bytes(first: socket.socket, second: socket.socket) -> None:
    """Closing with unread bytes resets the connection."""
    second.sendall(b"unread")
    while not first.recv(1, socket.MSG_PEEK):
        pass
    first.close()
    second.close()


def both_shut_down(first: socket.socket, second: socket.socket) -> None:
    first.shutdown(socket.SHUT_WR)
    second.shutdown(socket.SHUT_WR)
    assert second.recv(1) == b""
    assert first.recv(1) == b""
    first.close()
    second.close()


def lingering(first: socket.socket, second: socket.socket) -> None:
    """SO_LINGER 0: the kernel clears the addresses of the socket that is closed so."""
    reset(first)
    with pytest.raises(ConnectionResetError):
        second.recv(1)
    second.close()


def of_opener(close: Close) -> Close:
    return close


def of_acceptor(close: Close) -> Close:
    return lambda opener, accepted: close(accepted, opener)


WAYS: dict[str, Close] = {
    "the opener closes first": of_opener(in_order),
    "the acceptor closes first": of_acceptor(in_order),
    "the opener closes first, after data": of_opener(with_data),
    "the acceptor closes first, after data": of_acceptor(with_data),
    "both shut down": both_shut_down,
    "the opener closes with unread bytes": of_opener(with_unread_bytes),
    "the acceptor closes with unread bytes": of_acceptor(with_unread_bytes),
    "the opener resets": of_opener(lingering),
    "the acceptor resets": of_acceptor(lingering),
}


def connected(where: Namespace, address: str, client: Namespace) -> tuple[socket.socket, socket.socket]:
    """The socket that opened a connection, and the one that accepted it; nobody listens any longer."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with where.socket(family) as listener:
        listener.bind((address, 0))
        listener.listen()
        opener = client.socket(family)
        opener.connect(listener.getsockname())
        return opener, listener.accept()[0]


@pytest.fixture
def here() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_within_this_host_the_arrow_points_from_the_side_that_opened_it(here: Namespace, address: str) -> None:
    expected = {}
    with running(here, interval="1h") as program:
        for way, close in WAYS.items():
            for _ in range(ROUNDS):
                opener, accepted = connected(here, address, here)
                expected[(*opener.getsockname()[:2], *opener.getpeername()[:2])] = way
                close(opener, accepted)
        program.wait_for_connections(len(expected))
    found = {flow(event) for event in program.connections}
    turned = [way for ends, way in expected.items() if ends not in found]
    assert turned == []
    assert len(program.connections) == len(expected) == ROUNDS * len(WAYS)


def test_one_that_a_poll_shows_points_from_the_side_that_opened_it(here: Namespace) -> None:
    with running(here) as program:
        held = [connected(here, "127.0.0.1", here) for _ in range(ROUNDS)]
        expected = {(*opener.getsockname(), *opener.getpeername()) for opener, _ in held}
        program.wait_for_connections(len(expected))
        assert {flow(event) for event in program.connections} == expected
        for both in held:
            for each in both:
                each.close()
        program.poll_again(2)
        assert len(program.connections) == len(expected)


# An orderly close of the acceptor and an abort of the opener count the same: undecided.
DECIDED = [
    ("opened", "the opener closes first"),
    ("opened", "the acceptor closes first, after data"),
    ("opened", "both shut down"),
    ("accepted", "the opener closes with unread bytes"),
    ("accepted", "the opener resets"),
]


@pytest.mark.parametrize(("how", "way"), [each for each in DECIDED if "unread" not in each[1]])
def test_with_another_host_it_is_ingress_or_egress_by_what_the_kernel_counted(how: str, way: str) -> None:
    with joined(["10.75.0.1/24"], ["10.75.0.2/24"]) as (here, there), running(here, interval="1h") as program:
        expected = set()
        for _ in range(ROUNDS):
            if how == "opened":
                opener, accepted = connected(there, "10.75.0.2", here)
            else:
                opener, accepted = connected(here, "10.75.0.1", there)
            expected.add((*opener.getsockname(), *opener.getpeername()))
            WAYS[way](opener, accepted)
        program.wait_for_connections(len(expected))
        assert {flow(event) for event in program.connections} == expected
        direction = "egress" if how == "opened" else "ingress"
        assert {event["network.direction"] for event in program.connections} == {direction}
