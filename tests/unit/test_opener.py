"""The opener of a connection, by the kernel's counters: destroy notifications captured for each way to close one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcpnewconn.kernel.inetdiag import parse_notification
from tcpnewconn.model import DestroyedSocket

CAPTURED = sorted((Path(__file__).parents[1] / "fixtures").glob("linux-*/closed/*.hex"))


def captured(file: Path) -> DestroyedSocket:
    """The one socket of a connection in the namespace that was looked at; its listener is not established."""
    found = [parse_notification(bytes.fromhex(line)) for line in file.read_text().split()]
    (socket,) = [each for each in found if each is not None and each.established]
    return socket


@pytest.mark.parametrize("file", CAPTURED, ids=lambda file: file.stem)
def test_a_socket_that_decides_is_right_and_an_orderly_opener_always_decides(file: Path) -> None:
    opened = file.stem.startswith("opened")
    assert captured(file).opened_here() in (opened, None)
    if opened and "unread" not in file.stem and "unacknowledged" not in file.stem:
        assert captured(file).opened_here()


def test_bytes_that_were_not_acknowledged_decide_nothing() -> None:
    """They lower the count: an opener's SYN and one such byte look like an acceptor."""
    found = {file.stem: captured(file).opened_here() for file in CAPTURED if "unacknowledged" in file.stem}
    assert found == dict.fromkeys(
        [f"{side}_aborted_{count}_unacknowledged" for side in ("accepted", "opened") for count in (1, 2)]
    )


# A way to close as the socket here and the socket at the other end saw it: the captures of both.
TWO_ENDS = {
    f"{way}_{first}_first": f"{way}_{other}_first"
    for way in ("in_order", "with_data", "both_shut_down", "with_unread_bytes")
    for first, other in (("here", "there"), ("there", "here"))
}


@pytest.mark.parametrize("way", TWO_ENDS)
def test_of_two_ends_one_has_acknowledged_the_other_s_syn(way: str) -> None:
    directory = CAPTURED[0].parent
    opener = captured(directory / f"opened_{way}.hex")
    acceptor = captured(directory / f"accepted_{TWO_ENDS[way]}.hex")
    assert acceptor.opened_by(opener) is True
    assert opener.opened_by(acceptor) is False


def test_every_way_was_captured() -> None:
    assert len(CAPTURED) == 20
