"""Parses and formats the values of settings: time spans, booleans, numbers."""

import re

SHORTEST_INTERVAL = 0.1
# A connection that stays open is logged up to one interval late; more than a day of that is surely a wrong unit.
LONGEST_INTERVAL = 86400.0

# Microseconds. The names are those of systemd.time(7), as are the lengths of month and year.
_UNITS = (
    dict.fromkeys(("us", "usec", "µs", "μs"), 1)
    | dict.fromkeys(("ms", "msec"), 1_000)
    | dict.fromkeys(("", "s", "sec", "second", "seconds"), 1_000_000)
    | dict.fromkeys(("m", "min", "minute", "minutes"), 60_000_000)
    | dict.fromkeys(("h", "hr", "hour", "hours"), 3_600_000_000)
    | dict.fromkeys(("d", "day", "days"), 86_400_000_000)
    | dict.fromkeys(("w", "week", "weeks"), 604_800_000_000)
    | dict.fromkeys(("M", "month", "months"), 2_629_800_000_000)
    | dict.fromkeys(("y", "year", "years"), 31_557_600_000_000)
)
_SPAN_PART = re.compile(r"[ \t]*(?:([0-9]{1,19})(?:\.([0-9]+))?|\.([0-9]+))(?![0-9.])[ \t]*([A-Za-zµμ]*)")
BLANKS = " \t\r"


def parse_span(text: str) -> float:
    """Seconds of a time span as in systemd.time(7): "10s", "1min 30s", "1.5h"; a bare number is seconds.

    Exact to a microsecond. ValueError says what would be right; "infinity" is refused.
    """
    text = text.strip(BLANKS)
    if text == "infinity":
        raise ValueError("must end; use for example 10s, 500ms or 1min")
    microseconds = position = 0
    while position < len(text) or not text:
        part = _SPAN_PART.match(text, position)
        if part is None or part[4] not in _UNITS:
            raise ValueError("not a time span; use for example 10s, 500ms or 1min")
        unit = _UNITS[part[4]]
        fraction = (part[2] or part[3] or "0")[:19]
        microseconds += int(part[1] or "0") * unit + int(fraction) * unit // 10 ** len(fraction)
        position = part.end()
    return microseconds / 1e6


def format_span(seconds: float) -> str:
    """The text that parse_span reads as these seconds, rounded to microseconds: 90.0 -> "1min 30s"."""
    rest = round(seconds * 1e6)
    parts = []
    for unit in ("d", "h", "min", "s", "ms", "us"):
        count, rest = divmod(rest, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts) or "0"


def parse_interval(text: str) -> float:
    """Seconds between two polls. ValueError for what is no time span, or not between 100 ms and one day."""
    seconds = parse_span(text)
    if seconds < SHORTEST_INTERVAL:
        raise ValueError(f"too short; use at least {format_span(SHORTEST_INTERVAL)}")
    if seconds > LONGEST_INTERVAL:
        raise ValueError(f"too long; use at most {format_span(LONGEST_INTERVAL)}")
    return seconds


def parse_boolean(text: str) -> bool:
    """1, yes, y, true, t or on; 0, no, n, false, f or off; in any case. ValueError for all else."""
    if text.lower() in ("1", "yes", "y", "true", "t", "on"):
        return True
    if text.lower() in ("0", "no", "n", "false", "f", "off"):
        return False
    raise ValueError("not a boolean; use yes or no")


def format_boolean(value: bool) -> str:
    """The text that parse_boolean reads as this."""
    return "yes" if value else "no"


def parse_limit(text: str) -> int:
    """A number from 0 to 1000000. ValueError for all else."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 7 and int(text) <= 1_000_000):
        raise ValueError("not a limit; use a number from 1 to 1000000, or 0 for none")
    return int(text)


def parse_ports(text: str) -> int:
    """A number of ports from 1 to 1000, or off (0). ValueError for all else."""
    if text.lower() == "off":
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= 1000):
        raise ValueError("not a number of ports; use a number from 1 to 1000, or off")
    return int(text)


def format_ports(number: int) -> str:
    """The text that parse_ports reads as this number."""
    return str(number) if number else "off"


def parse_within(text: str) -> float:
    """Seconds. ValueError for what is no time span, or not between one second and one hour."""
    seconds = parse_span(text)
    if not 1 <= seconds <= 3600:
        raise ValueError("too short or too long; use a time span from 1s to 1h")
    return seconds


def parse_keep(text: str) -> float:
    """Seconds. ValueError for what is no time span, or not between 8 days (hours become days after a week) and 10 years."""
    seconds = parse_span(text)
    if not 8 * 86400 <= seconds <= 3660 * 86400:
        raise ValueError("too short or too long; use a time span from 8d to 10y")
    return seconds


def parse_size(text: str) -> int:
    """Bytes: a number with K, M or G (powers of 1024), from 16M to 16G. ValueError for all else."""
    found = re.fullmatch(r"([0-9]{1,11})([KMG]?)", text)
    if (
        found is None
        or not 16 << 20 <= (size := int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]]) <= 16 << 30
    ):
        raise ValueError("not a size; use for example 64M, from 16M to 16G")
    return size


def format_size(size: int) -> str:
    """The text that parse_size reads as these bytes: 67108864 -> 64M."""
    for unit, shift in (("G", 30), ("M", 20), ("K", 10)):
        if size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return str(size)


def parse_peers(text: str) -> int:
    """A number of peers from 1 to 100000. ValueError for all else."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= 100_000):
        raise ValueError("not a number of peers; use a number from 1 to 100000")
    return int(text)


def parse_learning(text: str) -> float:
    """Seconds. ValueError for what is no time span, or more than a year."""
    seconds = parse_span(text)
    if not 0 <= seconds <= 366 * 86400:
        raise ValueError("too long; use a time span of up to a year, such as 7d")
    return seconds


def parse_include(text: str) -> bool:
    """Whether network namespaces other than the host's are observed. ValueError for anything but host and all."""
    if text.strip(BLANKS) not in ("host", "all"):
        raise ValueError("use host, or all")
    return text.strip(BLANKS) == "all"


def format_include(included: bool) -> str:
    return "all" if included else "host"


def parse_quota(text: str) -> float:
    """A share of one CPU: "1%" is 0.01. ValueError for what is none, or not between 0.1% and 100%."""
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)[ \t]*%", text.strip(BLANKS))
    if match is None or not 0.1 <= float(match[1]) <= 100:
        raise ValueError("use a share of one CPU from 0.1% to 100%, for example 1%")
    return float(match[1]) / 100


def format_quota(share: float) -> str:
    return f"{round(share * 100, 3):g}%"


def parse_path(text: str) -> str | None:
    """An absolute path, or off (None). ValueError for all else."""
    if text.lower() == "off":
        return None
    if not text.startswith("/") or not text.isprintable():
        raise ValueError("use an absolute path, or off")
    return text


def format_path(path: str | None) -> str:
    return "off" if path is None else path
