"""Every question to a ledger, answered from the truth of a month, and compared."""

from __future__ import annotations

import functools
import ipaddress
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from tcpnewconn.ledger import schema
from tcpnewconn.report import allow, questions
from tcpnewconn.report.book import Book, Filter, Source
from tcpnewconn.report.sqlite import Ledger
from tests.support.month import DAY, HOUR, Fact, Month, Service, resolved

Sums = tuple[int, int, int, int, int, int, int]
# In place of a peer.
UNNAMED = ("others", "unnamed")
# The same peers are asked for again and again.
_network = functools.cache(ipaddress.ip_network)


def sums(facts: Iterable[tuple[Fact, str]], key: Callable[[Fact, str], Any]) -> dict[Any, Sums]:
    """Connections, summarized, failed, bytes each way, first and last, by a key."""
    found: dict[Any, Sums] = {}
    for fact, peer in facts:
        name = key(fact, peer)
        before = found.get(name, (0, 0, 0, 0, 0, fact.when, fact.when))
        found[name] = (
            before[0] + fact.connections + fact.summarized,
            before[1] + fact.summarized,
            before[2] + fact.failed,
            before[3] + fact.source_bytes,
            before[4] + fact.destination_bytes,
            min(before[5], fact.when),
            max(before[6], fact.when),
        )
    return found


def of_lines(lines: Iterable[questions.Line]) -> dict[Any, Sums]:
    return {
        line.name: (
            line.connections,
            line.summarized,
            line.failed,
            line.source_bytes,
            line.destination_bytes,
            line.first,
            line.last,
        )
        for line in lines
    }


def accepting(service: Service) -> str:
    return service.accepted_by if service.direction == "internal" else service.unit


class Truth:
    """The facts of a month as a ledger that keeps so many peers must have them; in a period if one is given."""

    def __init__(self, month: Month, most_peers: int, since: float | None = None, until: float | None = None) -> None:
        self.month = month
        self.whole = resolved(month.facts, most_peers)
        self.facts = [
            (fact, peer)
            for fact, peer in self.whole
            if (since is None or fact.when >= since) and (until is None or fact.when < until)
        ]

    def of(self, *directions: str) -> list[tuple[Fact, str]]:
        return [(fact, peer) for fact, peer in self.facts if fact.service.direction in directions]

    def services(self) -> dict[Any, Sums]:
        return sums(
            self.of("ingress", "internal"),
            lambda f, _: (
                f.service.port,
                accepting(f.service),
                *(("", "") if f.service.direction == "internal" else (f.service.process, f.service.container)),
            ),
        )

    def outgoing(self) -> dict[Any, Sums]:
        return sums(self.of("egress", "internal"), lambda f, _: (f.service.unit, f.service.process))

    def users(self, subject: str) -> dict[Any, Sums]:
        def key(fact: Fact, peer: str) -> Any:
            service = fact.service
            internal = service.direction == "internal"
            return (
                "this host" if internal else peer,
                service.unit if internal else "",
                service.local_port or service.port,
                accepting(service),
            )

        def asked(service: Service) -> bool:
            if subject.isdecimal():
                return int(subject) in (service.port, service.local_port)
            return accepting(service) == subject

        return sums([one for one in self.of("ingress", "internal", "unknown") if asked(one[0].service)], key)

    def destinations(self, unit: str) -> dict[Any, Sums]:
        own = [one for one in self.of("egress", "internal", "unknown") if one[0].service.unit == unit]
        return sums(own, lambda f, peer: (peer, f.service.port, f.service.accepted_by, f.service.process))

    def first_seen(self) -> dict[tuple[Service, str], int]:
        found: dict[tuple[Service, str], int] = {}
        for fact, peer in self.whole:
            found[fact.service, peer] = min(found.get((fact.service, peer), fact.when), fact.when)
        return found

    def observed(self, since: float, until: float) -> float:
        """Seconds, second by second: simple. Spans can overlap."""
        marks = bytearray(max(0, round(until) - round(since)))
        for start, stop in self.month.observed:
            begin, end = (round(min(max(edge, since), until)) - round(since) for edge in (start, stop))
            marks[begin:end] = b"\1" * (end - begin)
        return sum(marks)


def check(path: str, month: Month, most_peers: int, since: float | None = None, until: float | None = None) -> None:
    """All questions to a ledger, against the truth. `since` and `until` on the bounds of what the ledger keeps."""
    with schema.reading(path) as db:
        check_source(Ledger(db, path), month, most_peers, since, until)


