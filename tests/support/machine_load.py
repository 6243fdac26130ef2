"""The steps about many connections: each with its user and unit, none with a wrong one; losses of the rings counted."""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from tests.support.machine_guest import (
    CLOSED,
    CONNECTION,
    DEADLINE,
    FAILED,
    LOSS,
    PLAN,
    SHORT,
    Entry,
    connections,
    entries,
    number_of,
    one_by_one,
    run,
    say,
    stopped,
    wait_for,
    wait_for_connections,
    write_unit,
)
from tests.support.machine_trace import OURS, read, write

PROGRAM = "/srv/connections"
# Each way to connect has a unit, a user and a server of its own.
WAYS = {
    "curl": ("127.0.3.1", "nobody", f"{SHORT} http://127.0.3.1/"),
    "shell": ("127.0.3.2", "www-data", "(exec 3<>/dev/tcp/127.0.3.2/80)"),
    "once": ("127.0.3.3", "daemon", f"{PROGRAM} once 127.0.3.3 80"),
    "fork": ("127.0.3.4", "games", ""),
}
UNITS, USERS, FIRST_UID = 20, 50, 20_000
SERVER, FIRST_PORT = "127.0.3.10", 40_000
# So few that each is used again.
PIDS = 600
# Made while the service is stopped; the rings hold about 100 of them.
IN_SMALL_RINGS = 400
# Connections per second that an emulated machine logs at least, each with its end.
SLOWEST = 20
SMALL_RING_KILOBYTES = 8


