"""Sections of the state log: one for each network namespace, with records of the same kinds as the host's own.

Record @ is its own: the name of a section and a record in it; without a record, the section has ended. With true or false in
place of the name: whether there can be sections.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from tcpnewconn.state.log import StateLog
from tcpnewconn.state.owner import Owner, Record


class Section:
    """A section, as its owners see the state log."""

    def __init__(self, name: str, log: StateLog, resumed: bool) -> None:
        """`resumed`: its sockets are not those of a first start."""
        self.resumed = resumed
        self._log = log
        self._begin = f'["@",{json.dumps(name)},'
        self._owners: dict[str, Owner] = {}

    def register(self, kinds: str, owner: Owner, everywhere: bool = False) -> None:
        """As StateLog.register(); a section is valid in the place of the log alone."""
        assert not everywhere
        for kind in kinds:
            assert kind not in self._owners
            self._owners[kind] = owner

    def append(self, record: str) -> None:
        self._log.append(f"{self._begin}{record}]")

    def records(self) -> Iterator[str]:
        for owner in {id(owner): owner for owner in self._owners.values()}.values():
            for record in owner.records():
                yield f"{self._begin}{record}]"

    def load(self, record: Record) -> None:
        self._owners[record[0]].load(record)


class Sections:
    """All sections. `found` is called with a new section, and its name, when the first of its records is loaded."""

    def __init__(self, log: StateLog, found: Callable[[str, Section], None]) -> None:
        self._log = log
        self._found = found
        self._sections: dict[str, Section] = {}
        # Whether there can be sections: else one that is new is not new to the host.
        self.used = False
        log.register("@", self)

    def __contains__(self, name: str) -> bool:
        return name in self._sections

    def use(self, used: bool) -> None:
        if used != self.used:
            self.used = used
            self._log.append(_used(used))

    def begin(self, name: str, resumed: bool) -> Section:
        section = self._sections[name] = Section(name, self._log, resumed)
        return section

    def end(self, name: str) -> None:
        """Its state is of no use any more."""
        del self._sections[name]
        self._log.append(json.dumps(["@", name]))

    # --- what outlives a restart -------------------------------------------------------------------------------------

    def records(self) -> Iterator[str]:
        if self.used:
            yield _used(True)
        for section in self._sections.values():
            yield from section.records()

    def load(self, record: Record) -> None:
        if isinstance(record[1], bool):
            self.used = record[1]
            return
        name = str(record[1])
        if len(record) == 2:
            # Without any record before, there was none.
            self._sections.pop(name, None)
            return
        if name not in self._sections:
            self._found(name, self.begin(name, True))
        self._sections[name].load(record[2])

    def clear(self) -> None:
        self._sections.clear()
        self.used = False


def _used(used: bool) -> str:
    return json.dumps(["@", used])
