"""What the state log and the owners of the state know of each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

# The elements of a record; the first is its kind, one character.
Record = list[Any]


class Owner(Protocol):
    """The owner of a piece of state: it appends a record for each change, and can be rebuilt from its records."""

    def records(self) -> Iterator[str]:
        """All that must be written of the state as it is now, in JSON."""

    def load(self, record: Record) -> None:
        """Take one record into account. Raises one of the usual errors where it makes no sense."""

    def clear(self) -> None:
        """Discard the loaded state."""


class Log(Protocol):
    """The state log, or a section of it, as an owner sees it."""

    @property
    def resumed(self) -> bool:
        """Whether the state of this place was loaded."""

    def register(self, kinds: str, owner: Owner, everywhere: bool = False) -> None:
        """Let an owner have these kinds of record."""

    def append(self, record: str) -> None:
        """One record, in JSON."""
