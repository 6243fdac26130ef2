"""The chain from tcpnewconn to a webhook: connections become a rate; each fault fires its alerts, and no others, until fixed."""

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import pytest

from monitoring.grafana.asking import expressions
from tests.support.booted import CONTAINER_ADDRESS
from tests.support.booted_events import traffic
from tests.support.booted_package import METRICS, drop_in, main_pid
from tests.support.monitoring_chain import INSTANCE, INTERVAL, LINK, MONITORING, SPEED, Chain, monitored

pytestmark = pytest.mark.xdist_group("monitoring")

# Clients that close first.
CONNECT = """
import socket, sys
for _ in range(int(sys.argv[2])):
    socket.create_connection((sys.argv[1], 80)).close()
"""
# Connections to one port after the other, of those on which LISTEN listens.
SCAN = """
import socket, sys
for port in range(8001, 8008):
    socket.create_connection((sys.argv[1], port)).close()
"""
LISTEN = """
import socket, time
listeners = [socket.create_server(("", port)) for port in range(8001, 8008)]
time.sleep(9999)
"""
RULES = sorted((MONITORING / "prometheus").glob("*.rules.yml"))
SERVICE = "tcpnewconn.service"
DASHBOARD = json.loads((MONITORING / "grafana" / "tcpnewconn.json").read_text())
WRONG = "/etc/tcpnewconn.conf.d/wrong.conf"


@dataclass
class Table:
    """The result: fault, alert, seconds until the webhook received it, and the wait of the shipped rule."""

    rows: list[tuple[str, str, float, float]] = field(default_factory=list)

    def __str__(self) -> str:
        rules = "".join(file.read_text() for file in RULES)
        waits = dict(re.findall(r"alert: (\w+)\n(?:.*\n)*?        for: (\w+)", rules))
        line = "{:36} {:26} {:>9} {:>9} {:>12}\n"
        table = line.format("fault", "alert", "fires, s", "ends, s", "shipped for")
        for fault, alert, fires, ends in self.rows:
            table += line.format(fault, alert, f"{fires:.1f}", f"{ends:.1f}", waits[alert])
        return table


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with monitored(tmp_path_factory.mktemp("monitoring")) as chain:
        yield chain


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    """Written to the file that TCPNEWCONN_ALERTS_TABLE names, too."""
    table = Table()
    yield table
    print(f"\n{table}")
    if file := os.environ.get("TCPNEWCONN_ALERTS_TABLE"):
        with open(file, "w") as written:
            written.write(str(table))


def peer_connects(chain: Chain, script: str, *arguments: str) -> None:
    chain.container.from_peer("/usr/bin/python3", "-c", script, CONTAINER_ADDRESS, *arguments)


def test_connections_made_are_counted_exactly_and_are_a_rate(chain: Chain) -> None:
    counter = 'tcpnewconn_connections_total{direction="ingress",family="ipv4"}'
    # One scrape that takes too long makes all series stale until the next one.
    (before,) = chain.wait_for(lambda: chain.values(counter), "the counter")
    peer_connects(chain, CONNECT, "23")
    chain.wait_for(lambda: chain.values(counter) == [before + 23], "23 connections")
    chain.wait_for(
        lambda: sum(chain.values('instance_direction:tcpnewconn_connections:rate5m{direction="ingress"}')) > 0, "a rate"
    )
    chain.wait_for(lambda: chain.values('tcpnewconn_lost_total{reason="notifications"}') == [0], "no loss")


def test_every_recording_rule_has_data(chain: Chain) -> None:
    def empty() -> list[str]:
        names = chain.container.from_peer("curl", "--silent", "http://127.0.0.1:9090/api/v1/rules?type=record")
        rules = [rule["name"] for group in json.loads(names)["data"]["groups"] for rule in group["rules"]]
        assert len(rules) > 5
        return [name for name in rules if not chain.query(name)]

    chain.wait_for(lambda: not empty(), "every recording rule to have data")


def test_every_expression_of_the_dashboard_has_data(chain: Chain) -> None:
    chosen = {"job": "node", "instance": INSTANCE}
    missing = {each.expr: each.title for each in expressions(DASHBOARD, chosen)}
    assert len(missing) > 40

    def all_were_seen() -> bool:
        for expr in list(missing):
            if any(math.isfinite(value) for value in chain.values(expr)):
                del missing[expr]
        return not missing

    # A restart is marked for a while only.
    chain.container.run("systemctl", "restart", SERVICE)
    try:
        chain.wait_for(all_were_seen, "every expression of the dashboard to have data", within=300)
    except AssertionError as error:
        raise AssertionError(f"{error}\nno data: {missing}") from None


