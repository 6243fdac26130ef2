"""Builds the program from its modules, as the options and the settings say, and runs it."""

from __future__ import annotations

import argparse
import os
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from tcpnewconn.attribution.calls import Calls
from tcpnewconn.attribution.names import ContainerNames
from tcpnewconn.attribution.processes import Processes
from tcpnewconn.attribution.threads import Threads
from tcpnewconn.attribution.units import Units
from tcpnewconn.attribution.users import Users
from tcpnewconn.attribution.waiting import Waiting
from tcpnewconn.eventtypes import Degraded
from tcpnewconn.health.metrics import FILE, MetricsFile
from tcpnewconn.health.notify import Notifier
from tcpnewconn.health.observation import Observation
from tcpnewconn.kernel import host, sockdiag
from tcpnewconn.kernel.activity import Activity
from tcpnewconn.kernel.allnamespaces import AllNotifications, open_for_all
from tcpnewconn.kernel.instance import wanted
from tcpnewconn.kernel.lookup import Lookup
from tcpnewconn.kernel.namespaces import kernel_socket
from tcpnewconn.kernel.networks import Networks
from tcpnewconn.kernel.nsids import Nsids
from tcpnewconn.kernel.plainevent import PLAIN, PlainTrace
from tcpnewconn.kernel.procnet import ProcNet, net_directory
from tcpnewconn.kernel.trace import Trace
from tcpnewconn.namespaces.others import Others
from tcpnewconn.observing.observer import Observer
from tcpnewconn.observing.recorder import Recorder
from tcpnewconn.polls import NoProc
from tcpnewconn.reporting import terminal
from tcpnewconn.reporting.entries import Renderer
from tcpnewconn.reporting.outbox import Outbox
from tcpnewconn.reporting.sinks import Text, open_sink, say, under_journal
from tcpnewconn.service import Service
from tcpnewconn.settings.config import Settings
from tcpnewconn.state.log import StateLog
from tcpnewconn.state.tail import FILE as TAIL
from tcpnewconn.tracking.run import Notifications


class CannotRun(Exception):
    """The reason, and what to do, in one line."""


def run(options: argparse.Namespace, settings: Settings, reload: Callable[[], Settings]) -> None:
    """Poll once, or until stopped. Raises CannotRun, and OSError where it cannot be written."""
    began = time.monotonic()
    try:
        sink = open_sink(options.output)
    except ImportError as error:
        raise CannotRun(f"{error}: install python3-systemd, or use --output text") from error
    try:
        notifier = Notifier()
    except ImportError as error:
        raise CannotRun(f"{error}: install python3-systemd, or unset NOTIFY_SOCKET") from error
    directory = net_directory(options.procfs)
    here = host.look(options.procfs, directory)
    proc = ProcNet(options.procfs, users=here.users)
    sources = _sources(here, listen=not options.once) if here.live else _Sources()
    path = _state(options)
    log = StateLog(path, here.place, tail_path=_tail(options)) if path else None
    units = Units()
    processes = Processes(here.boot)
    renderer = Renderer(units, Users(), processes, here.namespace if here.away else None)
    outbox = Outbox(sink, log, renderer, settings)
    observer = Observer(proc, here, sources.lookup, outbox.take, sources.kind, log, sources.inode, repeats=outbox)
    # Also where there is no trace: the state can hold what an earlier run read of one.
    netns = kernel_socket(directory) or 0
    calls = Calls(netns, began, log)
    if here.live and sources.notifications is not None:
        observer.tables.activity = Activity(directory)
    waiting = Waiting(log)
    recorder = None
    if here.live and netns and not options.once:
        threads = Threads(processes, here.users)
        observer.recorder = recorder = Recorder(
            calls, lambda: _trace(threads, netns), units.learn, waiting=waiting, log=log
        )
    others = Others(
        here, observer, outbox.take, units, log, elsewhere=recorder.elsewhere if recorder is not None else None
    )
    if here.live and not options.once:
        _receive_from_all(others, sources.namespaces)
    observation = Observation(log)
    notifications = sockdiag.Notifications(sources.notifications) if sources.notifications is not None else None
    warning = log.load() if log is not None else None
    if warning is not None:
        say(warning)
    if log is not None and log.resumed:
        observer.tracker.resume(time.monotonic(), notifications.dropped() if notifications is not None else 0)
        calls.resume()
        if recorder is not None:
            recorder.resume()
    others.begin(log is not None and log.resumed)
    attended = terminal.attended() and not options.once
    if attended:
        terminal.tell(terminal.greeting(settings.interval, notifications is not None))
    if recorder is not None and under_journal():
        # A person in a terminal has no part in what systemd sets up.
        recorder.say_missing()
    # Entries that an earlier run did not deliver.
    outbox.send()
    if sources.degraded is not None and not options.once:
        outbox.take(sources.degraded)
        outbox.deliver()
    service = Service(
        settings,
        observer,
        outbox,
        observation,
        log,
        notifications,
        notifier,
        reload,
        metrics=_metrics(options),
        others=others,
        names=ContainerNames(units.name_container),
        redeliverable=sources.kind is Notifications.KEPT,
        record_runs=not isinstance(sink, Text),
    )
    try:
        service.once() if options.once else service.run()
    except NoProc as error:
        raise CannotRun(f"{error}: is /proc mounted there? say where with --procfs DIR") from error
    if attended:
        terminal.tell(terminal.farewell(outbox.connections, time.monotonic() - began))


