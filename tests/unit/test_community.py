"""Community IDs are those that other tools compute."""

import base64
import hashlib
from ipaddress import ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tcpnewconn.reporting.community import community_id

# Source, destination, id. The first two are the TCP flows of the specification's published baseline for seed 0
# (corelight/community-id-spec, baseline_deflt.json), the others are in the documentation of pycommunityid.
PUBLISHED = [
    ("128.232.110.120", 34855, "66.35.250.204", 80, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    (
        "2001:470:e5bf:dead:4957:2174:e82c:4887",
        63943,
        "2607:f8b0:400c:c03::1a",
        25,
        "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=",
    ),
    ("127.0.0.1", 1234, "10.0.0.1", 80, "1:mgRgpIZSu0KHDp/QrtcWZpkJpMU="),
    ("10.0.0.1", 10, "10.0.0.2", 20, "1:9j2Dzwrw7T9E+IZi4b4IVT66HBI="),
]


@pytest.mark.parametrize(("source", "source_port", "destination", "destination_port", "expected"), PUBLISHED)
def test_it_is_the_published_one_whoever_opened(
    source: str, source_port: int, destination: str, destination_port: int, expected: str
) -> None:
    one, other = ip_address(source).packed, ip_address(destination).packed
    assert community_id(one, source_port, other, destination_port) == expected
    assert community_id(other, destination_port, one, source_port) == expected


ports = st.integers(0, 65535)
four_tuples = st.one_of(*(st.tuples(*[st.binary(min_size=size, max_size=size)] * 2) for size in (4, 16)))


@given(addresses=four_tuples, port=ports, other_port=ports)
@example((bytes(4), bytes(4)), 1, 2)
def test_it_is_the_hash_of_the_lower_end_and_the_higher(
    addresses: tuple[bytes, bytes], port: int, other_port: int
) -> None:
    ends = sorted(zip(addresses, (port, other_port), strict=True))
    hashed = hashlib.sha1(
        b"".join([b"\0\0", ends[0][0], ends[1][0], b"\6\0", *(port.to_bytes(2, "big") for _, port in ends)])
    )
    expected = "1:" + base64.b64encode(hashed.digest()).decode()
    one, other = addresses
    assert community_id(one, port, other, other_port) == expected
    assert community_id(other, other_port, one, port) == expected
