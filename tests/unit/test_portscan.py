"""Port scans: noticed once, in order, and with bounded memory."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tcpnewconn.eventtypes import Connection, PortScan
from tcpnewconn.model import ESTABLISHED, Endpoint
from tcpnewconn.reporting import portscan as module
from tcpnewconn.reporting.portscan import PortScans

HERE = bytes([10, 0, 0, 5])


def source(number: int) -> bytes:
    return bytes([192, 0, 2, number])


def connected(scans: PortScans, number: int, port: int, now: float, direction: str = "ingress") -> PortScan | None:
    connection = Connection(
        Endpoint(source(number), 50000), Endpoint(HERE, port), direction, "notification", "id", ESTABLISHED
    )
    return scans.notice(connection, now)


def test_a_scan_is_noticed_at_the_port_that_is_one_too_many() -> None:
    scans = PortScans(3, 60.0)
    assert [connected(scans, 56, port, 0.0) for port in (83, 80, 82)] == [None] * 3
    assert connected(scans, 56, 81, 1.0) == PortScan(source(56), HERE, (80, 81, 82, 83))


def test_the_same_address_in_another_namespace_is_another_source() -> None:
    scans = PortScans(3, 60.0)
    for port, netns in ((80, 0), (81, 7), (82, 0), (83, 7), (84, 7)):
        connection = Connection(
            Endpoint(source(56), 50000), Endpoint(HERE, port), "ingress", "poll", "id", ESTABLISHED, netns=netns
        )
        assert scans.notice(connection, 0.0) is None
    last = connection._replace(destination=Endpoint(HERE, 85))
    assert scans.notice(last, 0.0) == PortScan(source(56), HERE, (81, 83, 84, 85), 7)


def test_once_per_source_and_period() -> None:
    scans = PortScans(3, 60.0)
    reported = [
        now / 2
        for now in range(300)
        if connected(scans, 1, 1000 + now, now / 2) is not None
    ]  # fmt: skip
    assert reported == [1.5, 61.5, 121.5]


def test_the_same_port_again_is_no_scan() -> None:
    scans = PortScans(3, 60.0)
    assert not any(connected(scans, 1, port, now) for now in range(50) for port in (80, 81, 82))


def test_slow_visits_are_no_scan() -> None:
    scans = PortScans(3, 60.0)
    assert not any(connected(scans, 1, port, port * 25.0) for port in range(100))


@pytest.mark.parametrize("direction", ["egress", "internal", "unknown"])
def test_only_connections_from_elsewhere_count(direction: str) -> None:
    scans = PortScans(3, 60.0)
    assert not any(connected(scans, 1, port, 0.0, direction) for port in range(100))


@pytest.mark.parametrize(
    ("netns", "ends", "counts"),
    [
        (4026532000, (source(1), HERE), True),
        (0, (source(1), HERE), False),
        (4026532000, (HERE, HERE), False),
        (4026532000, (bytes([127, 0, 0, 1]), bytes([127, 0, 0, 2])), False),
    ],
)
def test_those_from_another_namespace_of_this_host_count(netns: int, ends: tuple[bytes, bytes], counts: bool) -> None:
    scans = PortScans(3, 60.0)
    source, destination = (Endpoint(address, 50000) for address in ends)
    first = Connection(source, destination, "internal", "notification", "id", ESTABLISHED, netns=netns)
    found = [scans.notice(first._replace(destination=destination._replace(port=port)), 0.0) for port in range(4)]
    assert any(found) is counts


def test_off() -> None:
    scans = PortScans(0, 60.0)
    assert not any(connected(scans, 1, port, 0.0) for port in range(100))


def test_a_scan_from_many_addresses_is_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_SOURCES", 10)
    scans = PortScans(3, 60.0)
    for number in range(50):
        connected(scans, number, 80, float(number))
    assert len(scans._sources) == 10
    assert scans.evicted == 40
    for number in range(50):
        connected(scans, number, 80, 1000.0)
    # Those of long ago were not watched any more: nothing is lost with them.
    assert scans.evicted == 40 + 40


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6), st.floats(0, 30)), max_size=200), st.integers(1, 4))
@example([(2, 1, 0.0), (2, 2, 0.0), (2, 1, 1.0), (2, 2, 29.0), (2, 2, 30.0)], 1)
def test_as_defined(visits: list[tuple[int, int, float]], ports: int) -> None:
    """More than so many ports within a minute, not reported within a minute: the same as from the whole history."""
    scans = PortScans(ports, 60.0)
    now = 0.0
    history: dict[int, dict[int, float]] = defaultdict(dict)
    reported: dict[int, float] = {}
    for number, port, later in visits:
        now += later
        history[number][port] = now
        recent = sorted(port for port, at in history[number].items() if at > now - 60.0)
        notice = connected(scans, number, port, now)
        if len(recent) > ports and now >= reported.get(number, -1000.0) + 60.0:
            reported[number] = now
            assert notice is not None
            assert set(notice.ports) <= set(recent)
            assert list(notice.ports) == sorted(notice.ports)
            assert len(notice.ports) > ports
        else:
            assert notice is None
        assert len(scans._sources[source(number), 0].ports) <= max(ports + 1, 6)
