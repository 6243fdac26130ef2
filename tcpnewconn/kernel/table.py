"""One of the tables /proc/net/tcp and tcp6, as the polls show it: which rows are new, changed or gone since the last one.

A poll is not atomic: every read() returns at most one page, and the table changes between two of them, so that a row may
stand twice in one poll or be missing from it once. Both are handled here: a row is gone when it was absent from two polls.

The text of the last polls is kept here, so that only unknown rows have to be decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tcpnewconn.kernel.rowtext import (
    ENDED,
    IN_TIME_WAIT,
    IS_ESTABLISHED,
    LISTENING,
    STATE_NUMBERS,
    WANTED,
    RowText,
    bodies,
    line_of,
    places,
    read,
)
from tcpnewconn.model import FourTuple, Row

# Stands for the columns from uid to inode of a row that the next poll must show, whatever they are.
_NOT_SHOWN = b"\n"


class _Remembered:
    """Of a row: the columns from uid to inode and what follows them, and the number of the last poll that it stood in."""

    __slots__ = ("owner", "poll")

    def __init__(self, owner: bytes, poll: int) -> None:
        self.owner, self.poll = owner, poll


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
        # A row of this poll whose addresses the next connection then had, in another state, in the same poll.
        self.replaced: dict[bytes, _Remembered] = {}
        self.gone: list[bytes] = []
        self.listeners: list[bytes] = []
        self.gone_listeners: list[bytes] = []
        # Rows, and those that are not as they were in the poll before.
        self.rows = self.different = 0
        self.malformed = 0
        self.first_malformed: Malformed | None = None
        # Rows that are not remembered, and (below zero) remembered ones that did not stand in this poll, by state.
        self.apart: dict[bytes, int] = {}

    def add(self, rows: int, different: int, passed: int) -> None:
        """So many rows of which so many were looked at; others, in TIME_WAIT, were passed over."""
        self.rows += rows
        self.different += different + passed
        self.count(IN_TIME_WAIT, passed)

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
        self._known: dict[bytes, _Remembered] = {}
        # How many of the known rows have each state: counting them at each poll would cost as much as a quiet table (measured).
        self.states = dict.fromkeys(WANTED, 0)
        # Those of them that any has.
        self._present: tuple[bytes, ...] = ()
        # Of each state, the others of these that a row on its addresses can have had before. To look all of them up for each new
        # row would be a fifth of its cost (measured); a listener's addresses are no connection's.
        self._before: dict[bytes, tuple[bytes, ...]] = dict.fromkeys(WANTED, ())
        self._poll = 0

    def poll(self, time_wait: bool) -> Part:
        """Read the whole file; raises Unreadable."""
        self._poll += 1
        part = Part(time_wait)
        before = len(self._known)
        try:
            for text in read(self.path):
                rows = places(text)
                if rows is not None:
                    self._take_padded(text, rows, part)
                else:
                    self._take_split(text, part)
        except OSError as error:
            self.undo(part)
            raise Unreadable(self.path, error.strerror or str(error)) from error
        if part.different or part.rows != before:
            self._forget(part)
        return part

    # One of these two loops runs once a row, and is the cost of a quiet table: names are bound to local ones.

    def _take_padded(self, text: bytes, rows: range, part: Part) -> None:
        """The rows that begin in these places of a text."""
        known, poll, head, owner = self._known.get, self._poll, self._text.head_size, self._text.owner_at
        time_wait, different, passed = part.time_wait, 0, 0
        for at in rows:
            seen = known(text[at : at + head])
            if seen is not None and text.startswith(seen.owner, at + owner):
                seen.poll = poll
            elif time_wait or text[at + head - 2 : at + head] != IN_TIME_WAIT:
                different += 1
                self._look(text[at : at + rows.step], seen, text, part)
            else:
                passed += 1
        part.add(len(rows), different, passed)

    def _take_split(self, text: bytes, part: Part) -> None:
        """The rows of a text, each by itself."""
        known, poll, head, owner = self._known.get, self._poll, self._text.head_size, self._text.owner_at
        time_wait, different, passed = part.time_wait, 0, 0
        rows = bodies(text)
        for body in rows:
            seen = known(body[:head])
            if seen is not None and body.startswith(seen.owner, owner):
                seen.poll = poll
            elif time_wait or body[head - 2 : head] != IN_TIME_WAIT:
                different += 1
                self._look(body, seen, text, part)
            else:
                passed += 1
        part.add(len(rows), different, passed)

    def nothing(self) -> Part:
        """A poll of a file that is not there: all its rows are absent."""
        self._poll += 1
        part = Part()
        self._forget(part)
        return part

    def undo(self, part: Part) -> None:
        """Reading failed, in the other table or later in this one: the next poll reports the changes of this one again."""
        self._poll -= 1
        for head in part.changed:
            if head in self._known:
                self._known[head].owner = _NOT_SHOWN
        for head in part.listeners:
            self._drop(head)
        for head in (*part.gone, *part.gone_listeners):
            self._keep(head, head[-2:], _Remembered(_NOT_SHOWN, self._poll - 1))

    def _look(self, body: bytes, seen: _Remembered | None, text: bytes, part: Part) -> None:
        """Remember a row of this text that is new, or was `seen` otherwise."""
        owner = self._text.owner(body)
        if owner is None:
            part.malformed += 1
            if part.first_malformed is None:
                row = body.split(b"\n", 1)[0].strip()
                # Behind the titles, and the rows of the texts before.
                part.first_malformed = Malformed(self.path, 2 + part.rows + line_of(row, text), row)
            return
        head = body[: self._text.head_size]
        state = head[-2:]
        if state not in WANTED:
            part.count(state)
            return
        if seen is None:
            addresses, known = head[:-2], self._known
            for other in self._before[state]:
                if addresses + other in known:
                    self._replace(addresses + other, part)
            self._keep(head, state, _Remembered(owner, self._poll))
        else:
            seen.owner, seen.poll = owner, self._poll
            if state == LISTENING:
                # SO_REUSEPORT: several sockets listen on one address; which of them stands first does not matter.
                return
        (part.listeners if state == LISTENING else part.changed).append(head)

    def _replace(self, head: bytes, part: Part) -> None:
        """Another state stands in this poll on the addresses of a row."""
        replaced = self._drop(head)
        if replaced is not None and replaced.poll == self._poll:
            part.replaced[head] = replaced

    def _forget(self, part: Part) -> None:
        """Drop the rows that were absent from two polls, this one and the one before."""
        before = self._poll - 1
        for head in [head for head, seen in self._known.items() if seen.poll != self._poll]:
            if self._known[head].poll == before:
                part.count(head[-2:], -1)
                continue
            self._drop(head)
            (part.gone_listeners if head.endswith(LISTENING) else part.gone).append(head)

    def row(self, head: bytes, part: Part) -> Row:
        """The row of a poll that begins with `head`, decoded."""
        seen = self._known.get(head) or part.replaced[head]
        return self._text.row(head, seen.owner)

    def inodes(self, heads: Iterable[bytes]) -> Iterator[int]:
        """The inodes of those that are established and have one."""
        known = self._known
        for head in heads:
            if (
                head.endswith(IS_ESTABLISHED)
                and (seen := known.get(head)) is not None
                and (inode := int(seen.owner.split()[2]))
            ):
                yield inode

    def four_tuple(self, head: bytes) -> FourTuple:
        return self._text.four_tuple(head)

    def standing(self, four_tuple: FourTuple) -> bytes | None:
        """The head of the row that a 4-tuple has in the last poll, if it has one."""
        for head in self._heads(four_tuple):
            seen = self._known.get(head)
            if seen is not None and seen.poll == self._poll and seen.owner != _NOT_SHOWN:
                return head
        return None

    def remembers(self, four_tuple: FourTuple) -> bool:
        """Whether a 4-tuple has a row in the last poll or had one in the poll before."""
        known = (self._known.get(head) for head in self._heads(four_tuple))
        return any(seen is not None and seen.owner != _NOT_SHOWN for seen in known)

    def _heads(self, four_tuple: FourTuple) -> list[bytes]:
        """How a known row of this 4-tuple can begin."""
        return self._text.heads(four_tuple, self._present)

    def ended(self) -> list[bytes]:
        """The heads of the rows in TIME_WAIT and FIN_WAIT2 in the last poll."""
        return [head for head, seen in self._known.items() if seen.poll == self._poll and head[-2:] in ENDED]

    def _keep(self, head: bytes, state: bytes, seen: _Remembered) -> None:
        self._known[head] = seen
        self._count(state, 1)

    def _drop(self, head: bytes) -> _Remembered | None:
        seen = self._known.pop(head, None)
        if seen is not None:
            self._count(head[-2:], -1)
        return seen

    def _count(self, state: bytes, more: int) -> None:
        count = self.states[state] = self.states[state] + more
        if count == 0 or count == more:
            self._present = present = tuple(state for state, count in self.states.items() if count)
            connected = [state for state in present if state != LISTENING]
            self._before = {state: tuple(other for other in connected if other != state) for state in WANTED}
