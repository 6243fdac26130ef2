"""The package and a real journald in a booted container: every connection logged one by one."""

from __future__ import annotations

import sys

from bench.results import Group, Result, at_most
from tests.support import booted_events, message_ids
from tests.support.booted import CONTAINER_ADDRESS, Booted
from tests.support.booted_package import booted_with_package

_PORT = 80  # of the container's nginx
_CLIENT = """
import sys, time
from bench.client import pace
# The side that closes first keeps the 4-tuple in TIME_WAIT, and there are more connections than local ports.
open("/proc/sys/net/ipv4/tcp_tw_reuse", "w").write("1")
begin = time.monotonic()
pace(sys.argv[1], *map(int, sys.argv[2:]))
print(time.monotonic() - begin)
"""


def logged(small: bool) -> Group:
    """5,000 connections per second from another host, none summarized, into a real journal."""
    rate, seconds = (200, 1) if small else (5000, 20)
    count = rate * seconds
    with booted_with_package("trixie", each=True) as container:
        units = ("tcpnewconn.service", "systemd-journald.service")
        before = [_cpu(container, unit) for unit in units]
        client = (sys.executable, "-c", _CLIENT, CONTAINER_ADDRESS, str(rate), str(count), str(_PORT))
        took = float(container.from_peer(*client, within=600))
        during = [_cpu(container, unit) - start for unit, start in zip(units, before, strict=True)]
        container.wait_for(lambda: len(_ids(container)) + booted_events.lost(container) >= count, "all", within=300)
        ids, lost = _ids(container), booted_events.lost(container)
    reached = count / took
    return Group(
        "Into a real journald, in a booted container under the package's own unit",
        [
            Result("rate", f"{reached:,.0f} per second for {took:.0f} s", f"{rate:,}", reached >= 0.99 * rate),
            Result("reported", f"{len(set(ids)):,} of {count:,}", "all", len(set(ids)) == count),
            Result("reported twice with one id", f"{len(ids) - len(set(ids)):,}", "0", len(ids) == len(set(ids))),
            Result("lost notifications", f"{lost:,}", "0", lost == 0),
            at_most(
                "cores during that", during[0] / took, 1, "", 2, f"CPU time of each: {during[0] / count * 1e6:.1f} us"
            ),
            Result("cores of journald meanwhile", f"{during[1] / took:.2f}"),
        ],
    )


def _ids(container: Booted) -> list[str]:
    fields = "--output-fields=TCPNEWCONN_CONNECTION_ID"
    matches = (f"DESTINATION_PORT={_PORT}", f"DESTINATION_ADDRESS={CONTAINER_ADDRESS}")
    logged = booted_events.events(container, message_ids.CONNECTION, *matches, fields)
    return [event["TCPNEWCONN_CONNECTION_ID"] for event in logged]


def _cpu(container: Booted, unit: str) -> float:
    """Seconds of CPU time that the unit has used so far."""
    return int(container.property(unit, "CPUUsageNSec")) / 1e9
