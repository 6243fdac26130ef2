"""The row of one host, mostly from its own metrics."""

from __future__ import annotations

from dataclasses import replace

from monitoring.grafana.panels import RED, YELLOW, Panel, Query, bars, lines, stat, steps
from monitoring.grafana.questions import BAND, DIRECTIONS, HOST, LISTENERS, LOST, SCANS, STATES, state, usual


def host() -> list[Panel]:
    return [
        stat(
            "State",
            "short",
            "ok: polls on time, with both sources. degraded: a source is missing. stale: no poll for three intervals. not "
            "running: stopped, or not started since boot.",
            Query(state(HOST), instant=True),
            steps((1, YELLOW), (2, RED)),
            mappings=STATES,
        ),
        stat(
            "Last poll",
            "s",
            "Age of the last poll of the TCP tables at the last scrape. Up to the poll interval is normal.",
            Query(f"instance:tcpnewconn_poll_age_seconds:max{{{HOST}}}"),
            decimals=1,
        ),
        stat(
            "Sockets",
            "locale",
            "Sockets in /proc/net/tcp and tcp6 at the last poll, in all states.",
            Query(f"instance:tcpnewconn_sockets:sum{{{HOST}}}"),
        ),
        stat(
            "Lost in an hour",
            "locale",
            "Events lost in the last hour, estimated by increase(); the journal has the exact number. 0 is normal.",
            Query(f"instance:tcpnewconn_lost:increase1h{{{HOST}}}"),
            steps((1, YELLOW), (1000, RED)),
            decimals=0,
        ),
        stat(
            "Uptime",
            "s",
            "Time since the service was started. A restart loses nothing: destroy notifications wait in the kernel's buffer.",
            Query(f"time() - tcpnewconn_process_start_time_seconds{{{HOST}}}", instant=True),
            decimals=1,
        ),
        version(),
        lines(
            "New connections by direction",
            "cps",
            "Per second. From the host's point of view: ingress was accepted, egress was opened by it, internal has both ends on "
            "it.",
            Query(
                f"sum by (direction) (rate(tcpnewconn_connections_total{{{HOST}}}[$__rate_interval]))", "{{direction}}"
            ),
            stacked=True,
            overrides=DIRECTIONS,
        ),
        lines(
            "New connections by family",
            "cps",
            "Per second, IPv4 and IPv6. IPv4 connections of IPv6 sockets count as IPv4.",
            Query(f"sum by (family) (rate(tcpnewconn_connections_total{{{HOST}}}[$__rate_interval]))", "{{family}}"),
            stacked=True,
        ),
        lines(
            "How connections were detected",
            "cps",
            "poll: a poll of the TCP tables found it. notification: it opened and closed between two polls; the kernel's destroy "
            "notification reported it. startup: it was open at the first start.",
            Query(
                f"sum by (detected_by) (rate(tcpnewconn_connections_detected_total{{{HOST}}}[$__rate_interval]))",
                "{{detected_by}}",
            ),
            stacked=True,
        ),
        lines(
            "What is usual",
            "cps",
            "New connections per second, and the range in which they were for 90 % of the last day.",
            *usual(f"instance:tcpnewconn_connections:rate5m{{{HOST}}}"),
            overrides=BAND,
        ),
        lines(
            "Sockets by state",
            "short",
            "Sockets at the last poll. Many in syn_recv: a SYN flood. Many in close_wait: a program does not close its sockets.",
            Query(f"sum by (state) (tcpnewconn_sockets{{{HOST}}}) > 0", "{{state}}"),
            stacked=True,
        ),
        lines(
            "Duration and interval of polls",
            "s",
            "Mean duration of a poll, and the time between two polls. They must stay apart: if a poll takes longer than the "
            "interval, the next one is skipped.",
            Query(
                f"rate(tcpnewconn_poll_duration_seconds_sum{{{HOST}}}[$__rate_interval])"
                f" / rate(tcpnewconn_poll_duration_seconds_count{{{HOST}}}[$__rate_interval])",
                "duration",
            ),
            Query(f"tcpnewconn_poll_interval_seconds{{{HOST}}}", "interval"),
            log=True,
        ),
        bars(
            "Polls failed or skipped",
            "short",
            "failed: /proc could not be read. skipped: the poll before was not finished. 0 is normal.",
            Query(f'increase(tcpnewconn_polls_total{{{HOST},result="failed"}}[$__rate_interval])', "failed"),
            Query(f"increase(tcpnewconn_polls_skipped_total{{{HOST}}}[$__rate_interval])", "skipped"),
        ),
        lines(
            "Entries waiting for the journal",
            "short",
            "Entries that wait because journald is stopped or too slow. They are not lost. 0 is normal.",
            Query(f"tcpnewconn_journal_entries_waiting{{{HOST}}}", "entries"),
            soft_max=5,
        ),
        bars(
            "Lost, by reason",
            "short",
            LOST,
            Query(f"sum by (reason) (increase(tcpnewconn_lost_total{{{HOST}}}[$__rate_interval]))", "{{reason}}"),
        ),
        lines(
            "Missing sources",
            "bool_yes_no",
            "proc: /proc/net/tcp cannot be read. notifications: the kernel sends no destroy notifications, so that connections "
            "between two polls are not seen. No is normal.",
            Query(f"max by (source) (tcpnewconn_source_degraded{{{HOST}}})", "{{source}}"),
            stepped=True,
            width=6,
        ),
        bars(
            "Bursts, port scans, listeners",
            "short",
            "Connections that were logged in summaries; on the right, port scans and new listeners.",
            Query(
                f"increase(tcpnewconn_connections_summarized_total{{{HOST}}}[$__rate_interval])",
                "summarized connections",
            ),
            Query(f"increase(tcpnewconn_port_scans_total{{{HOST}}}[$__rate_interval])", "port scans"),
            Query(f"increase(tcpnewconn_listeners_total{{{HOST}}}[$__rate_interval])", "new listeners"),
            width=6,
            overrides=(SCANS, LISTENERS),
        ),
        lines(
            "CPU of the service",
            "percentunit",
            "Of one CPU. It grows with the number of new connections, hardly with the number of open sockets.",
            Query(f"rate(tcpnewconn_process_cpu_seconds_total{{{HOST}}}[$__rate_interval])", "CPU"),
            width=6,
        ),
        lines(
            "Memory of the service",
            "bytes",
            "Resident memory. It grows with the number of open sockets, up to MemoryMax= of the unit.",
            Query(f"tcpnewconn_process_resident_memory_bytes{{{HOST}}}", "resident"),
            width=6,
        ),
        lines(
            "Where users, units and threads come from",
            "cps",
            "New connections per second. socket: the socket itself. connect, accept: recorded by the kernel when it was called. "
            "listener: the unit of the listening socket alone. One connection can count twice.",
            Query(f"sum by (by) (rate(tcpnewconn_connections_attributed_total{{{HOST}}}[$__rate_interval]))", "{{by}}"),
        ),
        lines(
            "Connections without a thread, by reason",
            "cps",
            "Per second. no-trace: nothing is recorded, see the log. not-recorded: never accepted, or opened before. ambiguous: "
            "two can be meant. overwritten: records were lost.",
            Query(
                f"sum by (reason) (rate(tcpnewconn_connections_not_attributed_total{{{HOST}}}[$__rate_interval]))",
                "{{reason}}",
            ),
        ),
        lines(
            "Failed attempts",
            "short",
            "Attempts of this host's programs to open a connection that failed, with Failed=yes.",
            Query(f"increase(tcpnewconn_connections_failed_total{{{HOST}}}[$__rate_interval])", "failed"),
        ),
        lines(
            "Other network namespaces",
            "short",
            "Those of containers and of services with a network of their own, with Include=all. not observed: above 1,024.",
            Query(f"tcpnewconn_namespaces{{{HOST}}}", "{{kind}}"),
            Query(f"tcpnewconn_namespaces_not_observed{{{HOST}}}", "not observed"),
            stacked=True,
        ),
        lines(
            "Polls of other network namespaces",
            "short",
            "Per second. unchanged: nothing to poll. late: there was no time left for it in the interval, see CPUQuota=.",
            Query(
                f"sum by (result) (rate(tcpnewconn_namespace_polls_total{{{HOST}}}[$__rate_interval]))", "{{result}}"
            ),
        ),
        lines(
            "CPU for other network namespaces",
            "percentunit",
            "Of one CPU, at most CPUQuota=.",
            Query(f"rate(tcpnewconn_namespace_cpu_seconds_total{{{HOST}}}[$__rate_interval])", "CPU"),
        ),
    ]


def version() -> Panel:
    """Shown by the name of its series, which has the version; its value is always 1."""
    panel = stat(
        "Version",
        "none",
        "Version of tcpnewconn that runs on the host.",
        Query(f"tcpnewconn_build_info{{{HOST}}}", "{{version}}", instant=True),
    )
    return replace(panel, options={**panel.options, "textMode": "name"})
