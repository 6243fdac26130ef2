"""Settings: their defaults, /etc/tcpnewconn.conf and drop-ins, written as systemd.syntax(7) says."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tcpnewconn.settings.ignore import Rules, parse_rule
from tcpnewconn.settings.values import (
    BLANKS,
    parse_boolean,
    parse_interval,
    parse_keep,
    parse_learning,
    parse_limit,
    parse_peers,
    parse_ports,
    parse_size,
    parse_within,
)

NAME = "tcpnewconn.conf"
# Highest precedence first: systemd-system.conf(5), systemd 257.
DIRECTORIES = ("etc", "run", "usr/local/lib", "usr/lib")

# No configuration is larger, and /dev/zero never ends.
_LARGEST_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Setting:
    """One line that may stand in a configuration file."""

    section: str
    name: str
    default: str  # as it would be written
    meaning: str
    kind: str  # a key of KINDS

    @property
    def attribute(self) -> str:
        """Where Settings keeps its value: Interval -> interval, BurstLimit -> burst_limit."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.name).lower()

    def parts(self, value: str) -> list[str]:
        """What is read one by one: the entries of a list, or the whole."""
        return value.split() if self.kind == "rules" else [value]


# How one part of a value is read; ValueError says what would be right.
KINDS: dict[str, Callable[[str], object]] = {
    "interval": parse_interval,
    "boolean": parse_boolean,
    "rules": parse_rule,
    "limit": parse_limit,
    "ports": parse_ports,
    "within": parse_within,
    "keep": parse_keep,
    "size": parse_size,
    "peers": parse_peers,
    "learning": parse_learning,
}

