"""Expressions that both rows use, and how they are shown: the hosts, their state, what is usual."""

from __future__ import annotations

from monitoring.grafana.panels import GREEN, RED, YELLOW, Query, override

# All hosts of the chosen jobs; the chosen host.
FLEET = 'job=~"$job"'
HOST = 'job=~"$job",instance=~"$instance"'

# A colour for each direction, the same in every panel.
DIRECTIONS = tuple(
    override(direction, color={"mode": "fixed", "fixedColor": colour})
    for direction, colour in {"ingress": "blue", "egress": "green", "internal": "purple", "unknown": "orange"}.items()
)


def usual(rate: str) -> tuple[Query, ...]:
    """A rate, and the range in which it was for 90 % of the last day."""
    return (
        Query(f"quantile_over_time(0.05, {rate}[1d:1m])", "usual, lower"),
        Query(f"quantile_over_time(0.95, {rate}[1d:1m])", "usual, upper"),
        Query(rate, "now"),
    )


def state(chosen: str) -> str:
    """The state of a host, as `tcpnewconn status` has it; STATES names the values.

    1 for a source that is missing, 2 more for a last poll that is too old, as in TcpnewconnStale. 4 more if the service was
    stopped; 4 alone if it was not started since boot, when the time of the last poll is the only metric.
    """

    def of_host(metric: str) -> str:
        return f"max by (job, instance) ({metric}{{{chosen}}})"

    age, limit = of_host("instance:tcpnewconn_poll_age_seconds:max"), of_host("tcpnewconn_poll_interval_seconds")
    too_old = f"2 * ({age} > bool clamp_min(3 * {limit}, 5))"
    stopped = f"4 * ({of_host('tcpnewconn_running')} == bool 0)"
    never_polled = f"4 * ({of_host('tcpnewconn_last_poll_timestamp_seconds')} == bool 0)"
    return f"{of_host('tcpnewconn_source_degraded')} + {too_old} + {stopped} or {never_polled}"


_NOT_RUNNING = {"text": "not running", "color": RED}
STATES = [
    {
        "type": "value",
        "options": {
            "0": {"text": "ok", "color": GREEN, "index": 0},
            "1": {"text": "degraded", "color": YELLOW, "index": 1},
            "2": {"text": "stale", "color": RED, "index": 2},
            "3": {"text": "stale, degraded", "color": RED, "index": 3},
            **{str(value): {**_NOT_RUNNING, "index": value} for value in range(4, 8)},
        },
    }
]

# The range between the two, without lines.
BAND = (
    override("usual, lower", custom__lineWidth=0, custom__fillOpacity=0, color={"mode": "fixed", "fixedColor": "text"}),
    override(
        "usual, upper",
        custom__lineWidth=0,
        custom__fillOpacity=25,
        custom__fillBelowTo="usual, lower",
        color={"mode": "fixed", "fixedColor": "text"},
    ),
    override("now", color={"mode": "fixed", "fixedColor": "blue"}, custom__fillOpacity=0, custom__lineWidth=2),
)

# Few beside the thousands that are summarized: on an axis of their own.
SCANS = override(
    "port scans",
    color={"mode": "fixed", "fixedColor": "red"},
    custom__axisPlacement="right",
    custom__stacking={"mode": "none", "group": "A"},
)
LISTENERS = override(
    "new listeners",
    color={"mode": "fixed", "fixedColor": "purple"},
    custom__axisPlacement="right",
    custom__stacking={"mode": "none", "group": "A"},
)

# Of a panel of losses.
LOST = (
    "Events that could not be seen or logged in full, by reason. notifications: the kernel's buffer was full. malformed: rows of "
    "/proc that were not understood. aggregation, port-scan: too many addresses at once to distinguish. journal: entries that "
    "the journal did not accept. 0 is normal."
)
