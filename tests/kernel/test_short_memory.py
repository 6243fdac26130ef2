"""Killed under load while memory is short and the pages of the state are swapped out: none is lost, none counts twice."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kernel.test_state_tail import HERE, THERE, accepted, loaded, opened
from tests.support.message_ids import CONNECTION
from tests.support.namespace import joined
from tests.support.program import Program, of_kind
from tests.support.short_memory import NotToBeHad, short_memory, swap, swapped_out

MEBI = 1024 * 1024
KILLS = 10


def test_killed_at_any_moment_while_memory_is_short(tmp_path: Path, memory: Path) -> None:
    chance = random.Random(18)
    options = ("--state", str(tmp_path / "state"), "--config", "/dev/null")
    runs: list[Program] = []
    with ExitStack() as stack:
        try:
            stack.enter_context(swap(tmp_path, 256 * MEBI))
            # The program has 20 MiB; it gets less, and its state less than all.
            group = stack.enter_context(short_memory(40 * MEBI, 32 * MEBI))
        except NotToBeHad as why:
            pytest.skip(f"MEMORY CANNOT BE MADE SHORT: {why}")
        here, there = stack.enter_context(joined([f"{HERE}/24"], [f"{THERE}/24"]))
        kept = stack.enter_context(opened(here))
        enter = [f"echo $$ >{group}/cgroup.procs"]
        before = swapped_out()
        with loaded(here, there):
            for _ in range(KILLS):
                runs.append(Program(here, *options, interval="1h", notifications=kept, memory=memory, mounts=enter))
                if chance.random() < 0.8:
                    runs[-1].wait(lambda: runs[-1].polls > 0, "first poll", 120.0)
                time.sleep(chance.uniform(0, 0.2))
                runs[-1].kill()
        # Some hundred pages each time: not all that it has stays in memory.
        assert swapped_out() - before > 100 * KILLS
        runs.append(Program(here, *options, interval="1h", notifications=kept, memory=memory))
        runs[-1].ready()
        runs[-1].stop()
        made = accepted(here)
    events = [event for run in runs for event in run.events]
    logged = {event["tcpnewconn.connection_id"] for event in of_kind(events, CONNECTION)}
    counted = sum(event["tcpnewconn.count"] for event in events if event["event.action"] == "connections-summarized")
    assert [event["message"] for event in events if event["event.action"] == "events-lost"] == []
    print(f"{made} connections, {len(logged)} logged, {counted} counted, {swapped_out() - before} pages swapped out")
    assert counted > made / 2
    assert len(logged) + counted == made
