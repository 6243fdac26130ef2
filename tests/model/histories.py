"""Histories: the input of the tracker as a list of named steps, one a line.

    open r0                                 a connection becomes established
    poll                                    a poll of the table, and what happens around it:
        during: finish r0                   while the table is read
        before look-up: open r0             between a row and the look-up of its socket
        doubled: r0                         its row stands twice in the poll
        left out: r0                        its row does not stand in it; never in two polls in a row, but with
        left out again: r0
        look-ups: fail                      the kernel cannot be asked for a socket
    deliver r0                              the work queue runs for the socket that was destroyed on r0
    deliver r0 2nd                          for the second of several
    deliver                                 for the first of all
    receive                                 the program takes what is in its receive buffer
    wait 1.1 s                              time passes; no notification is that late
    starve                                  from now on the work queue runs only where a step delivers
    restart                                 the program is killed, and starts again
        meanwhile: open r1                      what happens meanwhile
    restart, stopped                        it is stopped, with two polls at the end, and starts again
        between the last polls: open r1
        during: open r1                         as in a poll: while the table is read for the last time
        after the last poll: open r1
    restart, notifications lost             it is stopped or killed, and starts again: without the notifications of what happens
                                                meanwhile

Steps before the first poll happen before the program runs. r0 to r5 are 4-tuples with another host, i0 to i2 within this
host, i0' to i2' those of their other sockets.

`parsed` and `printed` are inverse to each other. A line means the same whatever the other lines are and whichever actions there
are, so a recorded history stays what it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tcpnewconn.model import FourTuple, four_tuple_of, mirrored

HERE = bytes([10, 0, 0, 5])
LOOPBACK = bytes([127, 0, 0, 1])

REMOTE = tuple(f"r{number}" for number in range(6))
INTERNAL = tuple(f"i{number}{prime}" for number in range(3) for prime in ("", "'"))

FOUR_TUPLES: dict[str, FourTuple] = {
    **{
        f"r{number}": four_tuple_of(HERE, 80, bytes([203, 0, 113, number % 2]), 40000 + number % 3)
        for number in range(6)
    },
    **{f"i{number}": four_tuple_of(LOOPBACK, 50000 + number, LOOPBACK, 8080) for number in range(3)},
    **{f"i{number}'": mirrored(four_tuple_of(LOOPBACK, 50000 + number, LOOPBACK, 8080)) for number in range(3)},
}
NAMES = {four_tuple: name for name, four_tuple in FOUR_TUPLES.items()}

# Actions on a 4-tuple.
ON_A_FOUR_TUPLE = (
    "open", "open unaccepted", "accept", "half close", "shut down", "orphan times out", "finish", "passive close", "reset",
    "linger", "abort", "refused", "time wait expires",
)  # fmt: skip
# Actions on the nth of several sockets that had a 4-tuple, or of all.
ON_ONE_OF_SEVERAL = ("deliver", "let go")
# Actions of nothing in particular.
ALONE = ("receive", "starve")

_ORDINALS = ("1st", "2nd", "3rd", *(f"{number}th" for number in range(4, 10)))


class NoHistory(ValueError):
    """A text is not a history: the number of the line, from 1, and why."""


@dataclass(frozen=True)
class Step:
    """An action; the name of its 4-tuple where it has one, and which of several."""

    action: str
    name: str = ""
    nth: int = 1

    def __str__(self) -> str:
        return " ".join(
            [self.action, *([self.name] if self.name else []), *([_ORDINALS[self.nth - 1]] * (self.nth > 1))]
        )


@dataclass(frozen=True)
class Wait:
    seconds: float

    def __str__(self) -> str:
        return f"wait {self.seconds:g} s"


@dataclass(frozen=True)
class Poll:
    """`doubled`, `left_out` and `left_out_again` are the names of 4-tuples whose row stands there twice, or does not."""

    during: tuple[Step, ...] = ()
    before_look_up: tuple[Step, ...] = ()
    doubled: str = ""
    left_out: str = ""
    left_out_again: str = ""
    look_ups_fail: bool = False

    def lines(self) -> list[str]:
        return [
            "poll",
            *(f"    during: {step}" for step in self.during),
            *(f"    before look-up: {step}" for step in self.before_look_up),
            *([f"    doubled: {self.doubled}"] if self.doubled else []),
            *([f"    left out: {self.left_out}"] if self.left_out else []),
            *([f"    left out again: {self.left_out_again}"] if self.left_out_again else []),
            *(["    look-ups: fail"] if self.look_ups_fail else []),
        ]


@dataclass(frozen=True)
class Restart:
    """`lost`: notifications that come meanwhile are lost, wherever they go. `stopped`: it is stopped, not killed.

    If systemd keeps the socket that they go to, notifications are lost only by a stop, after the steps that follow the last poll.
    """

    lost: bool = False
    stopped: bool = False
    between_last_polls: tuple[Step, ...] = ()
    last_poll: Poll = Poll()
    after_last_poll: tuple[Step, ...] = ()
    meanwhile: tuple[Step, ...] = ()

    def lines(self) -> list[str]:
        return [
            ", ".join(["restart", *(["stopped"] * self.stopped), *(["notifications lost"] * self.lost)]),
            *(f"    between the last polls: {step}" for step in self.between_last_polls),
            *self.last_poll.lines()[1:],
            *(f"    after the last poll: {step}" for step in self.after_last_poll),
            *(f"    meanwhile: {step}" for step in self.meanwhile),
        ]


History = list[Step | Wait | Poll | Restart]


def printed(history: History) -> str:
    lines: list[str] = []
    for step in history:
        lines += step.lines() if isinstance(step, Poll | Restart) else [str(step)]
    return "".join(f"{line}\n" for line in lines)


def parsed(text: str) -> History:
    """Raises NoHistory. Text behind a # is a comment; empty lines do not count."""
    blocks: list[tuple[int, str, list[tuple[int, str, str]]]] = []
    for number, commented in enumerate(text.splitlines(), 1):
        line = commented.split("#")[0].rstrip()
        if not line:
            continue
        if not line.startswith(" "):
            blocks.append((number, line, []))
            continue
        clause, colon, what = line.strip().partition(": ")
        if not blocks or not colon:
            raise NoHistory(f"line {number}: {line.strip()!r} belongs to no poll and no restart")
        blocks[-1][2].append((number, clause, what))
    return [_parsed(*block) for block in blocks]


