"""The ledger's contents and their lifetime, the counts of an entry, first-seen events; times and options of the report."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import re
import sqlite3
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from tcpnewconn.ledger import firstseen, schema, update
from tcpnewconn.ledger.coverage import Coverage
from tcpnewconn.ledger.peers import network_of
from tcpnewconn.ledger.tally import KINDS
from tcpnewconn.report.allow import allow_list, drop_in
from tcpnewconn.report.book import Book, Filter
from tcpnewconn.report.names import Names, resolvers
from tcpnewconn.report.observed import touching
from tcpnewconn.report.period import parse_time, span_text
from tcpnewconn.report.questions import destinations_of, overview, quiet, who_uses
from tcpnewconn.report.sqlite import Ledger
from tcpnewconn.reporting.entries import MESSAGE_IDS
from tests.support import ledgers
from tests.support.month import APP, BEGIN, DAY, HOUR, IDS, NGINX, SSH, Month, Service
from tests.support.recorded_journal import Recorded
from tests.support.terminal import TREE, environment


def added(path: Path, made: Month, limits: update.Limits, first: int = 0) -> update.Outcome:
    return update.update(str(path), lambda: Recorded(made, None, first), limits, "web1", lambda *_: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def rows(path: Path, query: str) -> list[Any]:
    with sqlite3.connect(path) as db:
        return db.execute(query).fetchall()


def started(days: int = 0) -> Month:
    made = Month(random.Random(1), days)
    made.start(BEGIN, None)
    return made


def test_it_counts_the_events_that_the_service_logs() -> None:
    known = {message_id.decode(): action for message_id, action in KINDS.items()}

    assert {action: message_id for message_id, action in known.items()} == IDS
    for action, message_id in MESSAGE_IDS.items():
        assert known[message_id] == action


def test_hours_become_days_after_a_week(path: Path) -> None:
    made = started()
    for day in range(12):
        for hour in (1, 5, 5, 23):
            made.connect(BEGIN + day * DAY + hour * HOUR + 10, SSH, "10.0.0.9")
    added(path, made, update.Limits())

    assert rows(path, "SELECT count(*), sum(connections), min(start) FROM day")[0] == (4, 16, BEGIN)
    assert rows(path, "SELECT count(*), sum(connections), max(connections) FROM hour")[0] == (24, 32, 2)


def test_an_entry_that_comes_late_joins_its_day(path: Path) -> None:
    """The clock was set back by days: the day's hours are days already."""
    made = started()
    made.connect(BEGIN + 100, SSH, "10.0.0.9")
    made.fail(BEGIN + 110, SSH, "10.0.0.9")
    made.connect(BEGIN + 20 * DAY, SSH, "10.0.0.9")
    added(path, made, update.Limits())
    made.clock = -20 * DAY
    made.connect(BEGIN + 20 * DAY + 200, SSH, "10.0.0.9")
    made.fail(BEGIN + 20 * DAY + 210, SSH, "10.0.0.9")
    added(path, made, update.Limits())
    made.clock = 0
    # Each update advances the ledger's "now" by a day at most.
    for number in range(20):
        made.connect(BEGIN + 20 * DAY + 300 + number, SSH, "10.0.0.9")
        added(path, made, update.Limits())

    assert rows(path, f"SELECT connections, failed, first, last FROM day WHERE start = {BEGIN}") == [
        (2, 2, BEGIN + 100, BEGIN + 210)
    ]


def test_days_are_kept_as_long_as_set(path: Path) -> None:
    made = started()
    for day in range(40):
        made.connect(BEGIN + day * DAY + 100, SSH, f"10.0.0.{day + 1}")
        added(path, made, update.Limits(days=30 * DAY))

    assert rows(path, "SELECT min(start) FROM traffic")[0][0] == BEGIN + 9 * DAY
    assert {peer for (peer,) in rows(path, "SELECT peer FROM edge")} == {f"10.0.0.{day + 1}" for day in range(9, 40)}
    with schema.reading(str(path)) as db:
        assert Book(Ledger(db, str(path)), Filter()).since == BEGIN + 9 * DAY


