"""The original's sample: the rows on which the program that this one replaces was shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.events import parsed_lines
from tests.support.terminal import SAMPLE_EXPECTED, messages, run, sample


@pytest.fixture
def procfs(tmp_path: Path) -> str:
    return str(sample(tmp_path))


def test_the_sample_gives_what_it_should_in_that_order(procfs: str) -> None:
    done = run("--once", "--procfs", procfs)
    assert (done.returncode, done.stderr) == (0, "")
    assert messages(done.stdout) == SAMPLE_EXPECTED


def test_it_does_so_in_the_original_s_format(procfs: str) -> None:
    done = run("--once", "--procfs", procfs)
    for line, message in zip(done.stdout.splitlines(), SAMPLE_EXPECTED, strict=True):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00: " + re.escape(message), line)


def test_no_port_is_byte_swapped_and_no_listener_is_a_connection(procfs: str) -> None:
    events = parsed_lines(run("--once", "--procfs", procfs, "--output", "json").stdout.splitlines())
    connections = [event for event in events if event["message"].startswith("New connection")]
    listeners = [event for event in events if event["message"].startswith("New listener")]
    assert (len(connections), len(listeners), len(events)) == (11, 10, 21)
    assert {event["destination.port"] for event in connections} == {22, 80, 443}
    assert ("127.0.0.53", 53) in {(event["destination.address"], event["destination.port"]) for event in listeners}
    assert {5632, 13568, 20480, 47873}.isdisjoint(event[port] for event in events for port in event if ".port" in port)


def test_the_opener_of_a_connection_is_known(procfs: str) -> None:
    events = parsed_lines(run("--once", "--procfs", procfs, "--output", "json").stdout.splitlines())
    (incoming,) = [event for event in events if event.get("network.direction") == "ingress"]
    assert incoming["message"] == "New connection: 204.225.215.59:55627 -> 10.162.15.225:22"
    assert [event.get("network.direction") for event in events].count("egress") == 10