def prepare() -> None:
    """Before the package is installed: its installation has systemd load the units."""
    for name, (server, user, command) in WAYS.items():
        count = PLAN["load"][name]
        repeated = f"bash -c 'for n in $(seq {count}); do {command}; done'".replace("$", "$$")
        many = f"{PROGRAM} fork {count} {server} 80"
        write_unit(
            f"way-{name}.service",
            f"[Service]\nType=oneshot\nUser={user}\nExecStart={many if name == 'fork' else repeated}\n",
        )
    write_unit("spin@.service", f"[Service]\nExecStart={PROGRAM} spin\n")
    write_unit("load-server.service", f"[Service]\nUser=www-data\nExecStart={PROGRAM} serve {SERVER} 7010\n")
    arguments = (PLAN["mixed"] // UNITS, SERVER, 7010, FIRST_PORT, PLAN["mixed"], "%i", UNITS, USERS, FIRST_UID)
    start = f"{PROGRAM} mixed {' '.join(map(str, arguments))}"
    write_unit("load@.service", f"[Service]\nType=oneshot\nExecStart={start}\n")


def ways() -> None:
    """Every way to connect; the last with both cores busy with something else."""
    spinning = " ".join(f"spin@{core}" for core in range(os.cpu_count() or 1))
    run("systemctl start way-curl way-shell way-once")
    run(f"systemctl start {spinning} && systemctl start way-fork; systemctl stop {spinning}")
    counts, outcome = PLAN["load"], {}
    for name, (server, _, _) in WAYS.items():
        found = wait_for_connections(server, counts[name])
        owners = Counter(
            " ".join(
                entry.get(field, "-")
                for field in ("USER_NAME", "OBJECT_SYSTEMD_UNIT", "PROCESS_THREAD_NAME", "TCPNEWCONN_ACCEPTED_BY_UNIT")
            )
            for entry in found
        )
        ports = Counter(entry["SOURCE_PORT"] for entry in found)
        outcome[name] = {
            "logged": len({each["TCPNEWCONN_CONNECTION_ID"] for each in found}),
            "owners": owners,
            # On a port that was used again before its last end was notified, the thread can be either's.
            "no thread": sum("PROCESS_THREAD_NAME" not in one and ports[one["SOURCE_PORT"]] == 1 for one in found),
        }
    # The metrics are written after each poll.
    not_attributed = run("grep -h ^tcpnewconn_connections_not_attributed_total /run/tcpnewconn/*.prom").splitlines()
    # By its watchdog, which does not fire on a busy machine either.
    restarts = run("systemctl show --value --property=NRestarts tcpnewconn.service")
    say(
        "ways",
        {"made": counts, "lost": lost(), "restarts": restarts, "not attributed": not_attributed, **outcome},
    )


def lost() -> int:
    """Records of calls that the service says it has lost."""
    return sum(int(entry["TCPNEWCONN_COUNT"]) for entry in entries(LOSS, TCPNEWCONN_REASON="attribution"))


def overwritten() -> int:
    """Records that the kernel says its rings have overwritten."""
    rings = (read(f"{OURS}/per_cpu/{cpu}/stats") for cpu in os.listdir(f"{OURS}/per_cpu"))
    return sum(int(count) for ring in rings for count in re.findall(r"overrun: (\d+)", ring))


def small_rings() -> None:
    """More records than the rings hold, while the service does not read them."""
    said, before = lost(), overwritten()
    write(f"{OURS}/buffer_size_kb", str(SMALL_RING_KILOBYTES))
    with stopped():
        run(f"{PROGRAM} fork {IN_SMALL_RINGS} 127.0.3.5 80")
    wait_for_connections("127.0.3.5", IN_SMALL_RINGS)
    # At its stop it reports what it otherwise reports once a minute.
    run("systemctl restart tcpnewconn.service")
    # It can be two entries. The test outside compares.
    with contextlib.suppress(RuntimeError):
        wait_for(lambda: lost() - said >= overwritten() - before, "the loss to be reported")
    found = connections("127.0.3.5")
    say(
        "small rings",
        {
            "made": IN_SMALL_RINGS,
            "logged": len({entry["TCPNEWCONN_CONNECTION_ID"] for entry in found}),
            "overwritten": overwritten() - before,
            "reported": lost() - said,
            "units": Counter(entry.get("OBJECT_SYSTEMD_UNIT", "-") for entry in found),
        },
    )
    run("systemctl reload tcpnewconn-trace.service")


def mixed() -> None:
    """Of many users and units, with few pids and ports. The bytes of each connection say whose it is."""
    in_rounds(lambda: number_of(CLOSED, SERVER))
    opened, failed = number_of(CONNECTION, SERVER), number_of(FAILED, SERVER)
    say_mixed(opened, failed, one_by_one(CLOSED, DESTINATION_ADDRESS=SERVER))


def in_rounds(closed: Callable[[], int]) -> None:
    """A port is used again in the next round, when the service has logged the last, as `closed` counts; some at once."""
    count = PLAN["mixed"]
    most_pids = read("/proc/sys/kernel/pid_max")
    run("systemctl start load-server.service")
    wait_for(lambda: run(f"ss --no-header --listening --numeric --tcp src {SERVER}:7010"), "the server to listen")
    run(f"echo {PIDS} >/proc/sys/kernel/pid_max")
    for number in range(1, PLAN["rounds"] + 1):
        run(f"systemctl start {' '.join(f'load@{unit}' for unit in range(UNITS))}")
        what = f"{number * count} closed connections"
        wait_for(partial(_at_least, number * count, closed), what, DEADLINE + count / SLOWEST)
    run(f"echo {most_pids} >/proc/sys/kernel/pid_max")
    run("systemctl stop load-server.service")


def _at_least(count: int, closed: Callable[[], int]) -> bool:
    return closed() >= count


def say_mixed(opened: int, failed: int, closed: Iterable[Entry]) -> None:
    say("mixed", {"made": PLAN["rounds"] * PLAN["mixed"], "opened": opened, "failed": failed, **judged(closed)})


def judged(found: Iterable[Entry]) -> dict[str, object]:
    """How many of these closed connections are attributed rightly, not at all, or wrongly (with some of these)."""
    ids, ports, threads = set(), Counter[str](), Counter[str]()
    outcome: Counter[str] = Counter()
    wrong: list[Entry] = []
    for entry in found:
        ids.add(entry["TCPNEWCONN_CONNECTION_ID"])
        ports[entry["SOURCE_PORT"]] += 1
        threads[entry.get("PROCESS_THREAD_ID", "")] += 1
        # One less where the server's socket, which closes first, is gone before it receives the client's FIN.
        user, unit = divmod((int(entry["SOURCE_BYTES"]) - 3) // 2, UNITS)
        expected = {
            "USER_ID": str(FIRST_UID + user),
            "OBJECT_SYSTEMD_UNIT": f"load@{unit}.service",
            "PROCESS_THREAD_NAME": "connections",
            "PROCESS_NAME": "connections",
            "TCPNEWCONN_ACCEPTED_BY_UNIT": "load-server.service",
        }
        known = {name: entry[name] for name in expected if name in entry}
        if any(expected[name] != value for name, value in known.items()):
            outcome["wrong"] += 1
            wrong[3:] = [entry]
        elif {"USER_ID", "OBJECT_SYSTEMD_UNIT"} <= known.keys():
            outcome["right"] += 1
        else:
            outcome["left out"] += 1
    threads.pop("", None)
    return {
        "right": outcome["right"],
        "left out": outcome["left out"],
        "wrong": outcome["wrong"],
        "examples": wrong,
        "ids": len(ids),
        "ports": len(ports),
        "used again": sum(count - 1 for count in ports.values()),
        "pids used again": sum(count - 1 for count in threads.values()),
    }