def check_source(
    source: Source, month: Month, most_peers: int, since: float | None = None, until: float | None = None
) -> None:
    """Likewise to any source of answers."""
    truth = Truth(month, most_peers, since, until)
    book = Book(source, Filter(since, until))
    overview = questions.overview(book)
    assert of_lines(overview.services) == truth.services()
    assert of_lines(overview.outgoing) == truth.outgoing()
    every = [fact for fact, _ in truth.facts]
    assert overview.connections == sum(fact.connections + fact.summarized for fact in every)
    assert overview.summarized == sum(fact.summarized for fact in every)
    assert overview.failed == sum(fact.failed for fact in every)
    _check_scans(overview, month, since, until)
    for subject in ("443", "22", "5432", "8080", "9000", "80", "1790", "7777", "ssh.service", "postgresql.service"):
        users = questions.who_uses(book, subject)
        expected = truth.users(subject)
        assert of_lines(users.lines) == expected
        assert users.verdict.startswith("Nobody used ") == (not expected)
        assert book.coverage.percent() in users.verdict
    for unit in ("app.service", "backup.service", "bird.service", "nginx.service"):
        destinations = questions.destinations_of(book, unit)
        assert of_lines(destinations.lines) == truth.destinations(unit)
    _check_coverage(book, truth)
    _check_allow(book, truth)
    if since is None and until is None:
        for day in (0, 1, 12, 13, 22, 23, 29):
            _check_new(book, truth, month.facts[0].when // DAY * DAY + day * DAY)
        for days in (1, 5, 11, 25):
            _check_quiet(book, truth, days)


def _check_scans(overview: questions.Overview, month: Month, since: float | None, until: float | None) -> None:
    expected = [
        (source, 1, ports, when)
        for when, source, ports in month.scans
        if (since is None or when >= since) and (until is None or when < until)
    ]
    assert [tuple(scan) for scan in overview.scans] == expected


def _check_coverage(book: Book, truth: Truth) -> None:
    coverage = book.coverage
    assert abs(coverage.seconds - truth.observed(book.since, book.until)) <= 2 * len(truth.month.observed)
    lost: dict[str, int] = defaultdict(int)
    for (hour, reason), count in truth.month.lost.items():
        if book.since < hour + HOUR and hour < book.until:
            lost[reason] += count
    assert coverage.lost == lost
    inside = [one for one in truth.month.degraded if one[0] < book.until and one[1] > book.since]
    assert coverage.degraded == ({"notifications": inside[0][1] - inside[0][0]} if inside else {})


def _check_allow(book: Book, truth: Truth) -> None:
    for unit in ("nginx.service", "postgresql.service", "backup.service"):
        answer = allow.allow_list(book, unit)
        own = [one for one in truth.facts if accepting(one[0].service) == unit or one[0].service.unit == unit]
        hidden = [fact for fact, peer in own if peer in UNNAMED]
        assert answer.connections == sum(fact.connections + fact.summarized for fact, _ in own)
        assert answer.refused == sum(fact.connections + fact.summarized for fact in hidden)
        networks = answer.networks()
        for peer in {peer for fact, peer in own if fact.service.direction != "internal"} - set(UNNAMED):
            own_network = _network(peer)
            assert any(one.version == own_network.version and own_network.subnet_of(one) for one in networks)  # type: ignore[arg-type]
        assert all(line.startswith("#") for line in (*allow.drop_in(answer), *allow.nftables(answer)))


def _check_new(book: Book, truth: Truth, since: int) -> None:
    """The peers first seen since a day begins, at the resolution that is kept."""
    answer = questions.new_since(book, since)
    first = truth.first_seen()
    old = {key for key, when in first.items() if when < since}
    known_services = {(s.port, accepting(s)) for s, _ in old if s.direction in ("ingress", "internal")}
    assert {line.name[:2] for line in answer.services} == {
        (service.port, accepting(service))
        for service, _ in first
        if service.direction in ("ingress", "internal") and (service.port, accepting(service)) not in known_services
    }
    known = defaultdict(set)
    for service, peer in old:
        if service.direction != "unknown" and peer not in UNNAMED:
            known[service.port, service.unit, service.direction == "ingress"].add(_network(peer))

    def fresh(service: Service, peer: str) -> bool:
        before = known[service.port, service.unit, service.direction == "ingress"]
        return peer not in UNNAMED and not any(
            one.version == _network(peer).version and one.overlaps(_network(peer)) for one in before
        )

    new = {key for key, when in first.items() if when >= since and fresh(*key)}
    assert {line.name for line in answer.peers} == {(p, s.port, s.unit) for s, p in new if s.direction == "ingress"}
    assert {line.name for line in answer.destinations} == {
        (s.unit, p, s.port) for s, p in new if s.direction in ("egress", "internal")
    }
    assert [one.port for one in answer.listeners] == sorted(
        service.port for when, service in truth.month.listeners if when >= since
    )


def _check_quiet(book: Book, truth: Truth, days: int) -> None:
    limit = book.ends - days * DAY
    last: dict[int, int] = defaultdict(int)
    for fact, _ in truth.whole:
        if fact.service.direction != "egress":
            last[fact.service.port] = max(last[fact.service.port], fact.when)
    expected = {
        (service.port, last[service.port])
        for when, service in truth.month.listeners
        if last[service.port] < limit and when < limit
    }
    assert {(line.name[1], line.last) for line in questions.quiet(book, days).lines} == expected
