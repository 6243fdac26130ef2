"""The state log: records that outlive a restart and are complete at any moment. Records are opaque to it.

The snapshot is a file, a log of changes, a checksummed line of JSON for each record, rewritten when it has grown to twice the
size that it needs. So its cost follows the changes, not the number of sockets. It is complete after SIGKILL at any moment: its
first line holds the length up to which it was written; anything behind that is a write that was cut off. It is not synced to
disk, because connections do not survive a reboot. (SQLite was measured first: three times the cost of an appended line, 3 MiB of
memory, and no checksums.)

Where there is a tail (tail.py), new records are stored there, which takes no system call, and the snapshot, which names the
generation of the tail that continues it, gets them at the next `save`. That one has version 2: version 1 stands alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from itertools import chain

from tcpnewconn.state.lines import BLOCK, HEADER_SIZE, NOT_OURS, blocks, header, read_header, verified, write
from tcpnewconn.state.owner import Owner, Record
from tcpnewconn.state.tail import Damaged, OtherGeneration, Tail, Unusable
from tcpnewconn.state.tail import read as read_tail

_SMALL = 256 * 1024
# A larger block goes into the snapshot at once: in the tail it would only be copied.
_LARGE = 16 * 1024
# So many lines are loaded together, unless they are long.
_AT_ONCE = 1000


class StateLog:
    """The file. Records are gathered until `flush`.

    A write that fails stops nothing: `problem` says what is wrong, and the next `save` writes the whole file again.
    """

    def __init__(self, path: str, place: str, small: int = _SMALL, tail_path: str | None = None) -> None:
        """`place` names what most of the state is valid for: this boot and this network namespace.

        A file of `small` bytes or less is not rewritten, whatever part of it is still needed. `tail_path` is that of the tail.
        """
        self.path = path
        self.problem: str | None = None
        # Why there is no tail, where one is wanted.
        self.no_tail: str | None = None
        # Whether the state of this place was loaded.
        self.resumed = False
        self._place = place
        self._small = small
        self._tail_path = tail_path
        self._tail: Tail | None = None
        # The owner of each kind, and whether its state is valid in every place.
        self._owners: dict[str, tuple[Owner, bool]] = {}
        self._lines: list[str] = []
        self._loading = False
        self._descriptor = -1
        self._length = 0
        self._needed = 0

    def register(self, kinds: str, owner: Owner, everywhere: bool = False) -> None:
        """Let an owner have these kinds of record. Its state is void in another place, unless it is valid `everywhere`."""
        for kind in kinds:
            assert kind not in self._owners
            self._owners[kind] = (owner, everywhere)

    def _each_owner(self) -> list[Owner]:
        return list({id(owner): owner for owner, _ in self._owners.values()}.values())

    # --- reading -----------------------------------------------------------------------------------------------------

    def load(self) -> str | None:
        """Give the records of the file to their owners. Returns a warning if the file was moved aside."""
        self._loading = True
        try:
            self._read()
        except FileNotFoundError:
            return None
        except (OSError, Damaged) as error:
            self.resumed = False
            for owner in self._each_owner():
                owner.clear()
            return self._move_aside(error)
        finally:
            self._loading = False
        return None

    def _read(self) -> None:
        with open(self.path, "rb") as file:
            first = file.read(HEADER_SIZE)
            place, length, generation = read_header(first)
            self.resumed = place == self._place
            at = len(first)
            # Many at once: for each of them json.loads() takes twice the time (measured).
            texts: list[bytes] = []
            number, begin = 1, at
            for line in file:
                if at == length:
                    break
                at += len(line)
                number += 1
                texts.append(verified(line, number))
                if len(texts) == _AT_ONCE or at - begin >= BLOCK:
                    self._give_all(texts, number)
                    texts, begin = [], at
            self._give_all(texts, number)
        if at != length:
            raise Damaged(f"{at} bytes of {length} are there")
        if generation is not None:
            self._read_tail(generation)

    def _read_tail(self, generation: int) -> None:
        path = self._tail_path
        if path is None:
            raise Damaged("a tail continues it, which is in the directory that RUNTIME_DIRECTORY names for the service")
        try:
            tail = read_tail(path, generation)
            for block in tail.blocks:
                for record in block.split(b"\n"):
                    self._give(json.loads(record))
            if tail.stamp is not None:
                self._give(list(tail.stamp))
        except (OSError, OtherGeneration) as error:
            # The tail does not outlive a reboot.
            if self.resumed:
                raise Damaged(f"{path}: {error.strerror if isinstance(error, OSError) else error}") from error
        except Damaged as error:
            raise Damaged(f"{path}: {error}") from error
        except NOT_OURS as error:
            raise Damaged(f"{path}: damaged record") from error

    def _give_all(self, texts: list[bytes], last: int) -> None:
        """Give the records of these lines, of which the last has this number. Raises Damaged."""
        records: list[Record] | None
        try:
            records = json.loads(b"[%b]" % b",".join(texts))
        except NOT_OURS:
            records = None
        if records is not None and len(records) != len(texts):
            records = None
        for number, text in enumerate(texts):
            try:
                self._give(json.loads(text) if records is None else records[number])
            except NOT_OURS as error:
                raise Damaged(f"damaged in line {last - len(texts) + number + 1}") from error

    def _give(self, record: Record) -> None:
        """Give a record to its owner; raises one of NOT_OURS."""
        owner, everywhere = self._owners[record[0]]
        if self.resumed or everywhere:
            owner.load(record)

    def _move_aside(self, error: Exception) -> str:
        why = error.strerror if isinstance(error, OSError) else str(error)
        for number in range(1, 10):
            aside = f"{self.path}.damaged-{number}"
            if not os.path.lexists(aside):
                break
        again = "connections that are open now are logged again"
        try:
            os.rename(self.path, aside)
        except OSError as failure:
            return f"{self.path}: {why}; it cannot be moved aside ({failure.strerror}): {again}"
        return f"{self.path}: {why}; moved to {aside}: {again}"

    # --- writing -----------------------------------------------------------------------------------------------------

    def append(self, record: str) -> None:
        """One record, in JSON. It is safe from SIGKILL after the next `flush`."""
        if not self._loading:
            self._lines.append(record)

    def stamp(self, kind: str, number: float) -> None:
        """Store a record of one number in the tail, in the place of the last, at once. Where there is no tail nothing is done."""
        if self._tail is not None:
            self._tail.stamp(kind, number)

    def flush(self) -> None:
        """Write the records that were gathered."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        if self._descriptor < 0:
            return
        if self._tail is not None:
            block = "\n".join(lines).encode()
            if len(block) > _LARGE or not self._tail.append(block):
                self._extend(self._tail, lines)
            return
        try:
            self._write_lines(lines)
            os.pwrite(self._descriptor, header(self._place, self._length), 0)
        except OSError as error:
            self._failed(error)

    @property
    def filling(self) -> bool:
        """Whether `save` should come soon: it takes less time than `flush` where there is no room left."""
        return self._tail is not None and self._tail.filling

    def _write_lines(self, lines: Iterable[str]) -> None:
        for block in blocks(lines):
            self._length += write(self._descriptor, block)

    def _extend(self, tail: Tail, lines: Iterable[str] = (), last: bool = False) -> None:
        """Write the records of the tail, and these, to the end of the snapshot, which stands alone if this is the `last` time."""
        generation = None if last else tail.generation + 1
        try:
            kept = chain.from_iterable(block.decode().split("\n") for block in tail.blocks())
            self._write_lines(chain(kept, lines))
            os.pwrite(self._descriptor, header(self._place, self._length, generation), 0)
        except OSError as error:
            self._failed(error)
        else:
            self._continue(tail, generation)

    def _continue(self, tail: Tail, generation: int | None) -> None:
        """The snapshot holds what is in the tail: it is continued by the next generation, or not any more."""
        if generation is None:
            self._tail = None
            tail.remove()
        else:
            self._tail = tail
            tail.empty(generation)

    def save(self, last: bool = False) -> None:
        """Write the records that were gathered; and the whole file if it has grown too large, or could not be written.

        After the `last` time the snapshot stands alone.
        """
        self.flush()
        tail = self._tail
        if self._descriptor >= 0:
            if tail is None or not (tail.used or last):
                if self._length <= self._most:
                    return
            elif tail.used <= max(self._needed, _LARGE) and self._length + 2 * tail.used <= self._most:
                self._extend(tail, last=last)
                return
        elif tail is None and not last:
            tail = self._open_tail()
        self._rewrite(tail, last)

    @property
    def _most(self) -> int:
        """So large may the snapshot grow."""
        return max(self._small, 2 * self._needed)

    def _open_tail(self) -> Tail | None:
        if self._tail_path is None or self.no_tail is not None:
            return None
        try:
            return Tail(self._tail_path)
        except Unusable as error:
            self.no_tail = str(error)
            return None

    def _rewrite(self, tail: Tail | None, last: bool) -> None:
        """Write the whole snapshot; from then on the tail, if there is one and this is not the `last` time, continues it."""
        generation = None if tail is None or last else tail.generation + 1
        new = f"{self.path}.new"
        try:
            descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                self._length = HEADER_SIZE
                write(descriptor, b" " * HEADER_SIZE)
                for block in blocks(chain.from_iterable(owner.records() for owner in self._each_owner())):
                    self._length += write(descriptor, block)
                os.pwrite(descriptor, header(self._place, self._length, generation), 0)
                os.rename(new, self.path)
            except OSError:
                os.close(descriptor)
                raise
        except OSError as error:
            self._failed(error)
            return
        self.close()
        self._descriptor = descriptor
        self._needed = self._length
        self.problem = None
        if tail is not None:
            self._continue(tail, generation)

    def _failed(self, error: OSError) -> None:
        self.problem = f"{self.path}: {error.strerror}"
        self.close()

    def close(self) -> None:
        """Write no more, until the next `save`."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
