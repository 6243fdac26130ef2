"""Connections in the network namespaces of other processes of a host."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import CONTAINER_ID, Host, child_of, container, host, join, process
from tests.support.message_ids import CONNECTION, LISTENER, LOSS
from tests.support.namespace import CLIENT_PORTS, Namespace, namespace
from tests.support.program import Event, Program, flows, of_kind, once, running, stopped
from tests.support.supervised import Supervised
from tests.support.terminal import TESTS
from tests.support.traffic import connect, listen, opened, reset


@pytest.fixture
def here() -> Iterator[Host]:
    with host() as made:
        yield made


@pytest.fixture
def every(tmp_path: Path) -> tuple[str, str]:
    return configuration(tmp_path, "CPUQuota=100%")


def configuration(tmp_path: Path, *lines: str) -> tuple[str, str]:
    """The options that name a configuration: all namespaces are observed, every connection is logged by itself."""
    file = tmp_path / "all.conf"
    text = (TESTS / "fixtures/every.conf").read_text()
    file.write_text("\n".join([text, "[Namespaces]", "Include=all", *lines, ""]))
    return "--config", str(file)


def number_of(network: Namespace) -> int:
    with network.entered():
        return os.stat("/proc/thread-self/net/tcp").st_ino


def fields(event: Event) -> tuple[str, str, int | None]:
    return event["network.direction"], event["tcpnewconn.detected_by"], event.get("tcpnewconn.netns")


def test_connections_of_every_namespace_are_logged_with_the_namespace(here: Host, every: tuple[str, str]) -> None:
    with (
        container(here) as one,
        container(here) as other,
        listen(here, "127.0.0.1", 8080) as at_host,
        listen(one, "127.0.0.1", 8080) as at_one,
        connect(here, "127.0.0.1", 8080, ("127.0.0.1", CLIENT_PORTS[0])),
        connect(one, "127.0.0.1", 8080, ("127.0.0.1", CLIENT_PORTS[0])),
        at_host.accept()[0],
        at_one.accept()[0],
        running(here, *every) as program,
        listen(other, "127.0.0.1", 8080) as at_other,
        connect(other, "127.0.0.1", 8080, ("127.0.0.1", CLIENT_PORTS[0])),
        at_other.accept()[0],
    ):
        program.wait_for_connections(3)
        program.poll_again(3)
        assert "2 open in 2 other namespaces" in program.status
        assert [fields(event) for event in program.connections] == [
            ("internal", "startup", None),
            ("internal", "startup", number_of(one)),
            ("internal", "poll", number_of(other)),
        ]
        assert len({event["tcpnewconn.connection_id"] for event in program.connections}) == 3
        listeners = of_kind(program.events, LISTENER)
        assert {event.get("tcpnewconn.netns") for event in listeners} == {None, number_of(one), number_of(other)}


def test_by_default_the_host_alone_is_observed(here: Host) -> None:
    with container(here) as one, listen(one, "127.0.0.1", 8080) as listener, running(here) as program:
        with connect(one, "127.0.0.1", 8080), listener.accept()[0]:
            program.poll_again(2)
        assert program.events == []
        assert "namespaces" not in program.status


def test_a_program_within_another_namespace_observes_that_alone(
    here: Host, every: tuple[str, str], tmp_path: Path
) -> None:
    with namespace() as apart, listen(here, "127.0.0.1", 8080):
        with Supervised("--interval", "100ms", *every, where=apart) as program:
            program.ready()
            program.stop()
        assert any("not the network namespace of process 1" in line for line in program.said)


def test_a_namespace_has_the_container_that_its_processes_are_in(
    here: Host, every: tuple[str, str], cgroup: Path
) -> None:
    with (
        container(here, cgroup) as one,
        # Such as a forwarder of ports.
        process(here, one),
        listen(one, "127.0.0.1", 8080) as listener,
        connect(one, "127.0.0.1", 8080),
        listener.accept()[0],
    ):
        [event] = of_kind(once(here, *every), CONNECTION)
        assert (event["container.id"], event["container.runtime"]) == (CONTAINER_ID, "podman")
        assert event["object.systemd_unit"] == f"libpod-{CONTAINER_ID}.scope"


def test_several_containers_in_one_namespace_are_not_guessed(here: Host, every: tuple[str, str], cgroup: Path) -> None:
    second = cgroup.parents[1] / f"libpod-{'f' * 64}.scope"
    second.mkdir()
    with (
        container(here, cgroup) as one,
        process(here, one, second),
        listen(one, "127.0.0.1", 8080) as listener,
        connect(one, "127.0.0.1", 8080),
        listener.accept()[0],
    ):
        [event] = of_kind(once(here, *every), CONNECTION)
        assert "container.id" not in event
        assert event["tcpnewconn.netns"] == number_of(one)


def test_nothing_is_repeated_after_a_restart_and_nothing_new_is_missing(
    here: Host, every: tuple[str, str], tmp_path: Path
) -> None:
    state = ("--state", str(tmp_path / "state"))
    with container(here) as one, listen(one, "127.0.0.1", 8080) as listener:
        kept = []

        def open_one() -> None:
            kept.append(connect(one, "127.0.0.1", 8080))
            kept.append(listener.accept()[0])

        open_one()
        program = Program(here, *every, *state)
        program.ready()
        open_one()
        program.wait_for_connections(2)
        program.poll_again(2)
        program.kill()
        open_one()
        # In TIME_WAIT: known as reported, and new.
        for number in (0, 1, 4, 5):
            kept[number].close()
        with (
            container(here) as new,
            listen(new, "127.0.0.1", 8081) as other,
            connect(new, "127.0.0.1", 8081),
            other.accept()[0],
        ):
            with running(here, *every, *state) as again:
                again.wait_for_connections(2)
                again.poll_again(3)
            with running(here, *every, *state) as third:
                third.poll_again(3)
        for each in kept:
            each.close()
    assert [fields(event) for event in program.connections] == [
        ("internal", "startup", number_of_(program.connections[0])),
        ("internal", "poll", number_of_(program.connections[0])),
    ]
    assert [event["tcpnewconn.detected_by"] for event in again.connections] == ["poll", "poll"]
    assert len(flows(program.events + again.events)) == 4
    assert third.events == []


def number_of_(event: Event) -> int:
    return int(event["tcpnewconn.netns"])


def test_a_namespace_that_ends_takes_nothing_with_it_and_its_number_is_another_one_s(
    here: Host, every: tuple[str, str], tmp_path: Path
) -> None:
    numbers: list[int] = []
    with running(here, *every, "--state", str(tmp_path / "state")) as program:
        # Until one is used again: else the test shows nothing.
        while len(set(numbers)) == len(numbers):
            with (
                container(here) as one,
                listen(one, "127.0.0.1", 8080) as listener,
                connect(one, "127.0.0.1", 8080, ("127.0.0.1", CLIENT_PORTS[0])),
                listener.accept()[0],
            ):
                numbers.append(number_of(one))
                program.wait_for_connections(len(numbers))
    assert [number_of_(event) for event in program.connections] == numbers
    assert len({event["tcpnewconn.connection_id"] for event in program.connections}) == len(numbers)


def test_of_a_user_in_a_namespace_the_id_is_logged(here: Host, every: tuple[str, str]) -> None:
    with container(here) as one, listen(one, "127.0.0.1") as listener, opened(one, listener, "127.0.0.1", 3, 4711):
        events = of_kind(once(here, *every), CONNECTION)
        assert [event["user.id"] for event in events] == ["4711"] * 3


def test_how_many_connections_no_poll_has_shown_is_logged_as_a_loss(here: Host, every: tuple[str, str]) -> None:
    with container(here) as one, container(here) as other:
        join(one, other, ("10.88.0.5/24", "10.88.0.6/24"))
        with listen(other, "10.88.0.6", 8080) as listener, running(here, *every) as program:

            def connected(count: int) -> None:
                for _ in range(count):
                    client = connect(one, "10.88.0.6", 8080)
                    accepted = listener.accept()[0]
                    # Neither end is in TIME_WAIT.
                    reset(client)
                    accepted.close()

            program.poll_again(2)
            # No poll comes meanwhile: what is missing by then would be logged at once, and the rest a minute later.
            with stopped(child_of(program.process.pid)):
                connected(30)
            program.wait(lambda: of_kind(program.events, LOSS), "loss")
            program.poll_again(2)
    [loss] = of_kind(program.events, LOSS)
    assert loss["tcpnewconn.reason"] == "namespaces"
    # Each has two sockets. Those of the other namespace can be counted a poll later: then they are logged a minute later.
    assert program.connections == []
    assert 30 <= loss["tcpnewconn.count"] <= 60


def test_where_polls_show_every_connection_none_is_a_loss(here: Host, every: tuple[str, str]) -> None:
    with container(here) as one, listen(one, "127.0.0.1", 8080) as listener, running(here, *every) as program:
        for count in range(1, 31):
            # No port twice, as in test_all_namespaces.py.
            with connect(one, "127.0.0.1", 8080, ("127.0.0.1", CLIENT_PORTS[count])) as client, listener.accept()[0]:
                if count % 5 == 0:
                    program.wait_for_connections(count)
            del client
        # In TIME_WAIT they are shown, too.
        program.wait_for_connections(30)
        program.poll_again(4)
    assert of_kind(program.events, LOSS) == []


def test_a_reload_begins_and_ends_it(here: Host, tmp_path: Path) -> None:
    options = configuration(tmp_path)
    file = Path(options[1])
    observed = file.read_text()
    alone = observed.replace("Include=all", "Include=host")
    file.write_text(alone)
    with container(here) as one, listen(one, "127.0.0.1", 8080) as listener:
        state = ("--state", str(tmp_path / "state"))
        with (
            connect(one, "127.0.0.1", 8080),
            listener.accept()[0],
            running(here, *options, *state) as program,
        ):
            program.poll_again()
            assert program.events == []
            file.write_text(observed)
            program.signal(signal.SIGHUP)
            program.wait_for_connections(1)
            file.write_text(alone)
            program.signal(signal.SIGHUP)
            program.wait(lambda: "namespaces" not in program.status, "end of it")
            with connect(one, "127.0.0.1", 8080), listener.accept()[0]:
                program.poll_again(2)
            assert [fields(event)[1] for event in program.connections] == ["startup"]
        # A later run begins as at first.
        assert re.findall(r'\["@", (?:true|false)\]', (tmp_path / "state").read_text())[-1] == '["@", false]'
