"""Builds the program from its rooms, as the options and the settings say, and runs it."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

from tcpnewconn import host, sockdiag
from tcpnewconn.config import Settings
from tcpnewconn.model import Degraded
from tcpnewconn.notify import Notifier
from tcpnewconn.observer import Observer
from tcpnewconn.outbox import Outbox
from tcpnewconn.owner import Units, Users
from tcpnewconn.procnet import ProcNet
from tcpnewconn.service import Service, passed_descriptor
from tcpnewconn.sinks import Renderer, open_sink, say
from tcpnewconn.snapshot import Kept, Snapshot


class CannotRun(Exception):
    """Why not, and what to do, in one line."""


def run(options: argparse.Namespace, settings: Settings, reload: Callable[[], Settings]) -> None:
    """Read once, or until stopped. Raises CannotRun."""
    try:
        sink = open_sink(options.output)
        notifier = Notifier()
    except ImportError as error:
        raise CannotRun(f"{error}: install python3-systemd, or use --output text") from error
    proc = ProcNet(options.procfs)
    here = host.look(options.procfs, proc.folder)
    lookup, ends, kept_by_systemd, degraded = None, None, False, None
    if here.live:
        try:
            lookup = sockdiag.Lookup()
            lookup.check()
        except sockdiag.Unavailable as error:
            lookup, degraded = None, _reads_only(str(error))
    path = _state(options)
    snapshot = Snapshot(path, here.place) if path else None
    kept, warning = snapshot.load() if snapshot is not None else (None, None)
    if lookup is not None and not options.once:
        try:
            descriptor = passed_descriptor()
            kept_by_systemd = descriptor is not None
            source = sockdiag.open_ends() if descriptor is None else sockdiag.received(descriptor)
            ends = sockdiag.Ends(source, kept.drops if kept is not None and kept_by_systemd else 0)
        except sockdiag.Unavailable as error:
            degraded = _reads_only(str(error))
    observer = Observer(proc, here, lookup, ends is not None, kept_by_systemd, snapshot, settings.interval)
    outbox = Outbox(sink, snapshot, Renderer(Units(), Users()), settings)
    if warning is not None:
        say(warning)
    if kept is not None:
        _restore(kept, here.place, observer, outbox)
    if degraded is not None and not options.once:
        outbox.take(degraded)
    last_end = kept.last_end if kept is not None and kept_by_systemd else 0
    service = Service(observer, outbox, snapshot, ends, last_end, notifier, reload)
    try:
        service.once() if options.once else service.run()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotRun(
            f"{error.filename or proc.folder}: {error.strerror}; is /proc mounted there? see --procfs"
        ) from error


def _restore(kept: Kept, place: str, observer: Observer, outbox: Outbox) -> None:
    if kept.place == place:
        observer.restore(kept, time.monotonic())
    outbox.resume(list(kept.undelivered.values()))


def _state(options: argparse.Namespace) -> str | None:
    if options.state is not None:
        return str(options.state)
    directory = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return f"{directory}/snapshot" if directory else None


def _reads_only(why: str) -> Degraded:
    return Degraded(
        "announcements",
        f"The kernel does not announce ended connections here ({why}): what opens and closes between two reads of /proc is "
        "not seen. On the host: modprobe tcp_diag",
    )
