"""
The program of tcpnewconn-trace.service: makes the kernel record who calls connect() and accept(), and removes that again.

    python3 -m tcpnewconn.tracesetup start [plain-event] | stop

Runs as root with CAP_CHOWN alone. `start` may be run again at any time: what is there and right stays as it is. A kernel that
cannot record is no failure: the reason is logged, and written to a file that the service reads. With `plain-event`, the kernel's
own event is recorded then.
"""

from __future__ import annotations

import contextlib
import grp
import os
import sys
from collections.abc import Sequence

from tcpnewconn.kernel import btf, plainevent
from tcpnewconn.kernel.instance import DIRECTORY, REASON, WANTED
from tcpnewconn.kernel.plainevent import FILTER, PLAIN
from tcpnewconn.kernel.tracecheck import check
from tcpnewconn.kernel.traceevents import ACCEPT, CONNECT, EVENTS, GROUP, Definition, definitions
from tcpnewconn.kernel.tracefs import Tracefs, TracefsError
from tcpnewconn.settings.config import ConfigError, load

# RuntimeDirectory= of the unit.
RUNTIME = os.path.dirname(DIRECTORY)
# The group of tcpnewconn.service.
SERVICE_GROUP = "_tcpnewconn"
# The lines that the events were defined with.
_DEFINED = "definitions"
# Of all rings together: about 50,000 records, as many as the buffer of destroy notifications holds.
_ALL_RINGS_KILOBYTES = 8192
_SMALLEST_RING_KILOBYTES = 256
_NO_TRACEFS = "tracefs is not mounted at /sys/kernel/tracing, or this kernel has none"
_PLAIN_EVENT = f"{plainevent.GROUP}/{plainevent.NAME}"


class Unavailable(Exception):
    """This kernel, as it is set up, cannot record. The message says why."""


def start(tracefs: Tracefs, runtime: str, events: tuple[str, ...], group: int, btf_file: str = btf.PATH) -> list[str]:
    """Define the events, check them, and have the instance record them. Returns what is to be logged; raises Unavailable."""
    if not tracefs.available():
        raise Unavailable(_NO_TRACEFS)
    notes: list[str] = []
    wanted = _definitions(events, btf_file, notes)
    text = "".join(f"{' '.join(definition)}\n" for definition in wanted)
    ours = tracefs.instance(GROUP)
    try:
        # Of a start with another kernel configuration, or another drop-in; the instance stays where the service reads it.
        if ours.enabled(_PLAIN_EVENT):
            ours.disable()
        ours.unshare(_PLAIN_EVENT)
        recorded = _read(f"{runtime}/{WANTED}").split()
        if text != _read(f"{runtime}/{_DEFINED}") or not _records(tracefs, recorded):
            _forget(runtime)
            _remove_events(tracefs)
            defined = _checked(tracefs, _defined(tracefs, wanted, notes), notes)
            recorded = [definition.event for definition in defined]
            ours.make(_ring_kilobytes())
            for definition in defined:
                ours.enable(f"{GROUP}/{definition.event}", definition.filter)
            _write(f"{runtime}/{WANTED}", " ".join(recorded))
            _write(f"{runtime}/{_DEFINED}", text)
        ours.share(group, _paths(recorded))
    except TracefsError as error:
        raise Unavailable(str(error)) from None
    return notes


def start_plain(tracefs: Tracefs, runtime: str, group: int) -> None:
    """Have the instance record the kernel's own event of connect(). Raises Unavailable."""
    if not tracefs.available():
        raise Unavailable(_NO_TRACEFS)
    ours = tracefs.instance(GROUP)
    try:
        if _read(f"{runtime}/{WANTED}").split() != [PLAIN] or not ours.enabled(_PLAIN_EVENT):
            _forget(runtime)
            _remove_events(tracefs)
            ours.make(_ring_kilobytes())
            ours.wake_at_once()
            ours.enable(_PLAIN_EVENT, FILTER)
            _write(f"{runtime}/{WANTED}", PLAIN)
        ours.share(group, [_PLAIN_EVENT])
    except TracefsError as error:
        raise Unavailable(str(error)) from None


def stop(tracefs: Tracefs, runtime: str) -> list[str]:
    """Remove what start() made. Returns what is to be logged."""
    _forget(runtime)
    if not tracefs.available():
        return []
    notes = []
    try:
        # An instance whose rings the service has open stays until the next start, and records nothing.
        tracefs.instance(GROUP).remove()
        _remove_events(tracefs)
    except TracefsError as error:
        notes.append(f"cannot remove the events of {GROUP}: {error}")
    return notes


