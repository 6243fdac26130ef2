"""What can happen to the tracker, as bytes: an action and its pair, or a read. `Run` in tracked.py reads them."""

from __future__ import annotations

from itertools import chain

from hypothesis import strategies as st

ACTIONS = [
    "open", "open", "open unaccepted", "accept", "half close", "orphan times out", "finish", "finish", "passive close",
    "reset", "linger", "refused", "expire", "work", "work", "shut down", "abort", "let go", "restart", "wait",
]  # fmt: skip


def few_letters() -> st.SearchStrategy[bytes]:
    """Histories in which the same things happen to the same pairs, again and again."""
    letters = st.lists(st.integers(0, 255), min_size=2, max_size=12)
    return letters.flatmap(lambda few: st.lists(st.sampled_from(few), max_size=120).map(bytes))


def on_few_pairs() -> st.SearchStrategy[bytes]:
    """Histories of whole actions and reads, written as Run reads them."""
    return st.lists(st.integers(0, 255), min_size=1, max_size=3).flatmap(_on_pairs)


def _on_pairs(pairs: list[int]) -> st.SearchStrategy[bytes]:
    def written(action: int, pair: int, which: int) -> tuple[int, ...]:
        return (action, pair, which) if ACTIONS[action] in ("work", "let go") else (action, pair)

    action = st.builds(written, st.integers(0, len(ACTIONS) - 1), st.sampled_from(pairs), st.integers(0, 3))
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
    )
]
HISTORIES = few_letters() | on_few_pairs() | st.binary(max_size=120)
