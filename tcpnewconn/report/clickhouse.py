"""Hosts' events in ClickHouse as sources of answers. monitoring/clickhouse/ has the tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tcpnewconn.ledger import schema
from tcpnewconn.ledger.coverage import Coverage
from tcpnewconn.ledger.peers import UNNAMED
from tcpnewconn.ledger.schema import HOUR
from tcpnewconn.ledger.tally import DEGRADED, LISTENER, LOSS, RECOVERED, SCAN, STARTED, STOPPED, moment
from tcpnewconn.report.book import Edge, Filter, Listener, Scan, Step
from tcpnewconn.report.clickhouse_http import Server
from tcpnewconn.report.observed import Span

# Of a host; the newest, as in a ledger.
_MOST_ADDRESSES = 256
_ADDRESS = (
    "if(startsWith(toString({0}), '::ffff:') AND position(toString({0}), '.') > 0, "
    "substring(toString({0}), 8), toString({0}))"
)
PEER = f"if(peer = toIPv6('::'), '{UNNAMED}', {_ADDRESS.format('peer')})"
_LOCAL = "direction, port, local_port, unit, process, user, container, accepted_by"


@dataclass(slots=True)
class _Known:
    """Of one host, apart from its edges. Losses are (start of the hour, reason, events)."""

    spans: list[Span] = field(default_factory=list)
    losses: list[tuple[int, str, int]] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)


class Events:
    """The hosts that have events on a server, all or those that are named, and their coverage. Raises schema.Unusable."""

    def __init__(self, server: Server, hosts: list[str]) -> None:
        self.server = server
        self._only = hosts
        bounds = {
            host: (float(first), float(last))
            for host, first, last in self.of_hosts(
                "SELECT host, toUnixTimestamp64Micro(min(first)) / 1e6, toUnixTimestamp64Micro(max(last)) / 1e6 "
                "FROM hours WHERE {hosts} GROUP BY host ORDER BY host"
            )
        }
        if missing := sorted(set(hosts) - bounds.keys()):
            raise schema.Unusable(f"{server.name}: there is nothing of {', '.join(missing)}")
        if not bounds:
            raise schema.Unusable(f"{server.name}: there are no events")
        self._known = {host: _Known() for host in bounds}
        self._load_coverage(bounds)
        for host, hour, reason, count in self.of_hosts(
            "SELECT host, toUnixTimestamp(toStartOfHour(toDateTime(time, 'UTC'))), "
            "JSONExtractString(event, 'tcpnewconn.reason'), sum(JSONExtractUInt(event, 'tcpnewconn.count')) "
            f"FROM notices FINAL WHERE action = '{LOSS}' AND {{hosts}} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        ):
            self._known[host].losses.append((int(hour), reason, int(count)))
        for host, address in self.of_hosts(
            f"SELECT host, {_ADDRESS.format('address')} FROM addresses WHERE {{hosts}} "
            f"GROUP BY host, address ORDER BY host, max(last) DESC, address LIMIT {_MOST_ADDRESSES} BY host"
        ):
            self._known[host].addresses.append(address)

    @property
    def hosts(self) -> list[str]:
        return list(self._known)

    def of_hosts(self, statement: str, **values: str | int | list[str]) -> Iterator[list[Any]]:
        """Rows of the wanted hosts, `{hosts}` in the statement."""
        if self._only:
            values["hosts"] = self._only
        return self.server.rows(
            statement.replace("{hosts}", "host IN {hosts:Array(String)}" if self._only else "host != ''"), **values
        )

    def _load_coverage(self, bounds: dict[str, tuple[float, float]]) -> None:
        marks: dict[str, list[tuple[float, str, str, list[str]]]] = {host: [] for host in bounds}
        for host, action, when, reason, until, ignore in self.of_hosts(
            "SELECT host, action, toUnixTimestamp64Micro(time) / 1e6, JSONExtractString(event, 'tcpnewconn.reason'), "
            "JSONExtractString(event, 'tcpnewconn.observed_until'), "
            "JSONExtract(event, 'tcpnewconn.ignore', 'Array(String)') FROM notices FINAL "
            f"WHERE action IN ('{STARTED}', '{STOPPED}', '{DEGRADED}', '{RECOVERED}') AND {{hosts}} ORDER BY host, time"
        ):
            marks[host].append((float(when), action, until if action == STARTED else reason, ignore))
        for host, (first, last) in bounds.items():
            self._known[host].spans = _spans(
                marks[host], self._last_before(host, _ended_unseen(marks[host])), first, last
            )

    def _last_before(self, host: str, starts: list[float]) -> dict[float, float]:
        """The last event that is known to be before each of these: of its own hour the first, if that is before it."""
        if not starts:
            return {}
        found = self.server.rows(
            "SELECT start, max(multiIf(toUnixTimestamp64Micro(last) < start, toUnixTimestamp64Micro(last), "
            "toUnixTimestamp64Micro(first) < start, toUnixTimestamp64Micro(first), 0)) / 1e6 "
            "FROM hours ARRAY JOIN {starts:Array(Int64)} AS start WHERE host = {host:String} GROUP BY start",
            host=host,
            starts=[round(start * 1e6) for start in starts],
        )
        return {int(start) / 1e6: float(last) for start, last in found}

    def source(self, host: str) -> HostEvents:
        return HostEvents(self.server, host, self._known[host])


def _ended_unseen(marks: list[tuple[float, str, str, list[str]]]) -> list[float]:
    """The starts that neither a stop was before nor that say until when the run before observed."""
    runs = [(when, action, detail) for when, action, detail, _ in marks if action in (STARTED, STOPPED)]
    return [
        when
        for (_, before, _), (when, action, until) in itertools.pairwise(runs)
        if before == action == STARTED and moment(until) is None
    ]


def _spans(
    marks: list[tuple[float, str, str, list[str]]], last_before: dict[float, float], first: float, last: float
) -> list[Span]:
    """From starts, stops and sources, in the order of their times, and the first and last event."""
    coverage, run = Coverage(), 0
    if not marks or first < marks[0][0]:
        coverage.entry(first, str(run))
    for when, action, detail, ignore in marks:
        if action == STARTED:
            if coverage.observed is not None and last_before.get(when, 0.0) > coverage.observed.stop:
                coverage.entry(last_before[when], str(run))
            run += 1
            coverage.started(when, str(run), moment(detail), " ".join(ignore))
        elif action == STOPPED:
            coverage.stopped(when)
        else:
            coverage.entry(when, str(run))
            if action == DEGRADED:
                coverage.source_degraded(detail, when)
            else:
                coverage.source_recovered(detail, when)
    if coverage.last is None or last > coverage.last:
        coverage.entry(last, str(run))
    found = coverage.changed
    if coverage.observed is not None:
        for span in coverage.degraded.values():
            span.stop = max(span.stop, coverage.observed.stop)
        found = [*found, *coverage.degraded.values(), coverage.observed]
    return sorted(Span(one.kind, one.start, one.stop, one.stop - one.start, one.detail) for one in found)


class HostEvents:
    """One host's events on a server. A book.Source."""

    widened = "The ledger keeps hours: the period is widened to whole ones."
    removed = ""
    unnamed = (
        "Summaries of bursts do not name every peer: connection counts are exact, numbers of clients with >= are at least "
        "that."
    )

    def __init__(self, server: Server, host: str, known: _Known) -> None:
        self._server = server
        self._known = known
        self.host = host
        self.name = f"{server.name}: {host}"
        self.begins = min((span.start for span in known.spans), default=0.0)
        self.ends = max((span.stop for span in known.spans), default=0.0)

    def resolution(self, when: float) -> int:
        return HOUR

    def edges(self, wanted: Filter, since: float, until: float) -> Iterator[Edge]:
        """`known` is exact where all of the time is asked for."""
        condition, values = where(wanted, since, until)
        for row in self._server.rows(
            f"SELECT {_LOCAL}, {PEER}, sum(connections) + sum(summarized), sum(summarized), sum(failed), "
            "sum(source_bytes), sum(destination_bytes), min(toUnixTimestamp(hour) + first) AS f, "
            "max(toUnixTimestamp(hour) + last), uniqExact(toDate(hour)), f "
            f"FROM edges_now WHERE host = {{host:String}} AND {condition} GROUP BY {_LOCAL}, peer ORDER BY f, {_LOCAL}, peer",
            host=self.host,
            **values,
        ):
            yield Edge(*row[:9], *map(int, row[9:]))

    def series(self, wanted: Filter, since: float, until: float, step: int) -> Iterator[tuple[Step, str]]:
        condition, values = where(wanted, since, until)
        peer = PEER if wanted.networks else "''"
        for direction, port, local_port, unit, accepted_by, start, of, count in self._server.rows(
            f"SELECT direction, port, local_port, unit, accepted_by, intDiv(toUnixTimestamp(hour), {step}) * {step} AS start, "
            f"{peer} AS of, sum(connections) + sum(summarized) FROM edges_now WHERE host = {{host:String}} AND {condition} "
            "GROUP BY direction, port, local_port, unit, accepted_by, start, of",
            host=self.host,
            **values,
        ):
            yield Step(direction, port, local_port, unit, accepted_by, int(start), int(count)), of

    def added_up(self, directions: tuple[str, ...], since: float, until: float) -> int:
        return 0

    def listeners(self) -> Iterator[Listener]:
        def text(name: str, other: str = "''") -> str:
            found = f"JSONExtractString(event, '{name}')"
            return found if other == "''" else f"if({found} != '', {found}, {other})"

        for row in self._server.rows(
            f"SELECT {text('destination.address')} AS address, JSONExtractUInt(event, 'destination.port') AS port, "
            f"{text('object.systemd_user_unit', text('object.systemd_unit'))} AS unit, {text('process.name')} AS process, "
            f"{text('user.name', text('user.id'))} AS user, {text('container.name', text('container.id'))} AS container, "
            f"min(toUnixTimestamp(time)), max(toUnixTimestamp(time)) FROM notices WHERE host = {{host:String}} AND "
            f"action = '{LISTENER}' GROUP BY address, port, unit, process, user, container ORDER BY port, address, unit",
            host=self.host,
        ):
            yield Listener(row[0], int(row[1]), *row[2:6], *map(int, row[6:]))

    def scans(self, since: float, until: float) -> Iterator[Scan]:
        for source, count, ports, last in self._server.rows(
            "SELECT JSONExtractString(event, 'source.address') AS source, count(), "
            "arrayStringConcat(argMax(JSONExtract(event, 'tcpnewconn.ports', 'Array(UInt16)'), time), ','), "
            "max(toUnixTimestamp(time)) AS last FROM notices FINAL WHERE host = {host:String} AND "
            f"action = '{SCAN}' AND {_HOURS.format(_HOUR_OF_TIME)} "
            "GROUP BY source ORDER BY last DESC, source",
            host=self.host,
            **_hours(since, until),
        ):
            yield Scan(source, int(count), ports, int(last))

    def addresses(self) -> list[str]:
        return self._known.addresses

    def spans(self, since: float, until: float) -> list[Span]:
        return [span for span in self._known.spans if span.stop > since and span.start < until]

    def lost(self, since: float, until: float) -> dict[str, int]:
        found: dict[str, int] = {}
        for hour, reason, count in self._known.losses:
            if hour < until and hour + HOUR > since:
                found[reason] = found.get(reason, 0) + count
        return found


def _hours(since: float, until: float) -> dict[str, int]:
    return {"after": max(0, math.floor(since) - HOUR), "until": math.ceil(until)}


# The hours that touch a period.
_HOURS = "{0} < toDateTime({{until:UInt32}}) AND {0} > toDateTime({{after:UInt32}})"
_HOUR_OF_TIME = "toStartOfHour(toDateTime(time, 'UTC'))"


def where(wanted: Filter, since: float, until: float) -> tuple[str, dict[str, Any]]:
    """The condition on edges of these hours, and the values of its parameters."""
    conditions = [_HOURS.format("hour")]
    values: dict[str, Any] = dict(_hours(since, until))
    for number, (columns, given) in enumerate(wanted.conditions()):
        kind = "UInt16" if isinstance(given[0], int) else "String"
        conditions.append("(" + " OR ".join(f"{name} IN {{f{number}:Array({kind})}}" for name in columns) + ")")
        values[f"f{number}"] = list(given)
    return " AND ".join(conditions), values
