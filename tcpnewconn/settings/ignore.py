"""The rules of Ignore= as a whole: whether one of them matches a connection."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tcpnewconn.model import INGRESS, UNKNOWN
from tcpnewconn.settings.rule import Rule, mask


class _Ports(NamedTuple):
    """Rules that ask for a port alone. Once a port is masked, one look into a set answers for all of them."""

    mask: int
    keys: frozenset[tuple[str | None, int]]


class _Shape(NamedTuple):
    """Rules that ask the same question: once an address is masked, one look into a set answers for all of them."""

    mask: int
    with_direction: bool
    port_mask: int  # 0: they ask for no port
    keys: frozenset[tuple[int, str | None, int]]


class _Names(NamedTuple):
    """Rules that ask for the name of a unit, a user, a process, a thread, a container and so on.

    Names in full, and for each direction a pattern for the rest.
    """

    names: frozenset[tuple[str | None, str]]
    patterns: tuple[tuple[str | None, re.Pattern[str]], ...]

    def match(self, direction: str, name: str | None) -> bool:
        if name is None:
            return False
        if (None, name) in self.names or (direction, name) in self.names:
            return True
        return any(wanted in (None, direction) and pattern.match(name) for wanted, pattern in self.patterns)


class Rules:
    """Rules laid out for look-up: its time follows the number of different lengths of networks, not that of rules.

    str() writes them as Ignore= takes them.
    """

    def __init__(self, given: tuple[Rule, ...] = ()) -> None:
        self.given = given
        self.ports = _port_shapes(given)
        self.ipv4, self.ipv6 = _shapes(given, 4), _shapes(given, 16)
        self.units, self.users = self._of("unit"), self._of("user")
        self.processes, self.threads = self._of("process"), self._of("thread")
        self.containers, self.runtimes = self._of("container"), self._of("runtime")
        self.namespaces = self._of("netns")

    def _of(self, kind: str) -> _Names | None:
        """The rules that ask for a name, by the attribute of a rule that has it."""
        return _names((rule.direction, getattr(rule, kind)) for rule in self.given if getattr(rule, kind) is not None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rules) and self.given == other.given

    def __repr__(self) -> str:
        return f"Rules({self.given})"

    @property
    def by_owner(self) -> bool:
        """Whether a rule asks for a unit, a user or a process: otherwise these need not be looked up for ignored()."""
        return self.units is not None or self.users is not None or self.processes is not None

    @property
    def by_container(self) -> bool:
        """Whether a rule asks for a container or its runtime: otherwise it need not be looked up for ignored()."""
        return self.containers is not None or self.runtimes is not None

    def __str__(self) -> str:
        return " ".join(str(rule) for rule in self.given)


def _port_shapes(rules: Iterable[Rule]) -> tuple[_Ports, ...]:
    shapes: dict[int, set[tuple[str | None, int]]] = {}
    for rule in rules:
        if rule.network is None and rule.ports is not None:
            for port_mask, first in _blocks(*rule.ports):
                shapes.setdefault(port_mask, set()).add((rule.direction, first))
    return tuple(_Ports(port_mask, frozenset(keys)) for port_mask, keys in shapes.items())


def _shapes(rules: Iterable[Rule], size: int) -> tuple[_Shape, ...]:
    shapes: dict[tuple[int, bool, int], set[tuple[int, str | None, int]]] = {}
    for rule in rules:
        if rule.network is not None and len(rule.network) == size:
            network = int.from_bytes(rule.network, "big")
            for port_mask, first in _blocks(*rule.ports) if rule.ports is not None else [(0, 0)]:
                shape = (mask(rule.length, size), rule.direction is not None, port_mask)
                shapes.setdefault(shape, set()).add((network, rule.direction, first))
    return tuple(_Shape(*shape, frozenset(keys)) for shape, keys in shapes.items())


def _blocks(low: int, high: int) -> Iterator[tuple[int, int]]:
    """A range of ports as blocks that a mask tells apart, as a network does addresses: each its mask and first port.

    At most 30 of them, where single ports would be 65,535: 8000-8099 is 8000-8063, 8064-8095 and 8096-8099.
    """
    while low <= high:
        size = low & -low
        while size > high - low + 1:
            size //= 2
        yield 0x10000 - size, low
        low += size


def _names(asked: Iterable[tuple[str | None, str]]) -> _Names | None:
    names: set[tuple[str | None, str]] = set()
    patterns: dict[str | None, list[str]] = {}
    for direction, name in asked:
        if "*" in name or "?" in name:
            from fnmatch import translate  # here, because few configurations need it

            # A bracket is itself: systemd has none in names, and rules have no character sets.
            patterns.setdefault(direction, []).append(translate(name.replace("[", "[[]")))
        else:
            names.add((direction, name))
    if not names and not patterns:
        return None
    return _Names(
        frozenset(names), tuple((direction, re.compile("|".join(each))) for direction, each in patterns.items())
    )


def ignored(
    rules: Rules,
    direction: str,
    source: bytes | None,
    destination: bytes | None,
    destination_port: int | None,
    unit: str | None = None,
    user: str | None = None,
    process: str | None = None,
    thread: str | None = None,
    container: Sequence[str | None] = (),
    runtime: str | None = None,
    netns: int = 0,
) -> bool:
    """Whether a rule matches this connection, so that it is not reported.

    A network is compared with the end that is not this host: the source of an "ingress" connection, the destination of
    an "egress" one. Where both ends are this host ("internal") it is the destination, the address connected to. Where
    the direction is "unknown" both ends must be in the network, so that nothing from or to elsewhere is hidden by
    accident. A port is always the destination's. Unit, user, process and thread are the names that the entry has; those but
    the last are asked for only if `rules.by_owner`. `container` has its name and its ID, which are asked for, as its runtime is,
    only if `rules.by_container`; `netns` is 0 for the host's own. Unknown values (None) match no rule that asks for them.

    Addresses are packed; IPv4-mapped ones have 4 bytes, too.
    """
    if not rules.given:
        return False
    if destination_port is not None:
        for ports in rules.ports:
            port = destination_port & ports.mask
            if (None, port) in ports.keys or (direction, port) in ports.keys:
                return True
    if rules.units is not None and rules.units.match(direction, unit):
        return True
    if rules.users is not None and rules.users.match(direction, user):
        return True
    if rules.processes is not None and rules.processes.match(direction, process):
        return True
    if rules.threads is not None and rules.threads.match(direction, thread):
        return True
    if rules.containers is not None and any(rules.containers.match(direction, name) for name in container):
        return True
    if rules.runtimes is not None and rules.runtimes.match(direction, runtime):
        return True
    if rules.namespaces is not None and netns and rules.namespaces.match(direction, str(netns)):
        return True
    remote = source if direction == INGRESS else destination
    if remote is None:
        return False
    shapes = rules.ipv4 if len(remote) == 4 else rules.ipv6
    if not shapes:
        return False
    address = int.from_bytes(remote, "big")
    other = address
    if direction == UNKNOWN:
        if source is None:
            return False
        other = int.from_bytes(source, "big")
    # No rule asks for port 0.
    known_port = destination_port or 0
    for shape in shapes:
        network = address & shape.mask
        port = known_port & shape.port_mask
        key = (network, direction if shape.with_direction else None, port)
        if key in shape.keys and other & shape.mask == network:
            return True
    return False
