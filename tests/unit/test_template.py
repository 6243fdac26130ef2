"""Entries made from the entry of a similar connection: each is what it would be if it were made by itself."""

from __future__ import annotations

import pytest

from tcpnewconn.attribution.units import Units
from tcpnewconn.attribution.users import Users
from tcpnewconn.eventtypes import Connection
from tcpnewconn.model import CLOSE, Endpoint
from tcpnewconn.reporting.entries import Renderer
from tcpnewconn.reporting.outbox import Outbox
from tcpnewconn.reporting.template import Template
from tcpnewconn.settings.config import load
from tests.support.sink import Kept

V4, OTHER_V4 = bytes([10, 0, 0, 80]), bytes([10, 0, 0, 5])
V6, OTHER_V6 = bytes(14) + b"\0\x01", b"\x20\x01\x0d\xb8" + bytes(11) + b"\x80"


def connection(source: bytes, destination: bytes, port: int = 80, name: str = "boot-net-1") -> Connection:
    return Connection(Endpoint(source, port), Endpoint(destination, 80), "ingress", "notification", name, CLOSE)


@pytest.mark.parametrize("port", [80, 8080, 1, 65535])
@pytest.mark.parametrize(
    ("source", "destination"), [(V4, OTHER_V4), (OTHER_V4, V4), (V6, OTHER_V6), (V4, V4), (V6, V6)]
)
def test_an_entry_is_as_if_made_by_itself(source: bytes, destination: bytes, port: int) -> None:
    renderer = Renderer(Units(), Users())
    template = Template(connection(source, destination), renderer)
    for name in ("boot-net-2", "boot-net-r3"):
        made = template.entry(port, name)
        by_itself = renderer.entry(connection(source, destination, port, name))
        assert made == by_itself
        # In this order they are written.
        assert list(made) == list(by_itself)


def outbox(sink: Kept, limits: str) -> Outbox:
    settings = load("/dev/null")
    burst, total = map(int, limits.split())
    return Outbox(sink, None, Renderer(Units(), Users()), settings._replace(burst_limit=burst, total_limit=total))


@pytest.mark.parametrize("limits", ["0 0", "100 0", "0 1000"])
def test_there_is_a_template_where_each_is_logged_by_itself(limits: str) -> None:
    event, made = connection(V4, OTHER_V4), outbox(Kept(), limits)
    assert isinstance(made.repeatable(event, True), Template) is (limits == "0 0")
    assert made.repeatable(event, False) is None


def test_one_more_than_can_wait_is_not_logged_by_a_template() -> None:
    sink = Kept(blocked=True)
    full = outbox(sink, "0 0")
    event = connection(V4, OTHER_V4)
    template = full.repeatable(event, True)
    assert isinstance(template, Template)
    count = 0
    while full.log(template, 1024 + count, f"boot-net-{count}"):
        count += 1
        assert count <= 10_000
        full.deliver(redeliverable=True)
    assert count == full.waiting == 10_000
    # It is counted, then.
    full.take(event)
    sink.blocked = False
    full.deliver()
    full.interval_over()
    assert [entry.get("TCPNEWCONN_COUNT") for entry in sink.entries] == [None] * count + ["1"]
