"""Connections between network namespaces of one host: two sockets, one connection."""

from __future__ import annotations

import itertools
import random
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest

from tcpnewconn.kernel.allnamespaces import open_for_all
from tcpnewconn.kernel.sockdiag import open_notifications
from tcpnewconn.namespaces.other import YOUNG
from tests.kernel.test_all_namespaces import SELDOM, whose
from tests.kernel.test_others import configuration, number_of
from tests.support.containers import CONTAINER_ID, Host, child_of, container, host, join
from tests.support.message_ids import CLOSED, PORT_SCAN
from tests.support.namespace import Namespace
from tests.support.program import Event, Flow, Program, flow, flows, of_kind, running, stopped
from tests.support.supervised import DEADLINE
from tests.support.traffic import connect, listen

AT_HOST, AT_ONE, AT_OTHER = "10.88.0.1", "10.88.0.5", "10.88.0.6"
KILLS = 15
COPIED = 60
Both = tuple[socket.socket, socket.socket]


@pytest.fixture
def every(tmp_path: Path) -> tuple[str, str]:
    # There is time to poll the other namespace, too, however short the interval is.
    return configuration(tmp_path, "CPUQuota=100%")


class Network:
    """A host, and two containers, each joined with it, and with the other."""

    def __init__(self, stack: ExitStack, cgroup: Path) -> None:
        self.host: Host = stack.enter_context(host())
        self.one = stack.enter_context(container(self.host, cgroup))
        self.other = stack.enter_context(container(self.host))
        join(self.host, self.one, (f"{AT_HOST}/32", f"{AT_ONE}/32"), "one")
        join(self.host, self.other, (f"{AT_HOST}/32", f"{AT_OTHER}/32"), "other")
        join(self.one, self.other, (f"{AT_ONE}/32", f"{AT_OTHER}/32"), "both")
        for where, address, device in (
            (self.host, AT_ONE, "one"),
            (self.host, AT_OTHER, "other"),
            (self.one, AT_HOST, "one"),
            (self.one, AT_OTHER, "both"),
            (self.other, AT_HOST, "other"),
            (self.other, AT_ONE, "both"),
        ):
            where.ip("route", "add", f"{address}/32", "dev", device)
        self.addresses: dict[Namespace, str] = {self.host: AT_HOST, self.one: AT_ONE, self.other: AT_OTHER}
        self.listeners = {
            where: stack.enter_context(listen(where, address, 8080)) for where, address in self.addresses.items()
        }

    def open(self, here: Namespace, there: Namespace, port: int = 0) -> Both:
        client = connect(here, self.addresses[there], 8080, (self.addresses[here], port))
        return client, self.listeners[there].accept()[0]


@pytest.fixture
def network(cgroup: Path) -> Iterator[Network]:
    with ExitStack() as stack:
        yield Network(stack, cgroup)


def end(first: socket.socket, second: socket.socket) -> None:
    """The first is in TIME_WAIT then."""
    first.close()
    assert second.recv(1) == b""
    second.close()


def test_a_connection_between_host_and_container_is_one_with_both_sides(
    network: Network, every: tuple[str, str]
) -> None:
    with running(network.host, *every) as program:
        kept = [network.open(network.host, network.one), network.open(network.one, network.host)]
        program.wait_for_connections(2)
        program.poll_again(3)
        kept.append(network.open(network.one, network.other))
        kept.append(network.open(network.other, network.one))
        program.wait_for_connections(4)
        program.poll_again(3)
        for client, accepted in kept:
            end(client, accepted)
        program.poll_again(3)
    assert len(flows(program.events)) == len(program.connections) == 4
    by_ends = {(event["source.address"], event["destination.address"]): whose(event) for event in program.connections}
    assert by_ends == {
        (AT_HOST, AT_ONE): ("internal", None, CONTAINER_ID),
        (AT_ONE, AT_HOST): ("internal", CONTAINER_ID, None),
        (AT_ONE, AT_OTHER): ("internal", CONTAINER_ID, None),
        (AT_OTHER, AT_ONE): ("internal", None, CONTAINER_ID),
    }
    namespaces = {event["source.address"]: event.get("tcpnewconn.netns") for event in program.connections}
    assert namespaces == {AT_HOST: None, AT_ONE: number_of(network.one), AT_OTHER: number_of(network.other)}


@pytest.mark.parametrize("interval", ["100ms", "1s"])
@pytest.mark.parametrize("client_first", [True, False])
@pytest.mark.parametrize("from_host", [True, False])
def test_a_short_one_is_logged_once_whoever_is_in_time_wait(
    network: Network, every: tuple[str, str], from_host: bool, client_first: bool, interval: str
) -> None:
    here, there = (network.host, network.one) if from_host else (network.one, network.host)
    with running(network.host, *every, interval=interval) as program:
        for port in range(20_000, 20_020):
            client, accepted = network.open(here, there, port)
            end(client, accepted) if client_first else end(accepted, client)
        program.wait_for_connections(20)
        program.poll_again(3)
    assert len(flows(program.events)) == len(program.connections) == 20


