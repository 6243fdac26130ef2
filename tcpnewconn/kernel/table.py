"""One of the tables /proc/net/tcp and tcp6, as the polls show it: which rows are new, changed or gone since the last one.

A poll is not atomic: every read() returns at most one page, and the table changes between two of them, so that a row may
stand twice in one poll or be missing from it once. Both are handled here: a row is gone when it was absent from two polls.

The text of the last polls is kept here, so that only unknown rows have to be decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tcpnewconn.kernel.order import Order
from tcpnewconn.kernel.rowtext import (
    ENDED,
    IN_TIME_WAIT,
    IS_ESTABLISHED,
    LISTENING,
    STATE_NUMBERS,
    WANTED,
    Rows,
    RowText,
    line_of,
    read,
)
from tcpnewconn.model import FourTuple, Row

# Stands for the owner of a row that the next poll must show, whatever it is.
_NOT_SHOWN = b"\n"
# The columns of so few rows are not divided, to find those that are not as they were.
_FEW = 2 * 4
# Nor are those of a text after one in which so many rows have changed: finding one takes as long as looking up thirty.
_MANY = 20
# So many rows are decoded together.
_TOGETHER = 500


class Unreadable(Exception):
    """A table cannot be read: its path, and why."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


class Malformed(NamedTuple):
    """A row that could not be understood: file, line number in it (from 1), and the row."""

    path: str
    line: int
    text: bytes


class Part:
    """One poll of one table, by the heads of its rows: their addresses and state, as text."""

    def __init__(self, time_wait: bool = False) -> None:
        # Whether those in TIME_WAIT are looked at.
        self.time_wait = time_wait
        self.changed: list[bytes] = []
        # The owners of rows whose addresses another state has in this poll.
        self.replaced: dict[bytes, bytes] = {}
        self.gone: list[bytes] = []
        self.listeners: list[bytes] = []
        self.gone_listeners: list[bytes] = []
        self.rows = self.malformed = 0
        self.first_malformed: Malformed | None = None
        # Rows that are not remembered, and (below zero) remembered ones that did not stand in this poll, by state.
        self.apart: dict[bytes, int] = {}

    def count(self, state: bytes, sign: int = 1) -> None:
        self.apart[state] = self.apart.get(state, 0) + sign


def states_of(parts: tuple[tuple[Table, Part], ...]) -> dict[int, int]:
    """How many rows of each state stood in a poll, where there were any."""
    states: dict[int, int] = {}
    for counts in (counts for table, part in parts for counts in (table.states, part.apart)):
        for state, count in counts.items():
            number = STATE_NUMBERS[state]
            states[number] = states.get(number, 0) + count
    return {state: count for state, count in states.items() if count}