@pytest.mark.parametrize(("name", "value"), [("job", "node"), ("instance", INSTANCE)])
def test_a_variable_of_the_dashboard_offers_the_host(chain: Chain, name: str, value: str) -> None:
    (variable,) = (each for each in DASHBOARD["templating"]["list"] if each["name"] == name)
    asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
    assert asked is not None

    def offered() -> set[str]:
        return {each["metric"][asked[2]] for each in chain.query(asked[1].replace("$job", ".*"))}

    chain.wait_for(lambda: offered() == {value}, "the host alone to be offered")


# --- faults: caused on entering, fixed on leaving -----------------------------------------------------------------------


@contextmanager
def stopped(chain: Chain) -> Iterator[None]:
    chain.container.run("systemctl", "stop", SERVICE)
    try:
        yield
    finally:
        chain.container.run("systemctl", "start", SERVICE)


@contextmanager
def frozen(chain: Chain) -> Iterator[None]:
    """The watchdog restarts it."""
    before = main_pid(chain.container)
    chain.container.run("systemctl", "kill", "--signal=STOP", "--kill-whom=main", SERVICE)
    yield
    chain.wait_for(lambda: main_pid(chain.container) not in (0, before), "the watchdog to kill it")


@contextmanager
def wrong_configuration(chain: Chain) -> Iterator[None]:
    chain.container.write(WRONG, "[Poll]\nInterval=soon\n")
    try:
        with chain.unscraped():
            assert chain.container.status_of("systemctl", "restart", SERVICE) != 0
        yield
    finally:
        chain.container.run("rm", WRONG)
        chain.container.run("systemctl", "restart", SERVICE)


@contextmanager
def lost_notifications(chain: Chain) -> Iterator[None]:
    """A buffer for a few hundred of a thousand destroy notifications; a loss cannot be fixed."""
    container = chain.container
    with socket_drop_in(chain, "ReceiveBuffer=32K"):
        with chain.unscraped():
            before = last_poll(chain)
            container.run("systemctl", "kill", "--signal=STOP", SERVICE)
            try:
                peer_connects(chain, CONNECT, "997")
                container.wait_for(
                    lambda: not container.run("ss", "-Htn", "state", "connected", "sport = :80"), "them to be destroyed"
                )
            finally:
                container.run("systemctl", "kill", "--signal=CONT", SERVICE)
            # One was due meanwhile, and one may have been at work before.
            container.wait_for(lambda: last_poll(chain) > before + INTERVAL, "a poll")
        yield


def last_poll(chain: Chain) -> float:
    """Unix time."""
    line = chain.container.run("grep", "^tcpnewconn_last_poll_timestamp_seconds ", LINK)
    return float(line.split()[1])


@contextmanager
def another_socket(chain: Chain) -> Iterator[None]:
    """A wrong drop-in: no destroy notifications arrive on a socket of another kind."""
    with socket_drop_in(chain, "ListenNetlink=\nListenNetlink=route 0"):
        yield


@contextmanager
def socket_drop_in(chain: Chain, text: str) -> Iterator[None]:
    drop_in(chain.container, "tcpnewconn.socket", f"[Socket]\n{text}\n")
    try:
        renewed(chain)
        yield
    finally:
        chain.container.run("rm", "--recursive", "/etc/systemd/system/tcpnewconn.socket.d")
        chain.container.run("systemctl", "daemon-reload")
        renewed(chain)


def renewed(chain: Chain) -> None:
    """The service with a new socket."""
    with chain.unscraped():
        # With the socket: it stops in a job of its own, for which the stop of the service does not wait.
        chain.container.run("systemctl", "stop", SERVICE, "tcpnewconn.socket")
        chain.container.run("systemctl", "start", SERVICE)


@contextmanager
def journald_frozen(chain: Chain) -> Iterator[None]:
    container = chain.container
    with traffic(container, 300):
        container.run("systemctl", "kill", "--signal=STOP", "systemd-journald.service")
        try:
            yield
        finally:
            container.run("systemctl", "kill", "--signal=CONT", "systemd-journald.service")


@contextmanager
def no_metrics(chain: Chain) -> Iterator[None]:
    chain.container.run("rm", LINK)
    try:
        yield
    finally:
        chain.container.run("ln", "--symbolic", METRICS, LINK)


