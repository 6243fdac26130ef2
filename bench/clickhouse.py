"""Events of a fleet in ClickHouse: what they take on disk, how fast they go in, and how long each question takes."""

from __future__ import annotations

import http.client
import json
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from bench.ledger import measured
from bench.results import Group, Result, at_most
from tests.support.clickhouse import Engine, engine

_START = 1_790_000_000 // 86400 * 86400
_HOSTS, _PER_SECOND = 20, 50
_HOST = "host0001"
# Connections that are drawn, and how often they are inserted; hosts, days, and edges of an hour.
EVENTS = (4_000_000, 5)
YEAR = ((5, 25), 365, 100)
_SERVICES = (
    (443, "nginx", "nginx", "www-data"),
    (5432, "postgresql", "postgres", "postgres"),
    (6379, "redis", "redis-server", "redis"),
    (22, "ssh", "sshd", "root"),
    (9100, "node-exporter", "node_exporter", "prometheus"),
    (8080, "app", "java", "app"),
    (80, "haproxy", "haproxy", "haproxy"),
    (3306, "mysql", "mysqld", "mysql"),
)
QUESTIONS: tuple[tuple[str, ...], ...] = (
    ("overview",),
    ("who", "5432"),
    ("to", "app.service"),
    ("new", "--since", f"@{_START + 3600}"),
    ("quiet",),
    ("allow", "postgresql.service"),
)


def _list(column: int) -> str:
    return "[" + ", ".join(repr(one[column]) for one in _SERVICES) + "][service + 1]"


def _drawn(count: int) -> str:
    """Connections number 0 and on, of all hosts in turn. The distribution is that of the group's first remark."""
    return f"""
CREATE TABLE tcpnewconn.drawn ENGINE = MergeTree ORDER BY tuple() AS
WITH
    number % {_HOSTS} AS h, intDiv(number, {_HOSTS}) AS k,
    toUInt64({_START}) * 1000000 + toUInt64((k + rand(1) / 4294967296.) / {_PER_SECOND} * 1000000) AS us,
    rand(2) / 4294967296. AS a, rand(3) / 4294967296. AS b, rand(4) / 4294967296. AS c,
    multiIf(a < 0.6, 'ingress', a < 0.95, 'egress', 'internal') AS way,
    toUInt8(8 * pow(b, 2)) AS service,
    h % 10 = 0 AND service = 0 AND way = 'ingress' AS public,
    IPv4ToIPv6(toIPv4(if(public, 3405803776, 167837696) + toUInt32(if(public, 100000 * pow(c, 4), 40 * pow(c, 2))))) AS peer,
    toIPv6('::ffff:10.0.' || toString(h) || '.1') AS own
SELECT
    'host' || leftPad(toString(h), 4, '0') AS host, toStartOfHour(toDateTime(intDiv(us, 1000000), 'UTC')) AS hour,
    'connection-opened' AS action, way AS direction, toUInt16({_list(0)}) AS destination_port, {_list(1)} || '.service' AS unit,
    {_list(2)} AS process, {_list(3)} AS user, if(way = 'ingress', peer, own) AS source,
    if(way = 'egress', peer, own) AS destination, if(way = 'internal', unit, '') AS accepted_by,
    fromUnixTimestamp64Micro(toInt64(us), 'UTC') AS time, toUInt16(32768 + rand(5) % 28232) AS source_port,
    lower(hex(cityHash64(h))) || '-4026531840-' AS place, k + rand(7) % 3 AS number,
    toUInt32(1000 + service * 10 + rand(6) % 8) AS pid, pid AS thread, process AS thread_name,
    if(rand(8) % 2 = 0, 'socket', 'socket,accept') AS attributed_by, if(rand(9) % 5 < 2, 'poll', 'notification') AS detected_by,
    'established' AS state
FROM numbers({count})
"""


_COLUMNS = (
    "host, hour, action, direction, destination_port, unit, process, user, source, destination, accepted_by, time, "
    "source_port, place, number, pid, thread, thread_name, attributed_by, detected_by, state"
)


