"""The connections that Ignore= excludes."""

import ipaddress
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tcpnewconn.model import DIRECTIONS
from tcpnewconn.settings.ignore import Rules, ignored
from tcpnewconn.settings.rule import Rule, parse_network, parse_rule, split_list

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


def test_an_unknown_value_matches_no_rule_that_asks_for_it() -> None:
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
def test_common_spellings_are_understood(
    text: str, direction: str | None, network: str | None, length: int, port: int | None
) -> None:
    assert parse_rule(text) == Rule(direction, packed(network), length, None if port is None else (port, port))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":8000-8099", Rule(ports=(8000, 8099))),
        (":1-65535", Rule(ports=(1, 65535))),
        (":80-80", Rule(ports=(80, 80))),
        ("10.0.0.0/8:443-445", Rule(network=packed("10.0.0.0"), length=8, ports=(443, 445))),
        ("10.0.0.5:443-445", Rule(network=packed("10.0.0.5"), length=32, ports=(443, 445))),
        ("[2001:db8::/32]:1-2", Rule(network=packed("2001:db8::"), length=32, ports=(1, 2))),
        ("egress:2001:db8::/32:1-2", Rule("egress", packed("2001:db8::"), 32, (1, 2))),
        ("unit:cron.service", Rule(unit="cron.service")),
        ("egress:unit:cron.service", Rule("egress", unit="cron.service")),
        ("unit:user@*.service", Rule(unit="user@*.service")),
        ("unit:user@1000.service", Rule(unit="user@1000.service")),
        ("unit:docker-*", Rule(unit="docker-*")),
        ("unit:a:b.socket", Rule(unit="a:b.socket")),
        (r"unit:dev-a\x2db.swap", Rule(unit=r"dev-a\x2db.swap")),
        ("user:nobody", Rule(user="nobody")),
        ("ingress:user:systemd-*", Rule("ingress", user="systemd-*")),
        ("user:EXAMPLE\\jane", Rule(user="EXAMPLE\\jane")),
        ("user:jane@example.org", Rule(user="jane@example.org")),
        ("process:curl", Rule(process="curl")),
        ("egress:process:kworker/u8:*", Rule("egress", process="kworker/u8:*")),
        ("thread:pool-*", Rule(thread="pool-*")),
        ("thread:a-name-of-15-by", Rule(thread="a-name-of-15-by")),
        ("container:web", Rule(container="web")),
        ("egress:container:0a1b2c3d4e5f*", Rule("egress", container="0a1b2c3d4e5f*")),
        ("runtime:systemd-nspawn", Rule(runtime="systemd-nspawn")),
        ("runtime:*", Rule(runtime="*")),
        ("internal:netns:4026532205", Rule("internal", netns="4026532205")),
    ],
)
def test_ranges_units_and_users_are_understood(text: str, expected: Rule) -> None:
    assert parse_rule(text) == expected


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
        ("10.0.0", "10.0.0 is not an address; use a network, port or both, such as 10.0.0.0/8"),
        ("010.0.0.1", "not an address"),
        ("10.0.0.1.", "not an address"),
        ("fe80::1%eth0", "not an address"),
        (":0", "from 1 to 65535"),
        (":65536", "from 1 to 65535"),
        (":", "from 1 to 65535"),
        (":http", "from 1 to 65535"),
        (":8099-8000", "begins with the lower one; use 8000-8099"),
        (":8000-", "from 1 to 65535, a range two of them, such as 8000-8099"),
        (":-8000", "from 1 to 65535"),
        (":0-80", "from 1 to 65535"),
        (":1-2-3", "from 1 to 65535"),
        ("unit:", "not the name of a unit; use for example unit:cron.service or unit:user@*.service"),
        ("unit:cron", "ends in .service, .scope, .socket, .mount, .swap; use for example cron.service"),
        ("unit:cron.timer", "use for example cron.timer.service"),
        ("unit:user@.service", "use unit:user@*.service"),
        ("unit:system.slice", "a slice has no connections"),
        ("unit:a/b.service", "not the name of a unit"),
        ("unit:[ab].service", "not the name of a unit"),
        ("unit:*\\", "not the name of a unit"),
        ("user:", "not the name of a user; use for example user:nobody"),
        ("user:1000", "given by name"),
        ("user:a\\", "not the name of a user"),
        ("user:a\x1b", "not the name of a user"),
        ("egress:user:", "not the name of a user"),
        ("egress:egress:user:a", "egress is neither a direction"),
        ("process:", "not the name of a process; use for example process:curl"),
        ("thread:a\\", "not the name of a thread"),
        ("thread:a\x1b", "not the name of a thread"),
        ("container:", "not the name or the ID of a container"),
        ("container:a/b", "not the name or the ID of a container"),
        ("runtime:rkt", "use one of podman, docker, containerd, cri-o, systemd-nspawn, lxc"),
        ("netns:", "given by the number that TCPNEWCONN_NETNS has"),
        ("netns:web", "given by the number that TCPNEWCONN_NETNS has"),
        ("netns:-1", "given by the number that TCPNEWCONN_NETNS has"),
        ("process:NetworkManager-dispatcher", "the kernel cuts names after 15 bytes; use process:NetworkManager-"),
        (":+80", "from 1 to 65535"),
        ("10.0.0.1:٨٠", "from 1 to 65535"),
        ("10.0.0.1:80:80", "not an address"),
        ("[::1", "use a network, port or both"),
        ("[::1]80", "use a network, port or both"),
        ("[::/0]/0", "from 0 to 128"),
        ("", "use a network, port or both"),
        ("egress", "use a network, port or both"),
        ("egress:", "use a network, port or both"),
        ("9100", "9100 is not an address; use a network, port or both, such as 10.0.0.0/8, :9100"),
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
    assert rule.network or rule.ports or rule.unit or rule.user
    assert str(rule).isprintable()
    assert not str(rule).endswith("\\")
    assert parse_rule(str(rule)) == rule


