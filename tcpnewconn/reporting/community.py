"""Community ID, version 1: one flow's name in the logs of every tool that computes it."""

from binascii import b2a_base64
from struct import Struct

try:
    # The interpreter's own: hashlib would load OpenSSL, which takes 4.7 MiB more (measured with Python 3.13).
    from _sha1 import sha1  # type: ignore[import-not-found]
except ImportError:  # left out of builds that must use OpenSSL's
    from hashlib import sha1

_PORTS = Struct("!HH").pack
_SEED = b"\0\0"
_TCP = b"\6\0"  # protocol number and a byte of padding


def community_id(source: bytes, source_port: int, destination: bytes, destination_port: int) -> str:
    """The Community ID of a TCP connection with seed 0, the same for both directions.

        127.0.0.1:1234 -> 10.0.0.1:80   "1:mgRgpIZSu0KHDp/QrtcWZpkJpMU="

    Addresses are packed, both 4 bytes or both 16. As corelight/community-id-spec says: SHA-1 over the seed, both
    addresses, the protocol, a zero byte and both ports, in network byte order; the end with the lower address comes
    first or, where both addresses are the same, the one with the lower port.
    """
    # Bytes of one length in network byte order sort as their numbers do.
    if source < destination or (source == destination and source_port < destination_port):
        flow = _SEED + source + destination + _TCP + _PORTS(source_port, destination_port)
    else:
        flow = _SEED + destination + source + _TCP + _PORTS(destination_port, source_port)
    return "1:" + b2a_base64(sha1(flow, usedforsecurity=False).digest(), newline=False).decode("ascii")
