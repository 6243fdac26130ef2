"""`make run`, in a checkout, on this host's own tables."""

import os
import signal
import socket
import subprocess

from tests.support.terminal import TREE, environment


def test_make_run_shows_what_is_there_on_this_host_and_then_what_comes() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        subprocess.Popen(
            ["timeout", "60", "make", "run"],
            cwd=TREE,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        ) as program,
    ):
        assert program.stdout is not None
        port = server.getsockname()[1]
        assert any(f": New listener: 127.0.0.1:{port}\n" in line for line in program.stdout)
        with socket.create_connection(("127.0.0.1", port)) as client:
            expected = f": New connection: 127.0.0.1:{client.getsockname()[1]} -> 127.0.0.1:{port}\n"
        # It is closed by now, long before the second poll: the kernel has reported it.
        assert any(expected in line for line in program.stdout)
        os.killpg(program.pid, signal.SIGINT)
