"""What the rows ask alike, and how it is shown: which hosts, their state, what is usual."""

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
    """A rate, and between which values it was for nine tenths of the last day."""
    return (
        Query(f"quantile_over_time(0.05, {rate}[1d:1m])", "usual, lower"),
        Query(f"quantile_over_time(0.95, {rate}[1d:1m])", "usual, upper"),
        Query(rate, "now"),
    )


def state(chosen: str) -> str:
    """0 where all is well, 1 where a source is missing, 2 or more where the last read is too old, or there was none.

    Too old is what it is for the alert TcpnewconnStale.
    """

    def of_host(metric: str) -> str:
        return f"max by (job, instance) ({metric}{{{chosen}}})"

    age, limit = of_host("instance:tcpnewconn_read_age_seconds:max"), of_host("tcpnewconn_read_interval_seconds")
    never_read = f"2 * ({of_host('tcpnewconn_last_read_timestamp_seconds')} == bool 0)"
    too_old = f"2 * ({age} > bool clamp_min(3 * {limit}, 5))"
    return f"{too_old} + {of_host('tcpnewconn_source_degraded')} or {never_read}"


STATES = [
    {
        "type": "value",
        "options": {
            "0": {"text": "sees all", "color": GREEN, "index": 0},
            "1": {"text": "degraded", "color": YELLOW, "index": 1},
            "2": {"text": "stale", "color": RED, "index": 2},
            "3": {"text": "stale, degraded", "color": RED, "index": 3},
        },
    }
]

# The band between the two, without lines of its own.
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

# Few beside the thousands that are folded: on an axis of their own.
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
