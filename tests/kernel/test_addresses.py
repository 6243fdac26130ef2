"""The addresses of a real host: asked for once, and again when the kernel says that any has changed."""

from __future__ import annotations

import errno
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from tcpnewconn.kernel import addresses as module
from tcpnewconn.kernel.addresses import Addresses, Assigned
from tcpnewconn.kernel.netlink import Client
from tests.support.namespace import Namespace, namespace
from tests.support.supervised import DEADLINE


class Kernel:
    """Counts the dumps, and lets so many fail."""

    def __init__(self) -> None:
        self.asked = self.failing = 0

    def all_assigned(self, route: Client) -> Iterator[Assigned]:
        self.asked += 1
        if self.failing:
            self.failing -= 1
            raise OSError(errno.ENOBUFS, "no buffer")
        return ALL_ASSIGNED(route)


ALL_ASSIGNED = module.all_assigned


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(module, "all_assigned", made.all_assigned)
    return made


@pytest.fixture
def here() -> Iterator[Namespace]:
    with namespace() as one:
        yield one


def has(here: Namespace, addresses: Addresses, *texts: str) -> list[bool]:
    with here.entered():
        addresses.refresh()
    return [addresses.has(ip_address(text).packed) for text in texts]


def await_change(here: Namespace, addresses: Addresses, text: str, expected: bool) -> None:
    """The kernel says of an IPv6 address some milliseconds later that it has come (addrconf_dad_start(), net/ipv6/addrconf.c)."""
    until = time.monotonic() + DEADLINE
    while has(here, addresses, text) != [expected]:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_it_is_asked_once_while_nothing_changes(here: Namespace, kernel: Kernel) -> None:
    addresses = Addresses()
    assert [has(here, addresses, "127.0.0.1") for _ in range(5)] == [[True]] * 5
    assert kernel.asked == 1


@pytest.mark.parametrize("address", ["10.88.0.1/24", "2001:db8::1/64"])
def test_one_that_comes_and_one_that_goes_are_known(here: Namespace, address: str) -> None:
    addresses, text = Addresses(), address.partition("/")[0]
    here.ip("link", "add", "one", "type", "veth", "peer", "name", "other")
    assert has(here, addresses, text) == [False]
    here.address(address, "one")
    await_change(here, addresses, text, True)
    here.ip("address", "del", address, "dev", "one")
    await_change(here, addresses, text, False)
    here.address(address, "one")
    await_change(here, addresses, text, True)
    # With its device.
    here.ip("link", "del", "one")
    await_change(here, addresses, text, False)


def test_after_more_changes_than_the_kernel_keeps_it_is_asked_again(here: Namespace) -> None:
    addresses = Addresses()
    here.ip("link", "add", "one", "type", "veth", "peer", "name", "other")
    assert has(here, addresses, "10.88.0.1") == [False]
    batch = "".join(f"address {what} 10.88.{n}.1/24 dev one\n" for n in range(1, 201) for what in ("add", "del") * 3)
    subprocess.run(
        here.command("ip", "-batch", "-"), input=f"{batch}address add 10.88.0.1/24 dev one\n", text=True, check=True
    )
    assert has(here, addresses, "10.88.0.1", "10.88.1.1") == [True, False]


def test_an_answer_that_fails_is_asked_for_again(here: Namespace, kernel: Kernel) -> None:
    addresses = Addresses()
    assert has(here, addresses, "10.88.0.1") == [False]
    here.address("10.88.0.1/24", "lo")
    kernel.failing = 1
    assert has(here, addresses, "10.88.0.1", "127.0.0.1") == [False, True]
    assert has(here, addresses, "10.88.0.1", "127.0.0.1") == [True, True]


def test_where_the_kernel_sends_no_changes_it_is_asked_each_time(
    here: Namespace, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(protocol: int, groups: int) -> None:
        raise PermissionError(errno.EPERM, "denied")

    monkeypatch.setattr(module, "Changes", denied)
    addresses = Addresses()
    assert has(here, addresses, "10.88.0.1") == [False]
    here.address("10.88.0.1/24", "lo")
    assert has(here, addresses, "10.88.0.1") == [True]
    assert kernel.asked == 2
