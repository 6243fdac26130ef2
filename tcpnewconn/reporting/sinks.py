"""Writes entries: to the journal, as text for a terminal, as JSON lines; and messages to people."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import stat
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Protocol

from tcpnewconn.reporting import terminal
from tcpnewconn.reporting.entries import FIELDS, NUMBERS, Entry
from tcpnewconn.text import printable

_ENCODE = json.JSONEncoder(separators=(",", ":")).encode

_JOURNAL_SOCKET = "/run/systemd/journal/socket"


class Sink(Protocol):
    """Where entries go. `write` raises BlockingIOError while it has no room: the entry was not written, try again later.

    `pipe` is the file descriptor of the pipe that it writes into, if it does: whoever reads that may go away.
    """

    pipe: int | None

    def write(self, entry: Entry) -> None: ...


class Journal:
    """The systemd journal, by its native protocol, as systemd.journal speaks it.

    sendv() does not walk the stack as send() does (24 us a message, measured, against 4). While journald does not read, it
    would wait for it; its socket is made non-blocking, so that what is waited for is the kernel, never journald. It has that
    socket from the first entry on, which is sent only when there is room.
    """

    def __init__(self) -> None:
        from systemd.journal import sendv

        self.pipe: int | None = None
        self._sendv: Callable[..., None] = sendv
        self._own = False

    def write(self, entry: Entry) -> None:
        if not os.access(_JOURNAL_SOCKET, os.F_OK):
            # sendv() would report success (sd_journal_sendv(3)), and the entry would be lost.
            raise BlockingIOError(f"{_JOURNAL_SOCKET} is not there")
        if not self._own and not _journal_has_room():
            raise BlockingIOError(f"{_JOURNAL_SOCKET} is full")
        fields = [f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in entry.items()]
        fields.append(b"SYSLOG_IDENTIFIER=tcpnewconn")
        before = set() if self._own else _datagram_sockets()
        try:
            self._sendv(*fields)
        except BlockingIOError:
            raise
        except OSError as error:
            # ECONNREFUSED: nobody has the socket open, and it is still there.
            raise BlockingIOError(error.strerror) from error
        if not self._own:
            for descriptor in _datagram_sockets() - before:
                os.set_blocking(descriptor, False)
            self._own = True


def _journal_has_room() -> bool:
    """Whether journald's socket would take an entry at once: the kernel tells of a connected one (unix_dgram_poll())."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(_JOURNAL_SOCKET)
        except OSError:
            return False
        room = select.poll()
        room.register(asking, select.POLLOUT)
        return bool(room.poll(0))


def _datagram_sockets() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.stat(f"/proc/self/fd/{name}").st_mode):
                continue
        except FileNotFoundError:
            # The directory that is being listed.
            continue
        with socket.socket(fileno=os.dup(int(name))) as candidate:
            if candidate.family == socket.AF_UNIX and candidate.type == socket.SOCK_DGRAM:
                found.add(int(name))
    return found


class Text:
    """One line an event: UTC time with its offset, then the message. In a terminal that is wide enough, more behind it."""

    def __init__(self) -> None:
        self.pipe = _output_pipe()
        self._terminal = sys.stdout.fileno() if sys.stdout.isatty() else None

    def write(self, entry: Entry) -> None:
        now = datetime.now(timezone.utc).isoformat(" ", "seconds")
        line = f"{now}: {printable(entry['MESSAGE'])}"
        if self._terminal is not None:
            line = terminal.extended(line, entry, terminal.width(self._terminal))
        _print(line)


class Json:
    """One JSON object a line, its keys the dotted names in lower case; ports, counts and the priority are numbers."""

    def __init__(self) -> None:
        self.pipe = _output_pipe()

    def write(self, entry: Entry) -> None:
        line: dict[str, str | int] = {"@timestamp": datetime.now(timezone.utc).isoformat(timespec="milliseconds")}
        for name, value in entry.items():
            line[FIELDS[name]] = int(value) if name in NUMBERS else value
        # Escapes every byte that is not ASCII, those that are not UTF-8 among them.
        _print(_ENCODE(line))


def _print(line: str) -> None:
    """Print a line whole: with PYTHONUNBUFFERED print() writes its end on its own, and SIGKILL can come in between."""
    print(f"{line}\n", end="", flush=True)


def _output_pipe() -> int | None:
    """Standard output, where it is the writing end of a pipe. Raises OSError where it is closed."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    import fcntl

    descriptor = sys.stdout.fileno()
    only_written = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
    return descriptor if only_written and stat.S_ISFIFO(os.fstat(descriptor).st_mode) else None


def under_journal(descriptor: int = 2) -> bool:
    """Whether a file descriptor is the journal's, as $JOURNAL_STREAM (systemd.exec(5)) says of stderr."""
    stream = os.environ.get("JOURNAL_STREAM", "")
    device, _, inode = stream.partition(":")
    if not (device.isdigit() and inode.isdigit()):
        return False
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (int(device), int(inode))


def say(message: str, level: int = 4) -> None:
    """Tell a person something, in one line on stderr; levels are those of syslog, which the journal understands."""
    prefix = f"<{level}>" if under_journal() else "tcpnewconn: "
    if sys.stderr is not None:
        # Where nobody can be told, that stops nothing; and nothing is left in a buffer, to fail once more at the end.
        with contextlib.suppress(OSError):
            os.write(
                sys.stderr.fileno(), f"{prefix}{printable(message)}\n".encode(sys.stderr.encoding, "backslashreplace")
            )


def open_sink(output: str) -> Sink:
    """The sink for --output; `auto` is the journal where stderr is the journal. Raises ImportError without systemd-python."""
    if output == "auto":
        output = "journal" if under_journal() else "text"
    if output == "journal":
        return Journal()
    return Text() if output == "text" else Json()
