"""Connections within this host of which the kernel had cleared the addresses at both ends when it notified of them.

Needs root, for namespaces.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.namespace import Namespace, namespace
from tests.support.program import CLOSED_CONFIGURATION, flows, running

_IPPROTO_MPTCP = 262
MADE = 200
# Longer than a test: no poll shows them.
SELDOM = ("--interval", "10min", "--config", CLOSED_CONFIGURATION)


@pytest.fixture
def where() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


def test_mptcp_connections_are_logged_once_each(where: Namespace) -> None:
    """The kernel clears the addresses of one end, or of both: that is decided by which is closed a moment before the other."""

    def take() -> None:
        for _ in range(MADE):
            with listener.accept()[0] as accepted:
                accepted.recv(1)

    with running(where, *SELDOM) as program, where.entered():
        program.ready()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, _IPPROTO_MPTCP) as listener:
            listener.bind(("127.0.2.20", 7020))
            listener.listen()
            taker = threading.Thread(target=take)
            taker.start()
            ports = []
            # So that there is little between two of them.
            prepared = [socket.socket(socket.AF_INET, socket.SOCK_STREAM, _IPPROTO_MPTCP) for _ in range(MADE)]
            for each in prepared:
                with each as client:
                    client.connect(("127.0.2.20", 7020))
                    ports.append(client.getsockname()[1])
                    client.sendall(b"x")
            taker.join()
        program.wait_for_connections(MADE)
    assert len(flows(program.events)) == len(program.connections) == MADE
    assert sorted(event["source.port"] for event in program.connections) == sorted(ports)
    assert {event["network.direction"] for event in program.connections} == {"internal"}
