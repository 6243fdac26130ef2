"""The row of one host, mostly from what it exposes itself."""

from __future__ import annotations

from dataclasses import replace

from monitoring.grafana.panels import RED, YELLOW, Panel, Query, bars, lines, stat, steps
from monitoring.grafana.questions import BAND, DIRECTIONS, HOST, LISTENERS, SCANS, STATES, state, usual


def host() -> list[Panel]:
    return [
        stat(
            "State",
            "short",
            "Sees all: reads on time, from all its sources. Degraded: a source is missing. Stale: no read for three intervals.",
            Query(state(HOST), instant=True),
            steps((1, YELLOW), (2, RED)),
            mappings=STATES,
        ),
        stat(
            "Last read",
            "s",
            "How long ago the tables of sockets were read, when Prometheus last asked. Up to the interval is right.",
            Query(f"instance:tcpnewconn_read_age_seconds:max{{{HOST}}}"),
            decimals=1,
        ),
        stat(
            "Sockets",
            "locale",
            "Rows of /proc/net/tcp and tcp6 at the last read, in all states.",
            Query(f"instance:tcpnewconn_sockets:sum{{{HOST}}}"),
        ),
        stat(
            "Lost in an hour",
            "locale",
            "What could not be seen in the last hour, estimated by increase(): the journal has the exact number. 0 is right.",
            Query(f"instance:tcpnewconn_lost:increase1h{{{HOST}}}"),
            steps((1, YELLOW), (1000, RED)),
            decimals=0,
        ),
        stat(
            "Runs for",
            "s",
            "How long ago the service started. A restart loses nothing: announcements wait meanwhile.",
            Query(f"time() - tcpnewconn_process_start_time_seconds{{{HOST}}}", instant=True),
            decimals=1,
        ),
        version(),
        lines(
            "New connections by direction",
            "cps",
            "Per second. From the host's point of view: ingress came in, egress went out, internal stayed within.",
            Query(
                f"sum by (direction) (rate(tcpnewconn_connections_total{{{HOST}}}[$__rate_interval]))", "{{direction}}"
            ),
            stacked=True,
            overrides=DIRECTIONS,
        ),
        lines(
            "New connections by family",
            "cps",
            "Per second, IPv4 and IPv6; IPv4 within IPv6 sockets counts as IPv4.",
            Query(f"sum by (family) (rate(tcpnewconn_connections_total{{{HOST}}}[$__rate_interval]))", "{{family}}"),
            stacked=True,
        ),
        lines(
            "How connections were seen",
            "cps",
            "read: found open by a read; closed: opened and closed between two reads, so the kernel's announcement told of it; "
            "startup: was there at the first start.",
            Query(f"sum by (seen) (rate(tcpnewconn_connections_seen_total{{{HOST}}}[$__rate_interval]))", "{{seen}}"),
            stacked=True,
        ),
        lines(
            "What is usual",
            "cps",
            "New connections per second, and the band in which they were for nine tenths of the last day.",
            *usual(f"instance:tcpnewconn_connections:rate5m{{{HOST}}}"),
            overrides=BAND,
        ),
        lines(
            "Sockets by state",
            "short",
            "Rows of the tables at the last read. Many in syn_recv: a flood; many in close_wait: a program that does not close.",
            Query(f"sum by (state) (tcpnewconn_sockets{{{HOST}}}) > 0", "{{state}}"),
            stacked=True,
        ),
        lines(
            "Duration of a read and its interval",
            "s",
            "How long a read takes, on average, and the time between two reads. They must stay apart: a read that takes longer "
            "than the interval makes the next one be skipped.",
            Query(
                f"rate(tcpnewconn_read_duration_seconds_sum{{{HOST}}}[$__rate_interval])"
                f" / rate(tcpnewconn_read_duration_seconds_count{{{HOST}}}[$__rate_interval])",
                "duration",
            ),
            Query(f"tcpnewconn_read_interval_seconds{{{HOST}}}", "interval"),
            log=True,
        ),
        bars(
            "Reads failed or skipped",
            "short",
            "failed: /proc could not be read; skipped: what was before took too long. None is right.",
            Query(f'increase(tcpnewconn_reads_total{{{HOST},result="failed"}}[$__rate_interval])', "failed"),
            Query(f"increase(tcpnewconn_read_overruns_total{{{HOST}}}[$__rate_interval])", "skipped"),
        ),
        lines(
            "Waiting for the journal",
            "short",
            "Entries that wait because journald, stopped or too slow, takes none. 0 is right; nothing is lost meanwhile.",
            Query(f"tcpnewconn_journal_waiting{{{HOST}}}", "entries"),
            soft_max=5,
        ),
        bars(
            "Lost, by reason",
            "short",
            "announcements: the kernel's buffer was full; malformed: rows that could not be read; folding, scan: too much "
            "at once to keep apart; journal: entries it did not take. None is right.",
            Query(f"sum by (reason) (increase(tcpnewconn_lost_total{{{HOST}}}[$__rate_interval]))", "{{reason}}"),
        ),
        lines(
            "Missing sources",
            "bool_yes_no",
            "proc: /proc/net/tcp cannot be read. announcements: the kernel does not tell of ended connections, so that those "
            "between two reads are not seen. No is right.",
            Query(f"max by (source) (tcpnewconn_source_degraded{{{HOST}}})", "{{source}}"),
            stepped=True,
            width=6,
        ),
        bars(
            "Bursts, port scans, listeners",
            "short",
            "Connections told in summaries; on the right, port scans noticed and new listening sockets.",
            Query(f"increase(tcpnewconn_folded_total{{{HOST}}}[$__rate_interval])", "folded connections"),
            Query(f"increase(tcpnewconn_port_scans_total{{{HOST}}}[$__rate_interval])", "port scans"),
            Query(f"increase(tcpnewconn_listeners_total{{{HOST}}}[$__rate_interval])", "new listeners"),
            width=6,
            overrides=(SCANS, LISTENERS),
        ),
        lines(
            "CPU of the service",
            "percentunit",
            "Of one core. Grows with the number of connections, hardly with that of open sockets.",
            Query(f"rate(tcpnewconn_process_cpu_seconds_total{{{HOST}}}[$__rate_interval])", "CPU"),
            width=6,
        ),
        lines(
            "Memory of the service",
            "bytes",
            "Resident memory. Grows with the number of open sockets, and is bounded.",
            Query(f"tcpnewconn_process_resident_memory_bytes{{{HOST}}}", "resident"),
            width=6,
        ),
    ]


def version() -> Panel:
    """The only number whose name says more than its value."""
    panel = stat(
        "Version",
        "none",
        "Which tcpnewconn runs there.",
        Query(f"tcpnewconn_build_info{{{HOST}}}", "{{version}}", instant=True),
    )
    return replace(panel, options={**panel.options, "textMode": "name"})