def events(small: bool) -> Group:
    """Many events of 20 hosts, and each question to them."""
    drawn, passes = (200_000, 2) if small else EVENTS
    seconds = drawn // _HOSTS // _PER_SECOND
    with (
        tempfile.TemporaryDirectory(prefix="tcpnewconn-bench-", dir="/var/tmp") as scratch,
        engine(Path(scratch)) as made,
    ):
        results = _inserted(made, small)
        for name in ("events", "hours", "addresses"):
            made.run(f"TRUNCATE TABLE tcpnewconn.{name}")
        made.run(_drawn(drawn))
        began = time.perf_counter()
        for number in range(passes):
            made.run(
                f"INSERT INTO tcpnewconn.events ({_COLUMNS}) SELECT * REPLACE ("
                f"time + toIntervalMicrosecond({number * seconds * 1_000_000} + rand(1) % 20000) AS time, "
                f"number + {number * drawn // _HOSTS} AS number, toUInt16(32768 + rand(2) % 28232) AS source_port, "
                "toUInt32(pid - pid % 8 + rand(3) % 8) AS pid, "
                "toStartOfHour(toDateTime(time, 'UTC')) AS hour) FROM tcpnewconn.drawn"
            )
        rate = drawn * passes / (time.perf_counter() - began)
        results.append(Result("rows inserted per second, with their views", f"{rate:,.0f}"))
        for host in range(_HOSTS):
            made.insert([_start(f"host{host:04}", _START)])
        results.append(Result("bytes per event on disk, before merges", f"{_bytes(made, 'events'):.1f}"))
        made.run("OPTIMIZE TABLE tcpnewconn.events FINAL")
        results.append(Result("bytes per event on disk, merged", f"{_bytes(made, 'events'):.1f}"))
        table = [["question about one host", "from its events", "from its edges"]]
        live = [_asked(made, one) for one in QUESTIONS]
        began = time.perf_counter()
        made.refresh()
        took = time.perf_counter() - began
        results.append(Result("events counted into edges per second", f"{drawn * passes / took:,.0f} ({took:.0f} s)"))
        made.settle()
        results.append(Result("bytes per edge and hour on disk", f"{_bytes(made, 'edges'):.1f}"))
        ((edges,),) = made.ask("SELECT count() FROM edges FINAL")
        results.append(Result("edges", f"{int(edges):,}, of {drawn * passes:,} events"))
        settled = [_asked(made, one) for one in QUESTIONS]
        for question, one, two in zip(QUESTIONS, live, settled, strict=True):
            table.append([" ".join(question[:2]), str(one), str(two)])
        results.append(at_most("slowest question about one host, from edges", max(settled).wall, 2, " s"))
        fleet = measured(["report", "--clickhouse", made.url, "--output", "html"])
        results.append(
            Result(f"the page of all {_HOSTS} hosts, from edges", f"{fleet.wall:.1f} s, {fleet.peak:.0f} MiB")
        )
    return Group(
        f"ClickHouse: {drawn * passes:,} events of {_HOSTS} hosts",
        results,
        table,
        [
            f"{drawn:,} connections are drawn, {_PER_SECOND} a second on each host, and inserted {passes} times, later each "
            "time, with other ports and moments. 60 % come in, 35 % go out, 5 % stay within the host. Of eight services the "
            "first has a third. A service has 40 peers, the first of them the most; two hosts have a public one with 100,000 "
            "clients, a few of them most. Times and source ports are uniform. The host that is asked about is none of the two.",
            "A question is a run of `tcpnewconn report`, from its start to its end; in brackets, CPU time of it and the engine.",
        ],
    )


def _start(host: str, when: int) -> str:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
    return json.dumps({"@timestamp": stamp, "host.name": host, "event.action": "observation-started"})


class Asked(NamedTuple):
    """Seconds, and seconds of CPU time of the program and the engine: on a machine that does other things, too."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} s ({self.cpu:.2f})"


def _asked(made: Engine, question: tuple[str, ...]) -> Asked:
    def once() -> Asked:
        before = _cpu(made.pid)
        program = measured(["report", *question, "--clickhouse", made.url, "--host", _HOST])
        return Asked(program.wall, program.cpu + _cpu(made.pid) - before)

    return min(once() for _ in range(2))


def _cpu(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _bytes(made: Engine, table: str) -> float:
    """Per row."""
    ((found,),) = made.ask(
        "SELECT sum(bytes_on_disk) / sum(rows) FROM system.parts "
        f"WHERE active AND database = 'tcpnewconn' AND table = '{table}'"
    )
    return float(found)


def _inserted(made: Engine, small: bool) -> list[Result]:
    """JSON lines by way of `incoming`, in batches as one host's rsyslog sends them, and as a server gathers them."""
    results = []
    for size, batches in ((2_000, 20), (100_000, 5)) if not small else ((200, 2), (2_000, 2)):
        bodies = [_statement(number * size, size) for number in range(batches)]
        connection = http.client.HTTPConnection("127.0.0.1", made.port, timeout=600)
        began = time.perf_counter()
        for body in bodies:
            connection.request("POST", "/", body)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"an insert had the status {answer.status}")
        took = time.perf_counter() - began
        connection.close()
        results.append(
            Result(
                f"JSON lines inserted per second, {size:,} at a time",
                f"{size * batches / took:,.0f} ({sum(map(len, bodies)) / size / batches:.0f} bytes each)",
            )
        )
    return results


