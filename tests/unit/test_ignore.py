"""What Ignore= leaves out of the report."""

import ipaddress
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tcpnewconn.settings.ignore import DIRECTIONS, Rule, Rules, ignored, parse_rule

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def packed(address: str | None) -> bytes | None:
    return None if address is None else ipaddress.ip_address(address).packed


def silences(entries: str, direction: str, source: str | None, destination: str | None, port: int | None) -> bool:
    rules = Rules(tuple(parse_rule(entry) for entry in entries.split()))
    return ignored(rules, direction, packed(source), packed(destination), port)


def test_no_rule_ignores_nothing() -> None:
    assert not silences("", "internal", "127.0.0.1", "127.0.0.1", 80)
    assert not silences("", "unknown", None, None, None)


def test_loopback_is_silenced_by_its_two_networks() -> None:
    entries = "127.0.0.0/8 ::1"
    assert silences(entries, "internal", "127.0.0.1", "127.0.0.53", 53)
    assert silences(entries, "internal", "::1", "::1", 631)
    assert not silences(entries, "internal", "10.0.0.5", "10.0.0.5", 80)
    assert not silences(entries, "ingress", "203.0.113.9", "10.0.0.5", 22)
    assert not silences(entries, "egress", "2001:db8::5", "2001:db8::1", 443)


def test_a_port_is_that_of_the_service_in_every_direction() -> None:
    for direction in DIRECTIONS:
        assert silences(":9100", direction, "10.0.0.9", "10.0.0.5", 9100)
        assert silences(":9100", direction, "2001:db8::9", "2001:db8::5", 9100)
        assert not silences(":9100", direction, "10.0.0.9", "10.0.0.5", 9101)


def test_a_network_is_that_of_the_other_host() -> None:
    assert silences("10.0.0.0/8", "ingress", "10.1.2.3", "192.0.2.1", 22)
    assert not silences("10.0.0.0/8", "ingress", "203.0.113.9", "10.0.0.5", 22)
    assert silences("10.0.0.0/8", "egress", "192.0.2.1", "10.1.2.3", 22)
    assert not silences("10.0.0.0/8", "egress", "10.0.0.5", "203.0.113.9", 22)


def test_of_an_internal_connection_it_is_the_address_connected_to() -> None:
    assert silences("127.0.0.53:53", "internal", "127.0.0.1", "127.0.0.53", 53)
    assert not silences("127.0.0.1", "internal", "127.0.0.1", "127.0.0.53", 53)


def test_without_a_direction_both_ends_must_be_in_the_network() -> None:
    assert silences("10.0.0.0/8", "unknown", "10.1.2.3", "10.0.0.5", 22)
    assert not silences("10.0.0.0/8", "unknown", "203.0.113.9", "10.0.0.5", 22)
    assert not silences("10.0.0.0/8", "unknown", "10.0.0.5", "203.0.113.9", 22)
    assert not silences("10.1.0.0/16 10.2.0.0/16", "unknown", "10.1.0.1", "10.2.0.1", 22)


def test_direction_network_and_port_must_all_match() -> None:
    entries = "egress:10.0.0.0/8:443"
    assert silences(entries, "egress", "192.0.2.1", "10.200.0.1", 443)
    assert not silences(entries, "egress", "192.0.2.1", "10.200.0.1", 80)
    assert not silences(entries, "egress", "192.0.2.1", "11.0.0.1", 443)
    assert not silences(entries, "ingress", "10.200.0.1", "192.0.2.1", 443)
    assert not silences(entries, "internal", "10.200.0.1", "10.200.0.1", 443)
    assert silences("ingress::22", "ingress", "203.0.113.9", "10.0.0.5", 22)
    assert not silences("ingress::22", "egress", "10.0.0.5", "203.0.113.9", 22)


def test_what_is_not_known_matches_no_rule_that_asks_for_it() -> None:
    assert not silences("0.0.0.0/0 ::/0 :443", "egress", None, None, None)
    assert not silences("0.0.0.0/0", "ingress", None, "10.0.0.5", 22)
    assert not silences("0.0.0.0/0", "unknown", None, "10.0.0.5", 22)
    assert not silences("10.0.0.0/8:443", "egress", "10.0.0.5", "10.0.0.6", None)
    assert silences("10.0.0.0/8", "egress", None, "10.0.0.6", None)
    assert silences(":443", "egress", None, None, 443)


