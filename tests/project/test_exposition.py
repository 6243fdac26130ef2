"""promtool, which parses as Prometheus does, finds nothing to say about the metrics."""

import re

import pytest

from tcpnewconn.eventtypes import Closed, Connection, Degraded, Listener, Loss, PortScan
from tcpnewconn.health.counters import REASONS, SOURCES, Counters, ServiceStatistics
from tcpnewconn.health.metrics import exposition
from tcpnewconn.model import Endpoint
from tests.support import exposition as written
from tests.support.terminal import TREE

pytestmark = pytest.mark.apt

HERE, PEER = Endpoint(bytes([10, 0, 0, 5]), 22), Endpoint(bytes([203, 0, 113, 9]), 50000)


def busy() -> Counters:
    """Everything has happened."""
    counters = Counters()
    counters.connection(Connection(PEER, HERE, "ingress", "poll", "id", 1), True)
    for reason in REASONS:
        counters.event(Loss(1234567, reason, "lost"))
    for source in SOURCES:
        counters.event(Degraded(source, "missing"))
    counters.event(Listener(HERE, False))
    counters.event(PortScan(bytes(4), None, (1, 2, 3, 4)))
    counters.event(Closed(PEER, HERE, "ingress", "id", 1, 1, 1, 1, None))
    return counters


def first_file_of_the_package() -> str:
    (content,) = re.findall(r"(?m)^f (?:\S+ ){5}(.*)$", (TREE / "systemd" / "tcpnewconn.tmpfiles").read_text())
    return str(content).replace("\\n", "\n")


@pytest.mark.parametrize(
    "text",
    [
        exposition(Counters(), ServiceStatistics(10.0)),
        exposition(busy(), written.long_running()),
        first_file_of_the_package(),
    ],
    ids=["at the start", "after everything", "of the package"],
)
def test_prometheus_reads_the_metrics(text: str) -> None:
    written.check(text)
