"""Answers of one dump in place of look-ups: only about a socket that is surely that of a row."""

from __future__ import annotations

from tcpnewconn.model import ESTABLISHED, FourTuple, SocketInfo, four_tuple_of, mirrored
from tcpnewconn.tracking.answers import Answers

HERE, THERE, LOOPBACK = b"\x0a\0\0\5", b"\xcb\0\x71\x09", b"\x7f\0\0\1"
REMOTE = four_tuple_of(HERE, 22, THERE, 50_000)
WITHIN = four_tuple_of(LOOPBACK, 22, LOOPBACK, 50_000)


def internal(four_tuple: FourTuple) -> bool:
    return four_tuple[6:10] == LOOPBACK


def test_a_socket_that_was_established_in_the_poll_and_after_it() -> None:
    answers = Answers({7}, [(REMOTE, 882130, 4711, 1000, 7)], internal)
    assert answers.about(REMOTE) == SocketInfo(882130, 4711, 1000, 7, ESTABLISHED, False)
    assert answers.about(mirrored(REMOTE)) is None


def test_the_largest_numbers_and_an_unknown_user() -> None:
    largest = 2**64 - 1
    answers = Answers({2**32 - 1}, [(REMOTE, largest, largest, None, 2**32 - 1)], internal)
    assert answers.about(REMOTE) == SocketInfo(largest, largest, None, 2**32 - 1, ESTABLISHED, False)


def test_another_socket_that_has_the_addresses_by_then_is_asked_for() -> None:
    assert Answers({7}, [(REMOTE, 1, 0, 0, 8)], internal).about(REMOTE) is None


def test_within_this_host_both_sockets_are_known_or_both_are_asked_for() -> None:
    one, other = (WITHIN, 1, 0, 0, 7), (mirrored(WITHIN), 2, 0, 0, 8)
    for inodes, dumped in (({7, 8}, [one]), ({7}, [one, other]), ({8}, [one, other])):
        answers = Answers(inodes, dumped, internal)
        assert answers.about(WITHIN) is answers.about(mirrored(WITHIN)) is None
    both = Answers({7, 8}, [one, other], internal)
    assert [info.cookie for each in (WITHIN, mirrored(WITHIN)) if (info := both.about(each))] == [1, 2]


def test_many_are_forgotten_one_after_the_other() -> None:
    many = [(four_tuple_of(HERE, 22, THERE, port), port, 0, 0, port) for port in range(1, 1000)]
    answers = Answers((port for *_, port in many[::2]), many, internal)
    for four_tuple, port, *_ in many:
        info = answers.about(four_tuple)
        assert (info.cookie if info else None) == (port if port % 2 else None)
        answers.forget(four_tuple)
        assert answers.about(four_tuple) is None


def test_once_it_is_reported_both_are_forgotten() -> None:
    answers = Answers({7, 8}, [(WITHIN, 1, 0, 0, 7), (mirrored(WITHIN), 2, 0, 0, 8)], internal)
    answers.forget(mirrored(WITHIN))
    answers.forget(REMOTE)
    assert answers.about(WITHIN) is answers.about(mirrored(WITHIN)) is None
