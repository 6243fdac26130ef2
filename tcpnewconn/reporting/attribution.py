"""The fields that say whose a connection is: user, unit, container, process; and the names that rules ask for."""

from __future__ import annotations

import time
from datetime import datetime, timezone

from tcpnewconn.attribution.cgroups import NOWHERE, Container, Place
from tcpnewconn.attribution.processes import Process, Processes
from tcpnewconn.attribution.units import Units
from tcpnewconn.attribution.users import Users
from tcpnewconn.eventtypes import Closed, Connection, Failed
from tcpnewconn.model import Caller
from tcpnewconn.reporting.fields import Entry
from tcpnewconn.text import printable

# By so many seconds two clocks that are read one after the other, and are adjusted, can seem to differ.
_NOT_SET = 0.001
# As Container has them.
_CONTAINER = ("CONTAINER_ID", "CONTAINER_RUNTIME", "CONTAINER_NAME", "K8S_POD_UID")


class Attribution:
    """Asks for the names of users and units, and for processes."""

    def __init__(self, units: Units, users: Users, processes: Processes | None, netns: str | None) -> None:
        """`netns` as in Renderer."""
        self._netns = netns
        self._units = units
        self._users = users
        self._processes = processes
        # From CLOCK_MONOTONIC to Unix time, in seconds.
        self._offset = 0.0

    def set(self, command_lines: bool) -> None:
        """Whether command lines of processes are written."""
        if self._processes is not None:
            self._processes.command_lines = command_lines

    def names(
        self, event: Connection | Closed | Failed, with_process: bool
    ) -> tuple[str | None, str | None, str | None]:
        """The names of a connection's unit, user and, if that is asked for, process, where they are known."""
        place = self._place(event.cgroup)
        process = self._process(event.caller) if with_process else None
        return place.unit, self._user(event.uid, place), process.name if process is not None else None

    def container(self, event: Connection | Closed | Failed) -> Container | None:
        """The container of a connection, where one is known."""
        return self._place(event.cgroup).container

    def _place(self, cgroup: int) -> Place:
        return self._units.place(cgroup) if cgroup else NOWHERE

    def _user(self, uid: int | None, place: Place) -> str | None:
        # A container has users of its own, whose names are not known here.
        return self._users.name(uid) if uid is not None and place.container is None else None

    def _process(self, caller: Caller | None) -> Process | None:
        if caller is None or caller.thread_id is None or caller.time is None or self._processes is None:
            return None
        return self._processes.process(caller.thread_id, caller.time)

    def add_owner(self, entry: Entry, uid: int | None, cgroup: int) -> None:
        """Add whose it is: user, unit and container."""
        place = self._place(cgroup)
        user = self._user(uid, place)
        if self._netns is not None:
            # That of the connection is there already, where it is in another one than the service.
            entry.setdefault("TCPNEWCONN_NETNS", self._netns)
        if uid is not None:
            entry["USER_ID"] = str(uid)
        if user is not None:
            entry["USER_NAME"] = user
        if place.unit is not None:
            entry["OBJECT_SYSTEMD_UNIT"] = place.unit
        if place.user_unit is not None:
            entry["OBJECT_SYSTEMD_USER_UNIT"] = place.user_unit
        if place.container is not None:
            for name, value in zip(_CONTAINER, place.container, strict=True):
                if value is not None:
                    entry[name] = printable(value)

    def add_caller(self, entry: Entry, event: Connection | Closed | Failed) -> None:
        """Add who called connect() or accept(), how that is known, and who accepted a connection within this host."""
        caller = event.caller
        if caller is not None:
            if (process := self._process(caller)) is not None:
                entry["PROCESS_PID"] = str(process.pid)
                entry["PROCESS_NAME"] = printable(process.name)
                entry["PROCESS_ENTITY_ID"] = process.entity
                if process.command_line is not None:
                    entry["PROCESS_COMMAND_LINE"] = printable(process.command_line)
            if caller.thread_id is not None:
                entry["PROCESS_THREAD_ID"] = str(caller.thread_id)
            if caller.thread_name is not None:
                entry["PROCESS_THREAD_NAME"] = printable(caller.thread_name)
            if caller.by == "connect" and caller.time is not None:
                entry["EVENT_START"] = self._clock_time(caller.time)
        if event.by:
            entry["TCPNEWCONN_ATTRIBUTED_BY"] = ",".join(event.by)
        accepted = None if isinstance(event, Failed) else event.accepted
        if accepted is not None:
            place = self._place(accepted.cgroup)
            if place.unit is not None:
                entry["TCPNEWCONN_ACCEPTED_BY_UNIT"] = place.unit
            if (process := self._process(accepted)) is not None:
                entry["TCPNEWCONN_ACCEPTED_BY_PROCESS"] = printable(process.name)
            if place.container is not None and (known := place.container.id or place.container.name):
                entry["TCPNEWCONN_ACCEPTED_BY_CONTAINER"] = printable(known)

    def _clock_time(self, monotonic: float) -> str:
        """A time of CLOCK_MONOTONIC as people write it. The same is the same each time, unless the clock was set meanwhile."""
        # Between the two clocks this program can have waited for the CPU.
        before, now, after = time.monotonic(), time.time(), time.monotonic()
        if not now - after - _NOT_SET <= self._offset <= now - before + _NOT_SET:
            self._offset = now - after
        return datetime.fromtimestamp(self._offset + monotonic, timezone.utc).isoformat(timespec="microseconds")
