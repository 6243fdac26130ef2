"""Events of every kind, and what turns them into entries and JSON documents."""

from __future__ import annotations

import pwd
from collections.abc import Callable
from pathlib import Path

from tcpnewconn.attribution.processes import Processes
from tcpnewconn.attribution.units import Units
from tcpnewconn.attribution.users import Users
from tcpnewconn.eventtypes import (
    Closed,
    Connection,
    Degraded,
    Event,
    Failed,
    Listener,
    Loss,
    ObservationStarted,
    ObservationStopped,
    PortScan,
    Recovered,
    Summary,
)
from tcpnewconn.health.counters import REASONS, SOURCES
from tcpnewconn.model import Caller, Endpoint
from tcpnewconn.reporting.entries import Renderer
from tcpnewconn.reporting.fields import Entry, document
from tests.support.processes import process
from tests.support.table import packed

PEER, HERE = Endpoint(*packed("203.0.113.9:51544")), Endpoint(*packed("10.0.0.5:22"))
PEER6, HERE6 = Endpoint(*packed("[2001:db8::9]:40001")), Endpoint(*packed("[2001:db8::5]:443"))
NINE, NINE6 = PEER.address or b"", PEER6.address or b""
ANYWHERE = Endpoint(None, None)
NOBODY = pwd.getpwnam("nobody").pw_uid
# 2026-11-25 12:00:00 UTC
NOON = 1_795_608_000.0

Render = Callable[[Event], Entry]

# Cgroups that are gone; the trace has recorded their names, those of the innermost first.
SYNC, POD, MACHINE = 1 << 40, (1 << 40) + 1, (1 << 40) + 2
ID = "0123456789abcdef" * 4
NAMES = {
    SYNC: ("sync.service", "app.slice", "user@1000.service", "user-1000.slice", "user.slice", ""),
    POD: (f"crio-{ID}.scope", "kubepods-pod01234567_89ab_cdef_0123_456789abcdef.slice", "kubepods.slice", ""),
    MACHINE: ("payload", "machine-web.scope", "machine.slice", ""),
}
# Process 4711, called curl, has started ten seconds after the boot; thread 4712 is one of its own.
CONNECT = Caller("connect", NOBODY, SYNC, 4712, "Socket Thread", 20.0)
ACCEPT = Caller("accept", NOBODY, POD, 4711, "curl", 20.0)


def unit_in(cgroups: Path) -> int:
    """A tree of cgroups with one unit; a cgroup's id is its directory's inode number."""
    (cgroups / "cgroup.controllers").touch()
    directory = cgroups / "system.slice/ssh.service"
    directory.mkdir(parents=True)
    return directory.stat().st_ino


def renderer(cgroups: Path, command_lines: bool = False, netns: str | None = None) -> Render:
    """A renderer, with the units in a tree of cgroups and processes in a tree like /proc."""
    units = Units(str(cgroups))
    for cgroup, names in NAMES.items():
        units.learn(cgroup, names)
    root = process(cgroups / "proc", 4711, "curl", started=10.0)
    process(root, 4712, "Socket Thread", started=11.0, pid=4711)
    (root / "4711/cmdline").write_bytes(b"curl\0--user\0me:\x1bsecret\0http://x/\0")
    made = Renderer(units, Users(), Processes("boot", str(root), lambda: 0.0), netns)
    made.attribution.set(command_lines)
    return made.entry


def every_event(unit: int) -> list[Event]:
    """Each kind of event with every field that it can have, and with as few as it can have."""
    return [
        Connection(PEER, HERE, "ingress", "poll", "x", 1, NOBODY, unit),
        Connection(Endpoint(None, 1), Endpoint(NINE6, None), "egress", "notification", "x", 7),
        Connection(PEER6, HERE6, "unknown", "startup", "x", 6),
        Connection(HERE, PEER, "internal", "notification", "x", 7, NOBODY, SYNC, ("connect",), CONNECT, ACCEPT),
        Connection(PEER, HERE, "ingress", "notification", "x", 7, NOBODY, POD, ("accept",), ACCEPT),
        Connection(PEER, HERE, "ingress", "poll", "x", 1, NOBODY, MACHINE, ("socket",), netns=4026532205),
        Closed(HERE, PEER, "internal", "x", 1, 2, 3, 4, 5.0, NOBODY, SYNC, ("connect",), CONNECT, ACCEPT),
        Closed(PEER, HERE, "ingress", "x", 1, 2, 3, 4, 5.0, NOBODY, POD, ("accept",), ACCEPT),
        Closed(PEER, HERE, "ingress", "x", 1, 2, 3, 4, 5.0, NOBODY, MACHINE, ("socket",), netns=4026532205),
        Failed(HERE, PEER, "egress", 111, NOBODY, SYNC, ("connect",), CONNECT),
        Failed(HERE, PEER, "egress", 0, NOBODY, POD, ("connect",), CONNECT),
        Failed(HERE, PEER, "egress", 0, NOBODY, MACHINE, ("connect",), CONNECT),
        Failed(Endpoint(HERE.address, None), PEER, "egress", 111, NOBODY, unit, ("connect",), None, 5),
        Failed(ANYWHERE, ANYWHERE, "egress", 0, count=2),
        *(Listener(HERE, False, NOBODY, cgroup, 4026532205) for cgroup in NAMES),
        *(Summary(ANYWHERE, HERE, "ingress", cgroup, 5, 2, True, (), NOBODY, 4026532205) for cgroup in NAMES),
        Closed(PEER, HERE, "ingress", "x", 1, 2, 3, 4, 5.0, NOBODY, unit),
        Closed(Endpoint(NINE, None), Endpoint(None, 22), "internal", "x", 0, 0, 0, 0, None),
        Listener(HERE, False, NOBODY, unit),
        Listener(HERE6, True),
        Summary(Endpoint(NINE, None), HERE, "ingress", unit, 3, 1, True, ()),
        Summary(ANYWHERE, HERE, "ingress", unit, 5, 2, True, ((NINE, 3), (NINE6, 2))),
        Summary(ANYWHERE, ANYWHERE, "egress", 0, 1, 1, False, ()),
        PortScan(NINE, HERE.address, (22, 23)),
        PortScan(NINE, None, (22, 23), 4026532205),
        *(Loss(1, reason, "x") for reason in REASONS),
        *(Degraded(source, "x") for source in SOURCES),
        *(Recovered(source, "x") for source in SOURCES),
        ObservationStarted(NOON, NOON - 2, "10.0.0.0/8 :9100"),
        ObservationStarted(NOON, None, ""),
        ObservationStopped(),
    ]


def documents(render: Render, unit: int) -> list[dict[str, object]]:
    """Every event as a line of --output json has it."""
    return [document(render(event), "2026-11-25T12:00:00.000+00:00", "web1") for event in every_event(unit)]
