"""A MaxMind database of some IPv4 networks, made after the format's description (MaxMind DB File Format Specification 2.0)."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

_UINT16, _UINT32, _UINT64 = bytes([5 << 5 | 2]), bytes([6 << 5 | 4]), bytes([8, 9 - 7])
_METADATA = b"\xab\xcd\xefMaxMind.com"


def write(path: Path, networks: dict[str, dict[str, Any]]) -> Path:
    """`networks`: what the database says of each."""
    nodes: list[list[int | None]] = [[None, None]]
    data = b""
    for network, value in networks.items():
        one = ipaddress.IPv4Network(network)
        at = 0
        for bit in range(one.prefixlen - 1):
            side = _bit(one, bit)
            following = nodes[at][side]
            if following is None:
                nodes.append([None, None])
                following = nodes[at][side] = len(nodes) - 1
            at = following
        # Negative: data, whose number is known when that of the nodes is.
        nodes[at][_bit(one, one.prefixlen - 1)] = -len(data) - 1
        data += _encoded(value)
    tree = b"".join(_record(record, len(nodes)).to_bytes(3, "big") for node in nodes for record in node)
    about = {
        "record_size": 24,
        "ip_version": 4,
        "database_type": "Test",
        "languages": ["en"],
        "binary_format_major_version": 2,
        "binary_format_minor_version": 0,
        "build_epoch": 1_795_600_000,
        "description": {"en": "of the tests"},
    }
    node_count = _encoded("node_count") + _UINT32 + len(nodes).to_bytes(4, "big")
    metadata = bytes([7 << 5 | len(about) + 1]) + node_count + _encoded(about)[1:]
    path.write_bytes(tree + bytes(16) + data + _METADATA + metadata)
    return path


def _bit(network: ipaddress.IPv4Network, number: int) -> int:
    return int(network.network_address) >> (31 - number) & 1


def _record(record: int | None, nodes: int) -> int:
    if record is None:
        return nodes
    return record if record >= 0 else nodes + 16 - record - 1


def _encoded(value: Any) -> bytes:
    """Maps, arrays, texts of at most 284 bytes, and numbers."""
    if isinstance(value, dict):
        return bytes([7 << 5 | len(value)]) + b"".join(_encoded(k) + _encoded(v) for k, v in value.items())
    if isinstance(value, list):
        return bytes([len(value), 11 - 7]) + b"".join(map(_encoded, value))
    if isinstance(value, str):
        raw = value.encode()
        # From 29 bytes on, what is beyond that stands in the next byte.
        size = bytes([2 << 5 | len(raw)]) if len(raw) < 29 else bytes([2 << 5 | 29, len(raw) - 29])
        return size + raw
    # A reader in C wants each number of the metadata to be of its own type.
    return _UINT64 + int(value).to_bytes(8, "big") if value > 1 << 30 else _UINT16 + int(value).to_bytes(2, "big")
