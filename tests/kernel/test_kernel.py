"""The whole program against the real kernel: so many connections opened, so many reported, each as it was."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.events import parsed
from tests.support.message_ids import CONNECTION, LISTENER
from tests.support.namespace import Namespace, joined, namespace
from tests.support.program import Event, Flow, flow, flows, of_kind, once, running, stopped
from tests.support.terminal import command
from tests.support.traffic import connect, listen, opened

# A prime number, that is no power or multiple of anything.
COUNT = 23
USER = 4711


@pytest.fixture
def here() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


@pytest.fixture
def four_tuple() -> Iterator[tuple[Namespace, Namespace]]:
    """Two hosts."""
    with joined(["10.71.0.1/24", "2001:db8:71::1/64"], ["10.71.0.2/24", "2001:db8:71::2/64"]) as made:
        yield made


def established(where: Namespace) -> Counter[Flow]:
    """The columns of `ss`."""
    found: Counter[Flow] = Counter()
    for line in where.output("ss", "-tanH", "state", "established").splitlines():
        local, remote = line.split()[2:4]
        found[(*_end(local), *_end(remote))] += 1
    return found


def _end(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    return re.sub(r"[][]|::ffff:(?=\d+\.)|%\w+", "", address), int(port)


def expect(
    events: list[Event], network: str, direction: str, sources: list[tuple[str, int]], to: tuple[str, int], user: int
) -> None:
    """Exactly these connections, with all that is to be reported of each."""
    connections = of_kind(events, CONNECTION)
    assert sorted(flow(event) for event in connections) == sorted((*source, *to) for source in sources)
    assert len({event["tcpnewconn.connection_id"] for event in connections}) == len(sources)
    assert len({event["network.community_id"] for event in connections}) == len(sources)
    for event in connections:
        source, destination = (
            f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            for address, port in (flow(event)[:2], flow(event)[2:])
        )
        assert event["message"] == f"New connection: {source} -> {destination}"
        assert event["network.transport"] == "tcp"
        assert event["network.type"] == network
        assert event["network.direction"] == direction
        assert event["network.connection.state"] == "established"
        assert event["tcpnewconn.detected_by"] == "poll"
        assert event["user.id"] == str(user)
        assert event.get("user.name") == ("root" if user == 0 else None)
        assert event["network.community_id"].startswith("1:")


# Address to listen on, to connect to, to be reported; the network's type.
WITHIN = {
    "ipv4": ("127.0.0.1", "127.0.0.1", "127.0.0.1", "ipv4"),
    "ipv6": ("::1", "::1", "::1", "ipv6"),
    "mapped": ("::", "127.0.0.1", "127.0.0.1", "ipv4"),
    "wildcard": ("0.0.0.0", "127.0.0.1", "127.0.0.1", "ipv4"),
    "own address": ("0.0.0.0", "10.71.0.1", "10.71.0.1", "ipv4"),
    "own address of ipv6": ("::", "2001:db8:71::1", "2001:db8:71::1", "ipv6"),
}


@pytest.mark.parametrize("name", WITHIN)
def test_connections_within_this_host_are_reported_once_each(
    name: str, four_tuple: tuple[Namespace, Namespace]
) -> None:
    here, _ = four_tuple
    on, to, address, network = WITHIN[name]
    with running(here) as program, listen(here, on) as listener:
        with opened(here, listener, to, COUNT, USER) as (ports, _):
            program.wait_for_connections(COUNT)
            program.poll_again(2)
            expect(
                program.events,
                network,
                "internal",
                [(address, port) for port in ports],
                (address, listener.getsockname()[1]),
                USER,
            )
            shown = established(here)
            assert sum(shown.values()) == 2 * COUNT
            assert Counter({ends: 1 for ends in shown if ends[1] in ports}) == flows(program.events)
        program.poll_again(2)
        assert len(program.connections) == COUNT


BETWEEN = {
    "ipv4": ("10.71.0.1", "10.71.0.1", "10.71.0.2", "ipv4"),
    "ipv6": ("2001:db8:71::1", "2001:db8:71::1", "2001:db8:71::2", "ipv6"),
    "mapped": ("::", "10.71.0.1", "10.71.0.2", "ipv4"),
    "wildcard of ipv6": ("::", "2001:db8:71::1", "2001:db8:71::2", "ipv6"),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_both_hosts_report_the_connections_between_them(name: str, four_tuple: tuple[Namespace, Namespace]) -> None:
    """One as accepted, by its user; the other as opened, by the client's; with the same Community IDs."""
    here, there = four_tuple
    on, to, source, network = BETWEEN[name]
    with running(here) as accepting, running(there) as opening, listen(here, on) as listener:
        with ExitStack() as stack:
            # Before they are accepted, they have no user here.
            with stopped(accepting.process.pid):
                ports, _ = stack.enter_context(opened(there, listener, to, COUNT, USER))
            sources = [(source, port) for port in ports]
            for program, direction, user in ((accepting, "ingress", 0), (opening, "egress", USER)):
                program.wait_for_connections(COUNT)
                program.poll_again(2)
                expect(program.events, network, direction, sources, (to, listener.getsockname()[1]), user)
            assert established(there) == flows(opening.events)
            assert Counter({(*ends[2:], *ends[:2]): n for ends, n in established(here).items()}) == flows(
                accepting.events
            )
        accepted, made = (
            {event["network.community_id"]: flow(event) for event in program.connections}
            for program in (accepting, opening)
        )
        assert accepted == made
        assert {e["tcpnewconn.connection_id"] for e in accepting.connections}.isdisjoint(
            e["tcpnewconn.connection_id"] for e in opening.connections
        )
    for program in (accepting, opening):
        assert len(program.connections) == COUNT


