"""The textual form of histories: what is printed is read again as it was, and nothing unknown is passed over."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.model.generated import histories
from tests.model.histories import (
    FOUR_TUPLES,
    History,
    NoHistory,
    Poll,
    Restart,
    Step,
    Wait,
    parsed,
    printed,
)
from tests.model.recorded import RECORDED

EVERYTHING = """\
open r0
open unaccepted i2'
deliver
deliver r0
deliver i0' 2nd
let go 3rd
receive
wait 1.1 s
wait 600 s
starve
poll
poll
    during: finish r0
    during: time wait expires r5
    before look-up: open r0
    doubled: r0
    left out: r1
    left out again: i1
    look-ups: fail
restart
restart, stopped
restart, stopped, notifications lost
    between the last polls: finish r0
    during: open r0
    before look-up: linger r0
    after the last poll: open r1
    meanwhile: half close r1
"""


def test_a_history_is_a_list_of_steps() -> None:
    history = parsed(EVERYTHING)
    assert history[:2] == [Step("open", "r0"), Step("open unaccepted", "i2'")]
    assert history[4:9] == [Step("deliver", "i0'", 2), Step("let go", "", 3), Step("receive"), Wait(1.1), Wait(600)]
    assert history[9] == Step("starve")
    assert history[11] == Poll(
        (Step("finish", "r0"), Step("time wait expires", "r5")), (Step("open", "r0"),), "r0", "r1", "i1", True
    )
    last_poll = Poll((Step("open", "r0"),), (Step("linger", "r0"),))
    assert history[12:] == [
        Restart(),
        Restart(stopped=True),
        Restart(True, True, (Step("finish", "r0"),), last_poll, (Step("open", "r1"),), (Step("half close", "r1"),)),
    ]


def test_a_parsed_history_is_printed_as_it_was() -> None:
    assert printed(parsed(EVERYTHING)) == EVERYTHING


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_histories_are_as_they_are_printed(name: str) -> None:
    assert printed(parsed(RECORDED[name])) == RECORDED[name].removeprefix("\n")


@pytest.mark.parametrize("internal", [False, True], ids=["remote", "internal"])
def test_a_printed_history_is_parsed_as_it_was(internal: bool) -> None:
    @settings(max_examples=300, deadline=None, database=None)
    @given(histories(internal))
    def once(history: History) -> None:
        assert parsed(printed(history)) == history

    once()


def test_comments_and_empty_lines_do_not_count() -> None:
    assert parsed("# why\n\nopen r0   # here\n\npoll\n") == [Step("open", "r0"), Poll()]


def test_every_4_tuple_has_a_name_of_its_own() -> None:
    assert len(set(FOUR_TUPLES.values())) == len(FOUR_TUPLES)


@pytest.mark.parametrize(
    "text",
    [
        "opens r0",
        "open",
        "open r6",
        "open r0 2nd",
        "open  r0",
        "receive r0",
        "deliver r0 1st",
        "deliver r0 2th",
        "wait",
        "wait a while",
        "restart, notifications kept",
        "poll\n    during: poll",
        "poll\n    during: receive",
        "poll\n    during open r0",
        "poll\n    after: open r0",
        "poll\n    meanwhile: open r0",
        "poll\n    doubled: r9",
        "poll\n    doubled: r0\n    doubled: r1",
        "poll\n    look-ups: succeed",
        "open r0\n    during: open r0",
        "    during: open r0",
    ],
)
def test_an_unknown_word_is_an_error_that_names_its_line(text: str) -> None:
    with pytest.raises(NoHistory, match=rf"^line {1 + len(text.splitlines())}: "):
        parsed(f"open r0\n{text}\n" if not text.startswith(" ") else f"\n{text}\n")
