"""Containers of real engines: podman, docker, LXC and systemd-nspawn; their connections in the journal, with the container."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import pytest

from tests.support import built, engines
from tests.support.booted import CONTAINER_ADDRESS, PEER_ADDRESS, Booted
from tests.support.booted_events import events
from tests.support.booted_package import add_repository, install, is_active, main_pid, metric, on_each_distribution
from tests.support.engines import FIRST_PORT, Talker
from tests.support.message_ids import CONNECTION, LOSS

HERE, OUTSIDE = CONTAINER_ADDRESS, PEER_ADDRESS
LISTENER = 9000
# Where connections are short.
SHORT = 9100
MANUAL = built.TREE / "man/tcpnewconn.conf.5.scd"
NAMES = "/run/container-names"
CONFIGURATION = f"""
[Poll]
Interval=500ms
[Namespaces]
Include=all
CPUQuota=100%
ContainerNames={NAMES}
{(built.TREE / "tests/fixtures/every.conf").read_text()}
"""
WEB = "listen 80"
# Containers that come and go while the service is killed.
GUESTS = 6
# Containers that have a way to other hosts; those with a published port; those to which other hosts know a way.
REACHING = ("web", "quad", "dweb", "box-1", "crate-1")
PUBLISHED = {"web": 8081, "dweb": 8082, "quad": 8084}
ROUTED = ("box-1", "crate-1")
# On one bridge, so that no address is translated.
NEIGHBOURS = (("web", "db"), ("db", "web"), ("dweb", "ddb"), ("box-1", "box-2"))
# The host's address on the way to a container.
GATEWAYS = {"web": "10.88.0.1", "dweb": "172.17.0.1", "box-1": "10.0.3.1", "crate-1": "10.0.4.1"}


class Seen(NamedTuple):
    """An entry of a connection."""

    flow: str
    direction: str
    runtime: str | None = None
    name: str | None = None
    accepted_by: str | None = None


class System:
    """A booted host, and what runs in its containers, by name."""

    def __init__(self, host: Booted, outside: Talker) -> None:
        self.host = host
        self.talkers = {"outside": outside}
        self.ports = itertools.count(FIRST_PORT)

    def __getitem__(self, name: str) -> Talker:
        return self.talkers[name]

    def add(self, talker: Talker) -> None:
        self.talkers[talker.pipe] = talker

    def open(self, name: str, address: str, port: int) -> int:
        """A connection that is kept; its local port, which no other one has."""
        own = next(self.ports)
        self[name].do(f"open {address} {port} {own}")
        return own

    def from_proxy(self, name: str) -> list[dict[str, Any]]:
        """The connections of docker-proxy to a container."""
        gateway = (f"SOURCE_ADDRESS={GATEWAYS[name]}", f"DESTINATION_ADDRESS={self[name].address}")
        return events(self.host, CONNECTION, *gateway)

    def poll_again(self, times: int = 3) -> None:
        """What a poll shows next is logged, too, if it is logged at all."""
        wanted = self.polls() + times
        self.host.wait_for(lambda: self.polls() >= wanted, "polls")

    def polls(self) -> float:
        return metric(self.host, 'tcpnewconn_polls_total{result="ok"}')

    def logged(self, *ports: int, count: int = 1) -> dict[int, list[dict[str, Any]]]:
        """The entries of connections, by the local ports that they were opened from, each of which has so many."""
        for port in ports:
            self.host.wait_for(lambda: len(self.entries(port)) >= count, f"the connection from {port}")  # noqa: B023
        self.poll_again()
        return {port: self.entries(port) for port in ports}

    def entries(self, port: int) -> list[dict[str, Any]]:
        """Of connections from a local port, but for the short ones: the kernel chooses their ports."""
        found = events(self.host, CONNECTION, f"SOURCE_PORT={port}")
        return [entry for entry in found if entry["DESTINATION_PORT"] != str(SHORT)]

    def seen(self, *ports: int, count: int = 1) -> dict[int, list[Seen]]:
        return {port: [seen(entry) for entry in entries] for port, entries in self.logged(*ports, count=count).items()}


def seen(entry: dict[str, Any]) -> Seen:
    return Seen(
        entry["MESSAGE"].removeprefix("New connection: "),
        entry["NETWORK_DIRECTION"],
        entry.get("CONTAINER_RUNTIME"),
        entry.get("CONTAINER_NAME"),
        entry.get("TCPNEWCONN_ACCEPTED_BY_CONTAINER"),
    )


def start_podman(system: System) -> None:
    run = partial(engines.run_podman, system.host)
    engines.prepare_podman(system.host)
    system.add(run("web", "--publish=8081:80", commands=(WEB,)))
    system.add(run("db", commands=(WEB,)))
    system.add(run("lonely", "--network=none", commands=(WEB,)))
    engines.podman(system.host, "pod", "create", "--name=pair", "--publish=8083:80")
    system.add(run("one", "--pod=pair", commands=(WEB,)))
    system.add(run("two", "--pod=pair", commands=("listen 81",)))
    if system.host.distribution == "trixie":
        # podman of Debian 12 has no quadlets.
        system.add(engines.run_quadlet(system.host, "quad", "8084:80"))
        system["quad"].do(WEB)


def start_rootless(system: System) -> None:
    engines.prepare_podman(system.host, engines.USER)
    run = partial(engines.run_podman, system.host, user=engines.USER)
    system.add(run("own", "--publish=8085:80", commands=(WEB,)))


def start_docker(system: System) -> None:
    engines.prepare_docker(system.host)
    system.add(engines.run_docker(system.host, "dweb", "--publish=8082:80", commands=(WEB,)))
    system.add(engines.run_docker(system.host, "ddb", commands=(WEB,)))


def start_lxc(system: System) -> None:
    engines.prepare_lxc(system.host)
    for name, address in (("box-1", "10.0.3.2"), ("box-2", "10.0.3.3")):
        system.add(engines.run_lxc(system.host, name, address))
        system[name].do(WEB)
    system.add(engines.run_nspawn(system.host, "crate-1", "10.0.4.2", "10.0.4.1"))
    system.add(engines.run_nspawn_by_hand(system.host, "chest-2"))
    for name in ("crate-1", "chest-2"):
        system[name].do(WEB)


def write_names() -> str:
    """The command of tcpnewconn.conf(5), for this file."""
    [line] = [line for line in MANUAL.read_text().splitlines() if line.lstrip().startswith("docker ps ")]
    assert line.rstrip().endswith(NAMES)
    return line.strip()


@pytest.fixture(scope="module", params=on_each_distribution("engines"))
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    with engines.booted_with_engines(request.param) as host:
        for network in ("10.0.3.0/24", "10.0.4.0/30"):
            host.from_peer("ip", "route", "add", network, "via", HERE)
        host.write("/etc/tcpnewconn.conf.d/engines.conf", CONFIGURATION)
        add_repository(host, built.deb())
        install(host)
        with engines.run_outside(host, "outside", f"listen {LISTENER}") as outside:
            system = System(host, outside)
            system.add(engines.run_here(host, "here", f"listen {LISTENER}"))
            starts = [start_podman, start_rootless, start_lxc]
            if request.param == "trixie":
                starts.append(start_docker)
            engines.at_once(*(partial(start, system) for start in starts))
            if request.param == "trixie":
                host.run("sh", "-ec", write_names())
            system.poll_again()
            yield system


class Short(NamedTuple):
    """Short connections to one port: how many were made, and what was logged of them since."""

    host: Booted
    made: int
    port: int

    def logged(self) -> int:
        entries = events(self.host, CONNECTION, f"DESTINATION_PORT={self.port}")
        return len({entry["TCPNEWCONN_CONNECTION_ID"] for entry in entries})

    def lost(self) -> int:
        losses = events(self.host, LOSS, "TCPNEWCONN_REASON=namespaces")
        return sum(int(entry["TCPNEWCONN_COUNT"]) for entry in losses)


def short_connections(system: System, name: str, address: str, port: int, count: int) -> Short:
    """Make connections that the other end closes at once, one after the other. No other test uses that port."""
    system.host.forget_journal()
    system[name].do(f"short {address} {port} {count}")
    return Short(system.host, count, port)


def kill(host: Booted) -> None:
    before = main_pid(host)
    host.run("systemctl", "kill", "--signal=KILL", "tcpnewconn.service")
    host.wait_for(lambda: main_pid(host) not in (0, before) and is_active(host), "the service to run again")


def of(talker: Talker) -> tuple[str | None, str | None]:
    return talker.runtime, talker.name


def accepts(talker: Talker) -> str | None:
    return talker.id or talker.name


def test_a_connection_from_a_container_to_another_host_is_its_own(system: System) -> None:
    names = [name for name in REACHING if name in system.talkers]
    ports = {name: system.open(name, OUTSIDE, LISTENER) for name in names}
    logged = system.logged(*ports.values())
    for name, port in ports.items():
        talker, [entry] = system[name], logged[port]
        assert seen(entry) == Seen(f"{talker.address}:{port} -> {OUTSIDE}:{LISTENER}", "egress", *of(talker))
        assert entry.get("CONTAINER_ID") == talker.id
        assert "USER_ID" not in entry
    # Each in a namespace of its own.
    assert len({logged[port][0]["TCPNEWCONN_NETNS"] for port in ports.values()}) == len(names)


def test_a_connection_from_another_host_to_a_published_port_is_logged_as_the_container_has_it(system: System) -> None:
    names = [name for name in PUBLISHED if name in system.talkers]
    ports = {name: system.open("outside", HERE, PUBLISHED[name]) for name in names}
    ports |= {name: system.open("outside", system[name].address, 80) for name in ROUTED}
    for name, [entry] in zip(ports, system.seen(*ports.values()).values(), strict=True):
        flow = f"{OUTSIDE}:{ports[name]} -> {system[name].address}:80"
        assert entry == Seen(flow, "ingress", *of(system[name]))


def test_a_connection_between_two_containers_is_one_with_both(system: System) -> None:
    pairs = [(one, other) for one, other in NEIGHBOURS if one in system.talkers]
    ports = {(one, other): system.open(one, system[other].address, 80) for one, other in pairs}
    for (one, other), [entry] in zip(ports, system.seen(*ports.values()).values(), strict=True):
        flow = f"{system[one].address}:{ports[one, other]} -> {system[other].address}:80"
        assert entry == Seen(flow, "internal", *of(system[one]), accepts(system[other]))


def test_where_an_address_is_translated_between_two_containers_there_are_two(system: System) -> None:
    port = system.open("web", system["box-1"].address, 80)
    assert set(system.seen(port, count=2)[port]) == {
        Seen(f"{system['web'].address}:{port} -> {system['box-1'].address}:80", "egress", *of(system["web"])),
        Seen(f"10.0.3.1:{port} -> {system['box-1'].address}:80", "ingress", *of(system["box-1"])),
    }


def test_a_connection_between_host_and_container_is_one_with_the_container(system: System) -> None:
    there = {name: system.open("here", system[name].address, 80) for name in GATEWAYS if name in system.talkers}
    back = {name: system.open(name, GATEWAYS[name], LISTENER) for name in GATEWAYS if name in system.talkers}
    found = system.logged(*there.values(), *back.values())
    for name, port in there.items():
        [entry] = found[port]
        flow = f"{GATEWAYS[name]}:{port} -> {system[name].address}:80"
        assert seen(entry) == Seen(flow, "internal", None, None, accepts(system[name]))
        assert entry["OBJECT_SYSTEMD_UNIT"] == "here.service"
        assert "TCPNEWCONN_NETNS" not in entry
    for name, port in back.items():
        [entry] = found[port]
        assert seen(entry) == Seen(
            f"{system[name].address}:{port} -> {GATEWAYS[name]}:{LISTENER}", "internal", *of(system[name])
        )
        assert entry["TCPNEWCONN_ACCEPTED_BY_UNIT"] == "here.service"


def test_connections_within_a_container_without_a_network_are_logged(system: System) -> None:
    ports = {name: system.open(name, "127.0.0.1", 80) for name in ("lonely", "chest-2")}
    for name, [entry] in zip(ports, system.seen(*ports.values()).values(), strict=True):
        flow = f"127.0.0.1:{ports[name]} -> 127.0.0.1:80"
        assert entry == Seen(flow, "internal", *of(system[name]))


def test_from_the_host_a_published_port_of_podman_has_two_connections(system: System) -> None:
    """The rules of podman translate the address; tcpnewconn(8) has these two lines."""
    port = system.open("here", "127.0.0.1", PUBLISHED["web"])
    assert set(system.seen(port, count=2)[port]) == {
        Seen(f"127.0.0.1:{port} -> 127.0.0.1:8081", "internal"),
        Seen(f"10.88.0.1:{port} -> {system['web'].address}:80", "ingress", *of(system["web"])),
    }


def test_from_the_host_a_published_port_of_docker_has_one_with_docker_proxy_and_one_of_it(system: System) -> None:
    if "dweb" not in system.talkers:
        pytest.skip("docker is tested on Debian 13")
    container, before = f"{system['dweb'].address}:80", system.from_proxy("dweb")
    port = system.open("here", "127.0.0.1", PUBLISHED["dweb"])
    [entry] = system.logged(port)[port]
    assert seen(entry) == Seen(f"127.0.0.1:{port} -> 127.0.0.1:8082", "internal")
    assert entry["TCPNEWCONN_ACCEPTED_BY_UNIT"] == "docker.service"
    system.host.wait_for(lambda: len(system.from_proxy("dweb")) > len(before), "docker-proxy's own connection")
    [forwarded] = [entry for entry in system.from_proxy("dweb") if entry not in before]
    assert forwarded["MESSAGE"].endswith(f" -> {container}")
    assert seen(forwarded)[1:] == ("internal", None, None, system["dweb"].id)
    assert forwarded["OBJECT_SYSTEMD_UNIT"] == "docker.service"


def test_a_user_s_container_has_its_own_connections_and_the_forwarder_s(system: System) -> None:
    """pasta, or slirp4netns on Debian 12, is a program on the host that makes each connection of the container once more."""
    out = system.open("own", OUTSIDE, LISTENER)
    [entry] = system.logged(out)[out]
    assert seen(entry)[1:] == ("egress", *of(system["own"]), None)
    assert entry["MESSAGE"].endswith(f":{out} -> {OUTSIDE}:{LISTENER}")
    assert entry["CONTAINER_ID"] == system["own"].id
    assert entry["OBJECT_SYSTEMD_USER_UNIT"] == f"libpod-{system['own'].id}.scope"
    came = system.open("outside", HERE, 8085)
    entries = [seen(entry) for entry in system.logged(came)[came]]
    assert Seen(f"{OUTSIDE}:{came} -> {HERE}:8085", "ingress") in entries


def test_the_connections_of_a_pod_have_none_of_its_containers(system: System) -> None:
    """Its containers share a network namespace: which of them has a connection is not known."""
    out, within = system.open("one", OUTSIDE, LISTENER), system.open("one", "127.0.0.1", 81)
    published = system.open("outside", HERE, 8083)
    found = system.logged(out, within, published)
    assert [len(entries) for entries in found.values()] == [1, 1, 1]
    assert {seen(entries[0])[1:] for entries in found.values()} == {
        ("egress", None, None, None),
        ("internal", None, None, None),
        ("ingress", None, None, None),
    }
    assert len({entries[0]["TCPNEWCONN_NETNS"] for entries in found.values()}) == 1


def test_the_host_s_own_connections_are_logged_as_without_containers(system: System) -> None:
    out, came = system.open("here", OUTSIDE, LISTENER), system.open("outside", HERE, LISTENER)
    for port, entries in system.logged(out, came).items():
        [entry] = entries
        assert entry["OBJECT_SYSTEMD_UNIT"] == "here.service"
        assert seen(entry) == (
            Seen(f"{HERE}:{out} -> {OUTSIDE}:{LISTENER}", "egress")
            if port == out
            else Seen(f"{OUTSIDE}:{came} -> {HERE}:{LISTENER}", "ingress")
        )
        assert "TCPNEWCONN_NETNS" not in entry


def test_short_connections_are_logged(system: System) -> None:
    """Where the other end closes first, and is no namespace of this host, no poll shows that there was one."""
    system["outside"].do(f"serve {SHORT}")
    system.host.wait_for(lambda: f":{SHORT} " in system.host.from_peer("ss", "-Htln"), "outside to serve")
    short = short_connections(system, "web", OUTSIDE, SHORT, 50)
    system.host.wait_for(lambda: short.logged() >= short.made, "all to be logged")
    assert (short.logged(), short.lost()) == (short.made, 0)


def test_an_ignored_container_is_not_logged(system: System) -> None:
    ignored = system.host.path("/etc/tcpnewconn.conf.d/ignored.conf")
    ignored.write_text("[Report]\nIgnore=container:db\n")
    system.host.run("systemctl", "reload", "tcpnewconn")
    # A poll that was at work goes on with the old settings.
    system.poll_again()
    left_out, logged = system.open("db", OUTSIDE, LISTENER), system.open("web", OUTSIDE, LISTENER)
    assert system.seen(logged)[logged][0].name == "web"
    assert events(system.host, CONNECTION, f"SOURCE_PORT={left_out}") == []
    ignored.unlink()
    system.host.run("systemctl", "reload", "tcpnewconn")


def test_killed_at_any_moment_it_logs_every_connection_of_containers_that_come_and_go(system: System) -> None:
    made: dict[str, int] = {}

    def come_and_go() -> None:
        for number in range(GUESTS):
            name, port = f"guest-{number}", next(system.ports)
            by_docker = "dweb" in system.talkers and number % 2
            run, remove = (engines.run_docker, engines.docker) if by_docker else (engines.run_podman, engines.podman)
            run(system.host, name, commands=(f"open {OUTSIDE} {LISTENER} {port}",))
            made[name] = port
            system.host.wait_for(partial(system.entries, port), name)
            remove(system.host, "rm", "--force", name)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(come_and_go)
        kills = 0
        while not coming.done():
            kill(system.host)
            kills += 1
            system.poll_again(kills % 3)
        coming.result()
    assert kills >= GUESTS // 2
    found = system.logged(*made.values())
    for name, port in made.items():
        # One that is repeated after SIGKILL has the same ID.
        assert len({entry["TCPNEWCONN_CONNECTION_ID"] for entry in found[port]}) == 1, found[port]
        assert {entry.get("CONTAINER_RUNTIME") for entry in found[port]} <= {"podman", "docker"}, found[port]
        assert {entry.get("CONTAINER_NAME", name) for entry in found[port]} == {name}, found[port]
