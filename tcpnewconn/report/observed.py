"""The coverage of a period: how much of it was observed, what was lost, what Ignore= left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from tcpnewconn.ledger.coverage import DEGRADED, GAP, OBSERVED, UNKNOWN_IGNORE
from tcpnewconn.ledger.schema import HOUR
from tcpnewconn.report.period import span_text, time_text
from tcpnewconn.settings.rule import parse_rule

# Shorter than this, a pause is a restart; it counts, but is not listed.
_LISTED = 60.0
_MOST_LISTED = 20
# A source that is degraded, and the reason of a loss, that are about whose a connection is, not about whether there was one.
_TRACE, _ATTRIBUTION = "trace", "attribution"


@dataclass(frozen=True, slots=True)
class Observed:
    """Of a period: seconds observed, pauses as (start, stop), losses by reason, degraded seconds by source, Ignore= in force."""

    since: float
    until: float
    seconds: float
    pauses: tuple[tuple[float, float], ...]
    gaps: tuple[tuple[float, float, str], ...]
    lost: dict[str, int]
    degraded: dict[str, float]
    ignored: tuple[str, ...]
    ignore_unknown: bool
    # Seconds without the kernel's trace, and calls that it lost: connections are there, their unit or process may be missing.
    untraced: float = 0.0
    calls_lost: int = 0

    @property
    def share(self) -> float:
        """Of the period, 0 to 1."""
        length = self.until - self.since
        return min(self.seconds / length, 1.0) if length > 0 else 0.0

    @property
    def events_lost(self) -> int:
        return sum(self.lost.values())

    @property
    def complete(self) -> bool:
        """Whether nothing is missing that could have been a connection."""
        return self.percent() == "100 %" and not (
            self.lost or self.degraded or self.ignored or self.ignore_unknown or self.gaps
        )

    def percent(self) -> str:
        """99.97 %; never rounded up to 100 %."""
        if self.share >= 1:
            return "100 %"
        return f"{int(self.share * 10000) / 100:.2f} %"

    def text(self, port: int | None = None, directions: tuple[str, ...] = ()) -> str:
        """One line: observed 99.97 % of that time, 0 lost. Of Ignore=, the rules that touch a port and directions."""
        parts = [f"observed {self.percent()} of that time", f"{self.events_lost} lost"]
        if self.degraded:
            parts.append(
                "; ".join(f"{source} degraded for {span_text(s)}" for source, s in sorted(self.degraded.items()))
            )
        ignored = touching(self.ignored, port, directions)
        if ignored:
            parts.append(f"not logged by Ignore={' '.join(ignored)}")
        if self.ignore_unknown:
            parts.append("Ignore= of part of it not known")
        if self.gaps:
            parts.append(f"{len(self.gaps)} gap{'' if len(self.gaps) == 1 else 's'} in the journal")
        return ", ".join(parts)

    def details(self) -> list[str]:
        """A line for each pause and gap, the longest first."""
        lines = [
            f"not observed: {time_text(start)} to {time_text(stop)} ({span_text(stop - start)})"
            for start, stop in sorted(self.pauses, key=lambda one: one[0] - one[1])[:_MOST_LISTED]
            if stop - start >= _LISTED
        ]
        lines += [
            f"gap: {time_text(start)} to {time_text(stop)}: {why}" for start, stop, why in self.gaps[:_MOST_LISTED]
        ]
        lines += [f"lost: {count} ({reason})" for reason, count in sorted(self.lost.items())]
        if self.untraced or self.calls_lost:
            lines.append(
                f"unit, user or process may be missing: no trace for {span_text(self.untraced)}, {self.calls_lost} calls lost"
            )
        return lines


def touching(rules: Iterable[str], port: int | None = None, directions: tuple[str, ...] = ()) -> list[str]:
    """The rules of Ignore= that can have left out connections to a port in one of the directions; None and () mean any."""
    return [rule for rule in rules if _touches(rule, port, directions)]


def _touches(text: str, port: int | None, directions: tuple[str, ...]) -> bool:
    try:
        rule = parse_rule(text)
    except ValueError:
        # Written by another version: it may have left out anything.
        return True
    if directions and rule.direction is not None and rule.direction not in directions:
        return False
    return port is None or rule.ports is None or rule.ports[0] <= port <= rule.ports[1]


class Span(NamedTuple):
    """A time of one kind (coverage.py); `seconds` is less than stop - start where neighbours were joined to stay bounded."""

    kind: str
    start: float
    stop: float
    seconds: float
    detail: str

    @property
    def density(self) -> float:
        return self.seconds / (self.stop - self.start) if self.stop > self.start else 1.0


def observed(spans: Iterable[Span], lost: dict[str, int], since: float, until: float) -> Observed:
    """Of spans that touch the period, in the order of their starts."""
    inside: dict[str, list[tuple[float, float, float, str]]] = {OBSERVED: [], DEGRADED: [], GAP: []}
    for span in spans:
        inside[span.kind].append((max(span.start, since), min(span.stop, until), span.density, span.detail))
    seconds, pauses = _union(inside[OBSERVED], since, until)
    degraded: dict[str, float] = {}
    for start, stop, density, source in inside[DEGRADED]:
        degraded[source] = degraded.get(source, 0.0) + (stop - start) * density
    lost = dict(lost)
    untraced, calls_lost = degraded.pop(_TRACE, 0.0), lost.pop(_ATTRIBUTION, 0)
    rules = [detail for *_, detail in inside[OBSERVED]]
    return Observed(
        since=since,
        until=until,
        seconds=seconds,
        pauses=tuple(pauses),
        gaps=tuple((start, stop, why) for start, stop, _, why in inside[GAP]),
        lost=lost,
        degraded=degraded,
        ignored=tuple(dict.fromkeys(rule for one in rules if one != UNKNOWN_IGNORE for rule in one.split())),
        ignore_unknown=UNKNOWN_IGNORE in rules,
        untraced=untraced,
        calls_lost=calls_lost,
    )


def hourly(spans: Iterable[Span], since: float, until: float, step: int = HOUR) -> dict[int, float]:
    """The share of each step that was observed, by its start."""
    shares: dict[int, float] = {}
    for span in spans:
        if span.kind != OBSERVED:
            continue
        first = int(max(span.start, since)) // step * step
        for at in range(first, int(min(span.stop, until)) + 1, step):
            inside = max(0.0, min(span.stop, until, at + step) - max(span.start, since, at))
            length = min(at + step, until) - max(at, since)
            if length > 0:
                shares[at] = min(1.0, shares.get(at, 0.0) + inside * span.density / length)
    return shares


def _union(
    spans: list[tuple[float, float, float, str]], since: float, until: float
) -> tuple[float, list[tuple[float, float]]]:
    """Seconds that at least one span covers, and the pauses between them; spans in the order of their starts."""
    seconds, at = 0.0, since
    pauses = []
    for start, stop, density, _ in spans:
        if start > at:
            pauses.append((at, start))
            at = start
        if stop > at:
            seconds += (stop - at) * density
            at = stop
    if until > at:
        pauses.append((at, until))
    return seconds, pauses