@pytest.mark.parametrize("text", ["10.0.0.0/8", "10.0.0.5", "::1", "2001:db8::/32", "[2001:db8::/32]"])
def test_a_network_is_read_as_a_rule_is(text: str) -> None:
    assert parse_network(text) == parse_rule(text)


@pytest.mark.parametrize(
    "text",
    [":80", "10.0.0.0/8:80", "ingress:10.0.0.0/8", "ingress::80", "unit:cron.service", "user:nobody", "thread:a"],
)
def test_where_only_networks_count_nothing_else_is_taken(text: str) -> None:
    with pytest.raises(ValueError, match="only the network has an effect here; use a network or an address, such as"):
        parse_network(text)


@pytest.mark.parametrize("text", ["", "nonsense", "10.1.2.3/8", "80", "[::1", "egress:"])
def test_a_value_that_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="use ") as error:
        parse_network(text)
    assert "unit:" not in str(error.value)


def test_entries_of_a_list_stand_between_blanks_or_commas() -> None:
    assert split_list("10.0.0.0/8, ::1,:80  ,\t:81") == ["10.0.0.0/8", "::1", ":80", ":81"]
    assert split_list(" , ") == []


@given(st.text(alphabet="0123456789abf:./[]%", max_size=20))
def test_a_network_that_ipaddress_refuses_is_refused(text: str) -> None:
    try:
        rule = parse_rule(text)
    except ValueError:
        return
    if rule.network is not None and rule.ports is None:
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


ports = st.sampled_from((1, 22, 23, 80, 443, 444, 8000, 8063, 8064, 8099, 65535))
ranges = st.tuples(ports, ports).map(lambda both: (min(both), max(both)))
# Names that patterns meet, by accident too.
names = st.sampled_from(
    ("a.service", "ab.service", "a@b.service", "a@c.service", ".service", "a[b].scope", "A.service")
)
patterns = st.sampled_from(("a*.service", "a@?.service", "*", "?.service", "a.s*", "*b*", "*.scope", "a[b]*"))
directions = st.none() | st.sampled_from(DIRECTIONS)


