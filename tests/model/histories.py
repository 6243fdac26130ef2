"""What can happen to the tracker, as bytes: an action and its four_tuple, or a read. `Run` in tracked.py reads them."""

from __future__ import annotations

from itertools import chain

from hypothesis import strategies as st

ACTIONS = [
    "open", "open", "open unaccepted", "accept", "half close", "orphan times out", "finish", "finish", "passive close",
    "reset", "linger", "refused", "expire", "work", "work", "shut down", "abort", "let go", "restart", "wait",
]  # fmt: skip


def few_letters() -> st.SearchStrategy[bytes]:
    """Histories in which the same things happen to the same four_tuples, again and again."""
    letters = st.lists(st.integers(0, 255), min_size=2, max_size=12)
    return letters.flatmap(lambda few: st.lists(st.sampled_from(few), max_size=120).map(bytes))


def on_few_pairs() -> st.SearchStrategy[bytes]:
    """Histories of whole actions and reads, written as Run reads them."""
    return st.lists(st.integers(0, 255), min_size=1, max_size=3).flatmap(_on_pairs)


def _on_pairs(four_tuples: list[int]) -> st.SearchStrategy[bytes]:
    def written(action: int, four_tuple: int, which: int) -> tuple[int, ...]:
        return (action, four_tuple, which) if ACTIONS[action] in ("work", "let go", "restart") else (action, four_tuple)

    action = st.builds(written, st.integers(0, len(ACTIONS) - 1), st.sampled_from(four_tuples), st.integers(0, 35))
    # A row that is doubled or left out; how many actions while the table is read, and how many before its rows are looked up.
    read = st.builds(
        lambda rows, during, behind: bytes(
            [0, rows + 4 * len(during) + 12 * len(behind), *chain(*during), *chain(*behind)]
        ),
        st.integers(0, 2),
        st.lists(action, max_size=2),
        st.lists(action, max_size=2),
    )
    step = read | st.just(b"\1") | action.map(lambda bytes_: bytes([6 * bytes_[0] + 2, *bytes_[1:]]))
    before = st.lists(action, max_size=3).map(lambda actions: bytes([len(actions), *chain(*actions)]))
    return st.builds(lambda first, steps: first + b"\0" + b"".join(steps), before, st.lists(step, max_size=14))


# Histories that were once not told right, each for another reason: what had to be seen for it.
FOUND = [
    bytes.fromhex(history)
    for history in (
        # Several that had the same addresses were gone when they were asked for their cookie, and are announced late.
        "00040004001c00000604000400",
        # One that was gone when it was asked for its cookie is not the one that stands in its row later.
        "800800000203001000000603020300",
        "000002020200500000000406",
        # The announcement of one whose addresses have another one by then.
        "0100000026000200001804",
        # Within the host: a socket that is established, or whose other end lives, is not the half that is owed.
        "00140000000100003885000800010d000000",
        "00040001260150000002015c0150000000",
        # The other end of a row is another socket now, or has left the table and was not announced yet.
        "00000201000806010001",
        "000002011a01200100000006060100",
        # One that a read did not show, nor the next, though it was there.
        "010001000004060100040001000200040601",
        "0100010002002685000400010002000c0601",
        # Reset, and held by its program for longer than a minute; then with a restart; then its other end without addresses.
        "000002011a856201",
        "03000400020000000002260200006e",
        "00000201628574006800000008000100006201",
        # An end without addresses that can be of one that was gone when it was asked; one on addresses that one had before.
        "000002060014000000000a06",
        "000002053e83740002053e05",
        # Killed while an end without addresses was waited with, or taken for one whose cookie is not known.
        "0100680c0a686e000002686268",
        "220ae3b6e33bb6d53be30a3b0a3be63ba8a1e3",
        # Killed before it was known which of those in TIME_WAIT at the first start were announced before.
        "0201fe07fefe6e",
        "0200020602006e000000006e0001",
        # Stopped, and started with another socket: what the last read shows in TIME_WAIT, and what ends after it.
        "000400025c02200274006e0001",
        "0004002a5c2a202a000074006e0001",
        "0004000026006e0001",
        # What was left of a connection that was reported: an orphan that lives, or one that is gone when it is looked up.
        "0201c004c003008f0a",
        "0008000006006e00040000180000006e000219",
        "e8d3ff4fe8aee8aeffd3aeffe8d3a6a64f31aeae313831ae31d3d3e8aea63131f7a6aed331aee831",
        "3812dddd189571950469f50f0412951212dd180f04f512dd041212ddf2dd71",
        # One that lives, and was in none of two reads all the same.
        "1909170008170004170226170009170002170032170100170617",
        "0a6d126d16086d126d180e6d126d00220f6d096d086d0c6d6e6d6e6d150e6d00096d126d1500060f6d0021326d",
        # A row whose place another connection has by now, which was reported: neither that one's nor its other half.
        "686b086b106b026b0101001c046b076b026b746b000c096b",
        "00010e55001a065520550e5500210c55055509550155",
        # A number that was given for want of a cookie, and again after a restart.
        "f7ac7aac7a7aa9f7acac48ac03f7a9aca96e48f7486e486e6e48a97a7a487aac48acf7",
    )
]
# And those in which a loss was taken for one that had not been lost, where there is room for one announcement.
FOUND_LOST = [
    bytes.fromhex(history)
    for history in (
        # One that ended while nobody listened; and whose row in TIME_WAIT is there yet.
        "9898792c0f987159530f790f79796a2c0f710f2c2c982c0f0f0f",
        "01a6030002a66e2e03011aa6000e001a08a6381a00a6082e",
        # Killed before the second read, which tells which those are.
        "02b6e9b66c6ce9d7d76c03d7b63b6ce9b6b6b6d7023bb6026ce96cd702d7e9",
        "b803034c6e6303036eb8e46e6ed34cd30303d3034c1d95",
        # One that a program held, and whose announcement had been taken for lost before a restart.
        "03132d000232000162320076001601203e2d26766e322d",
    )
]
HISTORIES = few_letters() | on_few_pairs() | st.binary(max_size=120)
