"""Ledgers as large as wished, written straight into their tables: what a page or a fleet is measured and tested with.

The model of a fleet: host number h has the address 10.100.(h / 250).(h % 250 + 1). Of its edges 3 of 10 go to services of other
hosts and 3 of 10 come from other hosts (in a small fleet fewer, where they would be the same), each of them in both ledgers;
1 of 10 goes outside, and the rest comes from there. Every edge has a row for each day.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from tcpnewconn.ledger import schema
from tests.support.month import BEGIN, DAY

# direction, port, unit, process, peer, connections a day
Edge = tuple[str, int, str, str, str, int]


def write(path: Path, host: str, edges: Iterable[Edge], addresses: Iterable[str], days: int = 3) -> Path:
    """A ledger of so many days, observed throughout."""
    db = schema.create_or_open(str(path))
    db.execute("PRAGMA synchronous = OFF")
    db.execute("BEGIN")
    services: dict[tuple[str, int, str, str], int] = {}
    service_rows, edge_rows, day_rows = [], [], []
    for number, (direction, port, unit, process, peer, count) in enumerate(edges, start=1):
        key = (direction, port, unit, process)
        if key not in services:
            services[key] = len(services) + 1
            service_rows.append((services[key], direction, port, 0, unit, process, "", "", ""))
        edge_rows.append((number, services[key], peer, BEGIN + 5, BEGIN + days * DAY - 5))
        for day in range(days):
            start = BEGIN + day * DAY
            day_rows.append((number, start, count, 0, 0, 0, 0, start + 5, start + DAY - 5))
    db.executemany("INSERT INTO service VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", service_rows)
    db.executemany("INSERT INTO edge VALUES (?, ?, ?, ?, ?)", edge_rows)
    db.executemany("INSERT INTO day VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", day_rows)
    db.executemany("INSERT INTO address VALUES (?, ?)", [(address, BEGIN + days * DAY - 5) for address in addresses])
    facts = [("host", host), ("peers", 250), ("last", BEGIN + days * DAY)]
    db.executemany("INSERT INTO fact VALUES (?, ?)", facts)
    db.execute(
        "INSERT INTO span VALUES (NULL, 'observed', ?, ?, ?, '')", (BEGIN, BEGIN + days * DAY, float(days * DAY))
    )
    db.execute("COMMIT")
    db.execute("PRAGMA journal_mode = DELETE")
    db.close()
    with contextlib.suppress(FileNotFoundError):
        path.with_name(f"{path.name}.lock").unlink()
    return path


def many_services(path: Path, services: int, seed: int = 1) -> Path:
    """One host with so many services, each with some clients and some destinations."""
    chance = random.Random(seed)
    edges: list[Edge] = []
    for number in range(services):
        unit, port = f"service-{number:04}.service", 1024 + number
        for _ in range(chance.randrange(1, 5)):
            peer = f"10.{chance.randrange(4)}.{chance.randrange(256)}.{chance.randrange(1, 255)}"
            edges.append(("ingress", port, unit, f"worker-{number}", peer, int(chance.paretovariate(0.8))))
        if number % 2:
            peer = f"192.0.2.{chance.randrange(1, 255)}"
            edges.append(("egress", 443, unit, f"worker-{number}", peer, int(chance.paretovariate(0.8))))
    unique = {(edge[0], edge[1], edge[2], edge[4]): edge for edge in edges}
    return write(path, "web1", unique.values(), ["10.0.0.5"], days=20)


def address_of(host: int) -> str:
    return f"10.100.{host // 250}.{host % 250 + 1}"


PORTS = (
    (443, "nginx.service", "nginx"),
    (5432, "postgresql.service", "postgres"),
    (6379, "redis.service", "redis-server"),
)


def fleet_edges(host: int, hosts: int, edges: int) -> list[Edge]:
    """The contents of this host's ledger, by the model."""
    own: list[Edge] = []
    among = min(edges * 3 // 10, (hosts - 1) * len(PORTS) * 2)
    for number in range(among):
        # The same pair from the other host's point of view: number says the distance, the port and the client's unit.
        step, port = number // (2 * len(PORTS)) % (hosts - 1) + 1, PORTS[number // 2 % len(PORTS)]
        client = ("app.service", "app") if number % 2 else ("cron.service", "curl")
        count = number % 97 + 1
        own.append(("egress", port[0], *client, address_of((host + step) % hosts), count))
        own.append(("ingress", port[0], port[1], port[2], address_of((host - step) % hosts), count))
    merged: dict[tuple[str, int, str, str, str], int] = {}
    for direction, number_of_port, unit, process, peer, count in own:
        key = (direction, number_of_port, unit, process, peer)
        merged[key] = merged.get(key, 0) + count
    for number in range(edges - len(merged) - edges // 10):
        merged["ingress", 443, "nginx.service", "nginx", f"203.0.{number // 250}.{number % 250 + 1}"] = number % 7 + 1
    for number in range(edges // 10):
        merged["egress", 443, "app.service", "app", f"198.51.{number // 250}.{number % 250 + 1}"] = number % 5 + 1
    return [(*key, count) for key, count in merged.items()]


def fleet(directory: Path, hosts: int, edges: int, days: int = 3) -> list[Path]:
    directory.mkdir(parents=True, exist_ok=True)
    return [
        write(
            directory / f"host{host:04}.db", f"host{host:04}", fleet_edges(host, hosts, edges), [address_of(host)], days
        )
        for host in range(hosts)
    ]


def edges_in(path: Path) -> int:
    with sqlite3.connect(path) as db:
        return int(db.execute("SELECT count(*) FROM edge").fetchone()[0])


def connections_in(path: Path) -> int:
    with sqlite3.connect(path) as db:
        return int(db.execute("SELECT coalesce(sum(connections), 0) FROM traffic").fetchone()[0])