@st.composite
def networks(draw: st.DrawFn) -> tuple[bytes, int]:
    address = draw(addresses)
    length = draw(st.one_of(st.integers(0, 8 * len(address)), st.just(8 * len(address))))
    network = ipaddress.ip_network((address, length), strict=False)
    return unmapped(network)


rules = st.one_of(
    st.builds(lambda direction, network: Rule(direction, network[0], network[1]), directions, networks()),
    st.builds(lambda direction, ports: Rule(direction, ports=ports), directions, ranges),
    st.builds(
        lambda direction, network, ports: Rule(direction, network[0], network[1], ports), directions, networks(), ranges
    ),
    st.builds(lambda direction, unit: Rule(direction, unit=unit), directions, names | patterns),
    st.builds(lambda direction, user: Rule(direction, user=user), directions, names | patterns),
)


def matches(pattern: str, name: str | None) -> bool:
    """Whether a name is what a pattern describes, tried character by character."""
    if name is None:
        return False
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(matches(pattern[1:], name[at:]) for at in range(len(name) + 1))
    return bool(name) and pattern[0] in ("?", name[0]) and matches(pattern[1:], name[1:])


Asked = tuple[str, bytes | None, bytes | None, int | None, str | None, str | None]


def expected(rule: Rule, asked: Asked) -> bool:
    """The same decision, by the ipaddress module and one rule at a time."""
    direction, source, destination, port, unit, user = asked
    if rule.direction not in (None, direction):
        return False
    if rule.unit is not None:
        return matches(rule.unit, unit)
    if rule.user is not None:
        return matches(rule.user, user)
    if rule.ports is not None and (port is None or not rule.ports[0] <= port <= rule.ports[1]):
        return False
    if rule.network is None:
        return True
    network = ipaddress.ip_network((rule.network, rule.length))
    compared = {"ingress": [source], "unknown": [source, destination]}.get(direction, [destination])
    return all(address is not None and ipaddress.ip_address(address) in network for address in compared)


@given(
    given_rules=st.lists(rules, max_size=8),
    direction=st.sampled_from(DIRECTIONS),
    ends=st.tuples(st.none() | addresses, st.none() | addresses).filter(
        lambda ends: None in ends or len(ends[0] or b"") == len(ends[1] or b"")
    ),
    port=st.none() | ports,
    owner=st.tuples(st.none() | names, st.none() | names),
)
@example([Rule(network=bytes(4), length=0)], "ingress", (bytes(4), bytes(4)), 22, (None, None))
def test_it_decides_as_one_rule_after_the_other_would(
    given_rules: list[Rule],
    direction: str,
    ends: tuple[bytes | None, bytes | None],
    port: int | None,
    owner: tuple[str | None, str | None],
) -> None:
    wanted = any(expected(rule, (direction, *ends, port, *owner)) for rule in given_rules)
    assert ignored(Rules(tuple(given_rules)), direction, *ends, port, *owner) == wanted


@given(st.lists(rules, max_size=8).map(tuple))
def test_rules_are_written_as_they_are_read(given_rules: tuple[Rule, ...]) -> None:
    # Brackets are in no unit's name.
    given_rules = tuple(rule for rule in given_rules if "[" not in f"{rule.unit}")
    assert tuple(parse_rule(entry) for entry in split_list(str(Rules(given_rules)))) == given_rules


