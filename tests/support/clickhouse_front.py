"""ClickHouse's engine behind the HTTP of a ClickHouse server, as far as tests need it. Run by the engine's own Python.

    python clickhouse_front.py DIRECTORY ADDRESS [USER PASSWORD]

Statements go to the engine unchanged, with their parameters, one at a time. The port is written to DIRECTORY/port, each
statement's first word and its status to DIRECTORY/log. While there is a file DIRECTORY/fails, inserts fail with its text, as
those of a server that is out of memory; while there is DIRECTORY/unanswered, they are executed, and then not answered.
"""

from __future__ import annotations

import base64
import contextlib
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from chdb import session  # type: ignore[import-not-found,unused-ignore]


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    place: Path
    engine: session.Session
    one_at_a_time = threading.Lock()
    word = ""

    def do_POST(self) -> None:
        target = urllib.parse.urlsplit(self.path)
        given = dict(urllib.parse.parse_qsl(target.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode("utf-8", "surrogateescape")
        statement = "\n".join(part for part in (given.get("query"), body) if part)
        status, answer = self._answer(statement, given)
        with open(self.place / "log", "a") as log:
            log.write(f"{statement.split(None, 1)[0] if statement.strip() else '-'} {status}\n")
        if statement.startswith("INSERT") and (self.place / "unanswered").exists():
            self.close_connection = True
            return
        # A client that is killed meanwhile does not hear of it.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    do_GET = do_POST

    def _answer(self, statement: str, given: dict[str, str]) -> tuple[int, bytes]:
        if self.word and self.headers.get("Authorization") != f"Basic {self.word}":
            return 403, b"Code: 516. DB::Exception: Authentication failed. (AUTHENTICATION_FAILED)\n"
        if statement.startswith("INSERT") and (self.place / "fails").exists():
            return 500, (self.place / "fails").read_bytes()
        values = {name.removeprefix("param_"): value for name, value in given.items() if name.startswith("param_")}
        try:
            with self.one_at_a_time:
                if "database" in given:
                    self.engine.query(f"USE {given['database']}")
                # Bytes that are no UTF-8 do not come through this binding; ClickHouse itself takes them.
                return 200, self.engine.query(
                    statement.encode("utf-8", "replace").decode(), "TSV", params=values
                ).bytes()
        except Exception as error:
            return 500, f"{error}\n".encode()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def main() -> None:
    place = Path(sys.argv[1])
    Front.place = place
    Front.engine = session.Session(str(place / "data"))
    if len(sys.argv) > 4:
        Front.word = base64.b64encode(":".join(sys.argv[3:5]).encode()).decode()
    server = ThreadingHTTPServer((sys.argv[2], 0), Front)
    server.daemon_threads = True
    (place / "port.new").write_text(str(server.server_port))
    (place / "port.new").rename(place / "port")
    server.serve_forever()


if __name__ == "__main__":
    main()
