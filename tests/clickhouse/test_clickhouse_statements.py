"""The statements of monitoring/clickhouse/: those for a server or a cluster are read by ClickHouse's own parser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitoring.clickhouse.cluster import ALL, LOCAL
from tests.support.clickhouse import Engine, engine, statements


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("parser")) as made:
        yield made


@pytest.mark.parametrize("file", ["schema.sql", "cluster.sql", "users.sql"])
def test_every_statement_is_of_clickhouse_s_language(parser: Engine, file: str) -> None:
    found = statements(file, forever=False)
    assert len(found) > 5
    for one in found:
        parser.run(f"EXPLAIN AST {one}")
    with pytest.raises(AssertionError, match="Syntax error"):
        parser.run(f"EXPLAIN AST {found[0].replace(' ', ' of ', 1)}")


def test_the_tables_have_an_age_and_are_made_a_second_time_without_harm(parser: Engine) -> None:
    for one in statements("schema.sql"):
        parser.run(one)
    with_limit = [
        one for one in statements("schema.sql", forever=False) if re.search(r"TTL .* \+ INTERVAL \d+ DAY", one)
    ]
    made = [re.search(r"TABLE IF NOT EXISTS \w+\.(\w+)", one) for one in with_limit]
    assert {one[1] for one in made if one} == {"events", "notices", "hours", "addresses", "edges", "refreshes"}


def test_what_is_old_goes(tmp_path: Path) -> None:
    with engine(tmp_path, forever=False) as made:
        made.insert(
            f'{{"@timestamp":"{when}","host.name":"web1","event.action":"connection-opened","tcpnewconn.connection_id":"x-{n}"}}'
            for n, when in enumerate(("2020-01-01T00:00:00Z", "2026-01-01T00:00:00Z"))
        )
        made.run("OPTIMIZE TABLE tcpnewconn.events FINAL")
        assert made.ask("SELECT count() FROM events WHERE hour < '2021-01-01'") == [[0]]
        # Edges of hours whose events have gone are not counted again.
        assert made.ask("SELECT count() FROM pending WHERE hour < now() - INTERVAL 89 DAY") == [[0]]


def test_readers_are_granted_what_they_ask_and_hosts_nothing_but_to_insert() -> None:
    granted = {
        (found[3], found[1], found[2])
        for one in statements("users.sql", forever=False)
        if (found := re.match(r"GRANT (\w+) ON (\S+) TO (\w+)$", one))
    }
    assert granted == {
        ("tcpnewconn_insert", "INSERT", "tcpnewconn.incoming"),
        ("tcpnewconn_read", "SELECT", "tcpnewconn.*"),
    }


def test_on_a_cluster_every_table_is_replicated_and_what_is_asked_is_distributed() -> None:
    single = set(re.findall(rf"TABLE IF NOT EXISTS {ALL}\.(\w+)", "\n".join(statements("schema.sql"))))
    found = "\n".join(statements("cluster.sql"))
    local = dict(re.findall(rf"(?s)TABLE IF NOT EXISTS {LOCAL}\.(\w+)[^;]*?ENGINE = (\w+)", found + ";"))
    assert local.keys() == single
    assert {engine for name, engine in local.items() if name != "incoming"} == {
        "ReplicatedReplacingMergeTree",
        "ReplicatedAggregatingMergeTree",
    }
    asking = "".join(file.read_text() for file in sorted(Path("tcpnewconn/report").glob("clickhouse*.py")))
    asked = set(re.findall(r"FROM (\w+)", asking)) - {"tcpnewconn"}
    assert asked <= set(re.findall(rf"TABLE IF NOT EXISTS {ALL}\.(\w+)", found))
