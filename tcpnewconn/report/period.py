"""Points in time as journalctl takes them for --since and --until (systemd.time(7)), and as reports write them."""

from __future__ import annotations

import re
import time
from datetime import date, datetime, timedelta, timezone

from tcpnewconn.settings.values import parse_span

_WEEKDAY = re.compile(r"^(mon|tue|wed|thu|fri|sat|sun)[a-z]*,?\s+", re.IGNORECASE)
_DATE = re.compile(r"^(\d{4}|\d{2})-(\d{1,2})-(\d{1,2})(?:[ T]+|$)")
_CLOCK = re.compile(r"^(\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d{1,6})?))?$")
_FORMS = "2026-11-25 12:00, 12:00, today, yesterday, now, -2h, 3 days ago or @1795600000"


def parse_time(text: str, now: float | None = None) -> float:
    """Unix seconds. Local time, unless the text ends in UTC. ValueError says what would be right."""
    now = time.time() if now is None else now
    given = text.strip()
    try:
        if given.startswith("@"):
            return float(given[1:])
        if given[:1] in "+-" and given[1:]:
            return now + parse_span(given[1:]) * (1 if given[0] == "+" else -1)
        for ending, sign in ((" ago", -1), (" left", 1)):
            if given.endswith(ending):
                return now + sign * parse_span(given[: -len(ending)])
        zone = timezone.utc if given.endswith((" UTC", "Z")) and given != "Z" else None
        return _absolute(given.removesuffix("Z").removesuffix(" UTC").strip(), now, zone)
    except (ValueError, OverflowError):
        raise ValueError(f"not a time; use for example {_FORMS}") from None


def _absolute(text: str, now: float, zone: timezone | None) -> float:
    if text == "now":
        return now
    today = datetime.fromtimestamp(now, zone).date()
    named = {"today": 0, "yesterday": -1, "tomorrow": 1}
    if text in named:
        return _moment(today + timedelta(days=named[text]), 0, 0, 0.0, zone)
    text = _WEEKDAY.sub("", text)
    day = today
    found = _DATE.match(text)
    if found is not None:
        year = int(found[1]) + (2000 if len(found[1]) == 2 else 0)
        day = date(year, int(found[2]), int(found[3]))
        text = text[found.end() :]
        if not text:
            return _moment(day, 0, 0, 0.0, zone)
    clock = _CLOCK.match(text)
    if clock is None:
        raise ValueError
    return _moment(day, int(clock[1]), int(clock[2]), float(clock[3] or 0), zone)


def _moment(day: date, hour: int, minute: int, second: float, zone: timezone | None) -> float:
    whole = int(second)
    moment = datetime(day.year, day.month, day.day, hour, minute, whole, tzinfo=zone)
    return moment.timestamp() + (second - whole)


def time_text(when: float | None) -> str:
    """2026-11-25 12:00:00, in UTC."""
    return "-" if when is None else datetime.fromtimestamp(int(when), timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def day_text(when: float) -> str:
    return datetime.fromtimestamp(int(when), timezone.utc).strftime("%Y-%m-%d")


def span_text(seconds: float) -> str:
    """A time span for people, its two largest units: 3d 4h, 12min 5s, 0s."""
    rest = round(seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
