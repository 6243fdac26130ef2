"""Tracefs, as root: define events of our own, and make an instance that records them and that a group may read.

Nothing of anybody else is touched: other definitions, other instances, the top level.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from tcpnewconn.kernel.traceevents import GROUP, Definition

ROOT = "/sys/kernel/tracing"
_DEFINITIONS = "dynamic_events"
# Files of each CPU that the group may read: the ring and its statistics. Not trace_pipe, which consumes, nor trace.
_OF_A_CPU = ("trace_pipe_raw", "stats")
_OF_AN_EVENT = ("format", "enable")
_FILE_MODE = 0o440


class TracefsError(Exception):
    """Tracefs refused something. The message says which file, and what the kernel said."""


class Tracefs:
    def __init__(self, root: str = ROOT) -> None:
        self._root = root

    def available(self) -> bool:
        return os.path.exists(f"{self._root}/{_DEFINITIONS}")

    def defined(self) -> list[str]:
        """The names of our events that are defined."""
        prefix = f"{GROUP}/"
        names = (line.split()[0].partition(":")[2] for line in self._read(_DEFINITIONS).splitlines() if ":" in line)
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def define(self, definition: Definition) -> None:
        """Raises TracefsError."""
        self._append(_DEFINITIONS, definition.line)

    def remove(self, event: str) -> None:
        """Raises TracefsError, also while another instance has the event enabled."""
        self._append(_DEFINITIONS, f"-:{GROUP}/{event}")

    def instance(self, name: str) -> Instance:
        return Instance(self, f"instances/{name}")

    def path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _read(self, name: str) -> str:
        try:
            with open(self.path(name), encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError as error:
            raise TracefsError(f"{self.path(name)}: {error.strerror}") from None

    def _append(self, name: str, line: str) -> None:
        # Without O_TRUNC, which would delete the definitions of everybody.
        self.write(name, line, os.O_APPEND)

    def write(self, name: str, text: str, flags: int = 0) -> None:
        """Raises TracefsError."""
        try:
            descriptor = os.open(self.path(name), os.O_WRONLY | os.O_CLOEXEC | flags)
            try:
                os.write(descriptor, f"{text}\n".encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise TracefsError(f"{self.path(name)}: {error.strerror} ({text.split(' ')[0]})") from None

    def read(self, name: str) -> str:
        """Raises TracefsError."""
        return self._read(name)


class Instance:
    """A directory of `instances`: rings of its own, events that are enabled for it alone."""

    def __init__(self, tracefs: Tracefs, name: str) -> None:
        self._tracefs = tracefs
        self._name = name

    @property
    def directory(self) -> str:
        return self._tracefs.path(self._name)

    def exists(self) -> bool:
        return os.path.isdir(self.directory)

    def make(self, ring_kilobytes: int) -> None:
        """Make it, or set it up again; what is right is left alone: to write the clock empties the rings. Raises TracefsError."""
        try:
            os.mkdir(self.directory)
        except FileExistsError:
            pass
        except OSError as error:
            raise TracefsError(f"{self.directory}: {error.strerror}") from None
        # "[local] global counter ... mono": the one in brackets is in force. The service compares with its own clock.
        if "[mono]" not in self._read("trace_clock"):
            self._write("trace_clock", "mono")
        self._write("buffer_size_kb", str(ring_kilobytes))
        if self._read("tracing_on").strip() != "1":
            self._write("tracing_on", "1")

    def enable(self, event: str, only_if: str = "") -> None:
        """Record an event ("group/name"), where a filter is given what passes it. Raises TracefsError."""
        if only_if:
            self._write(f"events/{event}/filter", only_if)
        self._write(f"events/{event}/enable", "1")

    def enabled(self, event: str) -> bool:
        try:
            return self._read(f"events/{event}/enable").strip() == "1"
        except TracefsError:
            return False

    def disable(self) -> None:
        """All events."""
        self._write("events/enable", "0")

    def wake_at_once(self) -> None:
        """Wake who waits for a ring at its first record, not when half of it is full. Raises TracefsError."""
        self._write("buffer_percent", "0")

    def share(self, group: int, events: Iterable[str]) -> None:
        """Let a group read the rings and the formats of events ("group/name"), and nothing else. Raises TracefsError."""
        shared = list(events)
        # Files that tracefs makes later have the group of their directory: these keep root's. Who is not root gets here only
        # through the bind mount of the service.
        groups = {event.split("/")[0] for event in shared}
        for directory in ("", "events", *(f"events/{each}" for each in (*sorted(groups), *shared))):
            self._set(directory, 0, 0o711)
        for event in shared:
            for name in _OF_AN_EVENT:
                self._set(f"events/{event}/{name}", group, _FILE_MODE)
        self._set("tracing_on", group, _FILE_MODE)
        self._set("per_cpu", group, 0o750)
        for cpu in os.listdir(f"{self.directory}/per_cpu"):
            self._set(f"per_cpu/{cpu}", group, 0o750)
            for name in _OF_A_CPU:
                self._set(f"per_cpu/{cpu}/{name}", group, _FILE_MODE)

    def unshare(self, event: str) -> None:
        """Let nobody but root read the files of an event any more, if share() was called with it. Raises TracefsError."""
        for name in _OF_AN_EVENT:
            path = f"{self.directory}/events/{event}/{name}"
            try:
                os.chmod(path, 0o600)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise TracefsError(f"{path}: {error.strerror}") from None

    def _set(self, name: str, group: int, mode: int) -> None:
        path = f"{self.directory}/{name}"
        try:
            os.chown(path, -1, group)
            os.chmod(path, mode)
        except OSError as error:
            raise TracefsError(f"{path}: {error.strerror}") from None

    def remove(self) -> bool:
        """Whether it is gone. While somebody has a ring open it stays, then as small as can be. Raises TracefsError."""
        if not self.exists():
            return True
        self.disable()
        try:
            os.rmdir(self.directory)
            return True
        except OSError:
            self._write("buffer_size_kb", "4")
            return False

    def _read(self, name: str) -> str:
        return self._tracefs.read(f"{self._name}/{name}")

    def _write(self, name: str, text: str) -> None:
        self._tracefs.write(f"{self._name}/{name}", text)