def _parsed(number: int, line: str, clauses: list[tuple[int, str, str]]) -> Step | Wait | Poll | Restart:
    steps: dict[str, list[Step]] = {"during": [], "before look-up": []}
    rows = {"doubled": "", "left out": "", "left out again": ""}
    fail = False
    restart = _RESTART.fullmatch(line)
    if restart is not None:
        steps |= {"between the last polls": [], "after the last poll": [], "meanwhile": []}
    elif line != "poll":
        if clauses:
            raise NoHistory(f"line {clauses[0][0]}: nothing belongs to {line!r}")
        wait = _WAIT.fullmatch(line)
        return Wait(float(wait[1])) if wait is not None else _step(number, line, alone=True)
    for at, clause, what in clauses:
        if clause in steps:
            steps[clause].append(_step(at, what))
        elif clause in rows and what in FOUR_TUPLES and not rows[clause]:
            rows[clause] = what
        elif (clause, what, fail) == ("look-ups", "fail", False):
            fail = True
        else:
            raise NoHistory(f"line {at}: {line!r} knows no {clause + ': ' + what!r}")
    poll = Poll(
        tuple(steps["during"]),
        tuple(steps["before look-up"]),
        rows["doubled"],
        rows["left out"],
        rows["left out again"],
        fail,
    )
    if restart is None:
        return poll
    between, after = tuple(steps["between the last polls"]), tuple(steps["after the last poll"])
    stopped, lost = restart["stopped"] is not None, restart["lost"] is not None
    return Restart(lost, stopped, between, poll, after, tuple(steps["meanwhile"]))


_RESTART = re.compile("restart(?P<stopped>, stopped)?(?P<lost>, notifications lost)?")
_STEP = re.compile(r"(?P<action>[a-z][a-z ]*?)(?: (?P<name>[ri][0-9]'?))?(?: (?P<nth>[0-9][a-z]{2}))?")
_WAIT = re.compile(r"wait ([0-9]+(?:\.[0-9]+)?) s")


def _step(number: int, text: str, alone: bool = False) -> Step:
    if alone and text in ALONE:
        return Step(text)
    match = _STEP.fullmatch(text)
    if match is None or match["action"] not in (*ON_A_FOUR_TUPLE, *ON_ONE_OF_SEVERAL):
        raise NoHistory(f"line {number}: unknown action {text!r}")
    action, name, nth = match["action"], match["name"] or "", match["nth"] or ""
    if name not in FOUR_TUPLES and (name or action in ON_A_FOUR_TUPLE):
        raise NoHistory(f"line {number}: {text!r} has no 4-tuple that is known")
    if nth and (action not in ON_ONE_OF_SEVERAL or nth not in _ORDINALS[1:]):
        raise NoHistory(f"line {number}: unknown number {nth!r}")
    return Step(action, name, _ORDINALS.index(nth) + 1 if nth else 1)
