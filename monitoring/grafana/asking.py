"""The dashboard's expressions as Prometheus receives them: with Grafana's variables filled in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from monitoring.grafana.panels import Json

# The value of $__rate_interval in Grafana, with panels.INTERVAL and a scrape interval of 15 seconds.
RATE_INTERVAL = "75s"


class Asked(NamedTuple):
    """One expression, with its panel (0: the annotation) and its query in that panel."""

    panel: int
    title: str
    query: str
    expr: str
    instant: bool


def expressions(dashboard: Json, chosen: Mapping[str, str], rate_interval: str = RATE_INTERVAL) -> Iterator[Asked]:
    """All expressions, for the chosen values of the variables; `.*` is all."""
    for annotation in dashboard["annotations"]["list"]:
        yield Asked(0, annotation["name"], "A", filled_in(annotation["expr"], chosen, rate_interval), False)
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expr = filled_in(target["expr"], chosen, rate_interval)
            yield Asked(panel["id"], panel["title"], target["refId"], expr, target["instant"])


def filled_in(expr: str, chosen: Mapping[str, str], rate_interval: str) -> str:
    for name, value in {**chosen, "__rate_interval": rate_interval}.items():
        expr = expr.replace(f"${name}", value)
    assert "$" not in expr, expr
    return expr
