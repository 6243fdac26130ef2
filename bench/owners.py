"""Short connections on Debian's own kernel, in an emulated machine: how many have a user and a unit, and the right ones.

This kernel may have no kprobes. Emulation is slow, so nothing is said of time here.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from bench.results import Group, Result
from tests.support import built, machine
from tests.support.booted_package import make_repository

DISTRIBUTION = "trixie"
# In each of the ways of tests/support/machine_load.py.
LOAD = {"curl": 500, "shell": 1000, "once": 1000, "fork": 5000}
ROUNDS, MIXED = 20, 5_000
PEERS = ("tcpconnect-libbpf", "bpftrace")
_ROOT = "root (CAP_BPF, CAP_PERFMON), while it runs"
NEEDS = {"tcpconnect (libbpf-tools)": _ROOT, "bpftrace": f"{_ROOT}; a compiler"}
# Seconds: a deadline for what hangs.
WITHIN = 7200.0
WAYS = {
    "curl": "curl",
    "shell": "a shell's /dev/tcp",
    "once": "connect and exit, in C",
    "fork": "a process per connection, as fast as they come, on busy cores",
}


def owners(small: bool) -> Group:
    load, mixed = (dict.fromkeys(LOAD, 10), (2, 100)) if small else (LOAD, (ROUNDS, MIXED))
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        make_repository(Path(place), built.deb())
        return shown(machine.outcomes(DISTRIBUTION, Path(place), "many", load, mixed, within=WITHIN).said)


def peers(small: bool) -> Group:
    """Other programs that show who opens a connection, on the same load. They need kprobes, too."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        make_repository(Path(place), built.deb())
        said = machine.outcomes(
            DISTRIBUTION, Path(place), "peers", programs=PEERS, peers=20 if small else 1000, within=WITHIN
        ).said
    rows = [["", "seen", "with user", "with thread", "with unit", "CPU time of each", "needs"]]
    made = said["peers"].pop("made")
    for name, found in said["peers"].items():
        needs = NEEDS.get(name, "nothing; a root oneshot defines the events")
        if "failed" in found:
            rows.append([name, "", "", "", "", "", found["failed"]])
            continue
        shares = [f"{found[what] / made:.1%}" for what in ("seen", "user", "thread", "unit")]
        rows.append([name, *shares, f"{found['cpu'] / made * 1e3:.2f} ms", needs])
    return Group(
        "Who opened short connections, seen by other programs",
        table=rows,
        remarks=[
            f"{made:,} connections of a process each, as fast as they come; Linux {said['boot 1']['kernel']}, emulated: CPU "
            "times are many times those of a real machine, and are to be compared with each other alone",
            "tcpnewconn logs each, and its end, to the journal; the others print a line to a file, and do not see who accepts",
        ],
    )


def shown(said: dict[str, Any]) -> Group:
    """The outcomes of the steps of machine_load."""
    ways, small, mixed = said["ways"], said["small rings"], said["mixed"]
    results = [result for name, text in WAYS.items() for result in _way(text, ways["made"][name], ways[name])]
    made = mixed["made"]
    results += [
        Result("records lost by the rings meanwhile", f"{ways['lost']:,}"),
        Result(
            "records that small rings lost on purpose, as the kernel counts: as reported",
            f"{small['overwritten']:,} : {small['reported']:,}",
            "the same",
            small["overwritten"] == small["reported"],
        ),
        Result(
            f"{made:,} connections of 50 users and 20 units: logged", f"{mixed['ids']:,}", "all", mixed["ids"] == made
        ),
        Result("of these with a wrong user, unit, thread or process", f"{mixed['wrong']:,}", "0", mixed["wrong"] == 0),
        Result("of these with user and unit", f"{mixed['right']:,}"),
        Result("of these left out, because several could be theirs", f"{mixed['left out']:,}"),
    ]
    remarks = [
        f"Linux {said['boot 1']['kernel']}, emulated; accepted by nginx, and the 50 users' by a server of our own",
        f"not attributed before those, by the metrics: {'; '.join(ways['not attributed'])}",
        f"The 50 users' connections came from {mixed['ports']} local ports ({mixed['used again']:,} were used again), "
        f"and from processes whose ids were used again {mixed['pids used again']:,} times",
    ]
    return Group("Who opened and accepted short connections", results, [], remarks)


def _way(text: str, made: int, found: dict[str, Any]) -> list[Result]:
    owners, with_thread = Counter[tuple[str, str, str]](), 0
    for owner, count in found["owners"].items():
        user, unit, thread, accepted_by = owner.split(" ")
        owners[user, unit, accepted_by] += count
        with_thread += count if thread != "-" else 0
    (_, attributed), *others = owners.most_common()
    right = attributed == found["logged"] == made and not others
    return [
        Result(f"with user, unit and who accepted: {text}", f"{attributed:,} of {made:,}", "100 %", right),
        Result("of these with the thread, where it is sure", f"{with_thread:,}"),
    ]
