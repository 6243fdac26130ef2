"""Elapsed time and CPU time; measurements that are compared take turns."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """Elapsed seconds, and seconds of CPU time in user space and kernel."""

    wall: float
    cpu: float


def of_call(call: Callable[[], object]) -> Cost:
    """Cost of a call in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def of_command(command: Sequence[str]) -> Cost:
    """Cost of a program from start to exit; its output is discarded."""
    nowhere = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    wall = time.perf_counter()
    child = os.posix_spawnp(command[0], list(command), os.environ, file_actions=nowhere)
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - wall
    if status != 0:
        raise RuntimeError(f"{' '.join(command)}: exit status {os.waitstatus_to_exitcode(status)}")
    return Cost(wall, usage.ru_utime + usage.ru_stime)


def in_turns(rounds: int, *measures: Callable[[], Cost]) -> list[list[Cost]]:
    """The costs of each measure, taken in turns (A B C A B C ...), so that other load disturbs all of them equally."""
    costs: list[list[Cost]] = [[] for _ in measures]
    for _ in range(rounds):
        for measure, taken in zip(measures, costs, strict=True):
            taken.append(measure())
    return costs


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(statistics.median(cost.wall for cost in costs), statistics.median(cost.cpu for cost in costs))


def ratio(ours: Sequence[Cost], theirs: Sequence[Cost]) -> Cost:
    """The median of the ratios of measurements taken next to each other."""
    return Cost(
        statistics.median(a.wall / b.wall for a, b in zip(ours, theirs, strict=True)),
        statistics.median(a.cpu / b.cpu for a, b in zip(ours, theirs, strict=True)),
    )


def cpu_of(process: int) -> float:
    """Seconds of CPU time that a running process and its threads have used, to the nanosecond."""
    with open(f"/proc/{process}/schedstat") as file:
        return int(file.read().split()[0]) / 1e9
