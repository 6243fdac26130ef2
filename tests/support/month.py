"""A month of one host, as its journal has it, with the truth of it.

The truth is written down as each thing happens: who connected to what, when the service observed, what was lost. It knows
nothing of the ledger. What happens in the month:

- nginx.service on port 443 has many clients, more on weekdays; on day 22 a flood, most of it in summaries;
- ssh.service on port 22, by one administrator;
- postgresql.service on port 5432 has two clients, one of which dies on day 20, and app.service on the host itself;
- old.service on port 8080 dies on day 12; report.service on port 9000 is used on Mondays only; idle.service never;
- backup.service connects to another host at 02:30 each night; app.service connects to a database, which refuses some;
- a scan on day 15; losses and a degraded source on day 17; a stop of six and a half hours on day 18;
- the service is killed on day 9, and logs again what it had not saved; on day 5 it is restarted with an Ignore=;
- on day 25 the clock is set back by two hours; another program forges entries all the time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone

HOUR, DAY = 3600, 86400
BEGIN = int(datetime(2026, 10, 1, tzinfo=timezone.utc).timestamp())
HOST = "10.0.0.5"
IGNORE = "10.9.0.0/16 :9100"
FIRST_FLOODER = 20

IDS = {
    "connection-opened": "74ba465b9f4e456585146b89bb95f0dc",
    "listener-opened": "2226628da8304e6994685e028202cfd5",
    "connections-summarized": "c4029bcd2a5841e3bdea3ca9ce1e0d47",
    "port-scan-detected": "576316a0dc7b480ea3df1498dddde400",
    "events-lost": "81f4c1b5bfab4e52a63aae3dec8b0438",
    "source-degraded": "ac71ee2a2e8443a59039d1319c802aa2",
    "source-recovered": "9bd8673752994bd08028b0299ca2c261",
    "connection-closed": "be0228f916da4937bc9055c5c372b3cd",
    "connection-failed": "f2a2bc9384a24a388b7c94454c74adf4",
    "observation-started": "a3486de517524ebf8716f2504cc51e12",
    "observation-stopped": "72bd65ca73e74e238df0f70dcbacb033",
}

Entry = dict[str, str]


@dataclass(frozen=True)
class Service:
    """The local side of connections."""

    direction: str
    port: int
    unit: str
    process: str = ""
    user: str = ""
    container: str = ""
    accepted_by: str = ""
    local_port: int = 0


@dataclass
class Fact:
    """The truth: connections of a service and a peer at one moment. `when` is in whole seconds."""

    when: int
    service: Service
    peer: str
    connections: int = 0
    summarized: int = 0
    failed: int = 0
    source_bytes: int = 0
    destination_bytes: int = 0


NGINX = Service("ingress", 443, "nginx.service", "nginx", "www-data")
SSH = Service("ingress", 22, "ssh.service", "sshd", "root")
POSTGRES = Service("ingress", 5432, "postgresql.service", "postgres", "postgres")
OLD = Service("ingress", 8080, "old.service", "java")
REPORT = Service("ingress", 9000, "report.service", "python3")
WEB = Service("ingress", 80, "", "", "100033", "web")
APP_LOCAL = Service("internal", 5432, "app.service", "app", "app", "", "postgresql.service")
APP = Service("egress", 3306, "app.service", "app", "app")
BACKUP = Service("egress", 22, "backup.service", "rsync", "backup")
UNDECIDED = Service("unknown", 179, "bird.service", "bird", "bird", "", "", 1790)


@dataclass
class Month:
    """The journal's entries, in their order, and the truth. `clock` is the lead of the host's clock over the true time."""

    random: random.Random
    days: int = 30
    scale: int = 1
    entries: list[tuple[int, Entry]] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    observed: list[list[float]] = field(default_factory=list)
    lost: dict[tuple[int, str], int] = field(default_factory=dict)
    degraded: list[tuple[float, float, str]] = field(default_factory=list)
    scans: list[tuple[int, str, str]] = field(default_factory=list)
    listeners: list[tuple[int, Service]] = field(default_factory=list)
    clock: int = 0
    run: int = 0
    _ids: int = 0

    def log(self, when: float, action: str, fields: Entry, unit: str = "tcpnewconn.service") -> None:
        microseconds = round((when + self.clock) * 1e6)
        entry = {
            "MESSAGE": action,
            "MESSAGE_ID": IDS[action],
            "EVENT_ACTION": action,
            **fields,
            "_SYSTEMD_UNIT": unit,
            "_SYSTEMD_INVOCATION_ID": f"{self.run:032x}",
        }
        self.entries.append((microseconds, {name: value for name, value in entry.items() if value}))

    def start(self, when: float, until: float | None, ignore: str = "") -> None:
        self.run += 1
        text = datetime.fromtimestamp(until + self.clock, timezone.utc).isoformat() if until is not None else ""
        self.log(
            when,
            "observation-started",
            {"TCPNEWCONN_OBSERVED_UNTIL": text, "TCPNEWCONN_IGNORE": ignore.replace(" ", ",")},
        )
        self.observed.append([when + self.clock, when + self.clock])

    def stop(self, when: float) -> None:
        self.log(when, "observation-stopped", {})
        self.observed[-1][1] = when + self.clock

    def fields(self, service: Service, peer: str, identity: str = "") -> Entry:
        found = {
            "NETWORK_DIRECTION": service.direction,
            "NETWORK_TRANSPORT": "tcp",
            "DESTINATION_PORT": str(service.port),
            "OBJECT_SYSTEMD_UNIT": service.unit,
            "PROCESS_NAME": service.process,
            "USER_ID": service.user if service.user.isdecimal() else "1000",
            "USER_NAME": "" if service.user.isdecimal() else service.user,
            "CONTAINER_NAME": service.container,
            "TCPNEWCONN_ACCEPTED_BY_UNIT": service.accepted_by,
            "TCPNEWCONN_CONNECTION_ID": identity,
        }
        if not service.user:
            found["USER_ID"] = ""
        if service.direction == "ingress":
            found |= {"SOURCE_ADDRESS": peer, "DESTINATION_ADDRESS": HOST}
        else:
            found |= {"SOURCE_ADDRESS": HOST, "DESTINATION_ADDRESS": peer}
        source_port = service.local_port or self.random.randrange(32768, 61000)
        return found | {"SOURCE_PORT": str(source_port)}

    def connect(self, when: float, service: Service, peer: str, closed: bool = False) -> None:
        self._ids += 1
        identity = f"{self._ids:016x}"
        self.log(when, "connection-opened", self.fields(service, peer, identity))
        self.facts.append(Fact(int(when + self.clock), service, peer, connections=1))
        if closed:
            sent, received = self.random.randrange(100, 10**9), self.random.randrange(100, 10**6)
            carried = {"SOURCE_BYTES": str(sent), "DESTINATION_BYTES": str(received)}
            self.log(when + 1e-6, "connection-closed", self.fields(service, peer, identity) | carried)
            self.facts.append(
                Fact(int(when + self.clock), service, peer, source_bytes=sent, destination_bytes=received)
            )

    def fail(self, when: float, service: Service, peer: str) -> None:
        self.log(when, "connection-failed", self.fields(service, peer) | {"ERROR_CODE": "ECONNREFUSED"})
        self.facts.append(Fact(int(when + self.clock), service, peer, failed=1))

    def summarize(self, when: float, service: Service, named: list[tuple[str, int]], unnamed: int) -> None:
        """A summary of connections of many peers, of which it names some."""
        fields = self.fields(service, "")
        del fields["SOURCE_PORT"]
        fields |= {
            "TCPNEWCONN_COUNT": str(sum(count for _, count in named) + unnamed),
            "TCPNEWCONN_TOP_SOURCES": ",".join(f"{peer}={count}" for peer, count in named),
        }
        self.log(when, "connections-summarized", fields)
        for peer, count in [*named, *([("unnamed", unnamed)] if unnamed else [])]:
            self.facts.append(Fact(int(when + self.clock), service, peer, summarized=count))

    def listen(self, when: float, service: Service) -> None:
        fields = self.fields(service, "") | {"DESTINATION_ADDRESS": "0.0.0.0"}
        self.log(when, "listener-opened", {**fields, "SOURCE_PORT": "", "NETWORK_DIRECTION": ""})
        self.listeners.append((int(when + self.clock), service))

    def forge(self, when: float) -> None:
        """Another program's entry, which looks like the service's."""
        self.log(when, "connection-opened", self.fields(SSH, "198.51.100.66", "forged"), unit="evil.service")

    def repeat(self, when: float, since: int) -> None:
        """After a kill, the connections since then are logged again, with their ids."""
        again = [
            entry
            for microseconds, entry in self.entries
            if microseconds >= since * 1_000_000 and entry["EVENT_ACTION"] == "connection-opened"
        ]
        for entry in again:
            fields = {name: value for name, value in entry.items() if not name.startswith("_")}
            self.log(when, "connection-opened", fields, entry["_SYSTEMD_UNIT"])

    @property
    def end(self) -> float:
        return self.entries[-1][0] / 1e6


def month(seed: int = 1, days: int = 30, scale: int = 1) -> Month:
    """`scale` multiplies the clients' connections."""
    made = Month(random.Random(seed), days, scale)
    made.start(BEGIN, None)
    for service in (NGINX, SSH, POSTGRES, OLD, REPORT, Service("ingress", 7777, "idle.service", "idle")):
        made.listen(BEGIN + 1, service)
    for day in range(days):
        for hour in range(24):
            _hour(made, day, hour, BEGIN + day * DAY + hour * HOUR)
    made.stop(BEGIN + days * DAY - 1)
    return made


