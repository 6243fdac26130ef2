"""The road from a journal to ClickHouse, of real programs as the roles set them up: rsyslog with omclickhouse, TLS, nginx."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import journal_files
from tests.support.built import TREE
from tests.support.certificates import Authority
from tests.support.clickhouse import Engine
from tests.support.month import Entry

_ROLES = TREE / "ansible" / "roles"
# The fields of every entry that the tests' months leave out.
_EVERY = {"SYSLOG_IDENTIFIER": "tcpnewconn", "PRIORITY": "6", "EVENT_CATEGORY": "network", "EVENT_TYPE": "info"}


# The user of the service, as the journal writes it.
UID = "998"
# Events that rsyslog may have in memory, and of one batch: few, so that an outage has more.
MEMORY, BATCH = 1200, 400


class Road:
    """One host's journal, rsyslog that reads it, and nginx in front of the engine. All of it is below `place`."""

    def __init__(self, place: Path, engine: Engine, host: str = "web1", wait: int = 200) -> None:
        self.place = place
        self.engine = engine
        self.host = host
        self.state = place / "state"
        self._wait = wait
        self._port = _free_port()
        self._written = 0
        self._nginx: subprocess.Popen[bytes] | None = None
        self._rsyslog: subprocess.Popen[bytes] | None = None
        self._certificates()
        (place / "journal").mkdir()
        self.state.mkdir()
        values = {
            "__tcpnewconn_clickhouse_state": self.state,
            "__tcpnewconn_clickhouse_tls": place / "tls-of-the-host",
            "__tcpnewconn_clickhouse_retry": 1,
            "__tcpnewconn_clickhouse_uid": UID,
            "__tcpnewconn_clickhouse_memory": MEMORY,
            "__tcpnewconn_clickhouse_batch": BATCH,
            "tcpnewconn_clickhouse_remote": True,
            "tcpnewconn_clickhouse_server": "127.0.0.1",
            "tcpnewconn_clickhouse_port": self._port,
            "tcpnewconn_clickhouse_wait": wait,
        }
        (place / "rsyslog.conf").write_text(rendered("tcpnewconn_clickhouse/templates/rsyslog.conf.j2", **values))
        unit = rendered("tcpnewconn_clickhouse/templates/tcpnewconn-clickhouse.service.j2", **values)
        (self._rewind,) = re.findall(r"(?m)^ExecStartPre=/etc/tcpnewconn-clickhouse/(rewind .*)$", unit)

    def _certificates(self) -> None:
        authority = Authority(self.place / "authority")
        for name, address, names in (
            ("server", "127.0.0.1", ("certificate.pem", "key.pem", "client-ca.pem")),
            (self.host, "127.0.0.2", ("certificate.pem", "key.pem", "ca.pem")),
        ):
            directory = self.place / ("nginx" if name == "server" else "tls-of-the-host")
            directory.mkdir()
            for source, target in zip((*authority.give(name, address), authority.certificate), names, strict=True):
                shutil.copy(source, directory / target)

    def write(self, entries: Iterable[tuple[int, Entry]]) -> None:
        """Append to the host's journal."""
        more = [(when, {**_EVERY, **entry, "_HOSTNAME": self.host}) for when, entry in entries]
        journal_files.write(self.place / "journal" / "remote-web1.journal", more, self._written)
        self._written += len(more)

    def open_front(self) -> None:
        """ClickHouse can be reached, at the port that the engine has now."""
        directory = self.place / "nginx"
        (directory / "login.conf").write_text("")
        server = rendered(
            "tcpnewconn_clickhouse_front/templates/nginx.conf.j2",
            tcpnewconn_clickhouse_front_port=self._port,
            tcpnewconn_clickhouse_front_upstream=self.engine.url,
        ).replace("/etc/nginx/tcpnewconn-clickhouse", str(directory))
        scratch = "".join(
            f"{name}_temp_path {directory}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (directory / "nginx.conf").write_text(
            f"daemon off; user root; pid {directory}/pid; error_log {directory}/error.log; events {{}} "
            f"http {{ {scratch} {server} }}"
        )
        self._nginx = _started(
            "nginx", "-p", str(directory), "-e", f"{directory}/error.log", "-c", f"{directory}/nginx.conf"
        )

    def close_front(self) -> None:
        """It can not: connections are refused."""
        _end(self._nginx, signal.SIGTERM)

    def start_rsyslog(self) -> None:
        own_journal = f"mount --bind '{self.place}/journal' /var/log/journal"
        Path("/var/log/journal").mkdir(exist_ok=True)
        rewind = f"'{_ROLES}/tcpnewconn_clickhouse/files'/{self._rewind}"
        command = f"{own_journal}; {rewind}; exec rsyslogd -n -i NONE -f '{self.place}/rsyslog.conf'"
        self._rsyslog = _started("unshare", "--mount", "--propagation=private", "sh", "-euc", command)

    def kill_rsyslog(self) -> None:
        _end(self._rsyslog, signal.SIGKILL)

    def stop_rsyslog(self) -> None:
        _end(self._rsyslog, signal.SIGTERM)

    def read(self) -> str:
        """The position in the journal that rsyslog saved last."""
        state = self.state / "journal.state"
        return state.read_text() if state.exists() else ""

    def inserted(self) -> int:
        """Rows that came in and are different; of each repeat one, as merges leave them."""
        ((events, notices),) = self.engine.ask(
            "SELECT (SELECT count() FROM events FINAL), (SELECT count() FROM notices FINAL)"
        )
        return int(events) + int(notices)


def rendered(template: str, **values: Any) -> str:
    import jinja2

    source = (_ROLES / template).read_text()
    # Named with its type: without Jinja's own types, which make check does not need, it would be anything.
    text: str = jinja2.Template(source, undefined=jinja2.StrictUndefined).render(ansible_managed="by a test", **values)
    return text + "\n"


@contextmanager
def road(place: Path, engine: Engine, **options: Any) -> Iterator[Road]:
    place.mkdir(parents=True)
    made = Road(place, engine, **options)
    try:
        yield made
    finally:
        made.kill_rsyslog()
        made.close_front()


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def _started(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL)


def _end(process: subprocess.Popen[bytes] | None, by: signal.Signals) -> None:
    if process is not None and process.poll() is None:
        process.send_signal(by)
        process.wait(60)
