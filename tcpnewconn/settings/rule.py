"""One rule of Ignore=: its text, and the connections that it matches."""

import re
import socket
from typing import NamedTuple

from tcpnewconn.model import DIRECTIONS, MAPPED

_NETWORK = "use a network or an address, such as 10.0.0.0/8 or ::1"
_RULE = (
    "use a network, port or both, such as 10.0.0.0/8, :9100, 10.0.0.0/8:80-89 or egress:[2001:db8::/32]:443, "
    "or unit:, user:, thread:, container:NAME"
)
# Kinds of unit that have a cgroup of their own, and so can be the unit of a socket (systemd.unit(5)). A slice is never that.
_UNIT_TYPES = ("service", "scope", "socket", "mount", "swap")
# No backslash at the end, where it would continue a line of the configuration.
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@*?-]+(?<!\\)")
_USER = re.compile(r"[^\s:,/]+(?<!\\)")
# The kernel cuts the names of threads after 15 bytes (TASK_COMM_LEN).
_COMMAND = re.compile(r"[^\s,]+(?<!\\)")
_LONGEST_COMMAND = 15
_CONTAINER = re.compile(r"[A-Za-z0-9_.:@*?-]+")
# As CONTAINER_RUNTIME has them.
RUNTIMES = ("podman", "docker", "containerd", "cri-o", "systemd-nspawn", "lxc")


class Rule(NamedTuple):
    """One entry of Ignore=; None matches everything. str() writes it as parse_rule() reads it.

    A rule has a network, ports or both, or a unit, or a user, or a process, or a thread, or a container (its name or ID), or a
    runtime, or a network namespace. In names "*" stands for any characters, "?" for one.
    """

    direction: str | None = None
    network: bytes | None = None  # 4 or 16 bytes, network byte order; an IPv4-mapped one is an IPv4 one
    length: int = 0  # leading bits of the network that count
    ports: tuple[int, int] | None = None  # the first and the last one
    unit: str | None = None
    user: str | None = None
    process: str | None = None
    thread: str | None = None
    container: str | None = None
    runtime: str | None = None
    netns: str | None = None

    def __str__(self) -> str:
        direction = "" if self.direction is None else f"{self.direction}:"
        for kind in ("unit", "user", "process", "thread", "container", "runtime", "netns"):
            if (name := getattr(self, kind)) is not None:
                return f"{direction}{kind}:{name}"
        network = _network_text(self.network, self.length) if self.network is not None else ""
        if self.ports is None:
            return direction + network
        first, last = self.ports
        ports = str(first) if first == last else f"{first}-{last}"
        return f"{direction}[{network}]:{ports}" if ":" in network else f"{direction}{network}:{ports}"


def _network_text(network: bytes, length: int) -> str:
    address = socket.inet_ntop(socket.AF_INET if len(network) == 4 else socket.AF_INET6, network)
    return address if length == 8 * len(network) else f"{address}/{length}"


def split_list(text: str) -> list[str]:
    """The entries of a list: between blanks, commas or both."""
    return text.replace(",", " ").split()


def parse_rule(text: str) -> Rule:
    """Read one entry: [DIRECTION:] and then NETWORK, :PORTS, NETWORK:PORTS, or unit:NAME, user:, process:, thread:, container:,
    runtime: or netns:NUMBER.

        127.0.0.0/8   ::1   :9100   :8000-8099   egress:10.0.0.0/8:443   ingress:[2001:db8::/32]:443   unit:user@*.service

    An IPv6 network with a port stands in brackets. An IPv4-mapped network (::ffff:10.0.0.0/104) is an IPv4 one.
    ValueError says what would be right.
    """
    return _parsed(text, _RULE)


def parse_network(text: str) -> Rule:
    """Read one network or address, and nothing else. ValueError says what would be right."""
    rule = _parsed(text, _NETWORK)
    if rule.network is None or rule != Rule(network=rule.network, length=rule.length):
        raise ValueError(f"only the network has an effect here; {_NETWORK}")
    return rule


def _parsed(text: str, right: str) -> Rule:
    word, _, rest = text.partition(":")
    direction = word if word in DIRECTIONS else None
    if direction is not None:
        text = rest
        word, _, rest = text.partition(":")
    if word == "unit":
        return Rule(direction, unit=_unit(rest))
    if word == "user":
        return Rule(direction, user=_user(rest))
    if word == "process":
        return Rule(direction, process=_command(rest, word))
    if word == "thread":
        return Rule(direction, thread=_command(rest, word))
    if word == "container":
        return Rule(direction, container=_container(rest))
    if word == "runtime":
        return Rule(direction, runtime=_runtime(rest))
    if word == "netns":
        return Rule(direction, netns=_namespace(rest))
    if word.isalpha() and not set(word) <= set("abcdefABCDEF"):
        raise ValueError(f"{word} is neither a direction ({', '.join(DIRECTIONS)}) nor a network; {right}")
    written, ports = _split_ports(text, right)
    if not written and ports is None:
        raise ValueError(right)
    network, length = _network(written, right) if written else (None, 0)
    return Rule(direction, network, length, None if ports is None else _ports(ports))


