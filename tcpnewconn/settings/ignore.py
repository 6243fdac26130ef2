"""The rules of Ignore=: which connections are not to be reported."""

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field

DIRECTIONS = ("ingress", "egress", "internal", "unknown")

_RIGHT = "use a network, a port or both, such as 10.0.0.0/8, ::1, :9100, 10.0.0.0/8:443 or egress:[2001:db8::/32]:443"
_MAPPED = bytes(10) + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of Ignore=; what is None matches everything."""

    direction: str | None
    network: bytes | None  # 4 or 16 bytes, network byte order
    length: int  # leading bits of the network that count
    port: int | None


@dataclass(frozen=True, slots=True)
class _Shape:
    """Rules that ask the same question: once an address is masked, one look into a set answers for all of them."""

    mask: int
    with_direction: bool
    with_port: bool
    keys: frozenset[tuple[int, str | None, int | None]]


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules laid out for look-up: its time follows the number of different network lengths, not that of rules."""

    given: tuple[Rule, ...] = ()
    ports: frozenset[tuple[str | None, int | None]] = field(init=False, repr=False, compare=False)
    ipv4: tuple[_Shape, ...] = field(init=False, repr=False, compare=False)
    ipv6: tuple[_Shape, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ports = frozenset((rule.direction, rule.port) for rule in self.given if rule.network is None)
        object.__setattr__(self, "ports", ports)
        object.__setattr__(self, "ipv4", _shapes(self.given, 4))
        object.__setattr__(self, "ipv6", _shapes(self.given, 16))


def _shapes(rules: Iterable[Rule], size: int) -> tuple[_Shape, ...]:
    shapes: dict[tuple[int, bool, bool], set[tuple[int, str | None, int | None]]] = {}
    for rule in rules:
        if rule.network is not None and len(rule.network) == size:
            shape = (_mask(rule.length, size), rule.direction is not None, rule.port is not None)
            shapes.setdefault(shape, set()).add((int.from_bytes(rule.network, "big"), rule.direction, rule.port))
    return tuple(_Shape(*shape, frozenset(keys)) for shape, keys in shapes.items())


def _mask(length: int, size: int) -> int:
    return (1 << 8 * size) - (1 << 8 * size - length)


def ignored(
    rules: Rules, direction: str, source: bytes | None, destination: bytes | None, destination_port: int | None
) -> bool:
    """Whether a rule says not to report this connection.

    A network is compared with the end that is not this host: the source of an "ingress" connection, the destination of
    an "egress" one. Where both ends are this host ("internal") it is the destination, the address connected to. Where
    the direction is "unknown" both ends must be in the network, so that nothing from or to elsewhere is hidden by
    accident. A port is always the destination's. What is None, not known, matches no rule that asks for it.

    Addresses are packed; IPv4-mapped ones have 4 bytes, too.
    """
    if not rules.given:
        return False
    if rules.ports and ((None, destination_port) in rules.ports or (direction, destination_port) in rules.ports):
        return True
    remote = source if direction == "ingress" else destination
    if remote is None:
        return False
    shapes = rules.ipv4 if len(remote) == 4 else rules.ipv6
    if not shapes:
        return False
    address = int.from_bytes(remote, "big")
    other = address
    if direction == "unknown":
        if source is None:
            return False
        other = int.from_bytes(source, "big")
    for shape in shapes:
        network = address & shape.mask
        key = (network, direction if shape.with_direction else None, destination_port if shape.with_port else None)
        if key in shape.keys and other & shape.mask == network:
            return True
    return False


def parse_rule(text: str) -> Rule:
    """Read one entry: [DIRECTION:]NETWORK, [DIRECTION:]:PORT or [DIRECTION:]NETWORK:PORT.

        127.0.0.0/8   ::1   :9100   egress:10.0.0.0/8:443   ingress:[2001:db8::/32]:443

    An IPv6 network with a port stands in brackets. An IPv4-mapped network (::ffff:10.0.0.0/104) is an IPv4 one.
    ValueError says what would be right.
    """
    word, _, rest = text.partition(":")
    if word in DIRECTIONS:
        direction = word
    elif word.isalpha() and not set(word) <= set("abcdefABCDEF"):
        raise ValueError(f"{word} is neither a direction ({', '.join(DIRECTIONS)}) nor a network; {_RIGHT}")
    else:
        direction, rest = None, text
    written, port = _split_port(rest)
    if not written and port is None:
        raise ValueError(_RIGHT)
    network, length = _network(written) if written else (None, 0)
    return Rule(direction, network, length, None if port is None else _port(port))


def _split_port(text: str) -> tuple[str, str | None]:
    """The network and the port as they were written."""
    if text.startswith("["):
        # Both [2001:db8::/32]:443 and [2001:db8::]/32:443 are to be met with.
        inside, bracket, after = text[1:].partition("]")
        length, colon, port = after.partition(":")
        if not bracket or (length and not length.startswith("/")):
            raise ValueError(_RIGHT)
        return inside + length, port if colon else None
    # Without brackets, only a length tells where an IPv6 network ends: 2001:db8::1:443 is an address.
    start = 0
    if text.count(":") > 1:
        start = text.find("/") if "/" in text else len(text)
    end = text.find(":", start)
    return (text, None) if end < 0 else (text[:end], text[end + 1 :])


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ValueError("a port is a number from 1 to 65535")
    return int(text)


def _network(text: str) -> tuple[bytes, int]:
    address, slash, length = text.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        packed = socket.inet_pton(family, address)
    except (OSError, ValueError):
        raise ValueError(f"{address or text} is not an address; {_RIGHT}") from None
    most = 8 * len(packed)
    if not slash:
        count = most
    elif length.isascii() and length.isdecimal() and len(length) <= 3 and int(length) <= most:
        count = int(length)
    else:
        raise ValueError(f"the length of such a network is a number from 0 to {most}, as in {address}/{most}")
    number = int.from_bytes(packed, "big")
    masked = number & _mask(count, len(packed))
    if masked != number:
        start = socket.inet_ntop(family, masked.to_bytes(len(packed), "big"))
        raise ValueError(
            f"not where a /{count} network starts; use {start}/{count}, or {address} for this address alone"
        )
    if packed.startswith(_MAPPED) and count >= 96:
        return packed[12:], count - 96
    return packed, count
