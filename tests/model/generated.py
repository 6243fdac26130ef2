"""Histories that Hypothesis generates: the same few steps again and again, few 4-tuples, or anything."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from tests.model.histories import (
    INTERNAL,
    ON_A_FOUR_TUPLE,
    ON_ONE_OF_SEVERAL,
    REMOTE,
    History,
    Poll,
    Restart,
    Step,
    Wait,
)

# As often as they stand here.
_ACTIONS = (*ON_A_FOUR_TUPLE, *ON_ONE_OF_SEVERAL, "open", "open", "open", "finish")
# Longer than an unaddressed socket waits; about as long as the correlation window; longer.
_WAITS = (1.1, 1.1, 30.0, 61.0)

# Each costs Hypothesis more than the play itself: a strategy is made once, and a step is drawn with few choices.


@st.composite
def histories(draw: st.DrawFn, internal: bool) -> History:
    """Histories of connections with other hosts; with `internal`, also within this one."""
    names = (*REMOTE, *INTERNAL) if internal else REMOTE
    kind = draw(st.integers(0, 2))
    if kind:
        # Few 4-tuples.
        names = tuple(sorted(draw(_names(names))))
    steps: st.SearchStrategy[Step | Wait | Poll | Restart] = _step(names)
    if kind == 2:
        # The same few things, again and again.
        steps = st.sampled_from(draw(_several(_step(names), 2, 10)))
    before = draw(_several(_action(names), 0, 3))
    count = draw(st.integers(0, 30 if kind == 2 else 20))
    return [*before, draw(_poll(names)), *(draw(steps) for _ in range(count))]


@cache
def _names(names: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)


@cache
def _several(steps: st.SearchStrategy[Step], least: int, most: int) -> st.SearchStrategy[list[Step]]:
    return st.lists(steps, min_size=least, max_size=most)


@cache
def _step(names: tuple[str, ...]) -> st.SearchStrategy[Step | Wait | Poll | Restart]:
    alone = st.sampled_from([Step("receive"), *map(Wait, _WAITS)])
    action, poll = _action(names), _poll(names)
    return st.one_of(action, action, poll, poll, alone, _restart(names))


@cache
def _action(names: tuple[str, ...]) -> st.SearchStrategy[Step]:
    steps = [Step(action, name) for action in _ACTIONS for name in names]
    return st.sampled_from(steps + [Step(action, "", nth) for action in ON_ONE_OF_SEVERAL for nth in (1, 2)])


@cache
def _few(names: tuple[str, ...]) -> st.SearchStrategy[tuple[Step, ...]]:
    action = _action(names)
    return st.one_of(st.just(()), st.tuples(action), st.tuples(action, action))


@cache
def _poll(names: tuple[str, ...]) -> st.SearchStrategy[Poll]:
    # Of every four polls one has a row twice, and one leaves a row out.
    rows = [("", ""), ("", "")] * len(names) + [(name, "") for name in names] + [("", name) for name in names]
    few = _few(names)
    return st.just(Poll()) | st.builds(lambda a, b, rows: Poll(a, b, *rows), few, few, st.sampled_from(rows))


@cache
def _restart(names: tuple[str, ...]) -> st.SearchStrategy[Restart]:
    few = _few(names)
    return st.builds(Restart, st.booleans(), st.booleans(), few, _poll(names), few, few)