def test_a_clock_that_is_wrong_by_years_for_a_while_removes_nothing(path: Path) -> None:
    made = started()
    limits = update.Limits(days=8 * DAY)
    made.connect(BEGIN + 100, SSH, "10.0.0.9")
    added(path, made, limits)
    made.clock = 3000 * DAY
    made.connect(BEGIN + 200, SSH, "10.0.0.9")
    added(path, made, limits)
    made.clock = 0
    made.connect(BEGIN + 300, SSH, "10.0.0.9")
    added(path, made, limits)

    assert rows(path, f"SELECT sum(connections) FROM traffic WHERE start = {BEGIN}")[0][0] == 2


def test_the_oldest_days_go_where_the_size_is_reached(path: Path) -> None:
    made = started()
    for day in range(20):
        for peer in range(2_000):
            made.connect(BEGIN + day * DAY + peer, NGINX, f"10.{day}.{peer // 250}.{peer % 250 + 1}")
    added(path, made, update.Limits(size=1 << 20, peers=100_000))

    assert path.stat().st_size <= 1.2 * (1 << 20)
    (oldest,) = rows(path, "SELECT min(start) FROM traffic")[0]
    assert BEGIN < oldest < BEGIN + 19 * DAY
    # The rest is whole.
    assert rows(path, "SELECT sum(connections) FROM traffic")[0][0] == (BEGIN + 20 * DAY - oldest) // DAY * 2_000


def test_where_the_size_is_reached_hours_become_days_before_any_day_goes(path: Path) -> None:
    made = started()
    for day in range(6):
        for hour in range(24):
            for peer in range(100):
                made.connect(BEGIN + day * DAY + hour * HOUR + peer, NGINX, f"10.0.0.{peer + 1}")
    added(path, made, update.Limits(size=300 << 10))

    assert rows(path, "SELECT sum(connections) FROM traffic")[0][0] == 6 * 24 * 100
    days = {start for (start,) in rows(path, "SELECT DISTINCT start FROM day")}
    assert days
    assert rows(path, "SELECT min(start) FROM hour")[0][0] == max(days) + DAY


def test_one_day_of_any_number_of_services_and_peers_stays_within_the_size(path: Path) -> None:
    """A service has clients without number; then something here connects to every port: each port is another service."""
    made, size = started(), 1 << 20
    most_services, most_peers = size // 8192, size // 2048
    for hour in range(22):
        for peer in range(0, 2_000, 3):
            made.connect(BEGIN + hour * HOUR + peer + 1, NGINX, f"10.{hour}.{peer // 250}.{peer % 250 + 1}")
    for port in range(3_000):
        made.connect(
            BEGIN + 22 * HOUR + port, Service("egress", port + 1, "scan.service", "nmap"), f"10.0.{port % 200}.9"
        )
    added(path, made, update.Limits(size=size, peers=100_000))

    assert path.stat().st_size <= size
    assert rows(path, "SELECT sum(connections) FROM traffic")[0][0] == 22 * 667 + 3_000
    # Besides these, others of each direction.
    assert rows(path, "SELECT count(*) FROM service")[0][0] == most_services + 1
    assert rows(path, "SELECT count(*) FROM edge WHERE peer != 'others'")[0][0] == most_peers
    with schema.reading(str(path)) as db:
        book = Book(Ledger(db, str(path)), Filter())
        (others,) = [line for line in overview(book).outgoing if line.name[0] == ""]
        assert "connections of services that were added up" in destinations_of(book, "app.service").verdict
        assert any("services that were added up" in reason for reason in allow_list(book, "app.service").reasons)
        assert who_uses(book, "443").verdict.startswith(f"At least {most_peers + 1} clients used port 443")
    assert others.connections == 3_000 - (most_services - 1)
    assert "the rest is added up as others" in overview_text(path)


def overview_text(path: Path) -> str:
    return str(run_report("report", "--ledger", str(path)).stdout)


