"""Connections between the host and its only container, which has ended, or is not observed, when the host's end closes."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tcpnewconn.kernel.allnamespaces import open_for_all
from tcpnewconn.kernel.sockdiag import open_notifications
from tcpnewconn.namespaces.other import YOUNG
from tests.kernel.test_all_namespaces import SELDOM, end_before_accept, whose
from tests.kernel.test_others import configuration
from tests.support.containers import CONTAINER_ID, Host, container, host, join
from tests.support.message_ids import CLOSED
from tests.support.program import Program, flow, flows, of_kind, running
from tests.support.supervised import DEADLINE
from tests.support.traffic import connect, listen, reset

AT_HOST, AT_ONE = "10.88.0.1", "10.88.0.5"


class Both:
    """A host that listens, and a container, joined with it."""

    def __init__(self, stack: ExitStack, cgroup: Path) -> None:
        self.host: Host = stack.enter_context(host())
        self.listener: socket.socket = stack.enter_context(listen(self.host, "0.0.0.0", 8080))
        self._of_container = stack.enter_context(ExitStack())
        self.container = self._of_container.enter_context(container(self.host, cgroup))
        join(self.host, self.container, (f"{AT_HOST}/24", f"{AT_ONE}/24"))

    def end_container(self) -> None:
        """Until the kernel has forgotten its namespace, too."""
        self._of_container.close()
        until = time.monotonic() + DEADLINE
        listed = self.host.command("ip", "netns", "list-id")
        while subprocess.run(listed, check=True, capture_output=True).stdout:
            assert time.monotonic() < until, "its namespace is still there"

    def connect_at_host(self) -> None:
        with connect(self.host, "127.0.0.1", 8080), self.listener.accept()[0]:
            pass


@pytest.fixture
def both(cgroup: Path) -> Iterator[Both]:
    with ExitStack() as stack:
        yield Both(stack, cgroup)


@pytest.fixture
def every(tmp_path: Path) -> tuple[str, str]:
    return configuration(tmp_path, "CPUQuota=100%")


def wait_until_all_are_known(program: Program) -> None:
    """For some seconds after its start there can be namespaces that are not known: it takes every address for one of them."""
    time.sleep(max(0.0, program.started + YOUNG + 1 - time.monotonic()))


def wait_for_record(state: Path, record: bytes) -> None:
    until = time.monotonic() + DEADLINE
    while record not in state.read_bytes():
        assert time.monotonic() < until, "no record of the host's end"
        time.sleep(0.005)


def test_it_is_logged_once(both: Both, every: tuple[str, str]) -> None:
    with running(both.host, *every, *SELDOM) as program:
        wait_until_all_are_known(program)
        end_before_accept(both.container, AT_HOST)
        program.wait_for_connections(1)
        both.end_container()
        both.listener.accept()[0].close()
        both.connect_at_host()
        program.wait_for_connections(2)
    assert [whose(event)[:2] for event in program.connections] == [("internal", CONTAINER_ID), ("internal", None)]
    assert len(flows(program.events)) == 2


def test_it_is_logged_once_where_a_reload_ends_that_other_namespaces_are_observed(both: Both, tmp_path: Path) -> None:
    options = configuration(tmp_path)
    file = Path(options[1])
    with running(both.host, *options, *SELDOM) as program:
        end_before_accept(both.container, AT_HOST)
        program.wait_for_connections(1)
        file.write_text(file.read_text().replace("Include=all", "Include=host"))
        program.signal(signal.SIGHUP)
        program.wait(lambda: "namespaces" not in program.status, "end of it")
        both.listener.accept()[0].close()
        both.connect_at_host()
        program.wait_for_connections(2)
    assert [whose(event)[:2] for event in program.connections] == [("internal", CONTAINER_ID), ("internal", None)]
    assert len(flows(program.events)) == 2


@pytest.mark.parametrize("include", ["all", "host"])
def test_it_is_logged_once_over_a_restart(both: Both, tmp_path: Path, include: str) -> None:
    configured = configuration(tmp_path)
    file = Path(configured[1])
    options = (*configured, *SELDOM, "--state", str(tmp_path / "state"))
    with both.host.entered(), open_notifications() as of_host, open_for_all() as of_all, ExitStack() as stack:
        program = Program(both.host, *options, notifications=of_host, namespaces=of_all)
        stack.callback(program.process.kill)
        program.ready()
        end_before_accept(both.container, AT_HOST)
        program.wait_for_connections(1)
        both.end_container()
        wait_for_record(tmp_path / "state", b'["o",')
        program.kill()
        file.write_text(file.read_text().replace("Include=all", f"Include={include}"))
        again = Program(both.host, *options, notifications=of_host, namespaces=of_all)
        stack.callback(again.process.kill)
        again.ready()
        both.listener.accept()[0].close()
        both.connect_at_host()
        again.wait_for_connections(1)
        again.stop()
    assert [whose(event)[:2] for event in program.connections] == [("internal", CONTAINER_ID)]
    assert [event["destination.address"] for event in again.connections] == ["127.0.0.1"]


def test_its_closed_event_is_that_of_the_connection_that_was_logged(both: Both, tmp_path: Path) -> None:
    file = tmp_path / "closed.conf"
    file.write_text("[Report]\nBurstLimit=0\nClosed=yes\n[Namespaces]\nInclude=all\nCPUQuota=100%\n")
    with running(both.host, "--config", str(file)) as program:
        wait_until_all_are_known(program)
        client = connect(both.container, AT_HOST, 8080)
        accepted = both.listener.accept()[0]
        program.wait_for_connections(1)
        program.poll_again(3)
        reset(client)
        both.end_container()
        program.poll_again(3)
        reset(accepted)
        program.wait(lambda: of_kind(program.events, CLOSED), "closed event")
    [connection] = program.connections
    [closed] = of_kind(program.events, CLOSED)
    assert closed["tcpnewconn.connection_id"] == connection["tcpnewconn.connection_id"]
    assert (flow(closed), whose(closed)) == (flow(connection), whose(connection))
