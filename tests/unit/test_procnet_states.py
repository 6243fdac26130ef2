"""The number of rows of each state in a poll, whatever the polls before were."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tcpnewconn.kernel.procnet import ProcNet
from tcpnewconn.kernel.table import Unreadable
from tcpnewconn.model import LISTEN
from tests.support.table import Line, Tables

_STATES = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 10, 11])
# Of a socket: its port, whether it is of IPv6, its state and inode.
_SOCKETS = st.dictionaries(
    st.tuples(st.integers(1, 6), st.booleans()), st.tuples(_STATES, st.integers(0, 2)), max_size=12
)
_Sockets = dict[tuple[int, bool], tuple[int, int]]


def rows(sockets: _Sockets) -> list[Line]:
    made = []
    for (port, v6), (state, inode) in sockets.items():
        local, remote = bytes(15 if v6 else 3) + b"\1", bytes(15 if v6 else 3) + b"\2"
        made.append(Line((local, port), (remote, 0 if state == LISTEN else 9), state, 0, inode))
    return made


def counted(sockets: _Sockets) -> Counter[int]:
    return Counter(state for state, _ in sockets.values())


@given(st.lists(st.tuples(_SOCKETS, st.booleans(), st.sampled_from(["works", "fails"])), max_size=8))
def test_they_are_those_that_stand_there(reads: list[tuple[_Sockets, bool, str]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        tables = Tables(Path(directory))
        proc = ProcNet(directory)
        for sockets, time_wait, how in reads:
            tables.write(rows(sockets))
            if how == "fails":
                # The first table is read, and that is undone then.
                tables.tcp6.unlink()
                tables.tcp6.mkdir()
                try:
                    proc.poll(time_wait)
                except Unreadable:
                    pass
                else:
                    raise AssertionError("a directory was read")
                tables.tcp6.rmdir()
                tables.write(rows(sockets))
            read = proc.poll(time_wait)
            assert read.states == counted(sockets)
