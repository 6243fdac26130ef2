"""`tcpnewconn report --clickhouse` prints what it prints of ledgers with the same events."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpnewconn.ledger import update
from tests.support.clickhouse import Engine, engine, lines_of
from tests.support.month import BEGIN, DAY, month
from tests.support.recorded_journal import Recorded
from tests.support.reports import report, reported

USER, PASSWORD = "reader", 'a:secret with "quotes"'
HOSTS = {"db1": month(seed=3, days=3), "web1": month()}


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Ledgers that have a place for every peer too."""
    place = tmp_path_factory.mktemp("ledgers")
    found = {host: place / f"{host}.db" for host in HOSTS}
    for host, path in found.items():
        limits = update.Limits(peers=100_000)
        update.update(str(path), lambda made=HOSTS[host]: Recorded(made), limits, host, lambda *_: None)  # type: ignore[misc]
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("server"), USER, PASSWORD) as made:
        for host, of in HOSTS.items():
            made.insert(lines_of(of, host))
        made.settle()
        yield made


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("login") / "login"
    file.write_text(f"# for reports\nuser={USER}\npassword={PASSWORD}\n")
    file.chmod(0o600)
    return file


def same(text: str) -> str:
    """Without the sentences about how each keeps its peers, and when a page was made."""
    text = re.sub(r"(?m)(Note: )?(The ledger keeps hours|Beyond \d+ peers|Summaries of bursts)[^\n\"<]*", "", text)
    text = re.sub(r"Made by tcpnewconn [^<]*", "", text)
    return re.sub(r"(?m)[ ,]+$", "", text)


QUESTIONS: tuple[tuple[str, ...], ...] = (
    (),
    ("who", "443"),
    ("who", "8080", "--since", f"@{BEGIN + 2 * DAY}", "--until", f"@{BEGIN + 20 * DAY}"),
    ("to", "app.service"),
    ("new", "--since", f"@{BEGIN + 22 * DAY}"),
    ("quiet", "--days", "14"),
    ("allow", "postgresql.service"),
    ("--network", "203.0.113.0/25", "--direction", "ingress"),
    ("--unit", "app.service", "--port", "3306", "--port", "5432"),
    ("--user", "root"),
)


@pytest.mark.parametrize(
    ("question", "output"),
    [
        *((question, output) for question in QUESTIONS for output in ("text", "html")),
        *((question, output) for question in QUESTIONS[:3] for output in ("json", "csv")),
    ],
)
def test_every_question_has_the_same_output(
    server: Engine, ledgers: dict[str, Path], login: Path, question: tuple[str, ...], output: str
) -> None:
    options = (*question, "--output", output, *(["--all"] if output == "text" else []))
    asked = reported(*options, "--clickhouse", server.url, "--login", login, "--host", "web1")

    assert same(asked) == same(reported(*options, "--ledger", ledgers["web1"]))
    assert len(asked) > 60


def test_the_hosts_are_joined_as_their_ledgers_are(server: Engine, ledgers: dict[str, Path], login: Path) -> None:
    for output in ("json", "csv"):
        asked = reported("--output", output, "--clickhouse", server.url, "--login", login)
        expected = reported("--output", output, "--ledger", ledgers["db1"], ledgers["web1"])
        if output == "csv":
            assert sorted(asked.splitlines()) == sorted(expected.splitlines())
        else:
            one, two = json.loads(asked), json.loads(expected)
            assert one["hosts"] == two["hosts"]
            assert one["head"] == two["head"]
    page = reported("--output", "html", "--clickhouse", server.url, "--login", login)
    assert "Who talks to whom: 2 hosts" in page


def test_without_host_each_host_answers_in_turn(server: Engine, login: Path) -> None:
    asked = reported("who", "5432", "--clickhouse", server.url, "--login", login)
    assert re.findall(r"(?m)^(\w+): TCP connections from", asked) == ["db1", "web1"]
    later = report("who", "5432", "--clickhouse", server.url, "--login", login, "--since", f"@{BEGIN + 9 * DAY}")
    assert re.findall(r"(?m)^(\w+): TCP connections from", later.stdout) == ["web1"]
    assert (later.returncode, "db1: the ledger has nothing of that time" in later.stderr) == (0, True)


def test_the_password_comes_from_a_file_or_the_environment_and_never_from_the_command_line(
    server: Engine, login: Path
) -> None:
    refused = report("--clickhouse", server.url, "--host", "web1")
    assert refused.returncode == 1
    assert "refused user or password" in refused.stderr
    known = {"TCPNEWCONN_CLICKHOUSE_USER": USER, "TCPNEWCONN_CLICKHOUSE_PASSWORD": PASSWORD}
    assert "web1: TCP connections" in reported("--clickhouse", server.url, "--host", "web1", more=known)
    on_it = report("--clickhouse", f"http://{USER}:secret@127.0.0.1:{server.port}")
    assert on_it.returncode == 2
    assert "can be seen by everybody" in on_it.stderr
    login.chmod(0o644)
    try:
        readable = report("--clickhouse", server.url, "--login", login)
    finally:
        login.chmod(0o600)
    assert (readable.returncode, "everybody may read it" in readable.stderr) == (1, True)


def test_what_the_server_says_is_reported_in_a_line(server: Engine, login: Path, tmp_path: Path) -> None:
    for options, said in (
        (("--clickhouse", "http://127.0.0.1:9"), "refused"),
        (("--clickhouse", f"{server.url}/?database=system", "--login", login), "Code: 60"),
        (("--clickhouse", server.url, "--login", login, "--host", "nobody"), "there is nothing of nobody"),
    ):
        done = report(*options)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
        assert said in done.stderr


def test_names_with_quotes_and_tabs_are_only_names(tmp_path: Path) -> None:
    odd = 'it\'s\ta \\n "unit" {x:String} \u00fc.service'
    lines = [
        {
            "@timestamp": "2026-10-01T00:00:00Z",
            "host.name": "o'host\\",
            "event.action": action,
            "network.direction": "ingress",
            "source.address": "2001:db8::1",
            "destination.address": "::ffff:10.0.0.1",
            "destination.port": 80,
            "object.systemd_unit": odd,
            "tcpnewconn.connection_id": "x-r1f",
        }
        for action in ("observation-started", "connection-opened")
    ]
    lines[1]["@timestamp"] = "2026-10-01T00:30:00Z"
    with engine(tmp_path) as made:
        made.insert(json.dumps(line) for line in lines)
        found = reported("who", odd, "--unit", odd, "--clickhouse", made.url, "--host", "o'host\\", "--output", "json")
    (client,) = json.loads(found)["clients"]
    assert (client["client"], client["unit"], client["connections"]) == ("2001:db8::1", odd, 1)
