"""Writes entries: to the journal, as text for a terminal, as JSON lines; and messages to people."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import struct
import sys
from datetime import datetime, timezone
from typing import Protocol

from tcpnewconn.reporting import terminal
from tcpnewconn.reporting.fields import SYSLOG_IDENTIFIER, Entry, document
from tcpnewconn.text import printable

_ENCODE = json.JSONEncoder(separators=(",", ":")).encode

_JOURNAL_SOCKET = "/run/systemd/journal/socket"


class Sink(Protocol):
    """Where entries go. `write` raises BlockingIOError while no more can be written: the entry was not, try again later.

    `pipe` is the file descriptor of the pipe that it writes into, if it does: the reader of that pipe may exit.
    """

    pipe: int | None

    def write(self, entry: Entry) -> None: ...


class Journal:
    """The systemd journal, by its native protocol (systemd, docs/JOURNAL_NATIVE_PROTOCOL.md).

    A connected socket that does not block. systemd.journal.sendv() takes more than twice the time (measured): where there is no
    journal it reports success, so that its socket must be looked for first.
    """

    def __init__(self) -> None:
        self.pipe: int | None = None
        self._socket: socket.socket | None = None

    def write(self, entry: Entry) -> None:
        datagram = _datagram(entry)
        try:
            if self._socket is None:
                self._socket = _connected(_JOURNAL_SOCKET)
            self._socket.send(datagram)
        except BlockingIOError:
            raise
        except OSError as error:
            if self._socket is not None and error.errno in (errno.EMSGSIZE, errno.ENOBUFS):
                _send_as_file(self._socket, datagram)
                return
            # It does not exist, or nobody has it open: both last as long as journald takes to start.
            self._socket = None
            raise BlockingIOError(f"{_JOURNAL_SOCKET}: {error.strerror}") from error


def _connected(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    # As libsystemd; the kernel allows as much as net.core.wmem_max.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * 1024 * 1024)
    made.connect(path)
    return made


def _datagram(entry: Entry) -> bytes:
    """An entry as journald reads it. A value with a newline in it follows its length."""
    text = "\n".join([f"{name}={value}" for name, value in entry.items()])
    if text.count("\n") == len(entry) - 1:
        return f"{text}\nSYSLOG_IDENTIFIER={SYSLOG_IDENTIFIER}\n".encode("utf-8", "surrogateescape")
    fields = []
    for name, value in (*entry.items(), ("SYSLOG_IDENTIFIER", SYSLOG_IDENTIFIER)):
        content = value.encode("utf-8", "surrogateescape")
        fields.append(b"%b\n%b%b\n" % (name.encode(), struct.pack("<Q", len(content)), content))
    return b"".join(fields)


def _send_as_file(to: socket.socket, datagram: bytes) -> None:
    """An entry that is too large for a datagram: a file in memory that nobody can change any more."""
    import fcntl

    descriptor = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", buffering=0) as file:
        file.write(datagram)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
        socket.send_fds(to, [b""], [file.fileno()])


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
    """The sink for --output; `auto` is the journal where stderr is the journal."""
    if output == "auto":
        output = "journal" if under_journal() else "text"
    if output == "journal":
        return Journal()
    return Text() if output == "text" else Json()
