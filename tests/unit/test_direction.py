"""The direction of a connection, from the table of listeners, or where no listener is known, from the range of local ports."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tcpnewconn.model import LISTEN, Row, four_tuple_of, mirrored, unmapped
from tcpnewconn.tracking.direction import directed, listened
from tcpnewconn.tracking.listeners import Listeners
from tests.support.table import packed

# Local and remote end of a socket on this host.
Ends = tuple[str, str]


def four_tuple(ends: Ends) -> bytes:
    (local, local_port), (remote, remote_port) = map(packed, ends)
    return four_tuple_of(unmapped(local), local_port, unmapped(remote), remote_port)


def listeners(names: Sequence[str], port_range: tuple[int, int] = (32768, 60999)) -> Listeners:
    made = Listeners(port_range)
    for name in names:
        address, port = packed(name)
        made.add(Row(four_tuple_of(address, port, b"\0" * len(address), 0), LISTEN, 0, 1))
    return made


def arrow(ends: Ends, names: Sequence[str] = (), internal: bool = False, **more: tuple[int, int]) -> str:
    source, destination, direction = directed(four_tuple(ends), internal, listeners(names, **more))
    return f"{direction}: {source} -> {destination}"


V4 = ("10.0.0.5:8080", "192.0.2.1:8081")
V6 = ("[2001:db8::5]:8080", "[2001:db8::1]:8081")
MAPPED = ("[::ffff:10.0.0.5]:8080", "[::ffff:192.0.2.1]:8081")


@pytest.mark.parametrize("name", ["10.0.0.5:8080", "0.0.0.0:8080", "[::]:8080"])
def test_to_a_listener_it_comes_in(name: str) -> None:
    assert arrow(V4, [name]) == "ingress: 192.0.2.1:8081 -> 10.0.0.5:8080"


@pytest.mark.parametrize("name", ["[2001:db8::5]:8080", "[::]:8080"])
def test_to_a_listener_of_ipv6_too(name: str) -> None:
    assert arrow(V6, [name]) == "ingress: [2001:db8::1]:8081 -> [2001:db8::5]:8080"


@pytest.mark.parametrize("name", ["10.0.0.5:8080", "0.0.0.0:8080", "[::]:8080"])
def test_a_mapped_connection_is_one_of_ipv4_whatever_its_listener_is(name: str) -> None:
    assert arrow(MAPPED, [name]) == "ingress: 192.0.2.1:8081 -> 10.0.0.5:8080"


@pytest.mark.parametrize(
    "name",
    [
        "10.0.0.6:8080",
        "0.0.0.0:8081",
        "[::]:8081",
        "[::1]:8080",
        "[2001:db8::5]:8080",
        "127.0.0.1:8080",
        "192.0.2.1:8081",
    ],
)
def test_another_address_port_or_family_says_nothing(name: str) -> None:
    assert arrow(V4, [name]) == "unknown: 10.0.0.5:8080 -> 192.0.2.1:8081"


def test_a_wildcard_of_ipv4_does_not_accept_ipv6() -> None:
    assert arrow(V6, ["0.0.0.0:8080"]) == "unknown: [2001:db8::5]:8080 -> [2001:db8::1]:8081"


def test_a_listener_counts_more_than_the_range_of_ports() -> None:
    # A service on a high port, called from a low one.
    assert arrow(("10.0.0.5:50000", "192.0.2.1:900"), ["0.0.0.0:50000"]) == "ingress: 192.0.2.1:900 -> 10.0.0.5:50000"


def test_without_a_listener_a_port_that_clients_are_given_opened_it() -> None:
    assert arrow(("10.0.0.5:50000", "192.0.2.1:443")) == "egress: 10.0.0.5:50000 -> 192.0.2.1:443"
    assert arrow(("10.0.0.5:443", "192.0.2.1:50000")) == "ingress: 192.0.2.1:50000 -> 10.0.0.5:443"


def test_of_two_such_ports_this_host_s_is_surely_one() -> None:
    # Its range is known here; the other host's may be another.
    assert arrow(("10.0.0.5:50000", "192.0.2.1:50001")) == "egress: 10.0.0.5:50000 -> 192.0.2.1:50001"


@pytest.mark.parametrize(
    ("port", "direction"),
    [(1023, "unknown"), (1024, "egress"), (2000, "egress"), (2001, "unknown"), (40000, "unknown")],
)
def test_the_range_is_this_host_s_own_and_its_ends_belong_to_it(port: int, direction: str) -> None:
    said = arrow((f"10.0.0.5:{port}", "192.0.2.1:443"), port_range=(1024, 2000))
    assert said == f"{direction}: 10.0.0.5:{port} -> 192.0.2.1:443"


def test_where_nothing_tells_it_points_away_from_here_and_says_that_it_is_not_known() -> None:
    assert arrow(("10.0.0.5:22", "192.0.2.1:23")) == "unknown: 10.0.0.5:22 -> 192.0.2.1:23"


INSIDE = ("127.0.0.1:8080", "127.0.0.1:50000")


@pytest.mark.parametrize("names", [[], ["127.0.0.1:8080"], ["0.0.0.0:8080"], ["[::]:8080"]])
@pytest.mark.parametrize("turn", [False, True])
def test_within_this_host_both_sockets_tell_the_same(names: list[str], turn: bool) -> None:
    ends = (INSIDE[1], INSIDE[0]) if turn else INSIDE
    assert arrow(ends, names, internal=True) == "internal: 127.0.0.1:50000 -> 127.0.0.1:8080"


def test_within_this_host_the_side_that_listens_accepted_it_whatever_the_ports() -> None:
    ends = ("127.0.0.1:50000", "127.0.0.1:900")
    for each in (ends, (ends[1], ends[0])):
        assert arrow(each, ["127.0.0.1:50000"], internal=True) == "internal: 127.0.0.1:900 -> 127.0.0.1:50000"


def test_where_both_sides_listen_the_ports_decide() -> None:
    names = ["127.0.0.1:8080", "127.0.0.1:50000"]
    for each in (INSIDE, (INSIDE[1], INSIDE[0])):
        assert arrow(each, names, internal=True) == "internal: 127.0.0.1:50000 -> 127.0.0.1:8080"


# --- the table of listeners ------------------------------------------------------------------------------------------


def test_a_listener_that_is_gone_accepts_nothing() -> None:
    known = listeners(["0.0.0.0:8080"])
    known.remove(four_tuple(("0.0.0.0:8080", "0.0.0.0:0")))
    assert directed(four_tuple(V4), False, known)[2] == "unknown"
    known.remove(four_tuple(("0.0.0.0:8080", "0.0.0.0:0")))


def test_listeners_that_were_asked_for_take_the_place_of_those_known() -> None:
    known = listeners(["0.0.0.0:8080"])
    known.replace([(Row(four_tuple(("10.0.0.5:8082", "0.0.0.0:0")), LISTEN, 0, 1), 4711)])
    assert directed(four_tuple(V4), False, known)[2] == "unknown"
    assert known.on(four_tuple(("10.0.0.5:8082", "192.0.2.1:1"))[:6]) == 4711


def test_the_nearest_listener_s_cgroup_is_known() -> None:
    known = Listeners()
    for name, cgroup in (("[::]:80", 1), ("0.0.0.0:80", 2), ("10.0.0.5:80", 3)):
        address, port = packed(name)
        assert known.add(Row(four_tuple_of(address, port, b"\0" * len(address), 0), LISTEN, 0, 1), cgroup)
    assert known.on(four_tuple(("10.0.0.5:80", "192.0.2.1:1"))[:6]) == 3
    assert known.on(four_tuple(("10.0.0.6:80", "192.0.2.1:1"))[:6]) == 2
    assert known.on(four_tuple(("[2001:db8::5]:80", "[2001:db8::1]:1"))[:18]) == 1
    assert known.on(four_tuple(("10.0.0.5:81", "192.0.2.1:1"))[:6]) is None


def test_a_second_socket_on_the_same_address_is_no_new_listener() -> None:
    known = Listeners()
    row = Row(four_tuple(("0.0.0.0:80", "0.0.0.0:0")), LISTEN, 0, 1)
    assert known.add(row, 7)
    assert not known.add(row)
    # Nor does it take away what is known of the first.
    assert known.on(four_tuple(("10.0.0.5:80", "192.0.2.1:1"))[:6]) == 7


def test_whether_the_listeners_known_decide() -> None:
    known = listeners(["127.0.0.1:8080"])
    assert listened(four_tuple(INSIDE), True, known) is True
    assert listened(mirrored(four_tuple(INSIDE)), True, known) is False
    # From outside, a listener at the other end would be the other host's.
    assert listened(mirrored(four_tuple(INSIDE)), False, known) is None
    assert listened(four_tuple(V4), False, known) is None
    # Where both ends listen, the ports decide.
    assert listened(four_tuple(INSIDE), True, listeners(["127.0.0.1:8080", "127.0.0.1:50000"])) is None


def test_where_nothing_tells_both_sockets_of_a_connection_within_this_host_say_the_same() -> None:
    four_tuple = four_tuple_of(bytes([127, 0, 0, 1]), 40001, bytes([127, 0, 0, 1]), 50001)
    assert directed(four_tuple, True, Listeners()) == directed(mirrored(four_tuple), True, Listeners())
