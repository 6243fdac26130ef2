"""Ledgers of several hosts, joined: an edge that both ends have seen is one."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tcpnewconn.report import fleet
from tcpnewconn.report.book import Filter
from tcpnewconn.report.fleet_report import fleet_report, write_csv, write_json
from tcpnewconn.report.sqlite import LedgerFile
from tests.support import ledgers
from tests.support.month import DAY

Link = tuple[str, str, str, str, int, int, str]


def links(paths: list[Path], wanted: Filter | None = None) -> list[Link]:
    with contextlib.closing(fleet.joined([LedgerFile(str(path)) for path in paths], wanted or Filter(), DAY)) as joined:
        return sorted(
            (
                one.opener or one.peer,
                one.opener_unit,
                one.acceptor or one.peer,
                one.acceptor_unit,
                one.port,
                one.connections,
                one.seen_by,
            )
            for one in joined.links()
        )


def host(directory: Path, name: str, addresses: list[str], *edges: ledgers.Edge) -> Path:
    return ledgers.write(directory / f"{name}.db", name, edges, addresses, days=2)


def test_an_edge_that_both_ends_have_seen_is_one(tmp_path: Path) -> None:
    web = host(tmp_path, "web1", ["10.0.0.1"], ("egress", 5432, "app.service", "app", "10.0.0.2", 5))
    db = host(tmp_path, "db1", ["10.0.0.2"], ("ingress", 5432, "postgresql.service", "postgres", "10.0.0.1", 5))

    assert links([web, db]) == [("web1", "app.service", "db1", "postgresql.service", 5432, 10, "both ends")]


def test_an_edge_that_one_end_has_seen_is_marked(tmp_path: Path) -> None:
    web = host(
        tmp_path,
        "web1",
        ["10.0.0.1"],
        ("egress", 5432, "app.service", "app", "10.0.0.2", 5),
        ("egress", 443, "app.service", "app", "198.51.100.1", 3),
        ("ingress", 443, "nginx.service", "nginx", "203.0.113.9", 4),
    )
    db = host(tmp_path, "db1", ["10.0.0.2"], ("ingress", 22, "ssh.service", "sshd", "10.0.0.1", 1))

    assert links([web, db]) == [
        ("203.0.113.9", "", "web1", "nginx.service", 443, 8, "acceptor only"),
        ("web1", "", "db1", "ssh.service", 22, 2, "acceptor only"),
        ("web1", "app.service", "198.51.100.1", "", 443, 6, "opener only"),
        ("web1", "app.service", "db1", "", 5432, 10, "opener only"),
    ]


def test_two_units_of_a_host_are_two_edges_to_the_same_service(tmp_path: Path) -> None:
    web = host(
        tmp_path,
        "web1",
        ["10.0.0.1"],
        ("egress", 5432, "app.service", "app", "10.0.0.2", 5),
        ("egress", 5432, "cron.service", "psql", "10.0.0.2", 1),
    )
    db = host(tmp_path, "db1", ["10.0.0.2"], ("ingress", 5432, "postgresql.service", "postgres", "10.0.0.1", 6))

    assert [one[1] for one in links([web, db])] == ["app.service", "cron.service"]
    assert {one[6] for one in links([web, db])} == {"both ends"}


def test_two_processes_of_a_unit_are_one_edge(tmp_path: Path) -> None:
    web = host(
        tmp_path,
        "web1",
        ["10.0.0.1"],
        ("egress", 5432, "app.service", "app", "10.0.0.2", 5),
        ("egress", 5432, "app.service", "worker", "10.0.0.2", 1),
    )
    db = host(tmp_path, "db1", ["10.0.0.2"], ("ingress", 5432, "postgresql.service", "postgres", "10.0.0.1", 6))

    assert links([web, db]) == [("web1", "app.service", "db1", "postgresql.service", 5432, 12, "both ends")]


def test_the_ends_of_two_edges_are_not_taken_for_one(tmp_path: Path) -> None:
    """db1 has seen web1, which did not see it; web2 has seen db1, which did not see that."""
    first = host(tmp_path, "web1", ["10.0.0.1"], ("egress", 5432, "app.service", "app", "10.0.0.3", 1))
    second = host(tmp_path, "web2", ["10.0.0.3"], ("egress", 5432, "app.service", "app", "10.0.0.2", 5))
    db = host(tmp_path, "db1", ["10.0.0.2"], ("ingress", 5432, "postgresql.service", "postgres", "10.0.0.1", 6))

    assert {one[6] for one in links([first, second, db])} == {"opener only", "acceptor only"}
    assert len(links([first, second, db])) == 3


def test_an_address_that_several_hosts_have_matches_where_the_other_end_has_seen_it(tmp_path: Path) -> None:
    web = host(tmp_path, "web1", ["10.0.0.1"], ("egress", 80, "app.service", "app", "10.88.0.1", 5))
    first = host(tmp_path, "db1", ["10.0.0.2", "10.88.0.1"], ("ingress", 80, "one.service", "one", "10.0.0.1", 5))
    second = host(tmp_path, "db2", ["10.0.0.3", "10.88.0.1"], ("ingress", 81, "two.service", "two", "10.0.0.9", 5))
    third = host(tmp_path, "db3", ["10.0.0.4"], ("egress", 99, "x.service", "x", "10.88.0.1", 1))

    found = links([web, first, second, third])

    assert ("web1", "app.service", "db1", "one.service", 80, 10, "both ends") in found
    assert ("db3", "x.service", "10.88.0.1", "", 99, 2, "opener only") in found
    assert len(found) == 3


@pytest.mark.parametrize(("hosts", "edges"), [(6, 60), (15, 200)])
def test_a_fleet_of_the_model_is_joined_exactly(hosts: int, edges: int, tmp_path: Path) -> None:
    paths = ledgers.fleet(tmp_path / "fleet", hosts, edges)
    expected: list[Link] = []
    for number in range(hosts):
        for direction, port, unit, _, peer, count in ledgers.fleet_edges(number, hosts, edges):
            other = next((at for at in range(hosts) if ledgers.address_of(at) == peer), None)
            own = f"host{number:04}"
            if direction == "egress":
                accepting = next(service for at, service, _ in ledgers.PORTS if at == port) if other is not None else ""
                acceptor = peer if other is None else f"host{other:04}"
                seen = "opener only" if other is None else "both ends"
                expected.append((own, unit, acceptor, accepting, port, 3 * count, seen))
            elif other is None:
                expected.append((peer, "", own, unit, port, 3 * count, "acceptor only"))

    assert links(paths) == sorted(expected)


def test_a_ledger_that_cannot_be_read_is_named_and_the_rest_is_joined(tmp_path: Path) -> None:
    web = host(tmp_path, "web1", ["10.0.0.1"], ("egress", 5432, "app.service", "app", "10.0.0.2", 5))
    (tmp_path / "bad.db").write_text("no ledger" * 1000)

    with contextlib.closing(
        fleet.joined([LedgerFile(str(tmp_path / "bad.db")), LedgerFile(str(web))], Filter(), DAY)
    ) as joined:
        assert len(list(joined.links())) == 1
        assert str(tmp_path / "bad.db") in joined.problems[0]
        assert any("bad.db" in note for note in fleet_report(joined).notes)


def test_csv_and_json_have_every_link(tmp_path: Path) -> None:
    paths = ledgers.fleet(tmp_path / "fleet", 8, 300)
    with contextlib.closing(fleet.joined([LedgerFile(str(path)) for path in paths], Filter(), DAY)) as joined:
        made = fleet_report(joined, most=10)
        comma, braces = io.StringIO(), io.StringIO()
        write_csv(joined, comma)
        write_json(joined, made, braces)
        count = sum(1 for _ in joined.links())
        assert len(made.tables[0].rows) == 10

    found: dict[str, Any] = json.loads(braces.getvalue())
    assert len(found["links"]) == count
    assert len(list(csv.DictReader(io.StringIO(comma.getvalue())))) == count
    assert len(found["hosts"]) == 8


def test_filters_hold_for_a_fleet_too(tmp_path: Path) -> None:
    web = host(
        tmp_path,
        "web1",
        ["10.0.0.1"],
        ("egress", 5432, "app.service", "app", "10.0.0.2", 5),
        ("ingress", 443, "nginx.service", "nginx", "203.0.113.9", 4),
    )
    db = host(tmp_path, "db1", ["10.0.0.2"], ("ingress", 5432, "postgresql.service", "postgres", "10.0.0.1", 5))

    assert [one[4] for one in links([web, db], Filter(ports=(443,)))] == [443]