def test_peers_beyond_the_limit_are_added_up_and_all_are_counted(path: Path) -> None:
    made = started()
    for number in range(1_000):
        made.connect(BEGIN + number, NGINX, f"10.{number % 50}.{number % 7}.{number % 250 + 1}")
    for number in range(300):
        made.connect(BEGIN + 2000 + number, NGINX, f"2001:db8:{number}::{number + 1}")
    added(path, made, update.Limits(peers=10))

    peers = dict(rows(path, "SELECT peer, sum(connections) FROM edge JOIN traffic ON edge = id GROUP BY 1"))
    assert sum(peers.values()) == 1_300
    assert len([peer for peer in peers if "/" in peer]) == 10
    assert len([peer for peer in peers if "/" not in peer and peer != "others"]) == 10
    assert peers["others"] > 0
    with schema.reading(str(path)) as db:
        users = who_uses(Book(Ledger(db, str(path)), Filter()), "443")
    assert users.verdict.startswith("At least 21 clients used port 443")
    assert sum(line.connections for line in users.lines) == 1_300


def test_networks_of_both_families() -> None:
    assert network_of("203.0.113.9") == "203.0.113.0/24"
    assert network_of("2001:db8:1:2:3::9") == "2001:db8:1:2::/64"


def test_ids_are_kept_for_the_stated_time_alone(path: Path) -> None:
    made = started()
    for second in range(5_000):
        made.connect(BEGIN + second, SSH, "10.0.0.9")
    added(path, made, update.Limits())

    assert rows(path, "SELECT count(*) FROM recent")[0][0] == 601


def test_what_is_repeated_hours_after_a_kill_counts_once(path: Path) -> None:
    """The service was down for a night; its last connections come again, in another update."""
    made = started()
    for second in range(5):
        made.connect(BEGIN + second, SSH, "10.0.0.9")
    added(path, made, update.Limits())
    made.start(BEGIN + 8 * HOUR, BEGIN + 5)
    made.connect(BEGIN + 8 * HOUR + 1, SSH, "10.0.0.9")
    added(path, made, update.Limits())
    made.repeat(BEGIN + 8 * HOUR + 2, BEGIN)
    added(path, made, update.Limits())

    assert rows(path, "SELECT sum(connections) FROM traffic")[0][0] == 6


def test_until_when_it_observed_is_what_the_next_start_says() -> None:
    coverage = Coverage()
    coverage.started(1000, "one", None, "")
    coverage.entry(1100, "one")
    coverage.started(5000, "two", 1500, ":22")
    coverage.polled(5010)

    first, *_ = coverage.changed
    assert (first.start, first.stop) == (1000, 1500)
    assert coverage.observed is not None
    assert (coverage.observed.start, coverage.observed.stop, coverage.observed.detail) == (5000, 5010, ":22")


def test_after_a_gap_nothing_before_it_counts_as_observed() -> None:
    coverage = Coverage()
    coverage.started(1000, "one", None, "")
    coverage.gap(3000, "two", "why")
    coverage.started(3000, "two", 2900, "")

    observed = [(span.start, span.stop) for span in coverage.changed if span.kind == "observed"]
    assert max(stop for start, stop in observed if start < 2950) == 1000


def test_a_stop_ends_it_whatever_the_run_says_after_that() -> None:
    coverage = Coverage()
    coverage.started(1000, "one", None, "")
    coverage.stopped(1200)
    coverage.entry(1201, "one")

    assert coverage.observed is None


def test_a_rule_of_ignore_touches_what_it_can_have_left_out() -> None:
    rules = ["10.9.0.0/16", ":9100", "127.0.0.1:80", "[2001:db8::1]:443", "2001:db8::/32", "unit:cron.service"]

    assert touching(rules, 22) == ["10.9.0.0/16", "2001:db8::/32", "unit:cron.service"]
    assert touching(rules, 9100) == ["10.9.0.0/16", ":9100", "2001:db8::/32", "unit:cron.service"]
    assert touching(rules, None) == rules


def test_a_rule_about_another_direction_or_another_range_of_ports_touches_nothing() -> None:
    rules = [
        "egress:10.9.0.0/16",
        "ingress::9100",
        ":8000-8099",
        "egress:[2001:db8::/32]:443-445",
        "of a later version",
    ]

    assert touching(rules, 8050, ("ingress", "internal")) == [":8000-8099", "of a later version"]
    assert touching(rules, 9100, ("ingress",)) == ["ingress::9100", "of a later version"]
    assert touching(rules, 444, ("egress",)) == [
        "egress:10.9.0.0/16",
        "egress:[2001:db8::/32]:443-445",
        "of a later version",
    ]


