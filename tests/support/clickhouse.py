"""ClickHouse's engine for a test: its own virtual environment, made once, and the tables of monitoring/clickhouse/ in it."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tcpnewconn.report.clickhouse_http import Login, Server
from tcpnewconn.reporting.fields import document
from tests.support.built import CACHE, TREE, lock
from tests.support.month import Month

REQUIREMENTS = TREE / "tests" / "clickhouse" / "requirements.txt"
SQL = TREE / "monitoring" / "clickhouse"
# Kept for longer than any test's data is old; DateTime ends in 2106.
_FOREVER = "INTERVAL 10000 DAY"


def python() -> Path:
    """The interpreter of an environment that has the engine. It takes 600 MB of the cache, and half a minute, once."""
    made = CACHE / "clickhouse" / hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:16]
    with lock(CACHE / "clickhouse.lock"):
        if not (made / "ready").exists():
            shutil.rmtree(CACHE / "clickhouse", ignore_errors=True)
            subprocess.run(["/usr/bin/python3", "-m", "venv", made], check=True)
            install = [str(made / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            subprocess.run([str(word) for word in (*install, "--requirement", REQUIREMENTS)], check=True)
            (made / "ready").touch()
    return made / "bin" / "python"


def statements(name: str, forever: bool = True) -> list[str]:
    """Those of a file in monitoring/clickhouse/, without comments. `forever`: with no limit of age."""
    text = re.sub(r"(?m)^\s*--.*$", "", (SQL / name).read_text())
    if forever:
        text = re.sub(r"INTERVAL \d+ DAY", _FOREVER, text)
    return [one.strip() for one in text.split(";") if one.strip()]


class Engine:
    """The engine behind its front. `place` has its data, and the files by which the front fails (clickhouse_front.py).

    `within`: the command that runs it elsewhere, where it can be reached at `address`.
    """

    def __init__(
        self,
        place: Path,
        user: str = "",
        password: str = "",
        address: str = "127.0.0.1",
        within: Sequence[str] = (),
    ) -> None:
        self.place = place
        self._address = address
        self._within = within
        self._login = Login(user, password)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def port(self) -> int:
        return int((self.place / "port").read_text())

    @property
    def url(self) -> str:
        return f"http://{self._address}:{self.port}"

    def start(self) -> None:
        (self.place / "port").unlink(missing_ok=True)
        who = [self._login.user, self._login.password] if self._login.user else []
        self._process = subprocess.Popen(
            [
                *self._within,
                *("setpriv", "--pdeathsig", "KILL", str(python()), str(TREE / "tests/support/clickhouse_front.py")),
                *(str(self.place), self._address, *who),
            ]
        )
        while not (self.place / "port").exists():
            assert self._process.poll() is None, "the engine ended"
            time.sleep(0.01)

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(60)

    def server(self) -> Server:
        return Server(self.url, self._login)

    def ask(self, statement: str, **values: str) -> list[list[Any]]:
        """The rows of a SELECT."""
        server = self.server()
        try:
            return list(server.rows(statement, **values))
        finally:
            server.close()

    def run(self, statement: str) -> None:
        """Any other statement; an error fails the test."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        headers = {**Server(self.url, self._login)._headers}
        connection.request("POST", "/", statement.encode(), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.status == 200, f"{statement[:300]}\n{text}"

    def make_tables(self, forever: bool = True) -> None:
        for one in statements("schema.sql", forever):
            self.run(one)

    def insert(self, lines: Iterable[str]) -> None:
        """Lines of JSON, as `tcpnewconn --output json` writes them."""
        self.run("INSERT INTO tcpnewconn.incoming FORMAT JSONAsString\n" + "\n".join(lines))

    def refresh(self) -> None:
        """What happens every ten minutes, now."""
        state = "SELECT status, toUnixTimestamp(last_success_time), toUnixTimestamp(now()) FROM system.view_refreshes"
        ((_, before, now),) = self.ask(state)
        # The times are in seconds.
        while before is not None and int(now) <= int(before):
            ((_, _, now),) = self.ask(state)
        self.run("SYSTEM REFRESH VIEW tcpnewconn.edges_refresh")
        status, after = "", before
        while status != "Scheduled" or after == before:
            self.run("SYSTEM WAIT VIEW tcpnewconn.edges_refresh")
            ((status, after, _),) = self.ask(state)

    def settle(self) -> None:
        """As if it all had come in yesterday, and refreshes had counted it since."""
        yesterday = int(time.time()) - 86400
        self.run(
            f"ALTER TABLE tcpnewconn.hours UPDATE received = toDateTime({yesterday}) WHERE 1 SETTINGS mutations_sync = 2"
        )
        self.refresh()
        self.run("TRUNCATE TABLE tcpnewconn.refreshes")
        self.run(f"INSERT INTO tcpnewconn.refreshes VALUES ({int(time.time()) - 7200}), ({int(time.time()) - 3600})")


@contextmanager
def engine(place: Path, user: str = "", password: str = "", forever: bool = True) -> Iterator[Engine]:
    """With the tables; `forever`: with no limit of age."""
    place.mkdir(parents=True, exist_ok=True)
    found = Engine(place, user, password)
    found.start()
    try:
        found.make_tables(forever)
        yield found
    finally:
        found.stop()


def lines_of(made: Month, host: str = "web1") -> list[str]:
    """The month's entries of the service as JSON lines: of forged ones, the journal knows that they are not its own."""
    found = []
    for microseconds, entry in made.entries:
        if entry["_SYSTEMD_UNIT"] == "tcpnewconn.service":
            when = datetime.fromtimestamp(microseconds / 1e6, timezone.utc).isoformat(timespec="microseconds")
            fields = {name: value for name, value in entry.items() if not name.startswith("_")}
            found.append(json.dumps(document(fields, when, host)))
    return found
