"""Curves on two logarithmic axes, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# Colours that colour-blind people can distinguish (Okabe and Ito).
_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKS = ("circle", "square", "diamond", "triangle", "cross", "ring")
_WIDTH, _HEIGHT = 560, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 132, 48, 58


@dataclass(frozen=True, slots=True)
class Curve:
    """Points (x, y), all above 0, in the order of x."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves on the same axes."""

    title: str
    x: str
    y: str
    curves: Sequence[Curve]


def svg(panels: Sequence[Panel]) -> str:
    """The panels side by side, on a white background for any page."""
    width = _WIDTH * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}" width="{width}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{width}" height="{_HEIGHT}" fill="#fff"/>',
    ]
    for number, panel in enumerate(panels):
        parts += [f'<g transform="translate({number * _WIDTH} 0)">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


class _Axis:
    """Maps a value to its position; the axis begins and ends at a power of ten."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        self.low = math.floor(math.log10(min(values)) + 1e-9)
        self.high = max(self.low + 1, math.ceil(math.log10(max(values)) - 1e-9))
        self._begin, self._end = begin, end

    def at(self, value: float) -> float:
        part = (math.log10(value) - self.low) / (self.high - self.low)
        return round(self._begin + part * (self._end - self._begin), 1)

    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self.low, self.high + 1)]


def _panel(panel: Panel) -> list[str]:
    points = [point for curve in panel.curves for point in curve.points]
    across = _Axis([x for x, _ in points], _LEFT, _WIDTH - _RIGHT)
    up = _Axis([y for _, y in points], _HEIGHT - _BOTTOM, _TOP)
    parts = [f'<text x="{_LEFT}" y="24" font-size="14" font-weight="bold">{escape(panel.title)}</text>']
    for tick in across.ticks():
        x = across.at(tick)
        parts.append(f'<path d="M{x} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#ddd"/>')
        parts.append(f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{_number(tick)}</text>')
    for tick in up.ticks():
        y = up.at(tick)
        parts.append(f'<path d="M{_LEFT} {y}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{_number(tick)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 14}" text-anchor="middle">{escape(panel.x)}</text>')
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text x="18" y="{middle}" text-anchor="middle" transform="rotate(-90 18 {middle})">{escape(panel.y)}</text>'
    )
    names = []
    for number, curve in enumerate(panel.curves):
        colour, mark = _COLOURS[number % len(_COLOURS)], _MARKS[number % len(_MARKS)]
        places = [(across.at(x), up.at(y)) for x, y in curve.points]
        line = "M" + "L".join(f"{x} {y}" for x, y in places)
        thick = 3 if number == 0 else 1.5
        parts.append(f'<path d="{line}" fill="none" stroke="{colour}" stroke-width="{thick}"/>')
        parts += [_mark(mark, x, y, colour) for x, y in places]
        names.append((places[-1], curve.name, colour))
    return parts + _names(names)


def _names(names: Sequence[tuple[tuple[float, float], str, str]]) -> list[str]:
    """The name of each curve beside its last point, moved down where names would overlap."""
    parts, free = [], float("-inf")
    for (x, y), name, colour in sorted(names, key=lambda each: each[0][1]):
        free = max(y + 4, free + 14)
        parts.append(f'<text x="{x + 9}" y="{free:.1f}" fill="{colour}">{escape(name)}</text>')
    return parts


def _mark(mark: str, x: float, y: float, colour: str) -> str:
    if mark == "circle":
        return f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>'
    if mark == "ring":
        return f'<circle cx="{x}" cy="{y}" r="4" fill="#fff" stroke="{colour}" stroke-width="1.5"/>'
    shapes = {
        "square": "m-3.5 -3.5h7v7h-7z",
        "diamond": "m0 -5l5 5l-5 5l-5 -5z",
        "triangle": "m0 -5l5 9h-10z",
        "cross": "m-4 -4l8 8m0 -8l-8 8",
    }
    filled = f'stroke="{colour}" stroke-width="2"' if mark == "cross" else f'fill="{colour}"'
    return f'<path d="M{x} {y}{shapes[mark]}" {filled}/>'


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value / 1000:,.0f}k" if value < 1e6 else f"{value / 1e6:,.0f}M"
    return f"{value:g}"
