"""Polls of tables captured from real kernels; fixtures/README.md says from which, and how."""

from pathlib import Path

import pytest

from tcpnewconn.kernel.procnet import Poll, ProcNet
from tcpnewconn.model import CLOSE_WAIT, ESTABLISHED, FIN_WAIT2, LISTEN, TIME_WAIT, Row, endpoints

KERNELS = sorted(Path(__file__).parents[1].glob("fixtures/linux-*"))

# Local and remote end, state, user (None: unknown), whether an inode is known.
Seen = tuple[str, str, int, int | None, bool]

SCENES: dict[str, tuple[list[Seen], list[Seen]]] = {
    "ipv6": (
        [("[2001:db8:9::1]:8443", "[2001:db8:9::2]:40001", ESTABLISHED, 0, True)],
        [("[2001:db8:9::1]:8443", "[::]:0", LISTEN, 4711, True)],
    ),
    "mapped": (
        [("10.9.0.1:80", "10.9.0.2:40002", ESTABLISHED, 0, True)],
        [("[::]:80", "[::]:0", LISTEN, 0, True)],
    ),
    "loopback": (
        [
            ("127.0.0.1:40003", "127.0.0.1:5432", ESTABLISHED, 4711, True),
            ("127.0.0.1:5432", "127.0.0.1:40003", ESTABLISHED, 0, True),
        ],
        [("127.0.0.1:5432", "0.0.0.0:0", LISTEN, 0, True)],
    ),
    "time_wait": (
        [("10.9.0.1:22", "10.9.0.2:40004", TIME_WAIT, None, False)],
        [("10.9.0.1:22", "0.0.0.0:0", LISTEN, 0, True)],
    ),
    "fin_wait2": ([("10.9.0.1:40005", "10.9.0.2:25", FIN_WAIT2, None, False)], []),
    "close_wait": ([("10.9.0.1:40006", "10.9.0.2:25", CLOSE_WAIT, 4711, True)], []),
    # Neither of these was ever a connection.
    "syn_recv": ([], [("10.9.0.1:22", "0.0.0.0:0", LISTEN, 0, True)]),
    "syn_sent": ([], []),
    # Its user is the listener's, but nobody has it yet.
    "unaccepted": (
        [("10.9.0.1:22", "10.9.0.2:40009", ESTABLISHED, None, False)],
        [("10.9.0.1:22", "0.0.0.0:0", LISTEN, 4711, True)],
    ),
    "mptcp": (
        [("10.9.0.1:8080", "10.9.0.2:40010", ESTABLISHED, 0, True)],
        [("10.9.0.1:8080", "0.0.0.0:0", LISTEN, 0, True)],
    ),
    # Of the two with SO_REUSEPORT one.
    "listeners": (
        [],
        [
            ("0.0.0.0:22", "0.0.0.0:0", LISTEN, 0, True),
            ("10.9.0.1:8080", "0.0.0.0:0", LISTEN, 0, True),
            ("127.0.0.1:2525", "0.0.0.0:0", LISTEN, 4711, True),
            ("[::1]:631", "[::]:0", LISTEN, 0, True),
            ("[::]:80", "[::]:0", LISTEN, 0, True),
        ],
    ),
}


def seen(row: Row) -> Seen:
    local, remote = endpoints(row.four_tuple)
    return str(local), str(remote), row.state, row.uid, row.inode > 0


def captured(kernel: Path, scene: str) -> Poll:
    if scene == "mptcp" and not (kernel / scene).exists():
        pytest.skip(f"{kernel.name} has no MPTCP")
    return ProcNet(str(kernel / scene), byteorder="little").poll()


def test_there_are_captures() -> None:
    assert KERNELS
    for kernel in KERNELS:
        scenes = {directory.name for directory in kernel.iterdir() if (directory / "net").is_dir()}
        assert scenes | {"mptcp"} == {*SCENES, "many"}, kernel


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("scene", SCENES)
def test_a_captured_scene_is_read_as_it_was_made(kernel: Path, scene: str) -> None:
    poll = captured(kernel, scene)
    connections, listeners = SCENES[scene]
    assert sorted(seen(row) for row in poll.rows()) == connections
    assert sorted(seen(row) for row in poll.listeners) == listeners
    assert (poll.gone, poll.gone_listeners, poll.malformed) == ([], [], 0)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_rows_are_read_the_same_on_both_sides_of_slot_9999_and_99999(kernel: Path) -> None:
    lines = (kernel / "many" / "net" / "tcp").read_text().splitlines()[1:]
    slots = [int(line.split(":")[0]) for line in lines]
    assert {9999, 10000, 99999, 100000} <= set(slots)
    poll = captured(kernel, "many")
    rows = [*poll.listeners, *poll.rows()]
    assert poll.malformed == 0
    assert len(rows) == poll.count == len(lines)
    for line, row in zip(lines, sorted(rows, key=lambda row: _place(lines, row)), strict=True):
        local, remote, state, uid, inode = _independently(line)
        assert (*(str(end) for end in endpoints(row.four_tuple)), row.state, row.uid, row.inode) == (
            local, remote, state, uid, inode,
        )  # fmt: skip


def _place(lines: list[str], row: Row) -> int:
    return next(place for place, line in enumerate(lines) if f" {row.inode} " in line)


def _independently(line: str) -> tuple[str, str, int, int, int]:
    """A row taken apart the slow way."""
    _, local, remote, state, _, _, _, uid, _, inode, *_ = line.split()
    return _end(local), _end(remote), int(state, 16), int(uid), int(inode)


def _end(text: str) -> str:
    address, port = text.split(":")
    numbers = [str(int(address[at : at + 2], 16)) for at in (6, 4, 2, 0)]
    return f"{'.'.join(numbers)}:{int(port, 16)}"