@pytest.mark.parametrize("client_first", [True, False])
def test_a_short_one_that_no_poll_shows_has_both_sides_too(
    network: Network, every: tuple[str, str], client_first: bool
) -> None:
    wanted = {
        (network.host, network.one): ("internal", None, CONTAINER_ID),
        (network.one, network.host): ("internal", CONTAINER_ID, None),
        (network.one, network.other): ("internal", CONTAINER_ID, None),
        (network.other, network.one): ("internal", None, CONTAINER_ID),
    }
    with running(network.host, *every, *SELDOM) as program:
        for here, there in wanted:
            for port in range(20_000, 20_010):
                client, accepted = network.open(here, there, port)
                end(client, accepted) if client_first else end(accepted, client)
        program.wait_for_connections(40)
    by_ends = {(event["source.address"], event["destination.address"]): whose(event) for event in program.connections}
    assert by_ends == {(network.addresses[a], network.addresses[b]): sides for (a, b), sides in wanted.items()}
    assert len(flows(program.events)) == len(program.connections) == 40
    assert {event["tcpnewconn.detected_by"] for event in program.connections} == {"notification"}


class Bridge:
    """A device of a host that two containers are joined with, as those of podman and docker are."""

    def __init__(self, here: Host, name: str, network: str, members: list[Namespace]) -> None:
        here.ip("link", "add", name, "type", "bridge")
        here.address(f"{network}.1/24", name)
        here.ip("link", "set", name, "up")
        for number, one in enumerate(members, 5):
            port = f"{name}-{number}"
            pair = ("ip", "link", "add", port, "type", "veth", "peer", "name", name, "netns", one.path)
            # Not as a process of the host, which does not see that path.
            subprocess.run(Namespace.command(here, *pair), check=True)
            here.ip("link", "set", port, "master", name, "up")
            one.address(f"{network}.{number}/24", name)
            one.ip("link", "set", name, "up")


@pytest.mark.parametrize("by", ["an address", "a network", "a network that is gone again"])
def test_what_a_known_container_is_joined_with_later_is_one_too(every: tuple[str, str], cgroup: Path, by: str) -> None:
    """docker network connect, or an address that comes late: no poll has shown it yet."""
    with host() as here, container(here, cgroup) as one, container(here) as other, ExitStack() as stack:
        Bridge(here, "first", "10.88.0", [one, other])
        program = stack.enter_context(running(here, *every, *SELDOM))
        # Until then every namespace can have addresses that are not known.
        time.sleep(max(0.0, program.started + YOUNG + 1 - time.monotonic()))
        # A client can stay in FIN_WAIT2 for a minute: if the ACK comes while close() still has the socket (net/ipv4/tcp_input.c).
        with listen(here, "127.0.0.1", 8080):
            connect(here, "127.0.0.1", 8080).close()
        program.wait_for_connections(1)
        gone = by == "a network that is gone again"
        # The program sees nothing of that but the notifications.
        with stopped(child_of(program.process.pid)) if gone else nullcontext():
            if by != "an address":
                Bridge(here, "second", "10.90.0", [one, other])
                addresses = {here: "10.90.0.1", one: "10.90.0.5", other: "10.90.0.6"}
            else:
                addresses = {here: "10.88.0.1", one: "10.88.0.55", other: "10.88.0.66"}
                for where in (one, other):
                    where.address(f"{addresses[where]}/24", "first")
            for there, address in addresses.items():
                with listen(there, address, 8080) as listener:
                    for here_, number in itertools.product(set(addresses) - {there}, range(10)):
                        client = connect(here_, address, 8080, (addresses[here_], 20_000 + number))
                        end(client, listener.accept()[0])
            for device in ("second-5", "second-6", "second") if gone else ():
                here.ip("link", "delete", device)
        program.wait_for_connections(61)
    assert len(flows(program.events)) == len(program.connections) == 61
    assert {event["network.direction"] for event in program.connections} == {"internal"}
    sides = {
        (event["source.address"], event["destination.address"]): whose(event)[1:] for event in program.connections[1:]
    }
    assert sides == {
        (addresses[a], addresses[b]): tuple(CONTAINER_ID if end is one else None for end in (a, b))
        for a, b in itertools.permutations(addresses, 2)
    }