@contextmanager
def port_scan(chain: Chain) -> Iterator[None]:
    """Cannot be fixed: it has happened."""
    chain.container.start_unit("seven-ports", "/usr/bin/python3", "-c", LISTEN)
    chain.container.wait_for(lambda: "8007" in chain.container.run("ss", "-Htln"), "seven listeners")
    peer_connects(chain, SCAN)
    try:
        yield
    finally:
        chain.container.run("systemctl", "stop", "seven-ports.service")


@contextmanager
def rebooted_without_the_service(chain: Chain) -> Iterator[None]:
    """Only the file of metrics that is created at boot is there."""
    container = chain.container
    container.run("systemctl", "disable", SERVICE)
    container.reboot()
    container.run("systemctl", "start", "prometheus-node-exporter.service")
    try:
        assert container.property(SERVICE, "ActiveState") == "inactive"
        yield
    finally:
        container.run("systemctl", "enable", "--now", SERVICE)


@dataclass(frozen=True)
class Fault:
    what: str
    make: Callable[[Chain], AbstractContextManager[None]]
    alerts: frozenset[str]
    # Those of them that Alertmanager mutes.
    muted: frozenset[str] = frozenset()
    # Seconds within which the webhook must receive them.
    within: float = float("inf")


# Three intervals and the rule's wait; a scrape, an evaluation and the route's wait; and time for a busy machine.
STALE_WITHIN = 3 * INTERVAL + 60 / SPEED + 4 + 20

# In an order that keeps those with a restart apart: several restarts in a row fire TcpnewconnRestarting.
FAULTS = {
    "stopped": Fault("systemctl stop", stopped, frozenset({"TcpnewconnStale"}), within=STALE_WITHIN),
    "frozen": Fault("SIGSTOP, killed by the watchdog", frozen, frozenset({"TcpnewconnStale"})),
    "journald": Fault("journald stopped (SIGSTOP)", journald_frozen, frozenset({"TcpnewconnJournalBlocked"})),
    "configuration": Fault(
        "an invalid setting, restart",
        wrong_configuration,
        frozenset({"TcpnewconnUnitFailed", "TcpnewconnStale"}),
        muted=frozenset({"TcpnewconnStale"}),
    ),
    "scan": Fault("a port scan", port_scan, frozenset({"TcpnewconnPortScan"})),
    "losses": Fault("a receive buffer that is too small", lost_notifications, frozenset({"TcpnewconnEventsLost"})),
    "metrics": Fault("the link to the metrics removed", no_metrics, frozenset({"TcpnewconnAbsent"})),
    "source": Fault("a socket without notifications", another_socket, frozenset({"TcpnewconnSourceDegraded"})),
    "reboot": Fault("a reboot, the service disabled", rebooted_without_the_service, frozenset({"TcpnewconnStale"})),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_fires_its_alerts_and_no_others_until_it_is_fixed(chain: Chain, table: Table, fault: Fault) -> None:
    chain.wait_for(lambda: not chain.query("ALERTS"), "no alert")
    sent = fault.alerts - fault.muted

    def received(status: str, since: float) -> dict[str, float]:
        return {one["labels"]["alertname"]: one["came"] for one in chain.received(since) if one["status"] == status}

    def over() -> dict[str, float]:
        """When each alert came as resolved, if all that were sent have, and are it still."""
        last = {one["labels"]["alertname"]: one for one in chain.received(caused)}
        came = {name: one["came"] for name, one in last.items() if one["status"] == "resolved"}
        return came if came.keys() >= sent and not chain.firing() else {}

    caused = time.time()
    with fault.make(chain):
        chain.wait_for(lambda: chain.firing() == fault.alerts, f"{sorted(fault.alerts)} to fire")
        fired = chain.wait_for(
            lambda: (came := received("firing", caused)).keys() >= sent and came, "the webhook to receive them"
        )
        chain.wait_for(lambda: chain.inhibited() == fault.muted, f"{sorted(fault.muted)} to be muted")
        assert received("firing", caused).keys() == sent, chain.history(since=caused)
        fixed = time.time()
    ended = chain.wait_for(over, "nothing to fire, and the webhook to receive the end")
    assert chain.firing(since=caused) == fault.alerts, chain.history(since=caused)
    # A muted alert may be sent once the unit starts again, until its first poll.
    assert received("firing", caused).keys() <= fault.alerts
    assert max(fired.values()) - caused <= fault.within
    for alert in sorted(sent):
        table.rows.append((fault.what, alert, fired[alert] - caused, ended[alert] - fixed))
