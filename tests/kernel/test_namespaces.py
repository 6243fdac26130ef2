"""Namespaces of real processes."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from tcpnewconn.kernel.activity import Counters, counters_of
from tcpnewconn.kernel.namespaces import Gone, Key, Namespaces, local_addresses
from tests.support.namespace import Namespace, namespace


@contextmanager
def process(here: Namespace) -> Iterator[int]:
    """A process in a namespace, that is there once it is."""
    with subprocess.Popen(
        here.command("sh", "-c", "echo; exec cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as made:
        assert made.stdout is not None
        made.stdout.readline()
        yield made.pid
        made.kill()


def key_of(namespaces: Namespaces, pid: int) -> Key | None:
    return next((key for key, pids in namespaces.found.items() if pid in pids), None)


def looked() -> Namespaces:
    namespaces = Namespaces()
    namespaces.look()
    return namespaces


def test_processes_of_one_namespace_are_found_together_and_those_of_others_apart() -> None:
    with (
        namespace() as one,
        namespace() as other,
        process(one) as first,
        process(one) as second,
        process(other) as third,
    ):
        namespaces = looked()
        key = key_of(namespaces, first)
        assert key is not None
        assert key == key_of(namespaces, second)
        assert key_of(namespaces, third) not in (None, key)
        assert key_of(namespaces, os.getpid()) is None
        assert namespaces.of_first_process() is not None


def test_a_namespace_whose_inode_number_is_used_again_has_another_key() -> None:
    numbers: dict[int, set[Key]] = {}
    # A number is free once the kernel's work queue has come to the namespace's end (cleanup_net(), net/core/net_namespace.c).
    end = time.monotonic() + 60.0
    while time.monotonic() < end:
        with namespace() as here, process(here) as pid:
            key = key_of(looked(), pid)
        assert key is not None
        numbers.setdefault(key.number, set()).add(key)
        if len(numbers[key.number]) > 1:
            return
    pytest.fail("no number was used again")


def test_a_namespace_does_not_outlive_its_last_process() -> None:
    """Its interface goes with it, although it was polled: no descriptor is kept."""
    with namespace() as outside:
        inside = Namespace()
        outside.ip("link", "add", "here", "type", "veth", "peer", "name", "there", "netns", inside.path)
        with process(inside) as pid:
            inside.close()
            namespaces = looked()
            key = key_of(namespaces, pid)
            assert key is not None
            with namespaces.opened(key) as directory:
                assert counters_of(directory) is not None
            assert "here" in outside.output("ip", "-o", "link")
        with pytest.raises(Gone), namespaces.opened(key):
            pass
        until(lambda: "here" not in outside.output("ip", "-o", "link"))


def until(condition: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if condition():
            return
    pytest.fail("it does not come to that")


def counted(namespaces: Namespaces, key: Key) -> Counters:
    with namespaces.opened(key) as directory:
        found = counters_of(directory)
    assert found is not None
    return found


def test_counters_change_with_each_connection_and_with_nothing_else() -> None:
    with namespace() as here, process(here) as pid, here.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        namespaces = looked()
        key = key_of(namespaces, pid)
        assert key is not None
        before = counted(namespaces, key)
        with here.socket() as client:
            client.connect(listener.getsockname())
            accepted = listener.accept()[0]
            opened = counted(namespaces, key)
            assert opened.active_opens == before.active_opens + 1
            assert opened.passive_opens == before.passive_opens + 1
            assert opened.established == before.established + 2
            client.send(b"data")
            accepted.recv(4)
            with namespace() as other, other.socket() as elsewhere:
                elsewhere.bind(("127.0.0.1", 0))
                elsewhere.listen()
            assert counted(namespaces, key) == opened
            accepted.close()
        closed = counted(namespaces, key)
        assert closed.established == before.established
        assert closed != opened


def test_addresses_are_those_of_its_interfaces() -> None:
    with namespace() as here, process(here) as pid:
        here.address("10.88.0.5/16")
        here.address("10.88.0.6/32")
        here.address("2001:db8::5/64")
        namespaces = looked()
        key = key_of(namespaces, pid)
        assert key is not None
        with namespaces.opened(key) as directory:
            found = {str(ip_address(address)) for address in local_addresses(directory)}
        assert found == {"127.0.0.1", "10.88.0.5", "10.88.0.6", "::1", "2001:db8::5"}


def test_a_process_that_enters_another_namespace_is_not_polled_for_the_first() -> None:
    with namespace() as one, namespace() as other:
        ask, answer = socket.socketpair()
        child = os.fork()
        if not child:
            with one.entered():
                ask.send(b".")
                ask.recv(1)
                with other.entered():
                    ask.send(b".")
                    ask.recv(1)
            os._exit(0)
        answer.recv(1)
        namespaces = looked()
        before = key_of(namespaces, child)
        assert before is not None
        with namespaces.opened(before):
            pass
        answer.send(b".")
        answer.recv(1)
        with pytest.raises(Gone), namespaces.opened(before):
            pass
        namespaces.look()
        assert key_of(namespaces, child) not in (None, before)
        os.kill(child, 9)
        os.waitpid(child, 0)
        ask.close()
        answer.close()
