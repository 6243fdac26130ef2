"""Pictures of a period as inline SVG: the timeline, and the heat map of services. Colours are classes of the page's style."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from tcpnewconn.ledger.schema import DAY
from tcpnewconn.report.book import Step
from tcpnewconn.report.period import day_text, time_text

WIDTH = 1000
_LEVELS = 5
_AXIS = 24
# Directions, from the bottom of a bar to its top, with their classes.
STACK = (("ingress", "in"), ("internal", "own"), ("egress", "out"), ("unknown", "odd"))


@dataclass(slots=True)
class Steps:
    """A period cut into hours or days. `observed` is the share of each step that was observed, by its start."""

    since: float
    until: float
    step: int
    observed: dict[int, float] = field(default_factory=dict)

    @property
    def starts(self) -> range:
        first = int(self.since) // self.step * self.step
        return range(first, max(first + self.step, math.ceil(self.until)), self.step)

    def text(self, start: int) -> str:
        return day_text(start) if self.step >= DAY else time_text(start)[:-3]


def timeline(steps: Steps, counts: dict[tuple[str, int], int], height: int = 170) -> str:
    """A bar for each step, stacked by direction; steps that were not wholly observed are hatched."""
    starts = steps.starts
    wide = WIDTH / len(starts)
    most = max((sum(counts.get((name, start), 0) for name, _ in STACK) for start in starts), default=0) or 1
    parts = [opening(height + _AXIS, "timeline", "Connections over time", _said(steps, counts)), _hatching("hatch-t")]
    for at, start in enumerate(starts):
        x = at * wide
        share = steps.observed.get(start, 0.0)
        if share < 0.999:
            parts.append(
                f'<rect class="unseen" x="{x:.1f}" y="0" width="{wide:.1f}" height="{height}" fill="url(#hatch-t)"/>'
            )
        top = float(height)
        title = [f"{steps.text(start)}: observed {_percent(share)}"]
        bars = []
        for name, kind in STACK:
            count = counts.get((name, start), 0)
            if count:
                tall = max(1.0, count / most * (height - 18))
                top -= tall
                place = f'x="{x + wide * 0.08:.1f}" y="{top:.1f}" width="{wide * 0.84:.1f}" height="{tall:.1f}"'
                bars.append(f'<rect class="{kind}" {place}/>')
                title.append(f"{count:,} {name}")
        parts.append(f"<g><title>{escape(', '.join(title))}</title>{''.join(bars)}</g>")
    parts.append(f'<text class="axis" x="2" y="10">{most:,} connections</text>')
    parts += _time_axis(steps, height)
    return "".join([*parts, "</svg>"])


def _said(steps: Steps, counts: dict[tuple[str, int], int]) -> str:
    totals = [f"{sum(n for (kind, _), n in counts.items() if kind == name):,} {name}" for name, _ in STACK]
    return f"From {steps.text(steps.starts[0])} to {steps.text(steps.starts[-1])}: {', '.join(totals)}"


def _time_axis(steps: Steps, y: int, left: float = 0.0) -> list[str]:
    starts = steps.starts
    wide = (WIDTH - left) / len(starts)
    every = max(1, math.ceil(len(starts) / ((WIDTH - left) / 110)))
    if steps.step < DAY and every > 1:
        # Whole days, or parts of them.
        every = next((one for one in (2, 3, 6, 12, 24, 48, 72, 168) if one >= every), every)
    offset = (-starts[0] // steps.step) % every if steps.step < DAY else 0
    parts = []
    for at in range(offset, len(starts), every):
        x = left + at * wide
        if x < WIDTH - 60:
            text = steps.text(starts[at])
            parts.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 5}"/>')
            parts.append(f'<text class="axis" x="{x + 2:.1f}" y="{y + 17}">{text[5:]}</text>')
    return parts


@dataclass(slots=True)
class HeatRow:
    name: str
    counts: dict[int, int] = field(default_factory=dict)


def heat_map(steps: Steps, rows: Sequence[HeatRow], left: int = 260, tall: int = 18) -> str:
    """A line for each service, a field for each step; darker is more, in five steps of the logarithm."""
    starts = steps.starts
    wide = (WIDTH - left) / len(starts)
    most = max((count for row in rows for count in row.counts.values()), default=1)
    height = tall * len(rows)
    parts = [
        opening(
            height + _AXIS,
            "heat",
            "Connections by service and time",
            f"{len(rows)} services, at most {most:,} connections in one field",
        ),
        _hatching("hatch-h"),
    ]
    for at, start in enumerate(starts):
        if steps.observed.get(start, 0.0) < 0.999:
            x = left + at * wide
            parts.append(
                f'<rect class="unseen" x="{x:.1f}" y="0" width="{wide:.1f}" height="{height}" fill="url(#hatch-h)"/>'
            )
    gap = 1.0 if wide > 4 else 0.0
    for number, row in enumerate(rows):
        y = number * tall
        parts.append(
            f'<text class="label" x="{left - 6}" y="{y + tall - 5}" text-anchor="end">{escape(shortened(row.name, 38))}</text>'
        )
        fields = []
        for at, start in enumerate(starts):
            count = row.counts.get(start, 0)
            if count:
                level = (
                    1 + min(_LEVELS - 1, int(math.log(count) / math.log(most + 1) * _LEVELS)) if most > 1 else _LEVELS
                )
                fields.append(
                    f'<rect class="h{level}" x="{left + at * wide:.1f}" y="{y + 1}" width="{wide - gap:.1f}" height="{tall - 2}">'
                    f"<title>{escape(row.name)}, {steps.text(start)}: {count:,}</title></rect>"
                )
        parts += fields
    parts += _time_axis(steps, height, left)
    return "".join([*parts, "</svg>"])


def shortened(text: str, most: int) -> str:
    """The beginning and the end of a long name."""
    return text if len(text) <= most else f"{text[: most - 12]}…{text[-11:]}"


def opening(height: float, kind: str, title: str, description: str) -> str:
    return (
        f'<svg class="{kind}" role="img" viewBox="0 0 {WIDTH} {height:.0f}" aria-labelledby="{kind}-t {kind}-d">'
        f'<title id="{kind}-t">{escape(title)}</title><desc id="{kind}-d">{escape(description)}</desc>'
    )


def _hatching(name: str) -> str:
    return (
        f'<defs><pattern id="{name}" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<line class="hatch" x1="0" y1="0" x2="0" y2="6"/></pattern></defs>'
    )


def _percent(share: float) -> str:
    return "100 %" if share >= 1 else f"{int(share * 10000) / 100:.2f} %"


def by_step(series: Iterable[Step]) -> dict[tuple[str, int], int]:
    """(direction, start) -> connections."""
    found: dict[tuple[str, int], int] = {}
    for step in series:
        key = (step.direction, step.start)
        found[key] = found.get(key, 0) + step.connections
    return found
