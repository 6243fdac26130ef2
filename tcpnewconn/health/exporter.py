"""Serves the metrics file over HTTP, on a socket that systemd opened: GET and HEAD of /metrics, and nothing else.

A process of its own, because the service may open no IP socket. It ends after a while without a request.
"""

from __future__ import annotations

import os
import socket
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import BaseServer, TCPServer, ThreadingMixIn
from typing import Any

# sd_listen_fds(3)
_FIRST_DESCRIPTOR = 3
# Seconds without a request after which it ends.
IDLE = 20.0
# Seconds that a client may take for its request and the answer together.
_DEADLINE = 10.0
# Clients that are answered at a time; others wait in the socket.
_MOST = 8
_PATH = "/metrics"
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class NoSocket(Exception):
    """systemd passed none; says what to do."""


def passed_socket() -> socket.socket:
    """The socket that systemd listens on. Raises NoSocket."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        raise NoSocket("metrics-http needs a socket from systemd: systemctl enable --now tcpnewconn-metrics.socket")
    return socket.socket(fileno=_FIRST_DESCRIPTOR)


class _Answer(BaseHTTPRequestHandler):
    """One request. HTTP/1.0: the connection ends with the answer."""

    server: Exporter
    timeout = _DEADLINE
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = "text/plain; charset=utf-8"

    def do_GET(self) -> None:
        content = self._content()
        if content is not None:
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self._content()

    def _content(self) -> bytes | None:
        """Send the head of the answer. Returns the body, None if there is none."""
        if self.path.partition("?")[0] != _PATH:
            self.send_error(HTTPStatus.NOT_FOUND, f"only {_PATH} is served")
            return None
        try:
            with open(self.server.path, "rb") as file:
                content = file.read()
        except OSError as error:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, f"{self.server.path}: {error.strerror}")
            return None
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _TYPE)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content

    def version_string(self) -> str:
        return "tcpnewconn"

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged."""


class Exporter(ThreadingMixIn, TCPServer):
    """Runs until there was no request for `idle` seconds."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listening: socket.socket, path: str, idle: float = IDLE) -> None:
        # Not TCPServer's constructor, which opens a socket.
        BaseServer.__init__(self, listening.getsockname(), _Answer)
        self.socket = listening
        self.path = path
        self.idle = idle
        # The clients that are being answered, and since when.
        self._open: dict[socket.socket, float] = {}
        self._last = time.monotonic()

    def run(self) -> None:
        self.timeout = min(1.0, self.idle)
        while self._open or time.monotonic() < self._last + self.idle:
            if len(self._open) < _MOST:
                self.handle_request()
            else:
                time.sleep(0.1)
            self._end_overdue(time.monotonic())

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client has gone, or was disconnected."""

    def process_request(self, request: Any, client_address: Any) -> None:
        self._last = time.monotonic()
        self._open[request] = self._last
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self._open.pop(request, None)

    def _end_overdue(self, now: float) -> None:
        """The timeout of the handler is for one recv() or send(): a client that sends a byte now and then would stay."""
        for request, since in list(self._open.items()):
            if now > since + _DEADLINE:
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:
                    # It has disconnected in the meantime.
                    self._open.pop(request, None)