def test_listeners_are_events_of_their_own_and_no_connections(here: Namespace) -> None:
    with running(here) as program:
        kept = [listen(here, "127.0.0.1"), listen(here, "::1"), listen(here, "::")]
        program.wait(lambda: len(program.events) >= 3, "listeners")
        program.poll_again(2)
        assert {(e["destination.address"], e["destination.port"]) for e in of_kind(program.events, LISTENER)} == {
            each.getsockname()[:2] for each in kept
        }
        assert len(program.events) == 3
        assert {e["network.connection.state"] for e in program.events} == {"listen"}
        assert {e["user.id"] for e in program.events} == {"0"}
        # Gone, and back: a service was started again.
        port = kept[0].getsockname()[1]
        kept[0].close()
        program.poll_again(3)
        kept[0] = listen(here, "127.0.0.1", port)
        program.wait(lambda: len(program.events) >= 4, "the listener again")
        assert program.events[3]["message"] == f"New listener: 127.0.0.1:{port}"
        for each in kept:
            each.close()


def test_a_connect_is_reported_when_it_succeeds_and_not_before(four_tuple: tuple[Namespace, Namespace]) -> None:
    here, there = four_tuple
    device = there.output("cat", "/sys/class/net/lo/address") and "02:00:00:00:00:99"
    here.ip("neighbour", "add", "10.71.0.2", "lladdr", device, "dev", "veth", "nud", "permanent")
    with running(here) as program, listen(there, "10.71.0.2") as listener, here.socket() as client:
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
        program.poll_again(3)
        assert "syn-sent" in here.output("ss", "-tanH").lower()
        assert program.events == []
        here.ip("neighbour", "del", "10.71.0.2", "dev", "veth")
        program.wait(lambda: len(program.events) > 0, "connection")
        assert flow(program.events[0]) == (*client.getsockname(), *listener.getsockname())
        program.poll_again(2)
        assert len(program.events) == 1


def test_once_shows_what_is_there_each_time(here: Namespace) -> None:
    with listen(here, "127.0.0.1") as listener, opened(here, listener, "127.0.0.1", COUNT, USER) as (ports, _):
        for _ in range(2):
            events = once(here)
            assert [event["message"] for event in of_kind(events, LISTENER)] == [
                f"New listener: 127.0.0.1:{listener.getsockname()[1]}"
            ]
            assert len(of_kind(events, CONNECTION)) == COUNT == len(events) - 1
            assert {event["tcpnewconn.detected_by"] for event in of_kind(events, CONNECTION)} == {"startup"}
            assert {event["source.port"] for event in of_kind(events, CONNECTION)} == set(ports)
            assert {event["user.id"] for event in of_kind(events, CONNECTION)} == {str(USER)}


