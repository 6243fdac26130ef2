"""Builds the program from its rooms, as the options and the settings say, and runs it."""

from __future__ import annotations

import argparse
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from tcpnewconn.attribution.owner import Units, Users
from tcpnewconn.health.metrics import FILE, MetricsFile
from tcpnewconn.health.notify import Notifier
from tcpnewconn.kernel import host, sockdiag
from tcpnewconn.kernel.procnet import ProcNet, net_folder
from tcpnewconn.model import Degraded
from tcpnewconn.observer import Observer
from tcpnewconn.reporting import terminal
from tcpnewconn.reporting.entries import Renderer
from tcpnewconn.reporting.outbox import Outbox
from tcpnewconn.reporting.sinks import open_sink, say
from tcpnewconn.service import NoProc, Service, passed_descriptors
from tcpnewconn.settings.config import Settings
from tcpnewconn.state.kept import Kept
from tcpnewconn.state.snapshot import Snapshot


class CannotRun(Exception):
    """Why not, and what to do, in one line."""


def run(options: argparse.Namespace, settings: Settings, reload: Callable[[], Settings]) -> None:
    """Read once, or until stopped. Raises CannotRun, and OSError where it cannot be written."""
    began = time.monotonic()
    try:
        sink = open_sink(options.output)
    except ImportError as error:
        raise CannotRun(f"{error}: install python3-systemd, or use --output text") from error
    try:
        notifier = Notifier()
    except ImportError as error:
        raise CannotRun(f"{error}: install python3-systemd, or unset NOTIFY_SOCKET") from error
    folder = net_folder(options.procfs)
    here = host.look(options.procfs, folder)
    proc = ProcNet(options.procfs, users=here.users)
    sources = _sources(here, listen=not options.once) if here.live else _Sources()
    path = _state(options)
    snapshot = Snapshot(path, here.place) if path else None
    kept, warning = snapshot.load() if snapshot is not None else (None, None)
    observer = Observer(
        proc, here, sources.lookup, sources.ends is not None, sources.buffer, snapshot, settings.interval
    )
    outbox = Outbox(sink, snapshot, Renderer(Units(), Users()), settings, bool(sources.buffer))
    if snapshot is not None:
        snapshot.buffer(sources.buffer)
    if warning is not None:
        say(warning)
    ends, last_end = None, 0
    if sources.ends is not None:
        drops, last_end = (kept.drops, kept.last_end) if kept is not None and kept.buffer == sources.buffer else (0, 0)
        ends = sockdiag.Notifications(sources.ends, drops)
    if kept is not None:
        _restore(kept, here.place, observer, outbox)
    if sources.degraded is not None and not options.once:
        outbox.take(sources.degraded)
    service = Service(observer, outbox, snapshot, ends, last_end, notifier, reload, _metrics(options))
    attended = terminal.attended() and not options.once
    if attended:
        terminal.tell(terminal.greeting(settings.interval, ends is not None))
    try:
        service.once() if options.once else service.run()
    except NoProc as error:
        raise CannotRun(f"{error}: is /proc mounted there? say where with --procfs DIR") from error
    if attended:
        terminal.tell(terminal.farewell(outbox.connections, time.monotonic() - began))


@dataclass(frozen=True, slots=True)
class _Sources:
    """What the kernel offers beside /proc, and what is missing.

    `buffer` is the inode of the socket in which announcements wait while nobody runs, 0 if they do not.
    """

    lookup: sockdiag.Lookup | None = None
    ends: socket.socket | None = None
    buffer: int = 0
    degraded: Degraded | None = None


def _sources(here: host.Host, listen: bool) -> _Sources:
    try:
        ends, asking = sockdiag.received(passed_descriptors())
        lookup = sockdiag.Lookup(asking, here.users)
        lookup.check()
        if not listen:
            return _Sources(lookup)
        buffer = os.fstat(ends.fileno()).st_ino if ends is not None else 0
        return _Sources(lookup, ends or sockdiag.open_notifications(), buffer)
    except sockdiag.Unavailable as error:
        return _Sources(degraded=_reads_only(str(error)))


def _restore(kept: Kept, place: str, observer: Observer, outbox: Outbox) -> None:
    if kept.place == place:
        observer.restore(kept, time.monotonic())
    outbox.resume(kept)


def _state(options: argparse.Namespace) -> str | None:
    if options.state is not None:
        return str(options.state)
    directory = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return f"{directory}/snapshot" if directory else None


def _metrics(options: argparse.Namespace) -> MetricsFile | None:
    if options.metrics is not None:
        return MetricsFile(options.metrics)
    directory = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return MetricsFile(f"{directory}/{FILE}") if directory and not options.once else None


def _reads_only(why: str) -> Degraded:
    return Degraded(
        "notifications",
        f"The kernel does not announce ended connections here ({why}): what opens and closes between two reads of /proc is "
        "not seen. On the host: modprobe tcp_diag",
    )
