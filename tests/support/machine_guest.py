"""Inside a virtual machine: run commands, read the service's entries, say what came of a step."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from systemd.journal import Reader

CONNECTION = "74ba465b9f4e456585146b89bb95f0dc"
CLOSED = "be0228f916da4937bc9055c5c372b3cd"
LISTENER = "2226628da8304e6994685e028202cfd5"
FAILED = "f2a2bc9384a24a388b7c94454c74adf4"
LOSS = "81f4c1b5bfab4e52a63aae3dec8b0438"
DEGRADED, RECOVERED = "ac71ee2a2e8443a59039d1319c802aa2", "9bd8673752994bd08028b0299ca2c261"
# For what hangs, not for what is slow.
DEADLINE = 600.0
# A short connection.
SHORT = "curl --silent --output /dev/null --header Connection:close"
# This host and its peer.
HOST, PEER = "10.71.0.1", "10.71.0.2"
# Seconds.
LOOK_AGAIN, LOOK_AT_LEAST = 0.2, 5.0

Entry = dict[str, str]

# What machine.py wants of the steps.
with open("/srv/plan.json", encoding="utf-8") as _file:
    PLAN: dict[str, Any] = json.load(_file)


def say(name: str, outcome: object) -> None:
    """A line of JSON to a serial port of the machine: the tests outside judge it. With the seconds since its boot."""
    line = json.dumps({"name": name, "outcome": outcome, "at": round(time.monotonic(), 1)})
    with open(PLAN["said"], "w", encoding="utf-8") as port:
        port.write(f"{line}\n")


def run(command: str, *, check: bool = True) -> str:
    done = subprocess.run(
        ["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout.strip()


def wait_for(condition: Callable[[], object], what: str, within: float = DEADLINE) -> None:
    began = looked = time.monotonic()
    while not condition():
        now = time.monotonic()
        if now > began + within:
            raise RuntimeError(f"waited {within:.0f} s for {what}")
        # A look takes time, too, which it takes from what is waited for.
        time.sleep(max(LOOK_AGAIN, min(4 * (now - looked), LOOK_AT_LEAST)))
        looked = time.monotonic()


def active(unit: str) -> bool:
    return run(f"systemctl is-active {unit}", check=False) == "active"


def reader() -> Reader:
    """The journal of this boot, each value as text."""
    opened = Reader()
    # Not its own choice of types.
    opened.converters = dict.fromkeys(("__REALTIME_TIMESTAMP", "__MONOTONIC_TIMESTAMP", "__CURSOR"), str)
    opened.this_boot()
    return opened


def entries(message_id: str, **fields: str) -> list[Entry]:
    # Each once, by its place in the journal, whatever the journal makes of several files and a clock that was set.
    return list({entry["__CURSOR"]: entry for entry in one_by_one(message_id, **fields)}.values())


def one_by_one(message_id: str, **fields: str) -> Iterator[Entry]:
    """Read by this process: in an emulated machine the start of a journalctl costs more than all the rest."""
    with reader() as opened:
        opened.add_match(MESSAGE_ID=message_id, **fields)
        yield from opened


def number_of(message_id: str, server: str, **fields: str) -> int:
    with reader() as opened:
        opened.add_match(MESSAGE_ID=message_id, DESTINATION_ADDRESS=server, **fields)
        # By their places, as above.
        return len({opened._get_cursor() for _ in iter(opened._next, 0)})


def connections(server: str, **fields: str) -> list[Entry]:
    return entries(CONNECTION, DESTINATION_ADDRESS=server, **fields)


def wait_for_connections(server: str, count: int = 1, **fields: str) -> list[Entry]:
    """Those to this server, once there are so many."""
    try:
        wait_for(lambda: number_of(CONNECTION, server, **fields) >= count, f"{count} connections to {server}")
    except RuntimeError as error:
        raise RuntimeError(f"{error}; there are {number_of(CONNECTION, server, **fields)}") from None
    return connections(server, **fields)


@contextlib.contextmanager
def between_polls() -> Iterator[None]:
    """No poll comes: one that shows a connection before it is accepted has it logged without who accepts it."""
    path = "/etc/tcpnewconn.conf.d/zz-between-polls.conf"
    with open(path, "w", encoding="utf-8") as file:
        file.write("[Poll]\nInterval=1h\n")
    run("systemctl reload tcpnewconn.service")
    # The one that was at work at the reload is followed by another, and that by none for an hour.
    wait_for(lambda: poll_interval() == 3600, "the last poll")
    yield
    os.unlink(path)
    run("systemctl reload tcpnewconn.service")


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    """The service does nothing meanwhile (SIGSTOP), for however long: its watchdog waits, too."""
    run("systemctl service-watchdogs no; systemctl kill --signal=STOP tcpnewconn.service")
    yield
    run("systemctl kill --signal=CONT tcpnewconn.service; systemctl service-watchdogs yes")


def last_poll() -> float:
    """Seconds since 1970."""
    return _metric("tcpnewconn_last_poll_timestamp_seconds")


def poll_interval() -> float:
    """Seconds, as the settings were at the last poll."""
    return _metric("tcpnewconn_poll_interval_seconds")


def _metric(name: str) -> float:
    """As it was after the last poll; nan before the first."""
    return float(run(f"sed --quiet 's/^{name} //p' /run/tcpnewconn/*.prom 2>/dev/null", check=False) or "nan")


@contextlib.contextmanager
def peer() -> Iterator[str]:
    """Another host: a network namespace, joined to this one. Yields the command that runs another one there."""
    run("ip netns add peer; ip link add here type veth peer name there netns peer")
    run(f"ip address add {HOST}/24 dev here; ip link set here up")
    run(f"ip -n peer address add {PEER}/24 dev there; ip -n peer link set there up")
    yield "ip netns exec peer"
    run("ip link delete here; ip netns delete peer")


def short(found: list[Entry], *names: str) -> list[Entry]:
    """Of each entry, these fields: the serial port takes a second for each 100,000 characters."""
    return [{name: entry[name] for name in names if name in entry} for entry in found]


def write_unit(name: str, text: str) -> None:
    with open(f"/etc/systemd/system/{name}", "w", encoding="utf-8") as file:
        file.write(text)
