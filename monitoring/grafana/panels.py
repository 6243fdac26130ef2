"""The parts of a dashboard in Grafana's JSON; fleet.py and host.py have their content."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

# A part of the JSON. The tests check the whole against Grafana's schema.
Json = dict[str, Any]

SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
# The minimum time between two points; $__rate_interval follows from it. Metrics that are written every 10 seconds and scraped
# every 15 have rates that oscillate within 30 seconds; at one point per minute this does not show.
INTERVAL = "1m"
GREEN, YELLOW, RED = "green", "yellow", "red"


@dataclass(frozen=True)
class Query:
    """A PromQL expression, and the names of its series; `instant`: only the latest value."""

    expr: str
    legend: str = ""
    instant: bool = False
    table: bool = False

    def json(self, number: int) -> Json:
        return {
            "refId": chr(ord("A") + number),
            "datasource": SOURCE,
            "editorMode": "code",
            "interval": INTERVAL,
            "expr": self.expr,
            "legendFormat": self.legend or "__auto",
            "format": "table" if self.table else "time_series",
            "instant": self.instant,
            "range": not self.instant,
        }


@dataclass(frozen=True)
class Panel:
    """One panel. Its (i) shows `description`: what the panel shows, what is normal, what else it can mean."""

    kind: Literal["stat", "timeseries", "bargauge", "table"]
    title: str
    unit: str
    description: str
    queries: tuple[Query, ...]
    width: int = 8
    height: int = 8
    options: Json = field(default_factory=dict)
    custom: Json = field(default_factory=dict)
    defaults: Json = field(default_factory=dict)
    overrides: tuple[Json, ...] = ()
    transformations: tuple[Json, ...] = ()

    def json(self, number: int, x: int, y: int) -> Json:
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [query.json(index) for index, query in enumerate(self.queries)],
            "fieldConfig": {
                "defaults": {"unit": self.unit, "custom": self.custom, **self.defaults},
                "overrides": list(self.overrides),
            },
            "options": self.options,
            "transformations": list(self.transformations),
        }


def steps(*limits: tuple[float, str]) -> Json:
    """Green below the first limit, then the colour of the highest limit that is reached."""
    colours = [{"value": None, "color": GREEN}, *({"value": limit, "color": colour} for limit, colour in limits)]
    return {"mode": "absolute", "steps": colours}


def override(name: str, **properties: Any) -> Json:
    """Different settings for the field of this name; a double underscore stands for the dot in an id."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()],
    }


def stat(title: str, unit: str, description: str, query: Query, limits: Json | None = None, **defaults: Any) -> Panel:
    """One number, coloured by its limits, with its graph behind it; without limits it has no colour."""
    return Panel(
        "stat",
        title,
        unit,
        description,
        (query,),
        width=4,
        height=4,
        options={
            "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
            "orientation": "auto",
            "textMode": "auto",
            "wideLayout": True,
            "colorMode": "value",
            "graphMode": "none" if query.instant else "area",
            "justifyMode": "center",
            "text": {"valueSize": 30},
            "showPercentChange": False,
            "percentChangeColorMode": "standard",
        },
        defaults={
            "color": {"mode": "thresholds"} if limits else {"mode": "fixed", "fixedColor": "text"},
            "thresholds": limits or steps(),
            **defaults,
        },
    )


def lines(
    title: str,
    unit: str,
    description: str,
    *queries: Query,
    stacked: bool = False,
    stepped: bool = False,
    log: bool = False,
    soft_max: float | None = None,
    width: int = 8,
    overrides: tuple[Json, ...] = (),
) -> Panel:
    """Series over time, from 0; `stacked` where the sum has a meaning, `stepped` for states, `log` where sizes differ by
    orders of magnitude. The axis reaches `soft_max` at least: if all values are 0 it would reach 100."""
    return Panel(
        "timeseries",
        title,
        unit,
        description,
        queries,
        width=width,
        options={
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        custom={
            "drawStyle": "line",
            "lineInterpolation": "stepAfter" if stepped else "linear",
            "lineWidth": 1,
            "fillOpacity": 25 if stacked else 10,
            "gradientMode": "none",
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
            "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
            "axisPlacement": "auto",
            **({} if soft_max is None else {"axisSoftMax": soft_max}),
        },
        defaults={
            "color": {"mode": "palette-classic"},
            **({} if log else {"min": 0}),
            **({"max": 1} if stepped else {}),
        },
        overrides=overrides,
    )


def bars(
    title: str, unit: str, description: str, *queries: Query, width: int = 8, overrides: tuple[Json, ...] = ()
) -> Panel:
    """The number of events in each interval, as bars: a rare event stays visible."""
    panel = lines(title, unit, description, *queries, stacked=True, soft_max=5, width=width, overrides=overrides)
    return replace(panel, custom={**panel.custom, "drawStyle": "bars", "fillOpacity": 70})


def arranged(panels: list[Panel], first: int, top: int) -> tuple[list[Json], int]:
    """Panels from left to right, then in the next line; and the y below them."""
    placed, x, y, tallest = [], 0, top, 0
    for number, panel in enumerate(panels, first):
        if x + panel.width > WIDTH:
            x, y, tallest = 0, y + tallest, 0
        placed.append(panel.json(number, x, y))
        x, tallest = x + panel.width, max(tallest, panel.height)
    return placed, y + tallest
