"""The rows that a poll of a table showed, in the order in which they stood: the next poll nearly always shows them so again.

Rows that stand as they did are compared where they stand. To find each of 100,000 rows in a dictionary takes three to six times
as long: their places in memory are far from each other (measured).
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator

from tcpnewconn.kernel.rowtext import are_same

# After so many rows that were not found further down, a poll's rows are not searched for any more: each takes the whole table.
_MOST_SEARCHES = 8


class Order:
    """Of each row, its head and its owner (rowtext.py), one behind the other. A row can stand in a poll more than once."""

    def __init__(self, columns: Iterable[bytes] = ()) -> None:
        self._last = list(columns)
        # Whether a row stands in them more than once.
        self._repeats = False
        # How far the poll that is being read has come in them.
        self._at = 0
        # What it passed over there, from where to where.
        self._left: list[tuple[int, int]] = []
        # The heads there that it did not show near their place: elsewhere, or not at all.
        self._missing: dict[bytes, bytes] = {}
        # What it shows, from where it first differs; and from where to where its rows there had to be looked up.
        self._shown: list[bytes] | None = None
        self._looked_up: list[tuple[int, int]] = []
        self._searches = 0
        # The heads that are not known any more, and can come again.
        self._dropped: set[bytes] = set()

    @property
    def at_end(self) -> bool:
        """Whether the last poll had no more rows."""
        return self._at == len(self._last)

    def passed(self, columns: list[bytes]) -> bool:
        """Whether these rows stood here in the last poll, and are known."""
        end = self._at + len(columns)
        same = self._last[self._at : end]
        if same != columns and not are_same(same, columns):
            return False
        if self._dropped and not self._dropped.isdisjoint(same):
            return False
        self._at = end
        if self._shown is not None:
            self._shown += same
        return True

    def stand(self, columns: list[bytes], known: bytes | None) -> None:
        """These rows stand here, and not all did in the last poll. `known`: the head of the last one that is as it was."""
        if self._shown is None:
            self._shown = self._last[: self._at]
        begin, shown = self._at, len(self._shown)
        if known is not None and self._searches < _MOST_SEARCHES:
            try:
                self._at = self._last.index(known, begin) + 2
            except ValueError:
                self._searches += 1
        if self._at != begin:
            self._left.append((begin, self._at))
            left = self._last[begin : self._at : 2]
            if not self._repeats:
                self._dropped.difference_update(left)
            # The same objects as before, which are the table's.
            kept = dict(zip(left, left, strict=True))
            columns[::2] = [kept.pop(head, head) for head in columns[::2]]
            self._missing.update(kept)
        self._shown += columns
        self._looked_up.append((shown, len(self._shown)))

    def drop(self, head: bytes) -> None:
        """The row that begins so is not known any more."""
        self._dropped.add(head)

    def end(self, known: Collection[bytes], absent: Iterable[bytes]) -> list[bytes]:
        """The poll has been read. Returns the heads of the known rows that it did not show, of those of the last poll and of
        those that were absent from it."""
        self._left.append((self._at, len(self._last)))
        missing = dict.fromkeys([*absent, *self._missing, *self._last[self._at :: 2]])
        if missing:
            for shown in self._again():
                for head in [head for head in shown if head in missing]:
                    missing.pop(head, None)
        found = [head for head in missing if head in known]
        if self._shown is not None or self._at != len(self._last):
            self._keep(self._last[: self._at] if self._shown is None else self._shown, known, len(known) - len(found))
        self._at, self._left, self._shown, self._looked_up, self._searches = 0, [], None, [], 0
        self._missing.clear()
        self._dropped.clear()
        return found

    def _again(self) -> Iterator[list[bytes]]:
        """The heads that the poll showed, of those that it can have shown elsewhere than the last one."""
        if self._shown is not None:
            yield from (self._shown[begin:end:2] for begin, end in self._looked_up)
        if self._repeats:
            at = 0
            for begin, end in self._left:
                yield self._last[at:begin:2]
                at = end

    def _keep(self, shown: list[bytes], known: Container[bytes], count: int) -> None:
        """The poll showed this, of `count` rows."""
        if len(shown) != 2 * count:
            # Some stand there twice, or were replaced later in the same poll.
            rows = zip(shown[::2], shown[1::2], strict=True)
            shown = [column for row in rows if row[0] in known for column in row]
        self._last, self._repeats = shown, len(shown) != 2 * count
