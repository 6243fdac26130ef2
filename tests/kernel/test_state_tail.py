"""The state in memory, under the running service: killed under load, cut while it runs, without room for it."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from tcpnewconn.kernel.sockdiag import open_notifications
from tests.support.message_ids import CONNECTION
from tests.support.namespace import Namespace, joined, namespace
from tests.support.program import Flow, Program, flow, of_kind
from tests.support.state_file import SSH, incoming, once, reported
from tests.support.supervised import Supervised
from tests.support.table import Tables
from tests.support.terminal import messages

HERE, THERE = "10.79.0.1", "10.79.0.2"
KILLS = 40

_SERVER = f"""
import socket
listener = socket.create_server(("{HERE}", 8080), backlog=4096)
print("listening", flush=True)
while True:
    listener.accept()[0].close()
"""
# Until its standard input is closed. Some thousands a second: those that come while nobody runs fit into the buffer. Each port
# has its turn: the kernel gives one again at once, and what closes during a first poll is logged twice then (tcpnewconn(8),
# CAVEATS).
_CLIENT = f"""
import itertools, select, socket, sys
ports = itertools.cycle(range(20000, 61000))
while not select.select([sys.stdin], [], [], 0.0002)[0]:
    with socket.create_connection(("{HERE}", 8080), source_address=("", next(ports))) as connection:
        connection.recv(1)
"""


@contextmanager
def loaded(here: Namespace, there: Namespace) -> Iterator[None]:
    """One connection after the other."""
    command = [sys.executable, "-c"]
    with subprocess.Popen(here.command(*command, _SERVER), stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline()
        try:
            with subprocess.Popen(there.command(*command, _CLIENT), stdin=subprocess.PIPE) as client:
                assert client.stdin is not None
                yield
                client.stdin.close()
                assert client.wait() == 0
        finally:
            # Also where a run failed: else its end would be awaited for ever.
            server.kill()


def opened(here: Namespace) -> socket.socket:
    with here.entered():
        return open_notifications()


def accepted(here: Namespace) -> int:
    return here.tcp_counter("PassiveOpens")


def test_killed_at_any_moment_under_load_each_connection_is_logged_or_counted_once(
    tmp_path: Path, memory: Path
) -> None:
    chance = random.Random(17)
    options = ("--state", str(tmp_path / "state"), "--config", "/dev/null")
    runs: list[Program] = []
    with joined([f"{HERE}/24"], [f"{THERE}/24"]) as (here, there), opened(here) as kept:
        with loaded(here, there):
            for _ in range(KILLS):
                # The summary comes with the last poll, and stands for the runs before, too.
                runs.append(Program(here, *options, interval="1h", notifications=kept, memory=memory))
                if chance.random() < 0.8:
                    runs[-1].ready()
                time.sleep(chance.uniform(0, 0.1))
                runs[-1].kill()
        runs.append(Program(here, *options, interval="1h", notifications=kept, memory=memory))
        runs[-1].ready()
        runs[-1].stop()
        made = accepted(here)
    events = [event for run in runs for event in run.events]
    logged = {event["tcpnewconn.connection_id"] for event in of_kind(events, CONNECTION)}
    counted = sum(event["tcpnewconn.count"] for event in events if event["event.action"] == "connections-summarized")
    assert [event["message"] for event in events if event["event.action"] == "events-lost"] == []
    assert made > 100 * KILLS
    assert counted > made / 2
    assert len(logged) + counted == made, what_was_reported(runs)


def what_was_reported(runs: list[Program]) -> str:
    """For whoever looks for the reason: the summaries of each run, how its connections were seen, and flows with several ids."""
    lines: list[str] = []
    ids: dict[Flow, set[str]] = defaultdict(set)
    for run in runs:
        connections = of_kind(run.events, CONNECTION)
        for event in connections:
            ids[flow(event)].add(event["tcpnewconn.connection_id"])
        summaries = [
            event["tcpnewconn.count"] for event in run.events if event["event.action"] == "connections-summarized"
        ]
        lines.append(f"{summaries} {dict(Counter(event['tcpnewconn.detected_by'] for event in connections))}")
    several = {one: each for one, each in ids.items() if len(each) > 1}
    return "\n".join([*lines, str(several)])


def test_after_a_kill_the_next_run_says_until_when_the_last_poll_had_observed(tmp_path: Path, memory: Path) -> None:
    with namespace() as here:
        killed = Program(here, "--state", str(tmp_path / "state"), memory=memory)
        killed.poll_again(3)
        before = time.time()
        killed.poll_again()
        killed.kill()
        after = Program(here, "--state", str(tmp_path / "state"), memory=memory)
        after.ready()
        after.stop()
    (started, _) = after.runs
    until = datetime.fromisoformat(started["tcpnewconn.observed_until"]).timestamp()
    # It is in milliseconds.
    assert before - 0.001 < until < datetime.fromisoformat(started["@timestamp"]).timestamp()


def test_a_file_that_is_cut_while_it_runs_is_not_believed_after_the_crash(tmp_path: Path, memory: Path) -> None:
    tables = Tables(tmp_path / "proc")
    tables.write([SSH, *map(incoming, range(3))])
    state, tail = tmp_path / "snapshot", memory / "state.tail"
    options = ["--procfs", str(tables.directory), "--state", str(state), "--interval", "100ms"]
    more = {"RUNTIME_DIRECTORY": str(memory)}
    with Supervised(*options, more=more) as service:
        service.polls(1)
        tail.write_bytes(b"")
        tables.write([SSH, *map(incoming, range(4))])
        assert service.ended() == -signal.SIGBUS
    with Supervised(*options, more=more) as service:
        service.polls(1)
        assert service.stop() == 0
        (warning,) = service.said
    assert warning.startswith(f"tcpnewconn: {state}: {tail}: damaged mark; moved to {state}.damaged-1: ")
    assert messages("\n".join(service.lines)) == ["New listener: 0.0.0.0:22", *reported(0, 1, 2, 3)]
    assert not tail.exists()
    assert once(tables, state) == []


def test_no_room_for_it_is_said_once_and_the_state_is_in_the_snapshot(tmp_path: Path) -> None:
    tables = Tables(tmp_path / "proc")
    tables.write([SSH, *map(incoming, range(3))])
    full, state = tmp_path / "full", tmp_path / "snapshot"
    full.mkdir()
    options = ["--procfs", str(tables.directory), "--state", str(state), "--interval", "100ms"]
    mounts = [f"mount -t tmpfs -o size=64k tmpfs {full}"]
    with Supervised(*options, more={"RUNTIME_DIRECTORY": str(full)}, mounts=mounts) as service:
        service.polls(1)
        tables.write([SSH, *map(incoming, range(4))])
        service.wait(lambda: len(service.lines) == 5, "the new one")
        service.polls(2)
        service.send(signal.SIGKILL)
        service.ended()
        (said,) = service.said
    assert said == (
        f"tcpnewconn: {full}/state.tail: No space left on device: the state is written to {state} alone, which takes more CPU "
        "time"
    )
    assert once(tables, state) == []