@given(low=st.integers(1, 65535), high=st.integers(1, 65535))
@example(1, 65535)
@example(1, 65534)
def test_a_range_of_ports_takes_few_look_ups_and_has_every_port_once(low: int, high: int) -> None:
    low, high = min(low, high), max(low, high)
    rules = Rules((parse_rule(f":{low}-{high}"),))
    assert sum(len(shape.keys) for shape in rules.ports) <= 30
    for port in {low, (low + high) // 2, high}:
        assert ignored(rules, "egress", None, None, port)
    for port in {low - 1, high + 1}:
        assert not ignored(rules, "egress", None, None, port)


def test_units_and_users_are_matched_by_name_and_pattern() -> None:
    rules = Rules(tuple(map(parse_rule, ("unit:user@*.service", "unit:cron.service", "egress:user:nobody"))))
    assert ignored(rules, "egress", None, None, None, "user@1000.service")
    assert ignored(rules, "ingress", None, None, None, "cron.service", None)
    assert not ignored(rules, "ingress", None, None, None, "crond.service", "root")
    assert not ignored(rules, "ingress", None, None, None, "xuser@1000.service")
    assert not ignored(rules, "ingress", None, None, None, "user@1000.service.service2")
    assert ignored(rules, "egress", None, None, None, None, "nobody")
    assert not ignored(rules, "ingress", None, None, None, None, "nobody")
    assert not ignored(rules, "egress", None, None, None)
    # A bracket is a bracket.
    rules = Rules((parse_rule("user:a[b]*"),))
    assert ignored(rules, "egress", None, None, None, None, "a[b]c")
    assert not ignored(rules, "egress", None, None, None, None, "abc")


def test_processes_and_threads_are_matched_by_name_and_pattern() -> None:
    rules = Rules(tuple(map(parse_rule, ("process:curl", "egress:thread:pool-*"))))
    assert ignored(rules, "ingress", None, None, None, None, None, "curl", "main")
    assert ignored(rules, "egress", None, None, None, None, None, None, "pool-12")
    assert not ignored(rules, "ingress", None, None, None, None, None, None, "pool-12")
    assert not ignored(rules, "egress", None, None, None, None, None, "pool-12", "curl")
    assert not ignored(rules, "egress", None, None, None)


def test_containers_are_matched_by_name_id_runtime_and_namespace() -> None:
    def is_ignored(text: str, *, netns: int = 0, direction: str = "ingress") -> bool:
        rules = Rules((parse_rule(text),))
        return ignored(rules, direction, None, None, None, container=("web", "0a1b"), runtime="podman", netns=netns)

    for text in ("container:web", "container:0a*", "runtime:podman", "runtime:p*", "ingress:container:w?b"):
        assert is_ignored(text)
    for text in ("container:we", "container:0a", "runtime:docker", "egress:container:web"):
        assert not is_ignored(text)
    assert is_ignored("netns:4026532205", netns=4026532205)
    assert not is_ignored("netns:4026532205", netns=4026532206)
    # The host's own has no number.
    assert not is_ignored("netns:0")
    assert not ignored(Rules((parse_rule("container:*"), parse_rule("runtime:*"))), "egress", None, None, None)


def test_names_are_needed_only_where_a_rule_asks_for_one() -> None:
    assert not Rules().by_owner
    assert not Rules((parse_rule("10.0.0.0/8"), parse_rule(":80-90"))).by_owner
    assert Rules((parse_rule(":80"), parse_rule("unit:*"))).by_owner
    assert Rules((parse_rule("user:nobody"),)).by_owner
    assert Rules((parse_rule("process:curl"),)).by_owner
    # It comes with the event.
    assert not Rules((parse_rule("thread:curl"),)).by_owner
    assert not Rules((parse_rule("netns:1"), parse_rule("unit:*"))).by_container
    assert Rules((parse_rule("container:web"),)).by_container
    assert Rules((parse_rule("runtime:lxc"),)).by_container


def test_ten_thousand_rules_take_no_longer_than_one() -> None:
    def seconds(rules: Rules) -> float:
        begin = time.process_time()
        for _ in range(2000):
            assert not ignored(rules, "ingress", b"\xcb\x00\x71\x09", b"\x0a\x00\x00\x05", 22)
        return time.process_time() - begin

    one = Rules((parse_rule("10.0.0.1"),))
    many = Rules(tuple(parse_rule(f"10.{n >> 8}.{n & 255}.1") for n in range(10_000)))
    ranges = Rules(tuple(parse_rule(f"10.{n >> 8}.{n & 255}.1:1-65535") for n in range(1_000)))
    # Looked through one by one they would take thousands of times as long.
    for other in (many, ranges):
        assert min(seconds(other) for _ in range(3)) < 20 * min(seconds(one) for _ in range(3))