def _hour(made: Month, day: int, hour: int, start: int) -> None:
    chance = made.random
    stopped = day == 18 and 10 <= hour < 17
    if stopped:
        if hour == 10:
            made.stop(start)
        if hour == 16:
            made.start(start + HOUR / 2, start - 6 * HOUR, IGNORE)
        return
    if day == 5 and hour == 12:
        made.stop(start)
        made.start(start + 2, start, IGNORE)
    if day == 9 and hour == 3:
        _killed(made, start)
    if day == 25 and hour == 14:
        made.observed[-1][1] = made.entries[-1][0] / 1e6
        made.clock = -2 * HOUR
        made.observed.append([start + made.clock + 5, start + made.clock + 5])
        made.connect(start + 5, SSH, "10.0.0.9")
    planned = sorted(_plan(made, day, hour), key=lambda one: one[0])
    for second, kind, service, peer in planned:
        when = start + second
        if kind == "connect":
            made.connect(when, service, peer, closed=service is BACKUP)
        elif kind == "fail":
            made.fail(when, service, peer)
        else:
            made.forge(when)
    _special(made, day, hour, start)
    if chance.random() < 0.02 and (day, hour) != (9, 2):
        made.connect(start + 3598, UNDECIDED, "10.0.0.1")


def _plan(made: Month, day: int, hour: int) -> Iterator[tuple[float, str, Service, str]]:
    chance = made.random
    weekday = day % 7 not in (2, 3)  # 2026-10-01 is a Thursday
    for _ in range(chance.randrange(4, 16 if weekday and 7 <= hour < 19 else 8) * made.scale):
        yield chance.uniform(10, 3300), "connect", NGINX, f"203.0.113.{chance.randrange(1, 200)}"
    if weekday and hour == 9:
        yield 300.5, "connect", SSH, "10.0.0.9"
    yield 600.25, "connect", POSTGRES, "10.0.1.11"
    if day < 20:
        yield 601.5, "connect", POSTGRES, "10.0.1.12"
    if day < 12 and hour % 4 == 0:
        yield 700, "connect", OLD, "2001:db8:1::7"
    if day % 7 == 4 and hour == 8:
        yield 800, "connect", REPORT, "10.0.4.4"
    if hour % 6 == 0:
        yield 900, "connect", WEB, "198.51.100.20"
        yield 950, "connect", APP_LOCAL, "127.0.0.1"
        yield 960, "connect", APP, "10.0.3.3"
        yield 961, "fail", APP, "10.0.3.4"
    if hour == 2:
        yield 1800, "connect", BACKUP, "10.0.2.2"
    yield 3000, "forge", SSH, ""