def test_an_ipv6_network_never_matches_ipv4() -> None:
    assert not silences("::/0", "ingress", "10.0.0.1", "10.0.0.5", 22)
    assert not silences("0.0.0.0/0", "ingress", "::1", "::1", 22)


@pytest.mark.parametrize(
    ("text", "direction", "network", "length", "port"),
    [
        ("127.0.0.0/8", None, "127.0.0.0", 8, None),
        ("10.0.0.5", None, "10.0.0.5", 32, None),
        ("0.0.0.0/0", None, "0.0.0.0", 0, None),
        ("::1", None, "::1", 128, None),
        ("::/0", None, "::", 0, None),
        (":9100", None, None, 0, 9100),
        ("10.0.0.0/8:443", None, "10.0.0.0", 8, 443),
        ("10.0.0.5:443", None, "10.0.0.5", 32, 443),
        ("[2001:db8::/32]:443", None, "2001:db8::", 32, 443),
        ("[2001:db8::]/32:443", None, "2001:db8::", 32, 443),
        ("2001:db8::/32:443", None, "2001:db8::", 32, 443),
        ("[2001:db8::1]:443", None, "2001:db8::1", 128, 443),
        ("[2001:db8::1]", None, "2001:db8::1", 128, None),
        ("2001:db8::1:443", None, "2001:db8::1:443", 128, None),
        ("::9100", None, "::9100", 128, None),
        ("fe80::/10", None, "fe80::", 10, None),
        ("fe::/16", None, "fe::", 16, None),
        ("::ffff:10.0.0.0/104", None, "10.0.0.0", 8, None),
        ("::ffff:10.0.0.5", None, "10.0.0.5", 32, None),
        ("::ffff:0.0.0.0/96", None, "0.0.0.0", 0, None),
        ("[::ffff:10.0.0.0/104]:80", None, "10.0.0.0", 8, 80),
        ("egress:10.0.0.0/8:443", "egress", "10.0.0.0", 8, 443),
        ("ingress::1", "ingress", None, 0, 1),
        ("ingress:::1", "ingress", "::1", 128, None),
        ("ingress:[::1]:1", "ingress", "::1", 128, 1),
        ("internal:127.0.0.1", "internal", "127.0.0.1", 32, None),
        ("unknown:2001:db8::/32", "unknown", "2001:db8::", 32, None),
        (":65535", None, None, 0, 65535),
    ],
)
def test_what_users_write_is_understood(
    text: str, direction: str | None, network: str | None, length: int, port: int | None
) -> None:
    assert parse_rule(text) == Rule(direction, packed(network), length, port)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("10.1.2.3/8", "10.0.0.0/8, or 10.1.2.3 for this address alone"),
        ("2001:db8::1/32", "2001:db8::/32, or 2001:db8::1"),
        ("10.0.0.0/33", "from 0 to 32"),
        ("10.0.0.0/255.0.0.0", "from 0 to 32, as in 10.0.0.0/32"),
        ("::/129", "from 0 to 128"),
        ("10.0.0.0/", "from 0 to 32"),
        ("10.0.0.0/-1", "from 0 to 32"),
        ("10.0.0.0/" + "1" * 5000, "from 0 to 32"),
        ("10.0.0.0/٨", "from 0 to 32"),
        ("10.0.0", "10.0.0 is not an address; use a network, a port or both, such as 10.0.0.0/8"),
        ("010.0.0.1", "not an address"),
        ("10.0.0.1.", "not an address"),
        ("fe80::1%eth0", "not an address"),
        (":0", "from 1 to 65535"),
        (":65536", "from 1 to 65535"),
        (":", "from 1 to 65535"),
        (":http", "from 1 to 65535"),
        (":+80", "from 1 to 65535"),
        ("10.0.0.1:٨٠", "from 1 to 65535"),
        ("10.0.0.1:80:80", "not an address"),
        ("[::1", "use a network, a port or both"),
        ("[::1]80", "use a network, a port or both"),
        ("[::/0]/0", "from 0 to 128"),
        ("", "use a network, a port or both"),
        ("egress", "use a network, a port or both"),
        ("egress:", "use a network, a port or both"),
        ("9100", "9100 is not an address; use a network, a port or both, such as 10.0.0.0/8, ::1, :9100"),
        ("outbound:10.0.0.0/8", "neither a direction (ingress, egress, internal, unknown) nor a network"),
        ("localhost", "localhost is neither a direction"),
        ("\0", "not an address"),
        ("\udc80", "not an address"),
    ],
)
def test_an_error_says_what_would_be_right(text: str, right: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the text is what is tested)
        parse_rule(text)
    assert right in str(error.value)


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_a_value_error(text: str) -> None:
    try:
        rule = parse_rule(text)
    except ValueError:
        return
    assert rule.network is not None or rule.port is not None


