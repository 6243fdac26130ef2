"""Connections within this host of which the kernel had cleared the addresses at both ends when it notified of them.

Needs root, for namespaces.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from tests.support.namespace import Namespace, namespace
from tests.support.program import CLOSED_CONFIGURATION, flows, running
from tests.support.traffic import connect, listen

_LIBC = ctypes.CDLL(None, use_errno=True)
_IPPROTO_MPTCP = 262
MADE = 200
# Longer than a test: no poll shows them.
SELDOM = ("--interval", "10min", "--config", CLOSED_CONFIGURATION)


@pytest.fixture
def where() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


def disconnect(one: socket.socket) -> None:
    """connect() with AF_UNSPEC: tcp_disconnect(), net/ipv4/tcp.c."""
    if _LIBC.connect(one.fileno(), struct.pack("=H14x", socket.AF_UNSPEC), 16) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_one_that_both_ends_have_disconnected_is_logged_once(where: Namespace, address: str) -> None:
    with running(where, *SELDOM) as program, listen(where, address, 8080) as listener:
        program.ready()
        ports = []
        for _ in range(10):
            client = connect(where, address, 8080)
            ports.append(client.getsockname()[1])
            accepted = listener.accept()[0]
            for end in (client, accepted):
                disconnect(end)
                end.close()
        program.wait_for_connections(10)
        # After these nothing of the others is to come.
        with connect(where, address, 8080), listener.accept()[0]:
            pass
        program.wait_for_connections(11)
    *found, _ = sorted(program.connections, key=lambda event: event["source.port"] not in ports)
    assert sorted(event["source.port"] for event in found) == sorted(ports)
    assert {(event["network.direction"], event["destination.port"]) for event in found} == {("internal", 8080)}


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