def _special(made: Month, day: int, hour: int, start: int) -> None:
    if day == 15 and hour == 4:
        made.log(
            start + 3595,
            "port-scan-detected",
            {"SOURCE_ADDRESS": "192.0.2.56", "TCPNEWCONN_PORTS": "80,81,82,83", "NETWORK_DIRECTION": "ingress"},
        )
        made.scans.append((start + 3595 + made.clock, "192.0.2.56", "80,81,82,83"))
    if day == 17 and hour in (5, 6):
        made.log(
            start + 3595, "events-lost", {"TCPNEWCONN_REASON": "notifications", "TCPNEWCONN_COUNT": str(hour * 100)}
        )
        made.lost[start + made.clock, "notifications"] = hour * 100
    if day == 17 and hour == 8:
        made.log(start + 3591, "source-degraded", {"TCPNEWCONN_REASON": "notifications"})
        made.log(start + 3594.5, "source-recovered", {"TCPNEWCONN_REASON": "notifications"})
        made.degraded.append((start + 3591, start + 3594.5, "notifications"))
    if day == 22 and hour in (10, 11):
        for flooder in range(400):
            address = f"100.64.{flooder // FIRST_FLOODER}.{flooder % FIRST_FLOODER + 1}"
            made.connect(start + 3581 + flooder / 1000, NGINX, address)
        for second in range(5):
            named = [(f"100.64.0.{n + 1}", 50 + made.random.randrange(1, 9)) for n in range(5)]
            made.summarize(start + 3585 + second, NGINX, named, 20_000 + second)


def _killed(made: Month, start: int) -> None:
    """Killed at the end of the hour before; the next start knows until when it had observed, and logs four minutes again."""
    died = start - 60
    for second in range(5):
        made.connect(died - 200 + second, NGINX, f"203.0.113.{second + 1}")
    made.observed[-1][1] = died
    made.start(start, died, IGNORE)
    made.repeat(start + 1, died - 240)


def resolved(facts: list[Fact], most: int) -> list[tuple[Fact, str]]:
    """Each fact with the peer as the ledger keeps it: so many of a service and day by address, then networks, then others."""
    named: dict[tuple[Service, int], tuple[list[str], list[str]]] = {}
    found = []
    for fact in facts:
        addresses, networks = named.setdefault((fact.service, fact.when // DAY), ([], []))
        peer = fact.peer
        if peer != "unnamed" and peer not in addresses:
            network = f"{peer.rpartition('.')[0]}.0/24"
            if len(addresses) < most:
                addresses.append(peer)
            elif network in networks:
                peer = network
            elif len(networks) < most:
                networks.append(network)
                peer = network
            else:
                peer = "others"
        found.append((fact, peer))
    return found