SETTINGS: tuple[Setting, ...] = (
    Setting("Read", "Interval", "10s", "Time from one read of the TCP tables to the next, 100ms to 1d.", "interval"),
    Setting("Report", "Existing", "yes", "Report the connections that stood before the first start.", "boolean"),
    Setting("Report", "Listeners", "yes", "Report new listeners.", "boolean"),
    Setting("Report", "Closed", "no", "Report the end of every connection, too.", "boolean"),
    Setting("Report", "Ignore", "", "Connections not to report: networks, ports and network:port.", "rules"),
    Setting(
        "Report", "BurstLimit", "100", "Alike connections per interval that are told one by one; 0 for all.", "limit"
    ),
    Setting("Report", "TotalLimit", "1000", "Connections per second that are told one by one; 0 for all.", "limit"),
    Setting("Scan", "Ports", "3", "A source that connects to more ports than this is a port scan; off.", "ports"),
    Setting("Scan", "Within", "60s", "In this time it must connect to them, 1s to 1h.", "within"),
    Setting("Scan", "Trusted", "", "Networks that may connect to as many ports as they like.", "rules"),
    Setting("Ledger", "Keep", "90d", "How long the ledger keeps its days, from 8d to 10y.", "keep"),
    Setting(
        "Ledger", "Size", "64M", "Bytes that the ledger may take, from 1M to 16G; the oldest days go first.", "size"
    ),
    Setting("Ledger", "Peers", "250", "Peers kept by address for each service and day; the rest by network.", "peers"),
    Setting("FirstSeen", "Log", "no", "Log peers and destinations that the ledger has never seen.", "boolean"),
    Setting("FirstSeen", "Learning", "7d", "Time the ledger observes before it logs them, up to a year.", "learning"),
    Setting("FirstSeen", "EventLimit", "50", "Events of one update, one every ten minutes; 0: no limit.", "limit"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The values in force."""

    interval: float  # seconds
    existing: bool
    listeners: bool
    closed: bool
    ignore: Rules
    burst_limit: int  # 0: no limit
    total_limit: int  # 0: no limit
    ports: int  # 0: off
    within: float  # seconds
    trusted: Rules
    keep: float  # seconds
    size: int  # bytes
    peers: int
    log: bool  # peers that are seen for the first time
    learning: float  # seconds
    event_limit: int  # 0: no limit


class ConfigError(Exception):
    """What is wrong with a file. str() is one printable line, whatever the file holds."""

    def __init__(self, file: str, line: int | None, given: str, problem: str) -> None:
        place = file if line is None else f"{file}:{line}"
        super().__init__(": ".join(_printable(part) for part in (place, given, problem) if part))
        self.file = file
        self.line = line


def load(main: str | None = None, root: str = "/") -> Settings:
    """Read the settings, or raise ConfigError for the first thing that is wrong.

    Without `main`: the first tcpnewconn.conf there is in /etc, /run, /usr/local/lib and /usr/lib, then the drop-ins
    tcpnewconn.conf.d/*.conf of all four in the order of their file names, later ones overriding. Of those with the
    same name only the one in the directory named first counts: an empty file or a link to /dev/null hides the others.
    With `main`: that file alone, as systemd-sysusers(8) and systemd-tmpfiles(8) take a file they are given.
    `root` is the directory that holds etc, run and usr.
    """
    given: dict[str, list[Any]] = {}
    for file in _files(root) if main is None else [main]:
        _read(file, given)
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        default: list[Any] = [KINDS[setting.kind](part) for part in setting.parts(setting.default)]
        parts = given.get(setting.attribute) or default
        values[setting.attribute] = Rules(tuple(parts)) if setting.kind == "rules" else parts[-1]
    return Settings(**values)


def _files(root: str) -> Iterator[str]:
    """The files that count, later ones overriding."""
    for directory in DIRECTORIES:
        file = os.path.join(root, directory, NAME)
        # A dangling link is somebody's mistake, and reading it will say so; no file at all is normal.
        if os.path.lexists(file):
            yield file
            break
    drop_ins: dict[str, str] = {}
    for directory in DIRECTORIES:
        folder = os.path.join(root, directory, NAME + ".d")
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigError(folder, None, "", _unreadable(error, "755")) from error
        for name in names:
            if name.endswith(".conf") and not name.startswith("."):
                drop_ins.setdefault(name, os.path.join(folder, name))
    for name in sorted(drop_ins, key=os.fsencode):
        yield drop_ins[name]


def _unreadable(error: OSError, mode: str) -> str:
    remedy = f"; make it readable with chmod {mode}" if isinstance(error, PermissionError) else ""
    return f"cannot be read: {error.strerror}{remedy}"


def _text(file: str) -> str:
    try:
        # Without O_NONBLOCK, opening a named pipe that nobody writes to would wait for ever.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(descriptor, True)
        with open(descriptor, "rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(file, None, "", _unreadable(error, "644")) from error
    if len(content) > _LARGEST_FILE:
        raise ConfigError(file, None, "", "larger than 1 MiB; this is no configuration file")
    if content.startswith(b"\xef\xbb\xbf"):
        raise ConfigError(file, 1, "", "starts with a byte order mark; save the file as UTF-8 without one")
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise ConfigError(file, line, "", "holds a NUL byte; save the file as plain text in UTF-8")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ConfigError(file, line, "", problem) from error


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line but blank ones and comments; continued ones joined by a blank, as systemd does."""
    start, joined = 0, ""
    # Not splitlines(): it splits at form feeds and the like too, and would count other lines than an editor does.
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.lstrip(BLANKS).rstrip("\r")
        if line.startswith(("#", ";")):
            continue  # also between continued lines
        start = start or number
        if (len(line) - len(line.rstrip("\\"))) % 2:
            joined += line[:-1] + " "
            continue
        line = (joined + line).strip(BLANKS)
        if line:
            yield start, line
        start, joined = 0, ""
    if joined.strip(BLANKS):
        yield start, joined.strip(BLANKS)


def _read(file: str, given: dict[str, list[Any]]) -> None:
    """Add what the file assigns."""
    section = ""
    for number, line in _lines(_text(file)):
        if line.startswith("["):
            section = line[1:-1]
            if not line.endswith("]"):
                raise ConfigError(file, number, line, "a section ends with ]; use for example [Read]")
            sections = list(dict.fromkeys(setting.section for setting in SETTINGS))
            if section not in sections:
                raise ConfigError(file, number, line, f"unknown section; {_suggestion(section, sections, '[{}]')}")
            continue
        name, equals, value = (part.strip(BLANKS) for part in line.partition("="))
        if not equals or not name:
            raise ConfigError(file, number, line, "not an assignment; use for example Interval=10s")
        setting = _setting(file, number, section, name, value)
        if not value:
            # As in systemd, what was assigned before is taken back.
            given.pop(setting.attribute, None)
            continue
        for part in setting.parts(value):
            _assign(file, number, setting, part, given)


def _setting(file: str, number: int, section: str, name: str, value: str) -> Setting:
    for setting in SETTINGS:
        if setting.section == section and setting.name == name:
            return setting
    homes = [f"[{setting.section}]" for setting in SETTINGS if setting.name == name]
    if not section:
        problem = f"outside of a section; put it below {homes[0] if homes else 'a section such as [Read]'}"
        raise ConfigError(file, number, f"{name}={value}", problem)
    if homes:
        problem = f"in the wrong section; put it below {homes[0]}"
    else:
        names = [setting.name for setting in SETTINGS if setting.section == section]
        problem = f"unknown setting; {_suggestion(name, names, '{}=')}"
    raise ConfigError(file, number, f"[{section}] {name}={value}", problem)


def _assign(file: str, number: int, setting: Setting, part: str, given: dict[str, list[Any]]) -> None:
    try:
        given.setdefault(setting.attribute, []).append(KINDS[setting.kind](part))
    except ValueError as error:
        hint = "; a comment needs a line of its own" if re.search(r"(^|[ \t])[#;]", part) else ""
        raise ConfigError(file, number, f"[{setting.section}] {setting.name}={part}", f"{error}{hint}") from error


def _suggestion(given: str, names: Sequence[str], form: str) -> str:
    import difflib  # here, because few runs need it and all would pay its memory

    lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(given.lower()[:100], lower, n=1)
    if near:
        return f"did you mean {form.format(lower[near[0]])}?"
    return "use " + " or ".join(form.format(name) for name in names)


def _printable(text: str) -> str:
    """Shortened, and what could forge a second line or steer a terminal written as an escape."""
    if len(text) > 200:
        text = text[:199] + "…"
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
