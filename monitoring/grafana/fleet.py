"""The row of all hosts, from recorded rules: cheap for any number of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from monitoring.grafana.panels import RED, YELLOW, Json, Panel, Query, bars, lines, override, stat, steps
from monitoring.grafana.questions import BAND, DIRECTIONS, FLEET, SCANS, STATES, state, usual


def fleet() -> list[Panel]:
    return [
        stat(
            "Hosts",
            "locale",
            "Hosts that report. Fewer than you installed it on: see TcpnewconnAbsent.",
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
            "Hosts whose last read of the tables is older than three intervals: stopped, hanging or failed. 0 is right.",
            Query(f"sum(job:tcpnewconn_hosts_stale:count{{{FLEET}}})"),
            steps((1, RED)),
        ),
        stat(
            "Degraded hosts",
            "locale",
            "Hosts on which a source is missing, so that they see less than everything. 0 is right.",
            Query(f"count(max by (job, instance) (tcpnewconn_source_degraded{{{FLEET}}}) > 0) or vector(0)"),
            steps((1, YELLOW)),
        ),
        stat(
            "Lost in an hour",
            "locale",
            "What could not be seen in the last hour, estimated by increase(): journals have the exact numbers. 0 is right.",
            Query(f"sum(instance:tcpnewconn_lost:increase1h{{{FLEET}}})"),
            steps((1, YELLOW), (1000, RED)),
            decimals=0,
        ),
        stat(
            "Folded in an hour",
            "locale",
            "Connections that were told as one entry with a count because they came in a burst. Nothing is lost by that.",
            Query(f"sum(increase(tcpnewconn_folded_total{{{FLEET}}}[1h]))"),
            decimals=0,
        ),
        lines(
            "New connections by direction, all hosts",
            "cps",
            "From the hosts' point of view: ingress came in, egress went out, internal stayed within one host.",
            Query(f"sum by (direction) (instance_direction:tcpnewconn_connections:rate5m{{{FLEET}}})", "{{direction}}"),
            stacked=True,
            overrides=DIRECTIONS,
        ),
        lines(
            "What is usual, all hosts",
            "cps",
            "New connections per second, and the band in which they were for nine tenths of the last day.",
            *usual(f"sum(job:tcpnewconn_connections:rate5m{{{FLEET}}})"),
            overrides=BAND,
        ),
        Panel(
            "bargauge",
            "Hosts with most new connections",
            "cps",
            "The ten hosts with most new connections per second, over 5 minutes.",
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
            "What could not be seen or told, by reason: announcements (the kernel's buffer was full), malformed (rows that could "
            "not be read), folding and scan (too much at once to keep apart), journal (entries it did not take).",
            Query(f"sum by (reason) (increase(tcpnewconn_lost_total{{{FLEET}}}[$__rate_interval]))", "{{reason}}"),
        ),
        bars(
            "Bursts and port scans, all hosts",
            "short",
            "Connections that were told in summaries, and port scans that were noticed (axis on the right).",
            Query(f"sum(increase(tcpnewconn_folded_total{{{FLEET}}}[$__rate_interval]))", "folded connections"),
            Query(f"sum(increase(tcpnewconn_port_scans_total{{{FLEET}}}[$__rate_interval]))", "port scans"),
            overrides=(SCANS,),
        ),
        hosts(),
    ]


def troubled() -> Panel:
    colours = {
        "stale": RED,
        "degraded": YELLOW,
        "lost something": "orange",
        "skip reads": "purple",
        "wait for the journal": "blue",
    }
    panel = lines(
        "Hosts that need a look",
        "short",
        "How many hosts are stale, miss a source, lost something in the last hour, skip reads, or wait for their journal. "
        "A host with two of these counts twice.",
        Query(f"sum(job:tcpnewconn_hosts_stale:count{{{FLEET}}})", "stale"),
        Query(f"count(max by (job, instance) (tcpnewconn_source_degraded{{{FLEET}}}) > 0) or vector(0)", "degraded"),
        Query(f"count(instance:tcpnewconn_lost:increase1h{{{FLEET}}} > 0) or vector(0)", "lost something"),
        Query(f"count(instance:tcpnewconn_read_overruns:ratio15m{{{FLEET}}} > 0) or vector(0)", "skip reads"),
        Query(f"count(tcpnewconn_journal_waiting{{{FLEET}}} > 0) or vector(0)", "wait for the journal"),
        stacked=True,
        soft_max=5,
        overrides=tuple(
            override(name, color={"mode": "fixed", "fixedColor": colour}) for name, colour in colours.items()
        ),
    )
    return replace(panel, custom={**panel.custom, "lineInterpolation": "stepAfter", "fillOpacity": 60})


def column(name: str, unit: str, expr: str, **properties: Any) -> tuple[str, str, Json]:
    """A column of the table of hosts: its name, the expression, how it is shown."""
    return name, f"max by (instance) ({expr})", override(name, unit=unit, **properties)


def hosts() -> Panel:
    """One line for each host; a click on its name shows that host below."""
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
        column("Last read ago", "s", f"instance:tcpnewconn_read_age_seconds:max{{{FLEET}}}", decimals=0),
        column("CPU", "percentunit", f"instance:tcpnewconn_process_cpu:rate5m{{{FLEET}}}", decimals=2),
        column("Memory", "bytes", f"tcpnewconn_process_resident_memory_bytes{{{FLEET}}}", decimals=0),
    ]
    # The version is a label: it becomes a column by itself, beside a value that is always 1.
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
        "Every host with its state now: sees all, degraded (a source is missing) or stale (no read for three intervals). "
        "A click on a host shows it below.",
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
