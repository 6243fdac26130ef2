"""Asks ClickHouse over HTTP: a statement, its parameters, rows. Nothing here knows a table."""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import stat
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcpnewconn.ledger.schema import Unusable

DATABASE = "tcpnewconn"
# Seconds without a byte of an answer.
_TIMEOUT = 600
_USER, _PASSWORD = "TCPNEWCONN_CLICKHOUSE_USER", "TCPNEWCONN_CLICKHOUSE_PASSWORD"
Value = str | int | list[str] | list[int]
# As ClickHouse reads a parameter's value.
_ESCAPED = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n"})


@dataclass(frozen=True, slots=True)
class Login:
    user: str = ""
    password: str = ""


def login(file: str | None) -> Login:
    """From a file of `user=` and `password=` lines, else from the environment. Raises Unusable."""
    if file is None:
        return Login(os.environ.get(_USER, ""), os.environ.get(_PASSWORD, ""))
    try:
        if stat.S_IMODE(os.stat(file).st_mode) & 0o007:
            raise Unusable(f"{file}: everybody may read it; chmod o= {file}")
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise Unusable(f"{file}: cannot be read: {error.strerror}") from None
    found = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    if not found.keys() <= {"user", "password"} or "user" not in found:
        raise Unusable(f"{file}: not a login; it has the lines user=NAME and password=PASSWORD")
    return Login(found["user"], found.get("password", ""))


def problem_of(url: str) -> str:
    """The reason why it is no URL of a ClickHouse server; empty if it is one."""
    parts = urllib.parse.urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        return f"{url!r}: not a URL of a ClickHouse server; use for example https://clickhouse.example.org:8443"
    if parts.username is not None or parts.password is not None or "password" in urllib.parse.parse_qs(parts.query):
        return f"a password on the command line can be seen by everybody; use --login, or {_USER} and {_PASSWORD}"
    return ""


class Server:
    """A server, asked over one connection. `authority`: a file of certificates to trust in place of the system's."""

    def __init__(self, url: str, who: Login, authority: str | None = None) -> None:
        parts = urllib.parse.urlsplit(url)
        self.name = url
        given = dict(urllib.parse.parse_qsl(parts.query))
        self._fixed = {"database": given.get("database", DATABASE), "wait_end_of_query": "1"}
        self._path = parts.path or "/"
        self._headers = {"Content-Type": "text/plain; charset=utf-8"}
        if who.user:
            word = base64.b64encode(f"{who.user}:{who.password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {word}"
        host = parts.hostname or ""
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            try:
                context = ssl.create_default_context(cafile=authority)
            except OSError as error:
                raise Unusable(f"{authority}: cannot be used: {error.strerror or error}") from None
            self._connection = http.client.HTTPSConnection(host, parts.port or 8443, timeout=_TIMEOUT, context=context)
        else:
            self._connection = http.client.HTTPConnection(host, parts.port or 8123, timeout=_TIMEOUT)

    def rows(self, statement: str, **values: Value) -> Iterator[list[Any]]:
        """The rows of a SELECT; `{name:Type}` in it stands for a value. To be read to the end. Raises Unusable."""
        parameters = self._fixed | {f"param_{name}": _value(value) for name, value in values.items()}
        target = f"{self._path}?{urllib.parse.urlencode(parameters)}"
        body = f"{statement}\nFORMAT JSONCompactEachRow".encode()
        try:
            self._connection.request("POST", target, body, self._headers)
            answer = self._connection.getresponse()
            if answer.status != 200:
                raise Unusable(f"{self.name}: {_reason(answer)}")
            for line in answer:
                yield json.loads(line)
        except ValueError:
            # An error after the first rows.
            raise Unusable(f"{self.name}: {_first_line(line + answer.read())}") from None
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise Unusable(
                f"{self.name}: {getattr(error, 'strerror', None) or error or type(error).__name__}"
            ) from None

    def close(self) -> None:
        self._connection.close()


def _value(value: Value) -> str:
    if isinstance(value, list):
        return "[" + ",".join(_quoted(one) if isinstance(one, str) else str(one) for one in value) + "]"
    return str(value).translate(_ESCAPED)


def _quoted(text: str) -> str:
    return "'" + text.translate(_ESCAPED).replace("'", "\\'") + "'"


def _reason(answer: http.client.HTTPResponse) -> str:
    if answer.status in (401, 403):
        answer.read()
        return "refused user or password, or a right is missing; see --login in tcpnewconn-report(8)"
    text = _first_line(answer.read())
    return text if text.startswith("Code:") else f"HTTP status {answer.status}: {text or answer.reason}"


def _first_line(text: bytes) -> str:
    return text.decode("utf-8", "replace").strip().partition("\n")[0][:500]
