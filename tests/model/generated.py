"""Histories that Hypothesis generates: the same few steps again and again, few 4-tuples, or anything."""

from __future__ import annotations

from collections.abc import Sequence

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
_ACTIONS = (*ON_A_FOUR_TUPLE, *ON_ONE_OF_SEVERAL, "open", "finish", "deliver")
# Longer than an unaddressed socket is waited with; about as long as the correlation window, and longer.
_WAITS = (1.1, 1.1, 30.0, 61.0)


def histories(internal: bool) -> st.SearchStrategy[History]:
    """Histories of connections with other hosts; with `internal`, also within this one."""
    names = (*REMOTE, *INTERNAL) if internal else REMOTE
    return _few_steps(names) | _few_four_tuples(names) | _histories(names)


def _few_steps(names: Sequence[str]) -> st.SearchStrategy[History]:
    """The same few things happen to the same 4-tuples, again and again."""
    few = st.lists(_step(names), min_size=2, max_size=10)
    return few.flatmap(lambda steps: st.lists(st.sampled_from(steps), max_size=60))


def _few_four_tuples(names: Sequence[str]) -> st.SearchStrategy[History]:
    few = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)
    return few.flatmap(lambda few: _histories(few))


def _histories(names: Sequence[str]) -> st.SearchStrategy[History]:
    before = st.lists(_action(names), max_size=3)
    after = st.lists(_step(names), max_size=20)
    return st.builds(lambda before, first, after: [*before, first, *after], before, _poll(names), after)


def _step(names: Sequence[str]) -> st.SearchStrategy[Step | Wait | Poll | Restart]:
    alone = st.sampled_from([Step("receive"), *map(Wait, _WAITS)])
    return _action(names) | _action(names) | _poll(names) | _poll(names) | alone | _restart(names)


def _action(names: Sequence[str]) -> st.SearchStrategy[Step]:
    steps = [Step(action, name) for action in _ACTIONS for name in names]
    several = [Step(action, name, nth) for action in ON_ONE_OF_SEVERAL for name in ("", *names) for nth in (1, 2)]
    return st.sampled_from(steps + several)


def _few(names: Sequence[str]) -> st.SearchStrategy[tuple[Step, ...]]:
    return st.just(()) | st.lists(_action(names), min_size=1, max_size=2).map(tuple)


def _poll(names: Sequence[str]) -> st.SearchStrategy[Poll]:
    name = st.sampled_from(names)
    whole = st.builds(Poll, _few(names), _few(names))
    return st.just(Poll()) | whole | whole | st.builds(
        lambda poll, doubled, left_out: Poll(poll.during, poll.before_look_up, doubled, left_out),
        whole,
        st.just("") | name,
        st.just("") | name,
    )


def _restart(names: Sequence[str]) -> st.SearchStrategy[Restart]:
    return st.builds(Restart, st.booleans(), _poll(names), _few(names), _few(names))