def _statement(first: int, count: int) -> bytes:
    """As rsyslog writes it."""
    rows = []
    for number in range(first, first + count):
        port, unit, process, user = _SERVICES[number % 8]
        source = f"10.0.{number % 7}.{number % 250 + 1}"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(_START + number // _PER_SECOND))
        line = {
            "@timestamp": f"{stamp}.{number % 1_000_000:06}+00:00",
            "ecs.version": "8.17.0",
            "host.name": _HOST,
            "message": f"New connection: {source}:{32768 + number % 28232} -> 10.0.0.5:{port}",
            "message_id": "74ba465b9f4e456585146b89bb95f0dc",
            "priority": 6,
            "event.action": "connection-opened",
            "event.category": ["network"],
            "event.type": ["connection", "start"],
            "event.outcome": "success",
            "source.address": source,
            "source.ip": source,
            "source.port": 32768 + number % 28232,
            "destination.address": "10.0.0.5",
            "destination.ip": "10.0.0.5",
            "destination.port": port,
            "network.transport": "tcp",
            "network.type": "ipv4",
            "network.direction": "ingress",
            "network.community_id": "1:wCb3OG7yAFWelaUydu0D+125CLM=",
            "network.connection.state": "established",
            "user.id": "33",
            "user.name": user,
            "object.systemd_unit": f"{unit}.service",
            "process.pid": 1234,
            "process.name": process,
            "tcpnewconn.detected_by": "notification",
            "tcpnewconn.connection_id": f"{'d' * 32}-4026532246-{number:x}",
            "tcpnewconn.attributed_by": ["socket", "accept"],
        }
        rows.append(f"('{json.dumps(line)}')")
    return ("INSERT INTO tcpnewconn.incoming (event) VALUES " + "".join(rows)).encode()


def year(small: bool) -> Group:
    """A year of edges, of more and more hosts."""
    steps, days, per_hour = ((2, 4), 3, 20) if small else YEAR
    with (
        tempfile.TemporaryDirectory(prefix="tcpnewconn-bench-", dir="/var/tmp") as scratch,
        engine(Path(scratch)) as made,
    ):
        table = [["question about one host", *(f"with {hosts} hosts" for hosts in steps)]]
        columns: list[list[Asked]] = []
        results = []
        before = 0
        began = int(time.time()) // 86400 * 86400 - days * 86400
        for hosts in steps:
            for first in range(0, days, 30):
                _add_edges(made, began + first * 86400, min(30, days - first), before, hosts, per_hour)
            made.run(
                "INSERT INTO tcpnewconn.hours SELECT host, hour, hour, hour + 3599, 0 FROM tcpnewconn.edges "
                f"WHERE host >= 'host{before:04}' GROUP BY host, hour"
            )
            made.insert([_start(f"host{host:04}", began) for host in range(before, hosts)])
            made.run("ALTER TABLE tcpnewconn.hours UPDATE received = 0 WHERE 1 SETTINGS mutations_sync = 2")
            made.run("TRUNCATE TABLE tcpnewconn.refreshes")
            made.run(f"INSERT INTO tcpnewconn.refreshes VALUES ({began}), ({began + 1})")
            made.run("OPTIMIZE TABLE tcpnewconn.edges FINAL")
            before = hosts
            columns.append([_asked(made, one) for one in QUESTIONS])
            fleet = measured(["report", "--clickhouse", made.url, "--since", f"@{began + (days - 1) * 86400}"])
            results.append(
                Result(f"the overview of {hosts} hosts, of one day", f"{fleet.wall:.1f} s, {fleet.peak:.0f} MiB")
            )
        for number, question in enumerate(QUESTIONS):
            table.append([" ".join(question[:2]), *(str(column[number]) for column in columns)])
        ((rows,),) = made.ask("SELECT count() FROM edges")
        results = [
            Result("edges and hours", f"{int(rows):,}: {days} days of {steps[-1]} hosts, {per_hour} edges an hour"),
            Result("bytes per edge and hour on disk", f"{_bytes(made, 'edges'):.1f}"),
            at_most("slowest question about one host", max(columns[-1]).wall, 2, " s"),
            *results,
        ]
    return Group(
        f"ClickHouse: {days} days of edges",
        results,
        table,
        [
            f"In each hour a host has {per_hour} of its 1,000 edges, the first of them most often, with 1 to 400 "
            "connections each, of eight services.",
            "A question is a run of `tcpnewconn report` about all of that time, from its start to its end; in brackets, CPU time "
            "of it and the engine.",
        ],
    )


def _add_edges(made: Engine, first: int, days: int, before: int, hosts: int, per_hour: int) -> None:
    """Of so many days, and the hosts from `before` up to `hosts`."""
    count = (hosts - before) * days * 24 * per_hour
    made.run(f"""
INSERT INTO tcpnewconn.edges
WITH
    {before} + number % {hosts - before} AS h, intDiv(number, {hosts - before}) AS k,
    toUInt32(1000 * pow(rand(1) / 4294967296., 2)) AS e, toUInt8(e % 8) AS service
SELECT
    'host' || leftPad(toString(h), 4, '0') AS host, toDateTime({first} + intDiv(k, {per_hour}) * 3600, 'UTC') AS hour,
    if(e % 3 < 2, 'ingress', 'egress') AS direction, toUInt16({_list(0)}) AS port, 0, {_list(1)} || '.service', {_list(2)},
    {_list(3)}, '', '', IPv4ToIPv6(toIPv4(167837696 + e)), 1 + toUInt64(400 * pow(rand(2) / 4294967296., 3)), 0, 0, 0, 0,
    rand(3) % 1800, 1800 + rand(4) % 1800, {first}
FROM numbers({count})
""")