def test_a_listener_whose_connections_are_not_logged_is_not_called_unused_without_a_note(path: Path) -> None:
    made = Month(random.Random(1), 1)
    made.start(BEGIN, None, ":9100")
    for port in (9000, 9100):
        made.listen(BEGIN + 1, Service("ingress", port, f"port-{port}.service"))
    made.connect(BEGIN + 40 * DAY, SSH, "10.0.0.9")
    added(path, made, update.Limits())

    with schema.reading(str(path)) as db:
        notes = {line.name[1]: line.note for line in quiet(Book(Ledger(db, str(path)), Filter()), 30).lines}
    assert notes == {9000: "", 9100: "not logged by Ignore=:9100"}


def test_the_allow_list_of_a_unit_of_this_host_has_its_resolvers(path: Path, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text(
        "# made by hand\nsearch example.org\nnameserver 127.0.0.53\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver\n"
    )
    made = started()
    made.connect(BEGIN + 10, SSH, "10.0.0.9")
    added(path, made, update.Limits())

    found = resolvers(str(tmp_path / "resolv.conf"))
    with schema.reading(str(path)) as db:
        lines = drop_in(allow_list(Book(Ledger(db, str(path)), Filter()), "ssh.service", found))
    assert found == ["192.0.2.53", "fe80::1"]
    assert lines[-3:] == [
        "# resolvers of this host, from /etc/resolv.conf",
        "#IPAddressAllow=192.0.2.53",
        "#IPAddressAllow=fe80::1",
    ]
    assert resolvers(str(tmp_path / "none")) == []


class Sent:
    """The entries that would be in the journal."""

    def __init__(self, fail_at: int = -1) -> None:
        self.fields: list[dict[str, str]] = []
        self.fail_at = fail_at

    def __call__(self, fields: dict[str, str]) -> None:
        if len(self.fields) == self.fail_at:
            raise OSError("killed")
        self.fields.append(fields)


def seen(path: Path, learning: float = DAY, events: int = 0, fail_at: int = -1) -> tuple[list[str], int]:
    sent, left_off = Sent(fail_at), 0
    db = schema.create_or_open(str(path))
    with contextlib.closing(db), contextlib.suppress(OSError):
        left_off = firstseen.log_first_seen(db, firstseen.Limits(learning, events), sent)
    return [fields["MESSAGE"] for fields in sent.fields], left_off


def test_what_is_first_seen_is_logged_after_the_learning_period(path: Path) -> None:
    made = started()
    made.connect(BEGIN + 10, SSH, "10.0.0.9")
    added(path, made, update.Limits())
    assert seen(path) == ([], 0)
    made.connect(BEGIN + 20, SSH, "10.0.7.9")
    added(path, made, update.Limits())
    assert seen(path) == ([], 0)
    made.connect(BEGIN + 2 * DAY, SSH, "10.0.0.77")
    made.connect(BEGIN + 2 * DAY + 1, SSH, "203.0.113.9")
    made.connect(BEGIN + 2 * DAY + 2, SSH, "203.0.113.10")
    added(path, made, update.Limits())

    assert seen(path) == (["First seen: 203.0.113.0/24 -> sshd, ssh.service, port 22"], 0)
    assert seen(path) == ([], 0)


def test_a_flood_of_first_seen_is_bounded_and_a_kill_loses_none(path: Path) -> None:
    made = started()
    made.connect(BEGIN + 10, SSH, "10.0.0.9")
    added(path, made, update.Limits())
    seen(path)
    for number in range(60):
        made.connect(BEGIN + 2 * DAY + number, SSH, f"10.1.{number}.1")
    added(path, made, update.Limits())

    assert len(seen(path, fail_at=10)[0]) == 10
    messages, left_off = seen(path, events=50)
    assert (len(messages), left_off) == (50, 10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-25 12:00:00 UTC", "2026-11-25 12:00:00"),
        ("2026-11-25 UTC", "2026-11-25 00:00:00"),
        ("Wed 2026-11-25 12:34 UTC", "2026-11-25 12:34:00"),
        ("@1795600000", "2026-11-25 09:46:40"),
        ("now", "2026-11-25 15:00:00"),
        ("-2h", "2026-11-25 13:00:00"),
        ("3 days ago", "2026-11-22 15:00:00"),
        ("10min left", "2026-11-25 15:10:00"),
        ("2026-11-25T12:00:00Z", "2026-11-25 12:00:00"),
    ],
)
def test_times_are_taken_as_journalctl_takes_them(text: str, expected: str) -> None:
    now = datetime(2026, 11, 25, 15, tzinfo=timezone.utc).timestamp()

    assert datetime.fromtimestamp(parse_time(text, now), timezone.utc).strftime("%Y-%m-%d %H:%M:%S") == expected


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01", "25:00", "@x", "-", "-3 parsecs"])
def test_what_is_no_time_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(ValueError, match="not a time; use for example"):
        parse_time(text, 0)


