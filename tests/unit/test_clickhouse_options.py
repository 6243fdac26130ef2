"""`report --clickhouse` before a server is asked: its options, where user and password come from, how values are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcpnewconn.ledger.schema import Unusable
from tcpnewconn.report import clickhouse_http
from tcpnewconn.report.clickhouse import _spans
from tcpnewconn.report.clickhouse_http import Login, login, problem_of
from tests.support.month import BEGIN, HOUR
from tests.support.reports import report

URL = "https://clickhouse.example.org:8443"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--clickhouse", URL, "--ledger", "web1.db"), "--clickhouse and --ledger exclude each other"),
        (("--host", "web1"), "--host, --login and --authority are for --clickhouse"),
        (("--clickhouse", "clickhouse.example.org"), "not a URL of a ClickHouse server"),
        (("--clickhouse", "https://clickhouse.example.org:port"), "not a URL of a ClickHouse server"),
        (("--clickhouse", "https://reader:secret@clickhouse.example.org"), "can be seen by everybody"),
        (("--clickhouse", f"{URL}/?password=secret"), "can be seen by everybody"),
    ],
)
def test_wrong_options_are_explained_in_a_line(options: tuple[str, ...], said: str) -> None:
    done = report(*options)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "secret" not in done.stderr


def test_a_file_that_is_no_login_or_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "login"
    file.write_text("user=reader\npassword=a=b\n")
    file.chmod(0o640)
    assert login(str(file)) == Login("reader", "a=b")
    for mode, text in ((0o644, "user=reader\n"), (0o600, "reader:secret\n"), (0o600, "user=reader\ntoken=x\n")):
        file.write_text(text)
        file.chmod(mode)
        with pytest.raises(Unusable) as refused:
            login(str(file))
        assert "secret" not in str(refused.value)
    with pytest.raises(Unusable, match="cannot be read"):
        login(str(tmp_path / "none"))


def test_without_a_file_the_environment_has_user_and_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TCPNEWCONN_CLICKHOUSE_USER", raising=False)
    assert login(None) == Login()
    monkeypatch.setenv("TCPNEWCONN_CLICKHOUSE_USER", "reader")
    monkeypatch.setenv("TCPNEWCONN_CLICKHOUSE_PASSWORD", "secret")
    assert login(None) == Login("reader", "secret")


def test_urls_of_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (URL, "http://127.0.0.1:8123", "https://[2001:db8::1]:8443/?database=other"):
        assert problem_of(url) == ""


def test_values_are_written_as_clickhouse_reads_them() -> None:
    assert clickhouse_http._value("a\tb\\c'd") == "a\\tb\\\\c'd"
    assert clickhouse_http._value(["it's", "a\\b"]) == "['it\\'s','a\\\\b']"
    assert clickhouse_http._value([22, 443]) == "[22,443]"


def test_where_neither_a_stop_nor_the_next_start_says_until_when_the_last_event_does() -> None:
    marks = [
        (BEGIN, "observation-started", "", []),
        (BEGIN + 10 * HOUR, "observation-started", "", [":9100"]),
        (BEGIN + 12.0 * HOUR, "observation-stopped", "", []),
    ]
    found = _spans(marks, {BEGIN + 10 * HOUR: BEGIN + 8 * HOUR}, BEGIN, BEGIN + 12 * HOUR)
    assert [(span.start - BEGIN, span.stop - BEGIN, span.detail) for span in found] == [
        (0, 8 * HOUR, ""),
        (10 * HOUR, 12 * HOUR, ":9100"),
    ]
    # Of a host whose first start is not there, Ignore= is not known.
    (unknown,) = _spans([], {}, BEGIN, BEGIN + HOUR)
    assert (unknown.kind, unknown.detail, unknown.seconds) == ("observed", "?", HOUR)
