"""Sections of the state log: records of many owners of the same kinds, each with its own section."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpnewconn.state.log import StateLog
from tcpnewconn.state.owner import Record
from tcpnewconn.state.sections import Section, Sections


class Numbers:
    """An owner of numbers."""

    def __init__(self, section: Section) -> None:
        self.known: set[int] = set()
        self._section = section
        section.register("ab", self)

    def add(self, number: int) -> None:
        self.known.add(number)
        self._section.append(f'["a",{number}]')

    def drop(self, number: int) -> None:
        self.known.discard(number)
        self._section.append(f'["b",{number}]')

    def records(self) -> Iterator[str]:
        return (f'["a",{number}]' for number in self.known)

    def load(self, record: Record) -> None:
        if record[0] == "a":
            self.known.add(int(record[1]))
        else:
            self.known.remove(record[1])

    def clear(self) -> None:
        self.known.clear()


class Run:
    """One run of a program, with the state of the one before."""

    def __init__(self, path: Path, small: int = 1 << 20) -> None:
        self.log = StateLog(str(path), "here", small)
        self.numbers: dict[str, Numbers] = {}
        self.sections = Sections(self.log, self._found)
        self.warning = self.log.load()
        self.log.save()

    def _found(self, name: str, section: Section) -> None:
        assert section.resumed
        self.numbers[name] = Numbers(section)

    def begin(self, name: str) -> Numbers:
        made = self.numbers[name] = Numbers(self.sections.begin(name, False))
        return made

    def killed(self) -> None:
        self.log.flush()
        self.log.close()


@pytest.mark.parametrize("small", [0, 1 << 20])
def test_each_section_has_its_own_records_after_a_restart(tmp_path: Path, small: int) -> None:
    run = Run(tmp_path / "state", small)
    one, other = run.begin('1.2"'), run.begin("3.4")
    one.add(1)
    other.add(1)
    other.add(2)
    one.drop(1)
    run.log.save()
    run.killed()
    again = Run(tmp_path / "state", small)
    assert again.warning is None
    again.numbers["3.4"].add(3)
    again.killed()
    third = Run(tmp_path / "state", small)
    assert {name: numbers.known for name, numbers in third.numbers.items() if numbers.known} == {"3.4": {1, 2, 3}}


def test_a_section_that_has_ended_is_not_there_any_more(tmp_path: Path) -> None:
    run = Run(tmp_path / "state")
    run.begin("1.2").add(1)
    run.begin("3.4")
    run.sections.end("1.2")
    # Without a record.
    run.sections.end("3.4")
    run.killed()
    again = Run(tmp_path / "state")
    assert again.warning is None
    assert "1.2" not in again.sections
    assert "3.4" not in again.sections


def test_one_that_begins_again_has_nothing_of_the_one_before(tmp_path: Path) -> None:
    run = Run(tmp_path / "state")
    run.begin("1.2").add(1)
    run.sections.end("1.2")
    run.begin("1.2").add(2)
    run.killed()
    assert Run(tmp_path / "state").numbers["1.2"].known == {2}


def test_it_is_known_whether_there_can_be_any(tmp_path: Path) -> None:
    run = Run(tmp_path / "state")
    assert not run.sections.used
    run.sections.use(True)
    run.killed()
    again = Run(tmp_path / "state")
    assert again.sections.used
    again.sections.use(False)
    again.killed()
    assert not Run(tmp_path / "state").sections.used


@pytest.mark.parametrize("record", ['["@"]', '["@","1.2",["c",1]]', '["@","1.2",["b",1]]', '["@","1.2",7]'])
def test_a_record_that_makes_no_sense_is_refused(tmp_path: Path, record: str) -> None:
    run = Run(tmp_path / "state")
    run.log.append(record)
    run.killed()
    again = Run(tmp_path / "state")
    assert again.warning is not None
    assert "1.2" not in again.sections