def test_spans_for_people() -> None:
    assert [span_text(seconds) for seconds in (0, 59, 3600, 90_000, 8 * DAY + 61)] == [
        "0s",
        "59s",
        "1h",
        "1d 1h",
        "8d 1min",
    ]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    edges: list[ledgers.Edge] = [
        ("ingress", 443, "nginx.service", "nginx", "203.0.113.9", 7),
        ("ingress", 22, "ssh.service", "sshd", "10.0.0.9", 2),
        ("egress", 5432, "app.service", "app", "10.0.3.3", 5),
    ]
    return ledgers.write(tmp_path_factory.mktemp("small") / "ledger.db", "web1", edges, ["10.0.0.5"])


@pytest.mark.parametrize(
    ("wanted", "connections"),
    [
        (Filter(units=("ssh.service",)), 6),
        (Filter(processes=("nginx", "app")), 36),
        (Filter(ports=(443,)), 21),
        (Filter(directions=("egress",)), 15),
        (Filter(networks=(ipaddress.ip_network("10.0.0.0/8"),)), 21),
        (Filter(units=("ssh.service",), ports=(443,)), 0),
        (Filter(users=("root",)), 0),
    ],
)
def test_filters_let_only_through_what_they_name(small: Path, wanted: Filter, connections: int) -> None:
    with schema.reading(str(small)) as db:
        assert overview(Book(Ledger(db, str(small)), wanted)).connections == connections


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["who"], "report who needs a port or a unit"),
        (["overview", "22"], "report overview takes no '22'"),
        (["--port", "70000"], "'70000': not a port"),
        (["--network", "10.0.0.0/99"], "'10.0.0.0/99': not a network"),
        (["--since", "soon"], "'soon': not a time"),
        (["--since", "now", "--until", "-1h"], "--since is not before --until"),
        (["--days", "0"], "'0': not a number of days"),
    ],
)
def test_wrong_usage_is_one_line(options: list[str], problem: str, small: Path) -> None:
    done = run_report("report", *options, "--ledger", str(small))

    assert done.returncode == 2
    assert problem in done.stderr
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 1)


def run_report(*options: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "tcpnewconn", *options],
        cwd=TREE,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_question_may_follow_the_ledgers(small: Path) -> None:
    before = run_report("report", "who", "443", "--ledger", str(small))
    after = run_report("report", "--ledger", str(small), "who", "443")

    assert after.stdout == before.stdout
    assert after.stdout.splitlines()[2].startswith("1 client used port 443")