def _split_ports(text: str, right: str) -> tuple[str, str | None]:
    """The network and the ports as they were written."""
    if text.startswith("["):
        # Both [2001:db8::/32]:443 and [2001:db8::]/32:443 are common.
        inside, bracket, after = text[1:].partition("]")
        length, colon, ports = after.partition(":")
        if not bracket or (length and not length.startswith("/")):
            raise ValueError(right)
        return inside + length, ports if colon else None
    # Without brackets, only a length says where an IPv6 network ends: 2001:db8::1:443 is an address.
    start = 0
    if text.count(":") > 1:
        start = text.find("/") if "/" in text else len(text)
    end = text.find(":", start)
    return (text, None) if end < 0 else (text[:end], text[end + 1 :])


def _ports(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    low, high = _port(first), _port(last if dash else first)
    if low > high:
        raise ValueError(f"a range of ports begins with the lower one; use {high}-{low}")
    return low, high


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ValueError("a port is a number from 1 to 65535, a range two of them, such as 8000-8099")
    return int(text)


def mask(length: int, size: int) -> int:
    """The number whose `length` leading bits of `size` bytes are set."""
    return (1 << 8 * size) - (1 << 8 * size - length)


def _network(text: str, right: str) -> tuple[bytes, int]:
    address, slash, length = text.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        packed = socket.inet_pton(family, address)
    except (OSError, ValueError):
        raise ValueError(f"{address or text} is not an address; {right}") from None
    most = 8 * len(packed)
    if not slash:
        count = most
    elif length.isascii() and length.isdecimal() and len(length) <= 3 and int(length) <= most:
        count = int(length)
    else:
        raise ValueError(f"the length of such a network is a number from 0 to {most}, as in {address}/{most}")
    number = int.from_bytes(packed, "big")
    masked = number & mask(count, len(packed))
    if masked != number:
        start = socket.inet_ntop(family, masked.to_bytes(len(packed), "big"))
        raise ValueError(
            f"not where a /{count} network starts; use {start}/{count}, or {address} for this address alone"
        )
    if packed.startswith(MAPPED) and count >= 96:
        return packed[12:], count - 96
    return packed, count


def _unit(text: str) -> str:
    if not _UNIT.fullmatch(text):
        raise ValueError("not the name of a unit; use for example unit:cron.service or unit:user@*.service")
    name, _, kind = text.rpartition(".")
    if name.endswith("@") and kind in _UNIT_TYPES:
        raise ValueError(f"a template has no connections, its instances have; use unit:{name}*.{kind}")
    if kind in _UNIT_TYPES or "*" in kind or "?" in kind:
        return text
    if kind == "slice":
        raise ValueError("a slice has no connections, its units have; use for example unit:cron.service")
    raise ValueError(f"a unit that has connections ends in .{', .'.join(_UNIT_TYPES)}; use for example {text}.service")


def _user(text: str) -> str:
    if not _USER.fullmatch(text) or not text.isprintable():
        raise ValueError("not the name of a user; use for example user:nobody")
    if text.isdecimal():
        raise ValueError("a user is given by name; use for example user:nobody")
    return text


def _container(text: str) -> str:
    if not _CONTAINER.fullmatch(text):
        raise ValueError(
            "not the name or the ID of a container; use for example container:web or container:0a1b2c3d4e5f*"
        )
    return text


def _runtime(text: str) -> str:
    if text not in RUNTIMES and "*" not in text and "?" not in text:
        raise ValueError(f"not the runtime of a container; use one of {', '.join(RUNTIMES)}")
    return _container(text)


def _namespace(text: str) -> str:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        raise ValueError(
            "a network namespace is given by the number that TCPNEWCONN_NETNS has; use for example netns:4026532205"
        )
    return str(int(text))


def _command(text: str, kind: str) -> str:
    if not _COMMAND.fullmatch(text) or not text.isprintable():
        raise ValueError(
            f"not the name of a {kind}; use for example {kind}:curl; * stands for any characters, ? for one"
        )
    if "*" not in text and len(text.encode()) > _LONGEST_COMMAND:
        shorter = text.encode()[:_LONGEST_COMMAND].decode(errors="ignore")
        raise ValueError(f"the kernel cuts names after {_LONGEST_COMMAND} bytes; use {kind}:{shorter}")
    return text