def test_once_with_a_state_shows_what_is_new(here: Namespace, tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    with listen(here, "127.0.0.1") as listener, connect(here, *listener.getsockname()) as first:
        assert list(flows(once(here, "--state", state))) == [(*first.getsockname(), *listener.getsockname())]
        assert once(here, "--state", state) == []
        with connect(here, *listener.getsockname()) as second:
            events = once(here, "--state", state)
            assert list(flows(events)) == [(*second.getsockname(), *listener.getsockname())]
            assert events[0]["tcpnewconn.detected_by"] == "poll"
            assert once(here, "--state", state) == []
        assert once(here, "--state", state) == []


def test_text_is_what_the_original_printed(here: Namespace) -> None:
    with listen(here, "127.0.0.1", 8080), connect(here, "127.0.0.1", 8080, ("127.0.0.1", 40001)):
        done = subprocess.run(
            here.command(sys.executable, "-m", "tcpnewconn", "--once", "--config", "/dev/null"),
            cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stderr == ""
        time_of_day = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00: "
        listener_line, connection = done.stdout.splitlines()
        assert re.fullmatch(time_of_day + r"New listener: 127\.0\.0\.1:8080", listener_line)
        assert re.fullmatch(time_of_day + r"New connection: 127\.0\.0\.1:40001 -> 127\.0\.0\.1:8080", connection)


def test_a_restart_reports_nothing_again_and_what_opened_meanwhile(here: Namespace, tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "state"))
    with listen(here, "127.0.0.1") as listener, opened(here, listener, "127.0.0.1", COUNT, USER):
        with running(here, *state) as first:
            first.wait_for_connections(COUNT)
        assert len(first.connections) == COUNT
        assert len(of_kind(first.events, LISTENER)) == 1
        with opened(here, listener, "127.0.0.1", COUNT, USER) as (ports, _), running(here, *state) as second:
            second.wait_for_connections(COUNT)
            second.poll_again(2)
        assert sorted(event["source.port"] for event in second.events) == sorted(ports)
        assert {event["tcpnewconn.detected_by"] for event in second.events} == {"poll"}
        # Those that were closed, each in TIME_WAIT now, among them.
        with running(here, *state) as third:
            third.poll_again(2)
        assert third.events == []


def test_reads_keep_to_the_interval(here: Namespace) -> None:
    with running(here, interval="200ms") as program:
        program.poll_again()
        before, began = program.polls, time.monotonic()
        program.wait(lambda: program.polls >= before + 7, "reads")
        # Seven polls more: six whole intervals lie between the first and the last of them.
        assert time.monotonic() - began >= 6 * 0.2
    assert program.polls < (time.monotonic() - program.started) / 0.2 + 2


def test_between_two_reads_nothing_is_read(here: Namespace) -> None:
    """A connection that opened after a poll is reported by the next, or when it is closed."""
    with running(here, interval="1h") as program, listen(here, "127.0.0.1") as listener:
        client = connect(here, *listener.getsockname())
        accepted = listener.accept()[0]
        expected = (*client.getsockname(), *listener.getsockname())
        client.close()
        accepted.close()
        program.wait(lambda: len(program.events) > 0, "end")
        assert program.polls == 1
        assert flow(program.events[0]) == expected
        assert program.events[0]["tcpnewconn.detected_by"] == "notification"
        assert "user.id" not in program.events[0]
    assert len(program.events) == 1


def test_more_than_ten_thousand_rows(here: Namespace) -> None:
    """While the slot number grows past four digits."""
    with running(here) as program, listen(here, "127.0.0.1") as listener:
        kept = []
        expected: Counter[Flow] = Counter()
        for _ in range(5_003):
            kept.append(connect(here, *listener.getsockname()))
            expected[(*kept[-1].getsockname(), *listener.getsockname())] += 1
            kept.append(listener.accept()[0])
        program.wait_for_connections(5_003)
        program.poll_again(2)
        assert flows(program.events) == expected
        assert program.status.startswith("5,003 connections open, 0 new")
        assert flows(once(here)) == expected
        for each in kept:
            each.close()
        program.wait(lambda: program.status.startswith("0 connections"), "end of all")
        assert flows(program.events) == expected


def test_another_proc_shows_the_network_of_its_process_one(here: Namespace, tmp_path: Path) -> None:
    """A host's /proc, mounted in a container: the tables are those of the host, and not of where the program runs."""
    proc = tmp_path / "proc"
    proc.mkdir()
    with namespace() as other, listen(other, "127.0.0.1") as listener, listen(here, "127.0.0.1"):
        host = subprocess.Popen(
            other.command("unshare", "--pid", "--fork", "--kill-child", "sh", "-c", f"mount -t proc proc {proc} && echo && cat"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert host.stdout is not None
        assert host.stdin is not None
        try:
            assert host.stdout.readline() == b"\n"
            with opened(other, listener, "127.0.0.1", COUNT, USER) as (ports, _):
                events = once(here, "--procfs", str(proc))
            assert sorted(event["source.port"] for event in of_kind(events, CONNECTION)) == sorted(ports)
            assert len(of_kind(events, LISTENER)) == 1
            assert {event["user.id"] for event in of_kind(events, CONNECTION)} == {str(USER)}
            # Without the kernel's word (it is asked about its own network only), the rows decide.
            assert {event["network.direction"] for event in of_kind(events, CONNECTION)} == {"internal"}
        finally:
            host.stdin.close()
            host.stdout.close()
            host.wait(timeout=30)
            subprocess.run(["umount", proc], check=True)


def test_sigint_ends_it_as_sigterm_does(here: Namespace) -> None:
    with running(here) as program:
        program.signal(signal.SIGINT)
        assert program.process.wait(timeout=30) == 0


def test_a_reader_that_goes_away_ends_it_quietly(here: Namespace) -> None:
    reading, writing = os.pipe()
    with listen(here, "127.0.0.1"):
        program = subprocess.Popen(
            here.command(*command("--output", "json", "--interval", "100ms")), stdout=writing, stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        os.close(writing)
        with open(reading) as output:
            assert parsed(output.readline())["message_id"] == LISTENER
        with listen(here, "127.0.0.1"):
            _, said = program.communicate(timeout=30)
    assert said == b""
    assert program.returncode == 0


def test_ends_that_come_while_it_starts_are_not_lost(here: Namespace) -> None:
    """From the moment that its first poll is over, with nothing but its own socket."""
    with listen(here, "127.0.0.1") as listener, running(here, interval="1h") as program:
        expected: Counter[Flow] = Counter()
        for _ in range(101):
            with connect(here, *listener.getsockname()) as client:
                expected[(*client.getsockname(), *listener.getsockname())] += 1
                listener.accept()[0].close()
        program.wait_for_connections(101)
    assert flows(program.events) == expected


def test_two_programs_that_run_at_once_say_the_same(four_tuple: tuple[Namespace, Namespace]) -> None:
    """Each asks the kernel for cookies; one that was given stays."""
    here, there = four_tuple
    with running(here) as one, running(here) as other, listen(there, "10.71.0.2") as listener:
        with opened(here, listener, "10.71.0.2", COUNT):
            for program in (one, other):
                program.wait_for_connections(COUNT)
        for program in (one, other):
            program.poll_again(2)
    assert {e["tcpnewconn.connection_id"]: flow(e) for e in one.connections} == {
        e["tcpnewconn.connection_id"]: flow(e) for e in other.connections
    }
    assert len(one.connections) == len(other.connections) == COUNT


def test_the_state_of_a_socket_that_only_reads_see(here: Namespace) -> None:
    """Half-closed, and closed by the peer: as they stand."""
    with listen(here, "127.0.0.1") as listener:
        client = connect(here, *listener.getsockname())
        accepted = listener.accept()[0]
        client.shutdown(socket.SHUT_WR)
        assert accepted.recv(1) == b""
        (event,) = of_kind(once(here), CONNECTION)
        assert event["network.connection.state"] in ("fin_wait_2", "close_wait")
        assert flow(event) == (*client.getsockname(), *listener.getsockname())
        client.close()
        accepted.close()


def test_a_connection_in_time_wait_at_the_start_is_reported_once_and_the_next_one_on_its_addresses_too(
    here: Namespace,
) -> None:
    here.sysctl("net.ipv4.ip_local_port_range", "20000 20300")
    with here.entered():
        listener = socket.create_server(("127.0.0.1", 8080), backlog=1000)
        addresses = listener.getsockname()

        def connect(count: int) -> None:
            while count:
                try:
                    client = socket.create_connection(addresses)
                except OSError:
                    # Every port is in use or was, a moment ago: tcp_tw_reuse gives it back after a second.
                    time.sleep(0.01)
                    continue
                listener.accept()[0].close()
                client.close()
                count -= 1

        connect(150)
        before = here.table().count(b" 06 00000000")
        # On a slow machine tcp_tw_reuse has given some ports back by now.
        assert before >= 10
        with running(here, interval="1h") as program:
            connect(601)
            program.wait_for_connections(before + 601)
        listener.close()
    seen = Counter(event["tcpnewconn.detected_by"] for event in of_kind(program.events, CONNECTION))
    assert seen == {"startup": before, "notification": 601}
    ids = [event["tcpnewconn.connection_id"] for event in of_kind(program.events, CONNECTION)]
    assert len(set(ids)) == len(ids)