def test_one_whose_other_end_stays_open_is_logged_soon_and_once(network: Network, every: tuple[str, str]) -> None:
    with running(network.host, *every, *SELDOM) as program:
        client, accepted = network.open(network.host, network.one)
        client.close()
        program.wait_for_connections(1)
        accepted.close()
        client, accepted = network.open(network.one, network.host)
        end(client, accepted)
        program.wait_for_connections(2)
    assert [whose(event)[0] for event in program.connections] == ["egress", "internal"]
    assert len(flows(program.events)) == 2


def test_one_that_waits_for_its_other_end_is_not_lost_by_sigkill(
    network: Network, every: tuple[str, str], tmp_path: Path
) -> None:
    """The other end comes after the restart: there it is known as one of both."""
    options = (*every, *SELDOM, "--state", str(tmp_path / "state"))
    with network.host.entered(), open_notifications() as of_host, open_for_all() as of_all, ExitStack() as stack:
        program = Program(network.host, *options, notifications=of_host, namespaces=of_all)
        stack.callback(program.process.kill)
        program.ready()
        client, accepted = network.open(network.host, network.one)
        client.close()
        # It waits for a moment; Program.wait() looks twice a second.
        until = time.monotonic() + DEADLINE
        while b'["j",' not in (tmp_path / "state").read_bytes():
            assert time.monotonic() < until, "no record of one that waits"
            time.sleep(0.005)
        program.kill()
        assert accepted.recv(1) == b""
        accepted.close()
        again = Program(network.host, *options, notifications=of_host, namespaces=of_all)
        stack.callback(again.process.kill)
        again.wait_for_connections(1)
        again.stop()
    assert program.connections == []
    assert [whose(event) for event in again.connections] == [("internal", None, CONTAINER_ID)]


def test_neither_a_restart_nor_sigkill_repeats_one(network: Network, every: tuple[str, str], tmp_path: Path) -> None:
    options = (*every, "--state", str(tmp_path / "state"))
    program = Program(network.host, *options)
    program.ready()
    kept = [network.open(network.host, network.one), network.open(network.one, network.other)]
    program.wait_for_connections(2)
    # What it has logged is on record.
    program.poll_again(1)
    program.kill()
    kept.append(network.open(network.one, network.host))
    kept.append(network.open(network.other, network.one))
    with running(network.host, *options) as again:
        again.wait_for_connections(2)
        again.poll_again(3)
        for client, accepted in kept:
            end(accepted, client)
        again.poll_again(3)
    with running(network.host, *options) as third:
        third.poll_again(3)
    assert len(program.connections) == len(again.connections) == 2
    assert {whose(event)[0] for event in program.connections + again.connections} == {"internal"}
    assert third.connections == []


def test_the_closed_event_repeats_what_was_logged(network: Network, tmp_path: Path) -> None:
    file = tmp_path / "closed.conf"
    file.write_text("[Report]\nBurstLimit=0\nClosed=yes\n[Namespaces]\nInclude=all\nCPUQuota=100%\n")
    with running(network.host, "--config", str(file)) as program:
        kept = [network.open(network.host, network.one), network.open(network.one, network.host)]
        program.wait_for_connections(2)
        program.poll_again(3)
        for client, accepted in kept:
            client.send(b"12345")
            accepted.recv(5)
            end(client, accepted)
        program.wait(lambda: len(of_kind(program.events, CLOSED)) == 2, "closed events")
    logged = {event["tcpnewconn.connection_id"]: event for event in program.connections}
    for event in of_kind(program.events, CLOSED):
        opened = logged[event["tcpnewconn.connection_id"]]
        assert (flow(event), whose(event)) == (flow(opened), whose(opened))
        assert event.get("tcpnewconn.netns") == opened.get("tcpnewconn.netns")
        assert (event["source.bytes"], event["destination.bytes"]) == (5, 0)


def test_a_container_that_scans_the_host_is_logged(network: Network, tmp_path: Path) -> None:
    file = tmp_path / "scan.conf"
    file.write_text("[Report]\nBurstLimit=0\n[PortScan]\nPorts=3\n[Namespaces]\nInclude=all\nCPUQuota=100%\n")
    with running(network.host, "--config", str(file), *SELDOM) as program:
        for port in range(9000, 9004):
            with listen(network.host, AT_HOST, port) as listener:
                end(connect(network.one, AT_HOST, port), listener.accept()[0])
        program.wait(lambda: of_kind(program.events, PORT_SCAN), "port scan")
    [scan] = of_kind(program.events, PORT_SCAN)
    assert (scan["source.address"], scan["tcpnewconn.ports"]) == (AT_ONE, [9000, 9001, 9002, 9003])


def test_addresses_alone_make_no_pair(network: Network, every: tuple[str, str]) -> None:
    """Another namespace, to which there is no way from here, has the address that a connection goes to."""
    with container(network.host) as far:
        far.address(f"{AT_OTHER}/32")
        with (
            listen(far, AT_OTHER, 8080) as listener,
            connect(far, AT_OTHER, 8080),
            listener.accept()[0],
            running(network.host, *every) as program,
        ):
            client, accepted = network.open(network.one, network.other)
            program.wait_for_connections(2)
            program.poll_again(3)
            client.close()
            accepted.close()
        [event] = [event for event in program.connections if event["source.address"] == AT_ONE]
        assert whose(event) == ("internal", CONTAINER_ID, None)