class Table:
    """One file. `digits` is the number of hexadecimal digits of an address in it."""

    def __init__(self, path: str, digits: int, byteorder: str, users: bool) -> None:
        self.path = path
        self._text = RowText(digits, byteorder, users)
        # The owner of each row.
        self._known: dict[bytes, bytes] = {}
        # Those of them that the last poll did not show, in the order in which they stood.
        self._absent: dict[bytes, None] = {}
        # Those that it did show.
        self._order = Order()
        # How many of the known rows have each state: counting them at each poll would cost as much as a quiet table (measured).
        self.states = dict.fromkeys(WANTED, 0)
        # Those of them that any has.
        self._present: tuple[bytes, ...] = ()
        # Of each state, the others of these that a row on its addresses can have had before. To look all of them up for each new
        # row would be a fifth of its cost (measured); a listener's addresses are no connection's.
        self._before: dict[bytes, tuple[bytes, ...]] = dict.fromkeys(WANTED, ())

    def poll(self, time_wait: bool) -> Part:
        """Read the whole file; raises Unreadable."""
        part, few = Part(time_wait), _FEW
        try:
            for text in read(self.path):
                rows, before = self._text.rows(text), len(part.changed)
                self._take(rows.columns, 0, few, rows, part)
                part.rows += len(rows)
                few = _FEW if len(part.changed) - before < _MANY else len(rows.columns)
        except OSError as error:
            self._withdraw(part)
            raise Unreadable(self.path, error.strerror or str(error)) from error
        self._end(part)
        return part

    def nothing(self) -> Part:
        """A poll of a file that is not there: all its rows are absent."""
        part = Part()
        self._end(part)
        return part

    def undo(self, part: Part) -> None:
        """Reading the other table failed: the next poll reports the changes of this one again."""
        gone = (*part.gone, *part.gone_listeners)
        for head in gone:
            self._keep(head, head[-2:], _NOT_SHOWN)
        self._absent = dict.fromkeys(gone)
        self._withdraw(part)

    def _withdraw(self, part: Part) -> None:
        """The next poll shows the rows again that this one showed so far."""
        for head in part.changed:
            if head in self._known:
                self._known[head] = _NOT_SHOWN
        for head in part.listeners:
            self._drop(head)
        self._order = Order(column for row in self._known.items() if row[0] not in self._absent for column in row)

    def _take(self, columns: list[bytes], first: int, few: int, rows: Rows, part: Part) -> None:
        """Some rows of a text, from the number `first` on. Those that are as they were, and where they were, in the poll before
        are compared at once; where not all are so, more than `few` columns are divided, to find the others."""
        if self._order.passed(columns):
            return
        if len(columns) <= few or self._order.at_end:
            self._compare(columns, first, rows, part)
            return
        step = max(few, len(columns) // 64 * 2)
        for at in range(0, len(columns), step):
            self._take(columns[at : at + step], first + at // 2, few, rows, part)

    def _compare(self, columns: list[bytes], first: int, rows: Rows, part: Part) -> None:
        """Look up some rows of a text, from the number `first` on."""
        known, absent, time_wait, place = self._known.get, self._absent, part.time_wait, rows.place
        stand: list[bytes] = []
        last = None
        for number, (head, shown) in enumerate(zip(columns[::2], columns[1::2], strict=True), first):
            seen = known(head)
            if seen == shown:
                if head not in absent:
                    last = head
                stand += (head, seen)
            elif seen is None and not time_wait and head[-2:] == IN_TIME_WAIT:
                part.count(IN_TIME_WAIT)
            else:
                text, at = place(number)
                owner = self._text.owner(text, at)
                if owner is None:
                    self._malformed(text, at, rows, part)
                elif self._look(head, owner, seen, part):
                    # So much is compared at once: where it is longer, it is looked up again.
                    known_as = self._known[head] = shown if shown.startswith(owner) else owner
                    stand += (head, known_as)
        self._order.stand(stand, last)

    def _malformed(self, text: bytes, at: int, rows: Rows, part: Part) -> None:
        """The row that begins here in a text cannot be understood."""
        part.malformed += 1
        if part.first_malformed is None:
            row = text[at:].split(b"\n", 1)[0].strip()
            # Behind the titles, and the rows of the texts before.
            part.first_malformed = Malformed(self.path, 2 + part.rows + line_of(row, rows.text), row)

    def _look(self, head: bytes, owner: bytes, seen: bytes | None, part: Part) -> bool:
        """A row that is new, or had the owner `seen`; whether it is one to remember."""
        state = head[-2:]
        if state not in WANTED:
            part.count(state)
            return False
        if seen is None:
            addresses, known = head[:-2], self._known
            for other in self._before[state]:
                if addresses + other in known:
                    self._replace(addresses + other, part)
            self._count(state, 1)
        elif seen.startswith(owner):
            # What follows the inode has changed.
            return True
        elif state == IN_TIME_WAIT and not part.time_wait:
            part.count(state)
            return False
        elif state == LISTENING:
            # SO_REUSEPORT: several sockets listen on one address; which of them stands first does not matter.
            return True
        (part.listeners if state == LISTENING else part.changed).append(head)
        return True

    def _replace(self, head: bytes, part: Part) -> None:
        """Another state stands in this poll on the addresses of a row."""
        owner = self._drop(head)
        if owner is not None:
            part.replaced[head] = owner
            self._order.drop(head)

    def _end(self, part: Part) -> None:
        """Drop the rows that were absent from two polls, this one and the one before."""
        known = self._known
        absent: dict[bytes, None] = {}
        for head in self._order.end(known, self._absent):
            if head not in self._absent:
                absent[head] = None
                part.count(head[-2:], -1)
                continue
            self._drop(head)
            (part.gone_listeners if head.endswith(LISTENING) else part.gone).append(head)
        self._absent = absent

    def row(self, head: bytes, part: Part) -> Row:
        """The row of a poll that begins with `head`, decoded."""
        return next(self.rows([head], part))

    def rows(self, heads: list[bytes], part: Part) -> Iterator[Row]:
        """The rows of a poll that begin so, decoded some at a time: a first poll of 400,000 must not hold them all."""
        known = self._known.get
        for at in range(0, len(heads), _TOGETHER):
            some = heads[at : at + _TOGETHER]
            yield from self._text.rows_of(some, [known(head) or part.replaced[head] for head in some])

    def inodes(self, heads: Iterable[bytes]) -> Iterator[int]:
        """The inodes of those that are established and have one."""
        known = self._known
        for head in heads:
            if (
                head.endswith(IS_ESTABLISHED)
                and (owner := known.get(head)) is not None
                and (inode := int(owner.split(None, 3)[2]))
            ):
                yield inode

    def four_tuple(self, head: bytes) -> FourTuple:
        return self._text.four_tuple(head)

    def standing(self, four_tuple: FourTuple) -> bytes | None:
        """The head of the row that a 4-tuple has in the last poll, if it has one."""
        for head in self._heads(four_tuple):
            if head not in self._absent and self._known.get(head, _NOT_SHOWN) != _NOT_SHOWN:
                return head
        return None

    def remembers(self, four_tuple: FourTuple) -> bool:
        """Whether a 4-tuple has a row in the last poll or had one in the poll before."""
        return any(self._known.get(head, _NOT_SHOWN) != _NOT_SHOWN for head in self._heads(four_tuple))

    def _heads(self, four_tuple: FourTuple) -> list[bytes]:
        """How a known row of this 4-tuple can begin."""
        return self._text.heads(four_tuple, self._present)

    def ended(self) -> list[bytes]:
        """The heads of the rows in TIME_WAIT and FIN_WAIT2 in the last poll."""
        return [head for head in self._known if head[-2:] in ENDED and head not in self._absent]

    def _keep(self, head: bytes, state: bytes, owner: bytes) -> None:
        self._known[head] = owner
        self._count(state, 1)

    def _drop(self, head: bytes) -> bytes | None:
        owner = self._known.pop(head, None)
        if owner is not None:
            self._count(head[-2:], -1)
        return owner

    def _count(self, state: bytes, more: int) -> None:
        count = self.states[state] = self.states[state] + more
        if count == 0 or count == more:
            self._present = present = tuple(state for state, count in self.states.items() if count)
            connected = [state for state in present if state != LISTENING]
            self._before = {state: tuple(other for other in connected if other != state) for state in WANTED}