def _definitions(events: tuple[str, ...], btf_file: str, notes: list[str]) -> list[Definition]:
    """The events that can be defined with the kernel's types. Raises Unavailable without connect."""
    try:
        with open(btf_file, "rb") as file:
            types = btf.Btf(file.read())
    except OSError as error:
        raise Unavailable(
            f"this kernel has no type information (CONFIG_DEBUG_INFO_BTF): {btf_file}: {error.strerror}"
        ) from None
    except btf.BtfError as error:
        raise Unavailable(f"{btf_file}: {error}") from None
    made = []
    for event in events:
        try:
            made += definitions(types, (event,))
        except btf.BtfError as error:
            _give_up(event, f"{btf_file}: {error}", notes)
    return made


def _defined(tracefs: Tracefs, wanted: list[Definition], notes: list[str]) -> list[Definition]:
    """The events that the kernel accepts. Raises Unavailable without connect."""
    taken = []
    for definition in wanted:
        try:
            tracefs.define(definition)
            taken.append(definition)
        except TracefsError as error:
            _give_up(definition.event, f"the kernel does not take the event (CONFIG_KPROBE_EVENTS): {error}", notes)
    return taken


def _checked(tracefs: Tracefs, defined: list[Definition], notes: list[str]) -> list[Definition]:
    """The events that record correctly in an instance of its own; others are removed. Raises Unavailable without connect."""
    trial = tracefs.instance(f"{GROUP}-check")
    trial.remove()
    trial.make(_SMALLEST_RING_KILOBYTES)
    try:
        for definition in defined:
            trial.enable(f"{GROUP}/{definition.event}", definition.filter)
        wrong = check(trial.directory, tuple(definition.event for definition in defined))
    finally:
        trial.remove()
    for event, complaint in wrong.items():
        tracefs.remove(event)
        _give_up(event, f"the check found: {complaint}", notes)
    return [definition for definition in defined if definition.event not in wrong]


def _give_up(event: str, why: str, notes: list[str]) -> None:
    """Without connect there is no trace; without another event there is less of it."""
    if event == CONNECT:
        raise Unavailable(f"cannot record connect(): {why}")
    what = "accept()" if event == ACCEPT else "failed attempts"
    notes.append(f"cannot record {what}: {why}")


def _records(tracefs: Tracefs, events: list[str]) -> bool:
    """Whether the instance records these events, and no other of ours is defined."""
    ours = tracefs.instance(GROUP)
    return bool(events) and sorted(tracefs.defined()) == sorted(events) and all(map(ours.enabled, _paths(events)))


def _paths(events: list[str]) -> list[str]:
    return [f"{GROUP}/{event}" for event in events]


def _remove_events(tracefs: Tracefs) -> None:
    ours = tracefs.instance(GROUP)
    if ours.exists():
        ours.disable()
    for event in tracefs.defined():
        tracefs.remove(event)


def _ring_kilobytes() -> int:
    """Of the ring of one CPU."""
    return max(_SMALLEST_RING_KILOBYTES, _ALL_RINGS_KILOBYTES // (os.cpu_count() or 1))


def _forget(runtime: str) -> None:
    """The files for the service, and the memory of the last start."""
    for name in (REASON, WANTED, _DEFINED):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{runtime}/{name}")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, 0o644)


def main(arguments: Sequence[str]) -> int:
    if list(arguments) not in (["start"], ["start", "plain-event"], ["stop"]):
        _log("use: python3 -m tcpnewconn.tracesetup start [plain-event] | stop", 3)
        return 2
    tracefs = Tracefs()
    if arguments[0] == "stop":
        for note in stop(tracefs, RUNTIME):
            _log(note, 4)
        return 0
    try:
        settings = load(None)
    except ConfigError as error:
        _log(str(error), 3)
        return 78
    accept = getattr(settings, "trace_accept", True)
    events = tuple(event for event in EVENTS if accept or event != ACCEPT)
    # Where the service finds the instance: the place of its bind mount.
    os.makedirs(DIRECTORY, exist_ok=True)
    group = grp.getgrnam(SERVICE_GROUP).gr_gid
    try:
        for note in start(tracefs, RUNTIME, events, group):
            _log(note, 4)
    except Unavailable as reason:
        if len(arguments) == 2:
            _start_plain(tracefs, group, reason)
        else:
            _none(tracefs, reason)
    return 0


def _start_plain(tracefs: Tracefs, group: int, reason: Unavailable) -> None:
    try:
        start_plain(tracefs, RUNTIME, group)
        _log(f"connect() is recorded by the kernel's own event, accept() is not: {reason}", 5)
    except Unavailable as also:
        _none(tracefs, also)


def _none(tracefs: Tracefs, reason: Unavailable) -> None:
    for note in stop(tracefs, RUNTIME):
        _log(note, 4)
    _write(f"{RUNTIME}/{REASON}", f"{reason}\n")
    _log(f"short connections will have no owner: {reason}", 4)


def _log(message: str, priority: int) -> None:
    """For the journal: the unit's standard error."""
    print(f"<{priority}>{message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
