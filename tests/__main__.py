"""
Runs the tests stage by stage, cheap ones first, and ends at the first stage that fails.

    python3 -m tests [--keep-going] [STAGE...]          (no STAGE: all of them)

At the end: how long each stage took, the slowest tests, and which failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import textwrap
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]
SLOWEST = 10
# What is shown at the end: so many failures, and so many characters of what each says.
FAILED = 5
SAID = 800
CORES = max(2, os.cpu_count() or 2)
# A tmpfs, and so many bytes of it.
MEMORY, ENOUGH = "/dev/shm", 1 << 30


@dataclass(frozen=True)
class Stage:
    """The tests of some directories, all or those that an expression of markers (pyproject.toml) selects; how many at a time.

    `in_memory`: thousands of small files are theirs, which on a disk take a fifth of the time (measured).
    """

    name: str
    directories: tuple[str, ...]
    markers: str = ""
    workers: int = CORES + 1
    in_memory: bool = False


# Every test is in exactly one of them (tests/project/test_stages.py), but for those of another architecture: make test-arm64.
STAGES = (
    Stage("check", ("unit", "model", "project"), "not random and not apt", in_memory=True),
    Stage("project", ("project",), "apt"),
    Stage("model", ("model",), "random", CORES, in_memory=True),
    # Many of its tests wait for the kernel.
    Stage("kernel", ("kernel",), workers=CORES + 2),
    # The ledger, on journal files and in a browser.
    Stage("ledger", ("journal", "page")),
    # One engine, of which each worker has one: the tests of a file share it.
    Stage("clickhouse", ("clickhouse",), workers=CORES),
    # They keep all cores busy: beside them others run into their time limits, and connections have ends that come late.
    Stage("machines", ("machine",), "not arm64", CORES),
    # With three booted systems at a time, two cores still have a fifth of their time left (measured).
    Stage("systems", ("booted", "fleet")),
)


@dataclass(frozen=True)
class Case:
    """A test; `seconds` with the making of what it needs, `failure` what it said when it failed."""

    name: str
    seconds: float
    failure: str | None


@dataclass(frozen=True)
class Outcome:
    stage: Stage
    status: int
    seconds: float
    tests: list[Case]


def run(stage: Stage) -> Outcome:
    print(f"\n=== {stage.name}", flush=True)
    memory = MEMORY if stage.in_memory and is_usable(MEMORY) else None
    with tempfile.TemporaryDirectory(prefix="tcpnewconn-tests-", dir=memory) as scratch:
        report = Path(scratch) / "report.xml"
        began = time.monotonic()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", f"--numprocesses={stage.workers}", "--dist=loadgroup"),
                *(f"--junitxml={report}", "-m", stage.markers),
                *(f"tests/{directory}" for directory in stage.directories),
            ],
            cwd=TREE,
            env=environment() | ({"TMPDIR": scratch} if memory else {}),
            check=False,
        )
        return Outcome(stage, done.returncode, time.monotonic() - began, list(cases(report)))


def is_usable(directory: str) -> bool:
    """Whether files may be written there, enough of them, and run: in many containers it is small, or mounted noexec."""
    try:
        there = os.statvfs(directory)
    except FileNotFoundError:
        return False
    enough = there.f_bavail * there.f_frsize >= ENOUGH
    return enough and not there.f_flag & os.ST_NOEXEC and os.access(directory, os.W_OK)


def environment() -> dict[str, str]:
    """Of the stages. The order of sets is the same each time: a tree that passed passes again.

    Compiled modules are kept: without them make check takes a third longer, in hundreds of short programs (measured).
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONHASHSEED": "0"}


def cases(report: Path) -> Iterator[Case]:
    if not report.exists():
        return
    for case in ElementTree.parse(report).iter("testcase"):
        said = [what.get("message") or "" for what in case if what.tag in ("failure", "error")]
        name = f"{case.get('classname')}::{case.get('name')}"
        yield Case(name, float(case.get("time") or 0), said[0] if said else None)


def show(outcomes: list[Outcome]) -> None:
    print("\n=== how long it took")
    for outcome in outcomes:
        what = "failed" if outcome.status else "ok"
        print(f"{outcome.stage.name:10}{span(outcome.seconds):>12}{len(outcome.tests):7} tests  {what}")
    print(f"{'in all':10}{span(sum(outcome.seconds for outcome in outcomes)):>12}")
    print("\n=== the slowest tests")
    tests = [test for outcome in outcomes for test in outcome.tests]
    for test in sorted(tests, key=lambda test: test.seconds, reverse=True)[:SLOWEST]:
        print(f"{test.seconds:7.1f} s  {test.name}")
    # One cause can fail many tests: those that share what they need.
    failures: dict[str, list[str]] = {}
    for test in tests:
        if test.failure is not None:
            failures.setdefault(test.failure, []).append(test.name)
    if failures:
        print("\n=== what failed")
    for failure, names in list(failures.items())[:FAILED]:
        print(names[0], *(f"and {len(names) - 1} more" for _ in names[1:2]))
        print(textwrap.indent(failure[:SAID], "    "))
    if len(failures) > FAILED:
        print(f"and {len(failures) - FAILED} other failures")


def span(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:2} s"


def main(arguments: Sequence[str] | None = None) -> int:
    names = [stage.name for stage in STAGES]
    parser = argparse.ArgumentParser(prog="python3 -m tests")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(names))
    parser.add_argument("--keep-going", action="store_true", help="run the later stages although one failed")
    given = parser.parse_args(arguments)
    if unknown := set(given.stages) - set(names):
        parser.error(f"no such stage: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    outcomes = []
    for stage in STAGES:
        if not given.stages or stage.name in given.stages:
            outcomes.append(run(stage))
            if outcomes[-1].status and not given.keep_going:
                break
    show(outcomes)
    return max((outcome.status for outcome in outcomes), default=0)


if __name__ == "__main__":
    sys.exit(main())