def test_no_ledger_is_one_line_that_says_what_makes_it(tmp_path: Path) -> None:
    done = run_report("report", "--ledger", str(tmp_path / "none.db"))

    assert done.returncode == 1
    assert done.stderr == (
        f"tcpnewconn: {tmp_path}/none.db: there is no ledger; systemctl start tcpnewconn-ledger makes that of this host\n"
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            ["--since", "2027-01-01"],
            "the ledger has nothing of that time; it goes from 2026-10-01 00:00:00 to 2026-10-04",
        ),
        (
            ["--until", "2020-01-01"],
            "the ledger has nothing of that time; it goes from 2026-10-01 00:00:00 to 2026-10-04",
        ),
    ],
)
def test_a_time_of_which_the_ledger_has_nothing_is_no_answer(options: list[str], problem: str, small: Path) -> None:
    done = run_report("report", "who", "22", *options, "--ledger", str(small))

    assert (done.returncode, done.stdout) == (1, "")
    assert problem in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_trace_that_is_missing_leaves_the_coverage_whole(path: Path) -> None:
    """It says whose a connection is, not that there was one."""
    made = started()
    made.log(BEGIN + 1, "source-degraded", {"TCPNEWCONN_REASON": "trace"})
    made.connect(BEGIN + 10, SSH, "10.0.0.9")
    made.log(BEGIN + HOUR - 1, "events-lost", {"TCPNEWCONN_REASON": "attribution", "TCPNEWCONN_COUNT": "7"})
    added(path, made, update.Limits())

    with schema.reading(str(path)) as db:
        coverage = Book(Ledger(db, str(path)), Filter()).coverage
    assert (coverage.complete, coverage.lost, coverage.degraded) == (True, {}, {})
    assert coverage.text() == "observed 100 % of that time, 0 lost"
    assert coverage.details()[-1] == "unit, user or process may be missing: no trace for 59min 58s, 7 calls lost"


def test_a_summary_of_failed_attempts_counts_each(path: Path) -> None:
    made = started()
    made.fail(BEGIN + 10, APP, "10.0.3.4")
    summary = made.fields(APP, "10.0.3.4") | {"TCPNEWCONN_COUNT": "41"}
    made.log(BEGIN + 20, "connection-failed", summary)
    added(path, made, update.Limits())

    assert rows(path, "SELECT sum(failed), sum(connections) FROM traffic") == [(42, 0)]


def test_an_empty_ledger_is_no_answer(path: Path) -> None:
    schema.create_or_open(str(path)).close()

    done = run_report("report", "who", "22", "--ledger", str(path))
    assert done.returncode == 1
    assert done.stderr == (
        f"tcpnewconn: {path}: the ledger is empty; nothing of tcpnewconn.service was in the journal yet\n"
    )


def test_an_update_without_a_directory_says_what_makes_it(tmp_path: Path) -> None:
    done = run_report("ledger", "update", "--ledger", str(tmp_path / "none" / "ledger.db"))

    assert done.returncode == 1
    assert done.stderr == (
        f"tcpnewconn: {tmp_path}/none: no such directory; systemctl start tcpnewconn-ledger makes it\n"
    )


def test_csv_has_no_formula_for_a_spreadsheet(tmp_path: Path) -> None:
    edges: list[ledgers.Edge] = [("ingress", 22, "=cmd|' /C calc'!A0", "sshd", "10.0.0.9", 2)]
    path = ledgers.write(tmp_path / "ledger.db", "web1", edges, [])

    assert "'=cmd" in run_report("report", "--output", "csv", "--ledger", str(path)).stdout


def test_a_copy_is_one_file_with_the_same_answers(small: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"

    assert run_report("ledger", "copy", str(copy), "--ledger", str(small)).returncode == 0
    assert [file.name for file in tmp_path.iterdir()] == ["copy.db"]
    assert (
        run_report("report", "--ledger", str(copy)).stdout.splitlines()[1:]
        == run_report("report", "--ledger", str(small)).stdout.splitlines()[1:]
    )


def test_names_are_resolved_within_the_deadline() -> None:
    names = Names(resolve=True, deadline=5)
    names.ask(["127.0.0.1", "others", "10.0.0.0/24"])

    assert names.of("127.0.0.1") == {"name": "localhost"}
    assert names.of("others") == {"name": ""}
    assert names.note == ""


def test_the_service_runs_without_the_ledger() -> None:
    """Neither SQLite nor anything of the ledger and the report is loaded by it."""
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, tcpnewconn.app, tcpnewconn.service; print(*sys.modules)"],
        cwd=TREE,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "tcpnewconn.reporting.sinks" in loaded
    assert not [name for name in loaded if re.match(r"sqlite3|jinja2|tcpnewconn\.(ledger|report)\b", name)]