@given(st.text(alphabet="0123456789abf:./[]%", max_size=20))
def test_what_ipaddress_refuses_is_refused(text: str) -> None:
    try:
        rule = parse_rule(text)
    except ValueError:
        return
    if rule.network is not None and rule.port is None:
        network = ipaddress.ip_network(text.replace("[", "").replace("]", ""))
        assert unmapped(network) == (rule.network, rule.length)


def unmapped(network: Network) -> tuple[bytes, int]:
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96 and network.network_address.ipv4_mapped:
        return network.network_address.ipv4_mapped.packed, network.prefixlen - 96
    return network.network_address.packed, network.prefixlen


# Few different bits, so that networks and addresses meet.
bits = st.sampled_from((0, 1, 2, 3, 127, 128, 255))
addresses = st.one_of(
    st.lists(bits, min_size=4, max_size=4).map(bytes),
    st.tuples(
        st.sampled_from((bytes(12), bytes.fromhex("20010db8") + bytes(8))), st.lists(bits, min_size=4, max_size=4)
    ).map(lambda parts: parts[0] + bytes(parts[1])),
)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    address = draw(addresses)
    length = draw(st.one_of(st.integers(0, 8 * len(address)), st.just(8 * len(address))))
    return ipaddress.ip_network((address, length), strict=False)


Entry = tuple[str | None, Network | None, int | None]
ports = st.sampled_from((22, 80, 443))
entries = st.tuples(st.none() | st.sampled_from(DIRECTIONS), st.none() | networks(), st.none() | ports).filter(
    lambda entry: entry[1] is not None or entry[2] is not None
)


def written(entry: Entry) -> str:
    direction, network, port = entry
    text = "" if network is None else str(network)
    if port is not None:
        text = f"[{text}]:{port}" if network is not None and network.version == 6 else f"{text}:{port}"
    return text if direction is None else f"{direction}:{text}"


def expected(entry: Entry, direction: str, source: bytes, destination: bytes, port: int) -> bool:
    """The same decision, by the ipaddress module and one rule at a time."""
    its_direction, network, its_port = entry
    if its_direction not in (None, direction) or its_port not in (None, port):
        return False
    compared = {"ingress": [source], "unknown": [source, destination]}.get(direction, [destination])
    return network is None or all(ipaddress.ip_address(address) in network for address in compared)


@given(
    written_entries=st.lists(entries, max_size=6),
    direction=st.sampled_from(DIRECTIONS),
    ends=st.tuples(addresses, addresses).filter(lambda ends: len(ends[0]) == len(ends[1])),
    port=ports,
)
@example([(None, ipaddress.ip_network("0.0.0.0/0"), None)], "ingress", (bytes(4), bytes(4)), 22)
def test_it_decides_as_the_ipaddress_module_would(
    written_entries: list[Entry], direction: str, ends: tuple[bytes, bytes], port: int
) -> None:
    rules = Rules(tuple(parse_rule(written(entry)) for entry in written_entries))
    wanted = any(expected(entry, direction, *ends, port) for entry in written_entries)
    assert ignored(rules, direction, *ends, port) == wanted


def test_ten_thousand_rules_take_no_longer_than_one() -> None:
    def seconds(rules: Rules) -> float:
        begin = time.process_time()
        for _ in range(2000):
            assert not ignored(rules, "ingress", b"\xcb\x00\x71\x09", b"\x0a\x00\x00\x05", 22)
        return time.process_time() - begin

    one = Rules((parse_rule("10.0.0.1"),))
    many = Rules(tuple(parse_rule(f"10.{n >> 8}.{n & 255}.1") for n in range(10_000)))
    # Looked through one by one they would take thousands of times as long.
    assert min(seconds(many) for _ in range(3)) < 20 * min(seconds(one) for _ in range(3))
