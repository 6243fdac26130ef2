"""Ignore= by unit and by user, with real cgroups, users and connections."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.message_ids import CONNECTION
from tests.support.namespace import Namespace, namespace
from tests.support.program import flows, of_kind, once
from tests.support.traffic import listen

CGROUPS = Path("/sys/fs/cgroup")

# It prints its local port and keeps the connection until its input is closed.
CLIENT = """
import socket, sys
kept = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print(kept.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A slice of the test's own in the real tree of cgroups of version 2."""
    [root] = [root for root in (CGROUPS, CGROUPS / "unified") if (root / "cgroup.controllers").exists()]
    made = root / f"tcpnewconn_ignored_{os.getpid()}.slice"
    made.mkdir()
    yield made
    for directory, _, _ in os.walk(made, topdown=False):
        os.rmdir(directory)


@contextmanager
def client(where: Namespace, port: int, unit: Path | None, user: str) -> Iterator[int]:
    """A connection by a process in the cgroup of a unit and of a user; its local port."""
    enter = ["sh", "-c", f'echo $$ >{unit}/cgroup.procs && exec "$@"', "sh"] if unit is not None else []
    become = ["setpriv", f"--reuid={user}", f"--regid={os.getgid()}", "--clear-groups", "--"]
    process = subprocess.Popen(
        [*enter, *where.command(*become, sys.executable, "-c", CLIENT, str(port))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.stdout.close()
        assert process.wait(timeout=30) == 0


def test_connections_of_a_unit_or_a_user_are_not_logged(place: Path) -> None:
    with namespace() as where, ExitStack() as stack:
        listener: socket.socket = stack.enter_context(listen(where, "127.0.0.1"))
        port = listener.getsockname()[1]
        ports = {}
        for name, unit, user in (
            ("cron", "cron.service", "root"),
            ("session", "user@1000.service", "root"),
            ("nobody", None, "nobody"),
            ("other", "crond.service", "root"),
        ):
            directory = place / unit if unit is not None else None
            if directory is not None:
                directory.mkdir()
            ports[name] = stack.enter_context(client(where, port, directory, user))

        def logged(*options: str) -> set[str]:
            events = once(where, *options)
            assert len(of_kind(events, CONNECTION)) == len(flows(events))
            found = {flow[1] for flow in flows(events)}
            return {name for name, local in ports.items() if local in found}

        assert logged() == {"cron", "session", "nobody", "other"}
        assert logged("--ignore", "unit:cron.service") == {"session", "nobody", "other"}
        assert logged("--ignore", "unit:user@*.service") == {"cron", "nobody", "other"}
        assert logged("--ignore", "user:nobody") == {"cron", "session", "other"}
        assert logged("--ignore", "internal:user:root, egress:user:nobody") == {"nobody"}
        assert logged("--ignore", "egress:unit:* :1-65535") == set()
