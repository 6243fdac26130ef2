"""tcpnewconn metrics-http: the metrics file over HTTP, on a socket that it was given, to clients of every kind."""

from __future__ import annotations

import http.client
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tcpnewconn.health import exporter
from tcpnewconn.health.counters import Counters, ServiceStatistics
from tcpnewconn.health.metrics import exposition
from tests.support.terminal import TREE, command, environment, run

TEXT = exposition(Counters(), ServiceStatistics(10.0))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tcpnewconn.prom"
    path.write_text(TEXT)
    return path


@contextmanager
def serving(file: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The program with a socket as systemd passes it (sd_listen_fds(3)); its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        script = f'exec 3<&{listening.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command("metrics-http", "--metrics", str(file))],
            cwd=TREE,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[listening.fileno()],
        )
        try:
            yield listening.getsockname()[1], process
        finally:
            process.kill()
            # Its stderr would be in the journal.
            assert process.communicate() == ("", "")


def asked(port: int, method: str, path: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def test_the_metrics_are_served_as_prometheus_wants_them(file: Path) -> None:
    with serving(file) as (port, _):
        for path in ("/metrics", "/metrics?collect=all"):
            status, headers, body = asked(port, "GET", path)
            assert (status, body) == (200, TEXT)
            assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert headers["Content-Length"] == str(len(TEXT))
        status, same, body = asked(port, "HEAD", "/metrics")
        assert (status, body) == (200, "")
        assert {**headers, "Date": ""} == {**same, "Date": ""}
        # As the file is now.
        file.write_text("tcpnewconn_sockets 1\n")
        assert asked(port, "GET", "/metrics")[2] == "tcpnewconn_sockets 1\n"


@pytest.mark.parametrize("path", ["/", "/metrics/", "/../etc/passwd", "/metrics/../../etc/passwd", "/%6d"])
def test_nothing_else_is_served(file: Path, path: str) -> None:
    with serving(file) as (port, _):
        assert asked(port, "GET", path)[0] == 404
        assert asked(port, "HEAD", path)[::2] == (404, "")
        assert asked(port, "POST", "/metrics")[0] == 501


def test_without_the_file_the_answer_says_so(tmp_path: Path) -> None:
    with serving(tmp_path / "missing.prom") as (port, _):
        status, _, body = asked(port, "GET", "/metrics")
    assert (status, body) == (503, f"503 {tmp_path}/missing.prom: No such file or directory\n")


# These wait for the exporter's time limits, while the other workers keep the cores busy.
@pytest.mark.xdist_group("slow-clients")
def test_slow_clients_do_not_block_others_and_are_disconnected(file: Path) -> None:
    with serving(file) as (port, process):
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(9)]
        for one in slow:
            one.sendall(b"GET /metrics")
        # More than are answered at a time; the next waits until they are disconnected, no longer.
        assert asked(port, "GET", "/metrics")[0] == 200
        for one in slow:
            one.settimeout(60)
            assert one.recv(100) == b""
            one.close()
        assert process.poll() is None


@pytest.mark.xdist_group("slow-clients")
def test_a_client_that_sends_a_byte_now_and_then_is_disconnected_too(file: Path) -> None:
    with serving(file) as (port, _), socket.create_connection(("127.0.0.1", port)) as slow:
        slow.settimeout(0.2)
        deadline = time.monotonic() + 60
        ended = False
        while not ended and time.monotonic() < deadline:
            try:
                slow.sendall(b"x")
                ended = slow.recv(100) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
        assert ended


@pytest.mark.parametrize(
    "sent", [b"", b"\r\n\r\n", b"\xff\x00\n", b"GET\r\n\r\n", b"GET /metrics HTTP/9.9\r\n\r\n", b"A" * 100_000]
)
def test_input_that_is_no_request_does_no_harm(file: Path, sent: bytes) -> None:
    with serving(file) as (port, process):
        with socket.create_connection(("127.0.0.1", port)) as odd:
            odd.sendall(sent)
        assert asked(port, "GET", "/metrics")[0] == 200
        assert process.poll() is None


def test_it_ends_without_requests() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        exporter.Exporter(listening, "/nowhere", idle=0.1).run()
        # The socket is systemd's: the next client starts it again.
        with socket.create_connection(listening.getsockname()):
            pass


def test_without_a_socket_it_says_how_to_get_one() -> None:
    done = run("metrics-http")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "tcpnewconn: metrics-http needs a socket from systemd: systemctl enable --now tcpnewconn-metrics.socket\n"
    )
