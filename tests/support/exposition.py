"""Parses an exposition for Prometheus, by the rules of its text format, and with promtool."""

from __future__ import annotations

import re
import subprocess

from tcpnewconn.health.counters import ServiceStatistics

_SAMPLE = re.compile(r'([a-z_]+)(?:\{([a-z_]+="[^"\\]*"(?:,[a-z_]+="[^"\\]*")*)\})? (\S+)')


def series(text: str, prefix: str = "tcpnewconn_") -> dict[str, float]:
    """Each series of a prefix, as it is written, with its value. One that is there twice, or has a timestamp, is an error."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith(prefix):
            match = _SAMPLE.fullmatch(line)
            assert match is not None, line
            name = line.rpartition(" ")[0]
            assert name not in found, line
            found[name] = float(match[3])
    return found


def summed(text: str, name: str) -> float:
    """All series of a name, or the one of a name with its labels. One that is not there is an error."""
    values = [value for one, value in series(text).items() if name in (one, one.partition("{")[0])]
    assert values, f"no {name}"
    return sum(values)


def check(text: str) -> None:
    """promtool, which parses it as Prometheus does, finds nothing to say about it."""
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), text


def long_running() -> ServiceStatistics:
    """The state of a service that has polled a few times."""
    statistics = ServiceStatistics(0.1)
    statistics.polls, statistics.failed, statistics.skipped, statistics.waiting = 7, 2, 3, 4
    statistics.seconds, statistics.last_poll = 0.0123456, 1.795e9
    statistics.states = {1: 5, 3: 1, 12: 2, 10: 3, 99: 8}
    statistics.cpu, statistics.memory, statistics.started = 1.5, 20480, 1.7949e9
    return statistics