def _trace(threads: Threads, netns: int) -> Trace | PlainTrace:
    """What tcpnewconn-trace.service has set up. Raises TraceMissing."""
    return PlainTrace(threads.look, netns) if PLAIN in wanted() else Trace()


class _Sources(NamedTuple):
    """The kernel's sources beside /proc, and what is missing.

    `inode` is that of the socket in which notifications wait while the program does not run, 0 if there is none.
    """

    lookup: Lookup | None = None
    notifications: socket.socket | None = None
    inode: int = 0
    namespaces: socket.socket | None = None
    degraded: Degraded | None = None

    @property
    def kind(self) -> Notifications:
        if self.notifications is None:
            return Notifications.NONE
        return Notifications.KEPT if self.inode else Notifications.OWN


def _sources(here: host.Host, listen: bool) -> _Sources:
    try:
        names = os.environ.get("LISTEN_FDNAMES", "").split(":")
        given, asking, namespaces = sockdiag.received(_passed_descriptors(), names)
        lookup = Lookup(asking, here.users)
        lookup.check()
        if not listen:
            return _Sources(lookup)
        inode = os.fstat(given.fileno()).st_ino if given is not None else 0
        return _Sources(lookup, given or sockdiag.open_notifications(), inode, namespaces)
    except sockdiag.Unavailable as error:
        return _Sources(degraded=_polls_only(str(error)))


def _receive_from_all(others: Others, given: socket.socket | None) -> None:
    """Let the destroy notifications of other network namespaces be received where that is wanted: after a reload, too."""
    try:
        source = AllNotifications(given or open_for_all())
        others.receive(source, Nsids(), Networks(), os.fstat(given.fileno()).st_ino if given is not None else 0)
    except (sockdiag.Unavailable, OSError) as error:
        others.destroyed.missing = str(error)


def _passed_descriptors() -> list[int]:
    """The file descriptors that systemd passed to this process (sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    from systemd.daemon import listen_fds

    return list(listen_fds())


def _state(options: argparse.Namespace) -> str | None:
    if options.state is not None:
        return str(options.state)
    directory = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return f"{directory}/snapshot" if directory else None


def _tail(options: argparse.Namespace) -> str | None:
    directory = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return f"{directory}/{TAIL}" if directory and not options.once else None


def _metrics(options: argparse.Namespace) -> MetricsFile | None:
    if options.metrics is not None:
        return MetricsFile(options.metrics)
    directory = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return MetricsFile(f"{directory}/{FILE}") if directory and not options.once else None


def _polls_only(why: str) -> Degraded:
    return Degraded(
        "notifications",
        f"The kernel sends no destroy notifications here ({why}): connections that open and close between two polls of /proc "
        "are not seen. On the host: modprobe tcp_diag",
    )
