"""Where rows begin: those that have one length are found by their place, the others are split; what is read is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpnewconn.kernel import rowtext
from tcpnewconn.kernel.procnet import Poll, ProcNet
from tcpnewconn.kernel.rowtext import bodies, line_of, places
from tests.support.table import Line, Tables, line, listener

ROWS = [line("10.0.0.5:22", f"203.0.113.9:{port}", inode=port) for port in range(101, 105)]
TEXT = b"".join(row.text(slot) for slot, row in enumerate(ROWS, 8))


def test_rows_of_one_length_begin_at_equal_distances() -> None:
    at = places(TEXT)
    assert at == range(6, 600, 150)
    assert [TEXT[one : one + at.step].split(b"\n")[0] for one in at] == [row.split(b"\n")[0] for row in bodies(TEXT)]


@pytest.mark.parametrize(
    "text",
    {
        "no row": b"",
        "no newline": TEXT[:149],
        "a row too short": TEXT[:450] + TEXT[450:598] + b"\n",
        "a longer slot number": b"".join(row.text(slot) for slot, row in enumerate(ROWS, 9_998)),
        "no colon": TEXT[:154] + b" " + TEXT[155:],
        "no blank behind it": TEXT[:155] + b"0" + TEXT[156:],
        "no slot number": b"xxxx" + TEXT[4:],
        "a row of NUL bytes": TEXT[:150] + b"\0" * 149 + b"\n" + TEXT[300:],
    }.items(),
    ids=lambda each: each[0],
)
def test_where_they_differ_they_are_split(text: tuple[str, bytes]) -> None:
    assert places(text[1]) is None


def test_a_malformed_row_has_the_number_of_its_line() -> None:
    text = TEXT + b"\nno row\n  12: \n"
    assert [line_of(row, text) for row in (TEXT[156:299].strip(), b"", b"no row")] == [1, 4, 5]


@pytest.mark.parametrize(("users", "uid"), [(True, 1000), (False, None)])
def test_user_ids_are_read_only_where_they_are_known(tmp_path: Path, users: bool, uid: int | None) -> None:
    Tables(tmp_path).write([line("10.0.0.5:22", "203.0.113.9:51544", uid=1000, inode=7)])
    assert [row.uid for row in ProcNet(str(tmp_path), users=users).poll().rows()] == [uid]


ends = st.sampled_from(["203.0.113.9:51544", "203.0.113.9:51545", "192.0.2.7:443"])
rows = st.lists(
    st.builds(
        lambda remote, state, inode: line("10.0.0.5:22", remote, state, inode=inode),
        ends,
        st.sampled_from([1, 4, 6, 8]),
        st.sampled_from([0, 7, 8]),
    ),
    max_size=6,
)


@given(polls=st.lists(st.tuples(rows, st.sampled_from([0, 9_997])), min_size=1, max_size=4))
def test_what_is_read_is_the_same(
    polls: list[tuple[list[Line], int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("proc", numbered=True)
    tables = Tables(directory)
    by_place, split = ProcNet(str(directory)), ProcNet(str(directory))
    for given_rows, slot in polls:
        tables.write([listener("0.0.0.0:22"), *given_rows], first_slot=slot)
        found = [read(by_place)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rowtext, "places", lambda text: None)
            found.append(read(split))
        assert found[0] == found[1]


def read(proc: ProcNet) -> tuple[object, ...]:
    poll: Poll = proc.poll()
    return list(poll.rows()), poll.gone, poll.listeners, poll.gone_listeners, poll.count, poll.states, poll.malformed
