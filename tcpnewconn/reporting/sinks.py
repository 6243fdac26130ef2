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
from tcpnewconn.reporting.fields import SYSLOG_IDENTIFIER, Entry, document
from tcpnewconn.text import printable

_ENCODE = json.JSONEncoder(separators=(",", ":")).encode

_JOURNAL_SOCKET = "/run/systemd/journal/socket"
_IDENTIFIED = f"SYSLOG_IDENTIFIER={SYSLOG_IDENTIFIER}"


class Sink(Protocol):
    """Where entries go. `write` raises BlockingIOError while no more can be written: the entry was not, try again later.

    `pipe` is the file descriptor of the pipe that it writes into, if it does: the reader of that pipe may exit.
    """

    pipe: int | None

    def write(self, entry: Entry) -> None: ...


class Journal:
    """The systemd journal, by its native protocol, as systemd.journal speaks it.

    sendv() does not walk the stack as send() does (24 us a message, measured, against 4). It blocks while journald does not
    read; so its socket is made non-blocking. libsystemd opens that socket with the first entry, which is sent only when
    the kernel says that it will not block.
    """

    def __init__(self) -> None:
        from systemd.journal import sendv

        self.pipe: int | None = None
        self._sendv: Callable[..., None] = sendv
        self._opened = False

    def write(self, entry: Entry) -> None:
        if not os.access(_JOURNAL_SOCKET, os.F_OK):
            # sendv() would report success (sd_journal_sendv(3)), and the entry would be lost.
            raise BlockingIOError(f"{_JOURNAL_SOCKET} does not exist")
        if not self._opened and not _journal_is_writable():
            raise BlockingIOError(f"{_JOURNAL_SOCKET} is full")
        # Of all ways the one that takes least time (measured): sendv() encodes them, where they are valid UTF-8.
        fields = [*map("=".join, entry.items()), _IDENTIFIED]
        before = set() if self._opened else _datagram_sockets()
        try:
            try:
                self._sendv(*fields)
            except UnicodeEncodeError:
                self._sendv(*(field.encode("utf-8", "surrogateescape") for field in fields))
        except BlockingIOError:
            raise
        except OSError as error:
            # ECONNREFUSED: nobody has the socket open, and it still exists.
            raise BlockingIOError(error.strerror) from error
        if not self._opened:
            for descriptor in _datagram_sockets() - before:
                os.set_blocking(descriptor, False)
            self._opened = True


def _journal_is_writable() -> bool:
    """Whether an entry can be sent to journald without waiting: the kernel says so of a connected socket (unix_dgram_poll())."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_JOURNAL_SOCKET)
        except OSError:
            return False
        poll = select.poll()
        poll.register(probe, select.POLLOUT)
        return bool(poll.poll(0))


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
    """One JSON object a line, as docs/events.schema.json describes it."""

    def __init__(self) -> None:
        self.pipe = _output_pipe()

    def write(self, entry: Entry) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        # Escapes every byte that is not ASCII, those that are not UTF-8 among them.
        _print(_ENCODE(document(entry, now, os.uname().nodename)))


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
    """Print a message, one line on stderr; levels are those of syslog, which the journal understands."""
    prefix = f"<{level}>" if under_journal() else "tcpnewconn: "
    if sys.stderr is not None:
        # A message that cannot be written stops nothing; and nothing is left in a buffer, to fail once more at the end.
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
