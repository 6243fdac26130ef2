"""Which networks of a real host can have another namespace in them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from tcpnewconn.kernel.networks import REMEMBERED, Networks
from tests.support.namespace import Namespace, namespace


@pytest.fixture
def here() -> Iterator[Namespace]:
    with namespace() as one:
        yield one


def networks_of(here: Namespace) -> Networks:
    with here.entered():
        return Networks()


def has(here: Namespace, networks: Networks, *addresses: str, later: float = 0.0) -> list[bool]:
    with here.entered():
        return [networks.have(ip_address(address).packed, time.monotonic() + later) for address in addresses]


def veth(here: Namespace, there: Namespace, name: str, *addresses: str) -> None:
    here.ip("link", "add", name, "type", "veth", "peer", "name", name, "netns", there.path)
    here.ip("link", "set", name, "up")
    for address in addresses:
        here.address(address, name)


def test_those_of_a_veth_device_are(here: Namespace) -> None:
    with namespace() as there:
        veth(here, there, "one", "10.88.0.1/24", "2001:db8::1/64")
        found = has(here, networks_of(here), "10.88.0.77", "2001:db8::77", "10.88.1.77", "2001:db8:0:1::77")
    assert found == [True, True, False, False]


def test_a_bridge_is_as_long_as_nothing_but_veth_devices_are_ports_of_it(here: Namespace) -> None:
    with namespace() as there:
        here.ip("link", "add", "inside", "type", "bridge")
        here.address("10.89.0.1/16", "inside")
        networks = networks_of(here)
        assert has(here, networks, "10.89.7.7") == [True]
        veth(here, there, "one")
        here.ip("link", "set", "one", "master", "inside")
        assert has(here, networks, "10.89.7.7") == [True]
        here.ip("tuntap", "add", "outside", "mode", "tap")
        here.ip("link", "set", "outside", "master", "inside")
        assert has(here, networks, "10.89.7.7") == [False]
        here.ip("link", "set", "outside", "nomaster")
        assert has(here, networks, "10.89.7.7") == [True]


def test_other_devices_are_not(here: Namespace) -> None:
    here.ip("tuntap", "add", "outside", "mode", "tap")
    here.address("10.90.0.1/24", "outside")
    assert has(here, networks_of(here), "10.90.0.2", "127.0.0.2", "::1") == [False, False, False]


def test_an_address_that_holds_on_one_link_only_is_not(here: Namespace) -> None:
    """Every device has such."""
    with namespace() as there:
        veth(here, there, "one", "fe80::1/64")
        assert has(here, networks_of(here), "fe80::2") == [False]


def test_a_change_is_known_at_once(here: Namespace) -> None:
    networks = networks_of(here)
    assert has(here, networks, "10.88.0.77") == [False]
    with namespace() as there:
        for turn in range(3):
            veth(here, there, "one", f"10.88.{turn}.1/24")
            assert has(here, networks, f"10.88.{turn}.77", f"10.89.{turn}.77") == [True, False]
            here.address(f"10.89.{turn}.1/24", "one")
            assert has(here, networks, f"10.89.{turn}.77") == [True]
            here.ip("link", "delete", "one")


def test_one_that_has_gone_is_remembered_for_some_time(here: Namespace) -> None:
    networks = networks_of(here)
    with namespace() as there:
        veth(here, there, "one", "10.88.0.1/24")
        here.address("10.88.9.1/24", "one")
        assert has(here, networks, "10.88.0.77") == [True]
        here.ip("address", "delete", "10.88.9.1/24", "dev", "one")
        here.ip("link", "delete", "one")
    assert has(here, networks, "10.88.0.77", "10.88.9.77") == [True, True]
    assert has(here, networks, "10.88.0.77", "10.88.9.77", later=REMEMBERED) == [False, False]


def test_one_that_has_come_and_gone_meanwhile_is_known(here: Namespace) -> None:
    networks = networks_of(here)
    assert has(here, networks, "10.88.0.77", "10.89.0.77", "10.91.0.77") == [False, False, False]
    with namespace() as there:
        veth(here, there, "one", "10.88.0.1/24")
        here.ip("link", "add", "inside", "type", "bridge")
        here.ip("link", "set", "one", "master", "inside")
        here.address("10.89.0.1/24", "inside")
        here.ip("tuntap", "add", "outside", "mode", "tap")
        here.address("10.91.0.1/24", "outside")
        for device in ("outside", "inside", "one"):
            here.ip("link", "delete", device)
    assert has(here, networks, "10.88.0.77", "10.89.0.77", "10.91.0.77") == [True, True, False]


def test_one_whose_end_was_among_lost_changes_is_remembered(here: Namespace) -> None:
    networks = networks_of(here)
    with namespace() as there:
        veth(here, there, "one", "10.88.0.1/24")
        assert has(here, networks, "10.88.0.77") == [True]
        here.ip("link", "add", "many", "type", "bridge")
        for number in range(500):
            here.address(f"10.{number // 250}.{number % 250}.1/32", "many")
        here.ip("link", "delete", "one")
    assert has(here, networks, "10.88.0.77") == [True]


def test_so_many_changes_that_some_are_lost_are_a_change(here: Namespace) -> None:
    networks = networks_of(here)
    here.ip("link", "add", "one", "type", "bridge")
    assert has(here, networks, "10.88.0.77") == [False]
    for number in range(500):
        here.address(f"10.{number // 250}.{number % 250}.1/32", "one")
    here.address("10.88.0.1/24", "one")
    assert has(here, networks, "10.88.0.77") == [True]


def test_where_the_kernel_did_not_answer_it_is_asked_again(here: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(protocol: int) -> None:
        raise BlockingIOError

    with namespace() as there:
        veth(here, there, "one", "10.88.0.1/24")
        networks = networks_of(here)
        with monkeypatch.context() as patched:
            patched.setattr("tcpnewconn.kernel.networks.Client", silent)
            assert has(here, networks, "10.88.0.77") == [False]
        assert has(here, networks, "10.88.0.77") == [True]
