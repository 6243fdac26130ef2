"""Listeners and connections in namespaces, and a program of another user that opens some and says which."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.support.namespace import Namespace


def listen(where: Namespace, address: str, port: int = 0, backlog: int = 4096) -> socket.socket:
    """A listener; an IPv6 one on :: accepts IPv4 too."""
    listener = where.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(backlog)
    return listener


def connect(where: Namespace, address: str, port: int, source: tuple[str, int] | None = None) -> socket.socket:
    client = where.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    if source is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind(source)
    client.connect((address, port))
    return client


def reset(which: socket.socket) -> None:
    """Close with SO_LINGER 0."""
    which.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    which.close()


@contextmanager
def opened(
    where: Namespace, listener: socket.socket, address: str, count: int, user: int = 0
) -> Iterator[tuple[list[int], list[socket.socket]]]:
    """So many connections by this program, run as a user: its ports, and the sockets that the listener accepted."""
    program = subprocess.Popen(
        where.command(
            *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"),
            *(sys.executable, "-c", _PROGRAM, address, str(listener.getsockname()[1]), str(count)),
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    accepted = [listener.accept()[0] for _ in range(count)]
    try:
        yield json.loads(program.stdout.readline()), accepted
    finally:
        for each in accepted:
            each.close()
        with suppress(BrokenPipeError):
            program.stdin.close()
        program.stdout.close()
        assert program.wait(timeout=30) == 0


# It prints the local port of each connection, and keeps them until its input is closed. It stands alone, so that any user
# can run it wherever the tests are.
_PROGRAM = """
import json, socket, sys
address, port, count = sys.argv[1:]
kept = [socket.create_connection((address, int(port))) for _ in range(int(count))]
print(json.dumps([each.getsockname()[1] for each in kept]), flush=True)
sys.stdin.read()
"""
