"""tcpnewconn reports the connections that became ESTABLISHED according to the kernel's own trace event (see truth.py)."""

from __future__ import annotations

import errno
import ipaddress
import itertools
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.namespace import CLIENT_PORTS, Namespace, joined, namespace
from tests.support.program import Event, Program, running
from tests.support.traffic import connect, listen, reset
from tests.support.truth import Established, Truth, Unavailable, truth

# A prime number of connections of each kind.
COUNT = 23

DestroyedSocket = tuple[str, int]
# Source and destination.
Flow = tuple[DestroyedSocket, DestroyedSocket]


class World:
    """Two hosts, with addresses that only these have; on one of them two programs, one of which hardly polls."""

    def __init__(self, here: Namespace, there: Namespace, number: int, kernel: Truth, programs: list[Program]) -> None:
        self.here = here
        self.there = there
        self.number = number
        self.kernel = kernel
        self.programs = programs
        self.took = [0 for _ in programs]
        self._ports = itertools.count(3000)

    def next_port(self) -> int:
        """One to listen on, below those that clients have."""
        return next(self._ports)

    def address(self, kind: str) -> str:
        # As the kernel's addresses are written: a group that is zero can be left out.
        return str(ipaddress.ip_address(ADDRESSES[kind].format(self.number // 256, self.number % 256)))

    def truths(self) -> Counter[Flow]:
        """The connections of the first host that the kernel speaks of, since this was last asked."""
        own = {self.address(kind) for kind in ("loopback", "here", "here6")}
        sockets = [each for each in self.kernel.established() if each.local[0] in own]
        found: Counter[Flow] = Counter()
        for each in sockets:
            if each.remote[0] not in own:
                found[_flow(each)] += 1
        # Of those within this host both ends are established; the connection is one.
        internal = Counter((each.opened, _flow(each)) for each in sockets if each.remote[0] in own)
        for flow in {flow for _, flow in internal}:
            found[flow] = max(internal[True, flow], internal[False, flow])
        return found

    def new_events(self, number: int) -> list[Event]:
        return self.programs[number].connections[self.took[number] :]

    def expect_truth(self) -> Counter[Flow]:
        """Wait until both programs have reported what became established, and that only; what it was."""
        expected = self.truths()
        for number, program in enumerate(self.programs):

            def complete(number: int = number) -> bool:
                return len(self.new_events(number)) >= expected.total()

            program.wait(complete, f"{expected.total()} connections")
        self.programs[0].poll_again()
        for number in range(len(self.programs)):
            events = self.new_events(number)
            self.took[number] += len(events)
            assert_same(events, expected)
        return expected


# Which no other test has: the truth is of the whole machine.
ADDRESSES = {
    "loopback": "127.{}.{}.9",
    "here": "10.{}.{}.91",
    "there": "10.{}.{}.92",
    "nobody": "10.{}.{}.93",
    "here6": "2001:db8:{}:{}::91",
    "there6": "2001:db8:{}:{}::92",
}


def _flow(each: Established) -> Flow:
    return (each.local, each.remote) if each.opened else (each.remote, each.local)


def assert_same(events: list[Event], expected: Counter[Flow]) -> None:
    """Each is reported as often as it was established. Where the kernel cleared an address, what is left must fit."""
    missing = Counter(expected)
    partial = []
    for event in events:
        flow = _ends(event)
        if None in (*flow[0], *flow[1]):
            partial.append(flow)
        else:
            missing[flow] -= 1  # type: ignore[index]
    surplus = -missing
    extra = [event for event in events if _ends(event) in surplus]
    assert not surplus, f"reported too often: {extra}, missing: {+missing}"
    rest = list((+missing).elements())
    for flow in partial:
        fitting = [each for each in rest if _fits(flow, each)]
        assert fitting, f"{flow} is none of {rest}"
        rest.remove(fitting[0])
    assert not rest, f"not reported: {rest}"
    ids = Counter(event["tcpnewconn.connection_id"] for event in events)
    assert ids.total() == len(ids)


Known = tuple[str | None, int | None]


def _ends(event: Event) -> tuple[Known, Known]:
    return (
        (event.get("source.address"), event.get("source.port")),
        (event.get("destination.address"), event.get("destination.port")),
    )


def _fits(known: tuple[Known, Known], flow: Flow) -> bool:
    return all(
        part is None or part == true
        for end, true_end in zip(known, flow, strict=True)
        for part, true in zip(end, true_end, strict=True)
    )


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    number = os.getpid() % 65536
    here, there, here6, there6 = (
        ADDRESSES[kind].format(number // 256, number % 256) for kind in ("here", "there", "here6", "there6")
    )
    with ExitStack() as stack:
        try:
            kernel = stack.enter_context(truth())
        except Unavailable as why:
            pytest.skip(f"THE KERNEL'S OWN TRUTH IS NOT TO BE HAD: {why}")
        first, other = stack.enter_context(joined([f"{here}/24", f"{here6}/64"], [f"{there}/24", f"{there6}/64"]))
        programs = [stack.enter_context(running(first, interval=interval)) for interval in ("100ms", "1h")]
        made = World(first, other, number, kernel, programs)
        yield made
        # Unaddressed sockets are reported a second later: nothing may follow.
        before = [len(program.events) for program in programs]
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            programs[0].poll_again()
        for program, number_of_events, took in zip(programs, before, made.took, strict=True):
            assert program.messages()[number_of_events:] == []
            assert len(program.connections) == took


@pytest.fixture(autouse=True)
def nothing_is_left(world: World) -> Iterator[None]:
    """Every test accounts for all that became established in it."""
    yield
    assert not world.truths()


class Place:
    """Where connections are opened, and where they are accepted, in IPv4 and IPv6 by turns."""

    def __init__(self, world: World, name: str) -> None:
        at, of = {"within": ("", ""), "accepting": ("here", "there"), "opening": ("there", "here")}[name]
        self.server = world.there if at == "there" else world.here
        self.client = world.there if of == "there" else world.here
        self.addresses = [world.address(at or "loopback"), world.address(f"{at or 'here'}6")]
        self._sources = [world.address(of or "loopback"), world.address(f"{of or 'here'}6")]
        self._world = world

    @contextmanager
    def listening(self, backlog: int = 4096) -> Iterator[list[socket.socket]]:
        """A listener of each family, on a port that no client has: a listener that is gone does not tell who opened."""
        port = self._world.next_port()
        with ExitStack() as stack:
            yield [stack.enter_context(listen(self.server, address, port, backlog)) for address in self.addresses]

    @contextmanager
    def connected(self, listener: socket.socket, port: int = 0) -> Iterator[tuple[socket.socket, socket.socket]]:
        """A connection as its client and its accepted socket, closed at the end."""
        with self.client_of(listener, port) as client:
            accepted = listener.accept()[0]
            with accepted:
                yield client, accepted

    def client_of(self, listener: socket.socket, port: int = 0, family: int = 0) -> socket.socket:
        number = int((family or listener.family) == socket.AF_INET6)
        # Unless a port is, the address is chosen by the kernel: closing with SO_LINGER 0 clears what was not bound.
        source = (self._sources[number], port) if port else None
        return connect(self.client, self.addresses[number], listener.getsockname()[1], source)

    def four_tuples(self, count: int = COUNT) -> Iterator[tuple[socket.socket, socket.socket]]:
        """So many connections, one after the other."""
        with self.listening() as listeners:
            for number in range(count):
                with self.connected(listeners[number % 2]) as both:
                    yield both


PLACES = ("within", "accepting", "opening")


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, world: World) -> Place:
    return Place(world, request.param)


def test_the_server_closes_first(world: World, place: Place) -> None:
    for client, accepted in place.four_tuples():
        accepted.close()
        assert client.recv(1) == b""
    assert world.expect_truth().total() == COUNT


def test_the_client_closes_first(world: World, place: Place) -> None:
    for client, accepted in place.four_tuples():
        client.close()
        assert accepted.recv(1) == b""
    assert world.expect_truth().total() == COUNT


def test_unread_bytes_reset_it(world: World, place: Place) -> None:
    for number, (client, accepted) in enumerate(place.four_tuples()):
        one, other = (client, accepted) if number % 2 else (accepted, client)
        one.sendall(b"never read")
        assert other.recv(1, socket.MSG_PEEK) == b"n"
        other.close()
    assert world.expect_truth().total() == COUNT


def test_the_server_resets_it(world: World, place: Place) -> None:
    for _, accepted in place.four_tuples():
        reset(accepted)
    assert world.expect_truth().total() == COUNT


def test_the_client_resets_it(world: World, place: Place) -> None:
    for client, _ in place.four_tuples():
        reset(client)
    assert world.expect_truth().total() == COUNT


def test_it_is_reset_after_a_read_has_seen_it(world: World, place: Place) -> None:
    with ExitStack() as stack, place.listening() as listeners:
        four_tuples = [stack.enter_context(place.connected(listeners[number % 2])) for number in range(COUNT)]
        world.programs[0].poll_again(2)
        for number, (client, accepted) in enumerate(four_tuples):
            reset(client if number % 2 else accepted)
    assert world.expect_truth().total() == COUNT


def test_it_is_half_closed(world: World, place: Place) -> None:
    for client, accepted in place.four_tuples(5):
        client.shutdown(socket.SHUT_WR)
        assert accepted.recv(1) == b""
        accepted.sendall(b"still here")
        assert client.recv(10, socket.MSG_WAITALL) == b"still here"
        world.programs[0].poll_again()
    assert world.expect_truth().total() == 5


def test_it_is_never_accepted(world: World, place: Place) -> None:
    with ExitStack() as stack, place.listening() as listeners:
        clients = [stack.enter_context(place.client_of(listeners[number % 2])) for number in range(COUNT)]
        for client in clients[::2]:
            client.close()
        world.programs[0].poll_again(2)
    assert world.expect_truth().total() == COUNT


def test_the_backlog_is_full(world: World, place: Place) -> None:
    """Some become established, on one side or both, and some never."""
    with ExitStack() as stack, place.listening(backlog=3) as listeners:
        for number in range(22):
            listener = listeners[number % 2]
            client = stack.enter_context(place.client.socket(listener.family))
            client.setblocking(False)
            client.connect_ex((place.addresses[number % 2], listener.getsockname()[1]))
        world.programs[0].poll_again(3)
    assert 6 <= world.expect_truth().total() < 22


def test_a_refused_one_is_none(world: World, place: Place) -> None:
    port = world.next_port()
    for number in range(COUNT):
        with place.client.socket(socket.AF_INET6 if number % 2 else socket.AF_INET) as client:
            assert client.connect_ex((place.addresses[number % 2], port)) == errno.ECONNREFUSED
    world.programs[0].poll_again(2)
    assert world.expect_truth().total() == 0


def test_one_that_times_out_is_none(world: World) -> None:
    """Nobody answers; some are given up by the kernel, some by their program."""
    world.here.ip(
        *("neighbour", "replace", world.address("nobody"), "lladdr", "02:00:00:00:00:99", "dev", "veth"),
        *("nud", "permanent"),
    )
    with ExitStack() as stack:
        for number in range(COUNT):
            client = stack.enter_context(world.here.socket())
            client.setblocking(False)
            if number % 2:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)
            client.connect_ex((world.address("nobody"), 443))
        world.programs[0].poll_again(5)
    assert world.expect_truth().total() == 0


def test_an_established_one_times_out(world: World) -> None:
    """The other host has vanished."""
    place = Place(world, "opening")
    with place.listening() as listeners, ExitStack() as stack:
        four_tuples = [stack.enter_context(place.connected(listeners[number % 2])) for number in range(5)]
        world.there.ip("link", "set", "veth", "down")
        try:
            for client, _ in four_tuples:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)
                client.sendall(b"anybody there?")
            for client, _ in four_tuples:
                client.settimeout(20)
                with pytest.raises(OSError, match="timed out|No route|unreachable"):
                    client.recv(1)
                client.close()
            expected = world.expect_truth()
        finally:
            world.there.ip("link", "set", "veth", "up")
            world.there.ip("address", "replace", f"{world.address('there6')}/64", "dev", "veth", "nodad")
    assert expected.total() == 5


SHARE = "import os, sys; os.write({0}, b'child'); os.close({0})"


def test_its_sockets_are_shared_by_processes(world: World, place: Place) -> None:
    for number, (client, accepted) in enumerate(place.four_tuples(5)):
        one, other = (client, accepted) if number % 2 else (accepted, client)
        child = subprocess.Popen([sys.executable, "-c", SHARE.format(one.fileno())], pass_fds=[one.fileno()])
        one.close()
        assert other.recv(5, socket.MSG_WAITALL) == b"child"
        assert other.recv(1) == b""
        other.close()
        assert child.wait(timeout=20) == 0
    assert world.expect_truth().total() == 5


def test_the_kernel_chooses_no_port_that_tests_choose() -> None:
    """Such a client, in TIME_WAIT, would have the port: it cannot be bound again then."""
    with namespace() as alone, listen(alone, "127.0.0.1") as listener:
        alone.sysctl("net.ipv4.ip_local_port_range", f"{CLIENT_PORTS[0]} {CLIENT_PORTS[-1]}")
        with pytest.raises(OSError, match=f"Errno {errno.EADDRNOTAVAIL}"):
            connect(alone, *listener.getsockname())


def test_a_port_is_used_again_and_again(world: World, place: Place) -> None:
    """The same addresses and ports, with the connection before in TIME_WAIT at the server."""
    with place.listening() as listeners:
        for _, listener in itertools.product(range(COUNT), listeners):
            with place.connected(listener, CLIENT_PORTS[0]) as (client, accepted):
                accepted.close()
                assert client.recv(1) == b""
    assert list(world.expect_truth().values()) == [COUNT, COUNT]


def test_a_port_is_used_again_after_a_reset(world: World, place: Place) -> None:
    """And the one before is gone without a trace."""
    with place.listening() as listeners:
        for number, listener in itertools.product(range(COUNT), listeners):
            with place.connected(listener, CLIENT_PORTS[1]) as (client, accepted):
                if number % 3 == 1:
                    world.programs[0].poll_again()
                reset(client)
                with pytest.raises(ConnectionResetError):
                    accepted.recv(1)
    assert list(world.expect_truth().values()) == [COUNT, COUNT]


def test_a_dual_stack_listener_accepts_both_families(world: World, place: Place) -> None:
    with listen(place.server, "::", world.next_port()) as listener:
        for family in itertools.islice(itertools.cycle((socket.AF_INET, socket.AF_INET6)), COUNT):
            with place.client_of(listener, family=family):
                listener.accept()[0].close()
    expected = world.expect_truth()
    assert Counter(":" in source[0] for source, _ in expected) == {False: 12, True: 11}


def test_a_listener_only_for_ipv6(world: World, place: Place) -> None:
    with place.server.socket(socket.AF_INET6) as listener:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(("::", world.next_port()))
        listener.listen()
        for _ in range(COUNT):
            with place.connected(listener):
                pass
    assert world.expect_truth().total() == COUNT


def test_a_socket_that_is_connected_to_itself(world: World) -> None:
    address = world.address("loopback")
    for number in range(5):
        port = CLIENT_PORTS[2 + number]
        with connect(world.here, address, port, (address, port)) as itself:
            itself.sendall(b"self")
            assert itself.recv(4) == b"self"
    assert world.expect_truth().total() == 5


def test_both_sides_open_at_once(world: World) -> None:
    """Each SYN meets the other: who opened it cannot be known, but that it is one connection."""
    addresses = [world.address("here"), world.address("there")]
    hosts = [world.here, world.there]
    with ExitStack() as stack:
        for host, other in zip(hosts, addresses[::-1], strict=True):
            host.ip("neighbour", "replace", other, "lladdr", "02:00:00:00:00:99", "dev", "veth", "nud", "permanent")
        sockets = []
        for host, address, other in zip(hosts, addresses, addresses[::-1], strict=True):
            opening = stack.enter_context(host.socket())
            opening.bind((address, 999))
            opening.setblocking(False)
            opening.connect_ex((other, 999))
            sockets.append(opening)
        for host, other in zip(hosts, addresses[::-1], strict=True):
            host.ip("neighbour", "del", other, "dev", "veth")
        for opening in sockets:
            opening.settimeout(20)
            assert opening.send(b"hello") == 5
        for opening in sockets:
            assert opening.recv(5) == b"hello"
    expected = world.truths()
    assert expected.total() == 1
    for number, program in enumerate(world.programs):
        program.wait(lambda number=number: len(world.new_events(number)) >= 1, "connection")  # type: ignore[misc]
    world.programs[0].poll_again(2)
    for number in range(2):
        (event,) = world.new_events(number)
        world.took[number] += 1
        assert set(_ends(event)) == {(addresses[0], 999), (addresses[1], 999)}


def test_a_web_server_under_load(world: World, tmp_path: Path) -> None:
    """nginx and wrk, a connection for each request."""
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/errors;\n"
        "events { worker_connections 1024; }\n"
        f"http {{ access_log off; client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy;\n"
        f" fastcgi_temp_path {tmp_path}/fastcgi; uwsgi_temp_path {tmp_path}/uwsgi; scgi_temp_path {tmp_path}/scgi;\n"
        f" server {{ listen {world.address('here')}:8080; return 200 hello; }} }}\n"
    )
    server = subprocess.Popen(
        world.here.command("nginx", "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "errors"))
    )
    try:
        wait_for_listener(world.here, 8080)
        said = world.there.output(
            *(
                "wrk",
                "-t",
                "1",
                "-c",
                "7",
                "-d",
                "2",
                "-H",
                "Connection: close",
                f"http://{world.address('here')}:8080/",
            )
        )
    finally:
        server.terminate()
        server.wait(timeout=20)
    requests = int(said.split(" requests in ")[0].split()[-1])
    expected = world.expect_truth()
    assert requests <= expected.total() <= requests + 7 + 1
    assert requests > 100


def wait_for_listener(where: Namespace, port: int) -> None:
    until = time.monotonic() + 20
    while not where.output("ss", "-tlnH", f"sport = :{port}"):
        assert time.monotonic() < until, f"nothing listens on port {port}"
        time.sleep(0.02)


def test_everything_at_once(world: World) -> None:
    """Opened and closed in every way, so that polls fall anywhere in it."""
    ways: list[Callable[[socket.socket, socket.socket], None]] = [
        lambda client, accepted: client.close(),
        lambda client, accepted: accepted.close(),
        lambda client, accepted: reset(client),
        lambda client, accepted: reset(accepted),
        lambda client, accepted: client.shutdown(socket.SHUT_WR),
    ]
    total = 0
    with ExitStack() as stack:
        places = [Place(world, name) for name in PLACES]
        listeners = [(place, listener) for place in places for listener in stack.enter_context(place.listening())]
        waiting: list[ExitStack] = []
        for (place, listener), way in itertools.product(listeners, ways * 8):
            one = ExitStack()
            client, accepted = one.enter_context(place.connected(listener))
            way(client, accepted)
            waiting.append(one)
            total += 1
            if len(waiting) > 17:
                waiting.pop(0).close()
        for one in waiting:
            one.close()
    assert world.expect_truth().total() == total