def test_nor_do_they_where_both_were_closed(network: Network, every: tuple[str, str]) -> None:
    """Two containers, to which there is no way from here, have the addresses of both ends, and use the same ports."""
    with ExitStack() as stack:
        far, farther = (stack.enter_context(container(network.host)) for _ in range(2))
        join(far, farther, (f"{AT_HOST}/24", f"{AT_OTHER}/24"))
        listener = stack.enter_context(listen(farther, AT_OTHER, 8080))
        # Its own end is seen as soon as it is closed; that of the container stays open.
        with running(network.host, *every, *SELDOM) as program:
            join(network.host, far, ("10.99.0.1/24", "10.99.0.2/24"), "far")
            join(network.host, farther, ("10.98.0.1/24", "10.98.0.2/24"), "farther")
            client, accepted = network.open(network.host, network.other, 20_000)
            client.close()
            end(connect(far, AT_OTHER, 8080, (AT_HOST, 20_000)), listener.accept()[0])
            program.wait_for_connections(2)
            accepted.close()
        at_host = [event for event in program.connections if "tcpnewconn.netns" not in event]
        assert [whose(event)[0] for event in at_host] == ["egress"]


def test_a_container_that_has_the_host_s_address_too_does_not_stand_between(
    network: Network, every: tuple[str, str]
) -> None:
    """pasta gives a user's container the addresses of the host."""
    with container(network.host) as copied:
        copied.address(f"{AT_HOST}/32")
        # Some are opened after the poll of the host, and before that of the container.
        with running(network.host, *every) as program:
            kept = []
            for number in range(1, COPIED + 1):
                kept.append(network.open(network.one, network.host))
                program.wait_for_connections(number)
            program.poll_again(3)
            for client, accepted in kept:
                end(client, accepted)
    assert {whose(event) for event in program.connections} == {("internal", CONTAINER_ID, None)}
    assert len(program.connections) == COPIED


class Traffic(threading.Thread):
    """Opens connections between the namespaces every few milliseconds, and closes them after some, in random order."""

    def __init__(self, network: Network, chance: random.Random) -> None:
        super().__init__()
        self.made: Counter[Flow] = Counter()
        self.problem: Exception | None = None
        self._network = network
        self._chance = chance
        self._stopping = threading.Event()

    def run(self) -> None:
        kept: list[Both] = []
        # No port is used twice: addresses and ports name a connection.
        ports = itertools.count(20_000)
        try:
            # Paced, not waited for.
            while not self._stopping.wait(self._chance.uniform(0, 0.02)):
                here, there = self._chance.sample(list(self._network.addresses), 2)
                client, accepted = self._network.open(here, there, next(ports))
                self.made[(*client.getsockname(), *client.getpeername())] += 1
                kept.append((client, accepted))
                for _ in range(self._chance.choice((0, 1, 1, 2)) if len(kept) < 20 else 2):
                    if kept:
                        # Whoever closes first is in TIME_WAIT, for longer than the test lasts.
                        one = kept.pop(self._chance.randrange(len(kept)))
                        end(*(one if self._chance.random() < 0.5 else one[::-1]))
            for one in kept:
                end(*one)
        except Exception as problem:
            self.problem = problem

    def stop(self) -> None:
        self._stopping.set()
        self.join()


def test_killed_at_any_moment_it_logs_every_connection_of_every_namespace_once(
    network: Network, tmp_path: Path
) -> None:
    chance = random.Random(15)
    # Often there is no time to poll the other namespace.
    options = (*configuration(tmp_path), "--state", str(tmp_path / "state"))
    traffic = Traffic(network, chance)
    found: list[Event] = []
    with network.host.entered():
        notifications = open_notifications()
    traffic.start()
    for _ in range(KILLS):
        program = Program(network.host, *options, notifications=notifications)
        program.ready()
        wanted = program.polls + chance.randrange(4)
        program.wait(lambda: program.polls >= wanted, "polls")  # noqa: B023
        program.kill()
        assert program.said == []
        found += program.connections
    traffic.stop()
    assert traffic.problem is None
    with running(network.host, *options, notifications=notifications) as program:
        program.poll_again(4)
    found += program.connections
    notifications.close()
    # One that is repeated after SIGKILL has the same id.
    ids = {event["tcpnewconn.connection_id"]: flow(event) for event in found}
    logged = Counter(ids.values())
    assert logged == traffic.made, (logged - traffic.made, traffic.made - logged)
