"""The dashboard: its two rows, its variables, its annotation. Written with

python3 -m monitoring.grafana.dashboard >monitoring/grafana/tcpnewconn.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

from monitoring.grafana.fleet import fleet
from monitoring.grafana.host import host
from monitoring.grafana.panels import SOURCE, WIDTH, Json, arranged
from monitoring.grafana.questions import HOST


def row(title: str, number: int, y: int, **more: Any) -> Json:
    place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": [], **more}


def panels() -> list[Json]:
    """Ids are numbered in order, those of rows among them."""
    above, y = arranged(fleet(), 2, 1)
    number = len(above) + 2
    below, _ = arranged(host(), number + 1, y + 1)
    return [row("All hosts", 1, 0), *above, row("Host $instance", number, y, repeat="instance"), *below]


def variable(name: str, label: str, metric_label: str, **more: Any) -> Json:
    """A variable with the values of a label."""
    query = f"label_values(tcpnewconn_build_info{more.pop('of', '')}, {metric_label})"
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "multi": True,
        # Updated with the time range: hosts come and go.
        "refresh": 2,
        "sort": 1,
        **more,
    }


def dashboard() -> Json:
    return {
        "uid": "tcpnewconn",
        "title": "tcpnewconn",
        "description": "New TCP connections of all hosts: whether tcpnewconn runs and sees every connection, and what is usual.",
        "tags": ["tcpnewconn", "tcp", "network"],
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "timezone": "browser",
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "links": [],
        "templating": {
            "list": [
                {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus"},
                variable("job", "Job", "job", includeAll=True, current={"text": "All", "value": "$__all"}),
                variable("instance", "Host", "instance", of='{job=~"$job"}'),
            ]
        },
        "annotations": {"list": [restarts()]},
        "panels": panels(),
    }


def restarts() -> Json:
    """A mark in every panel where the service of a chosen host was restarted."""
    return {
        "name": "Restarts",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "blue",
        "expr": f"changes(tcpnewconn_process_start_time_seconds{{{HOST}}}[$__rate_interval]) > 0",
        "step": "60s",
        "titleFormat": "tcpnewconn was restarted",
        "textFormat": "on {{instance}}",
        "tagKeys": "instance",
    }


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=2)
    print()
