"""The row of all hosts, from recording rules: cheap for any number of hosts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from monitoring.grafana.panels import RED, YELLOW, Json, Panel, Query, bars, lines, override, stat, steps
from monitoring.grafana.questions import BAND, DIRECTIONS, FLEET, LOST, SCANS, STATES, state, usual


def fleet() -> list[Panel]:
    return [
        stat(
            "Hosts",
            "locale",
            "Hosts that have metrics of tcpnewconn. If there are fewer than you installed it on, see the alert TcpnewconnAbsent.",
            Query(f"sum(job:tcpnewconn_hosts:count{{{FLEET}}})"),
        ),
        stat(
            "New connections",
            "cps",
            "New TCP connections per second of all hosts, over 5 minutes.",
            Query(f"sum(job:tcpnewconn_connections:rate5m{{{FLEET}}})"),
        ),
        stat(
            "Stale hosts",
            "locale",
            "Hosts on which the service is stopped, hangs or has failed (TcpnewconnStale). 0 is normal.",
            Query(f"sum(job:tcpnewconn_hosts_stale:count{{{FLEET}}})"),
            steps((1, RED)),
        ),
        stat(
            "Degraded hosts",
            "locale",
            "Hosts on which a source is missing, so that not every connection is seen. 0 is normal.",
            Query(f"count(max by (job, instance) (tcpnewconn_source_degraded{{{FLEET}}}) > 0) or vector(0)"),
            steps((1, YELLOW)),
        ),
        stat(
            "Lost in an hour",
            "locale",
            "Events lost in the last hour, estimated by increase(); the journals have the exact numbers. 0 is normal.",
            Query(f"sum(instance:tcpnewconn_lost:increase1h{{{FLEET}}})"),
            steps((1, YELLOW), (1000, RED)),
            decimals=0,
        ),
        stat(
            "Summarized in an hour",
            "locale",
            "Connections of bursts, logged in entries with a count instead of one by one. They are not lost.",
            Query(f"sum(increase(tcpnewconn_connections_summarized_total{{{FLEET}}}[1h]))"),
            decimals=0,
        ),
        lines(
            "New connections by direction, all hosts",
            "cps",
            "From each host's point of view: ingress was accepted, egress was opened by the host, internal has both ends on it.",
            Query(f"sum by (direction) (instance_direction:tcpnewconn_connections:rate5m{{{FLEET}}})", "{{direction}}"),
            stacked=True,
            overrides=DIRECTIONS,
        ),
        lines(
            "What is usual, all hosts",
            "cps",
            "New connections per second, and the range in which they were for 90 % of the last day.",
            *usual(f"sum(job:tcpnewconn_connections:rate5m{{{FLEET}}})"),
            overrides=BAND,
        ),
        Panel(
            "bargauge",
            "Hosts with the most new connections",
            "cps",
            "The ten hosts with the most new connections per second, over 5 minutes.",
            (
                Query(
                    f"topk(10, instance:tcpnewconn_connections:rate5m{{{FLEET}}})",
                    "{{instance}}",
                    instant=True,
                ),
            ),
            options={
                "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
                "orientation": "horizontal",
                "displayMode": "basic",
                "valueMode": "color",
                "namePlacement": "left",
                "showUnfilled": True,
                "sizing": "auto",
                "minVizWidth": 8,
                "minVizHeight": 16,
                "maxVizHeight": 30,
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
            },
            defaults={"min": 0, "color": {"mode": "fixed", "fixedColor": "blue"}, "thresholds": steps()},
        ),
        troubled(),
        bars(
            "Lost, all hosts",
            "short",
            LOST,
            Query(f"sum by (reason) (increase(tcpnewconn_lost_total{{{FLEET}}}[$__rate_interval]))", "{{reason}}"),
        ),
        bars(
            "Bursts and port scans, all hosts",
            "short",
            "Connections that were logged in summaries, and port scans (axis on the right).",
            Query(
                f"sum(increase(tcpnewconn_connections_summarized_total{{{FLEET}}}[$__rate_interval]))",
                "summarized connections",
            ),
            Query(f"sum(increase(tcpnewconn_port_scans_total{{{FLEET}}}[$__rate_interval]))", "port scans"),
            overrides=(SCANS,),
        ),
        hosts(),
    ]


def troubled() -> Panel:
    colours = {
        "stale": RED,
        "degraded": YELLOW,
        "events lost": "orange",
        "polls skipped": "purple",
        "journal blocked": "blue",
    }
    panel = lines(
        "Hosts with problems",
        "short",
        "Number of hosts that are stale, miss a source, lost events in the last hour, skip polls, or wait for their journal. "
        "A host with two of these problems counts twice.",
        Query(f"sum(job:tcpnewconn_hosts_stale:count{{{FLEET}}})", "stale"),
        Query(f"count(max by (job, instance) (tcpnewconn_source_degraded{{{FLEET}}}) > 0) or vector(0)", "degraded"),
        Query(f"count(instance:tcpnewconn_lost:increase1h{{{FLEET}}} > 0) or vector(0)", "events lost"),
        Query(f"count(instance:tcpnewconn_polls_skipped:ratio15m{{{FLEET}}} > 0) or vector(0)", "polls skipped"),
        Query(f"count(tcpnewconn_journal_entries_waiting{{{FLEET}}} > 0) or vector(0)", "journal blocked"),
        stacked=True,
        soft_max=5,
        overrides=tuple(
            override(name, color={"mode": "fixed", "fixedColor": colour}) for name, colour in colours.items()
        ),
    )
    return replace(panel, custom={**panel.custom, "lineInterpolation": "stepAfter", "fillOpacity": 60})


def column(name: str, unit: str, expr: str, **properties: Any) -> tuple[str, str, Json]:
    """A column of the table of hosts: its name, its expression, its settings."""
    return name, f"max by (instance) ({expr})", override(name, unit=unit, **properties)


def hosts() -> Panel:
    """One line for each host; a click on its name shows the host below."""
    columns = [
        column(
            "State",
            "short",
            state(FLEET),
            mappings=STATES,
            custom__cellOptions={"type": "color-text"},
            custom__align="left",
        ),
        column("Connections/s", "cps", f"instance:tcpnewconn_connections:rate5m{{{FLEET}}}", decimals=1),
        column("Sockets", "locale", f"instance:tcpnewconn_sockets:sum{{{FLEET}}}"),
        column("Lost in an hour", "locale", f"instance:tcpnewconn_lost:increase1h{{{FLEET}}}", decimals=0),
        column("Last poll ago", "s", f"instance:tcpnewconn_poll_age_seconds:max{{{FLEET}}}", decimals=0),
        column("CPU", "percentunit", f"instance:tcpnewconn_process_cpu:rate5m{{{FLEET}}}", decimals=2),
        column("Memory", "bytes", f"tcpnewconn_process_resident_memory_bytes{{{FLEET}}}", decimals=0),
    ]
    # The version is a label: it becomes a column of its own, beside a value that is always 1.
    queries = [Query(f"max by (instance, version) (tcpnewconn_build_info{{{FLEET}}})", instant=True, table=True)]
    queries += [Query(expr, instant=True, table=True) for _, expr, _ in columns]
    names = {"instance": "Host", "version": "Version"}
    names |= {f"Value #{chr(ord('A') + number)}": name for number, (name, _, _) in enumerate(columns, 1)}
    link = {
        "title": "Show ${__value.text} below",
        "url": "/d/${__dashboard.uid}?${__url_time_range}&${datasource:queryparam}&${job:queryparam}&var-instance=${__value.raw}",
    }
    return Panel(
        "table",
        "Hosts",
        "short",
        "Every host with its current state: ok, degraded (a source is missing), stale (no poll for three intervals) or not "
        "running. A click on a host shows it below.",
        tuple(queries),
        width=24,
        height=7,
        options={
            "showHeader": True,
            "cellHeight": "sm",
            "frameIndex": 0,
            "footer": {"show": False, "reducer": ["sum"], "countRows": False},
            "sortBy": [{"displayName": "State", "desc": True}],
        },
        custom={"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False, "filterable": False},
        defaults={"color": {"mode": "thresholds"}, "thresholds": steps()},
        overrides=(override("Host", links=[link]), *(shown for _, _, shown in columns)),
        transformations=(
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": {"Time": True, "Value #A": True},
                    "indexByName": {name: index for index, name in enumerate(names)},
                    "renameByName": names,
                    "includeByName": {},
                },
            },
        ),
    )
