"""What the kernel's trace recorded of connect() and accept(): read from the rings of a tracefs instance of our own.

tcpnewconn-trace.service (root, oneshot) makes the instance and defines its events; the service, without a capability, has the
instance's directory bind-mounted and its group may read the rings.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tcpnewconn.model import Call, FailedAttempt

# Where tcpnewconn.service sees the instance (BindReadOnlyPaths=).
DIRECTORY = "/run/tcpnewconn-trace/instance"
# tcpnewconn-trace-repair.path watches it: a write makes tcpnewconn-trace.service define the events again.
REPAIR_FILE = "/run/tcpnewconn/trace.repair"


class TraceMissing(Exception):
    """There is no trace. The message is one line for an administrator: why."""


class Trace:
    """The rings of all CPUs. Keep it open while the service runs: an open ring keeps the instance, also over a restart of the oneshot.

    `events` are those that are recorded: "connect", and where the kernel and the settings allow it "accept" and "failed".
    `overwritten` is how many events the rings overwrote before they could be read, `malformed` how many could not be
    understood; both since the start. The probes are at the entry of functions, so the kernel misses no call.
    """

    events: frozenset[str]
    overwritten: int
    malformed: int

    def __init__(self, directory: str = DIRECTORY, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """Raises TraceMissing. `clock` is CLOCK_MONOTONIC in nanoseconds, the clock of the events."""
        raise TraceMissing("not built yet")

    def read(self) -> list[Call | FailedAttempt]:
        """What was recorded before this call, ordered by time over all CPUs; what is newer waits for the next call. Never raises."""
        raise NotImplementedError

    def stale(self) -> bool:
        """Whether another tool has deleted or disabled our events, or the oneshot was stopped: nothing is recorded then.

        False again once they are defined anew: read() goes on with the new ones by itself. A few system calls: once per poll.
        """
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def request_repair(path: str = REPAIR_FILE) -> None:
    """Ask systemd to have the events defined again. At most once a minute: the path unit gives up above 20 in 10 minutes. Raises OSError."""
    with open(path, "w", encoding="ascii"):
        pass
