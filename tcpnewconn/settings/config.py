"""Settings: their names, defaults and values, and which file assigns them."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from tcpnewconn.settings.files import ConfigError, Problem, find, lines
from tcpnewconn.settings.ignore import Rules
from tcpnewconn.settings.rule import parse_network, parse_rule, split_list
from tcpnewconn.settings.values import (
    BLANKS,
    format_boolean,
    format_include,
    format_path,
    format_ports,
    format_quota,
    format_size,
    format_span,
    parse_boolean,
    parse_include,
    parse_interval,
    parse_keep,
    parse_learning,
    parse_limit,
    parse_path,
    parse_peers,
    parse_ports,
    parse_quota,
    parse_size,
    parse_within,
)
from tcpnewconn.text import nearest, printable

__all__ = ["KINDS", "RENAMED_SECTIONS", "SETTINGS", "ConfigError", "Configuration", "Settings", "load", "read"]


class Kind(NamedTuple):
    """How one value is parsed and formatted. `parse` raises ValueError, whose text says what would be right."""

    parse: Callable[[str], Any]
    format: Callable[[Any], str]
    is_list: bool = False


KINDS = {
    "interval": Kind(parse_interval, format_span),
    "boolean": Kind(parse_boolean, format_boolean),
    "limit": Kind(parse_limit, str),
    "ports": Kind(parse_ports, format_ports),
    "within": Kind(parse_within, format_span),
    "keep": Kind(parse_keep, format_span),
    "size": Kind(parse_size, format_size),
    "peers": Kind(parse_peers, str),
    "learning": Kind(parse_learning, format_span),
    "include": Kind(parse_include, format_include),
    "path": Kind(parse_path, format_path),
    "quota": Kind(parse_quota, format_quota),
    "rules": Kind(parse_rule, str, is_list=True),
    "networks": Kind(parse_network, str, is_list=True),
}


class Setting(NamedTuple):
    """One line that may stand in a configuration file."""

    section: str
    name: str
    default: str  # as it would be written
    meaning: str
    kind: str  # a key of KINDS

    @property
    def attribute(self) -> str:
        """Where Settings keeps its value: Interval -> interval, BurstLimit -> burst_limit; [Trace] Accept -> trace_accept."""
        name = f"Trace{self.name}" if self.section == "Trace" else self.name
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()

    def parts(self, value: str) -> list[str]:
        """The parts that are parsed one by one: the entries of a list, or the whole value."""
        return split_list(value) if KINDS[self.kind].is_list else [value]


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "Poll", "Interval", "10s", "Time between two polls of the kernel's TCP tables, from 100ms to 1d.", "interval"
    ),
    Setting("Report", "Existing", "yes", "Log connections that are already open at the first start.", "boolean"),
    Setting("Report", "Listeners", "yes", "Log new listening sockets.", "boolean"),
    Setting("Report", "Closed", "no", "Log closed connections too, with the bytes sent each way.", "boolean"),
    Setting(
        "Report",
        "Failed",
        "no",
        "Log attempts to open a connection that fail, with who tried. Needs the trace.",
        "boolean",
    ),
    Setting(
        "Report",
        "CommandLine",
        "no",
        "Log command lines of processes. They can contain secrets, which the journal then keeps.",
        "boolean",
    ),
    Setting(
        "Report",
        "Ignore",
        "",
        "Exclude traffic you do not need: networks, ports, units, users, processes, containers.",
        "rules",
    ),
    Setting(
        "Report",
        "BurstLimit",
        "100",
        "Similar connections logged one by one per interval; the rest is summarized. 0: no limit.",
        "limit",
    ),
    Setting(
        "Report",
        "TotalLimit",
        "1000",
        "Connections logged one by one per second; the rest is summarized. 0: no limit.",
        "limit",
    ),
    Setting(
        "PortScan",
        "Ports",
        "3",
        "A source that connects to more ports than this is logged as a port scan. off: none is.",
        "ports",
    ),
    Setting("PortScan", "Within", "60s", "Time in which it connects to them, from 1s to 1h.", "within"),
    Setting("PortScan", "Trusted", "", "Networks that may connect to any number of ports.", "networks"),
    Setting(
        "Trace",
        "Accept",
        "yes",
        "Record who accepts connections, not only who opens them. Applies after: systemctl reload tcpnewconn-trace.",
        "boolean",
    ),
    Setting(
        "Namespaces",
        "Include",
        "host",
        "Network namespaces that are observed: host, or all, with those of containers.",
        "include",
    ),
    Setting(
        "Namespaces",
        "CPUQuota",
        "1%",
        "Share of one CPU's time that observing other namespaces may take, from 0.1% to 100%.",
        "quota",
    ),
    Setting(
        "Namespaces",
        "ContainerNames",
        "off",
        "File with the ID and the name of a container on each line, for docker. off: there is none.",
        "path",
    ),
    Setting("Ledger", "Keep", "90d", "Time for which the ledger keeps its days, from 8d to 10y.", "keep"),
    Setting("Ledger", "Size", "64M", "Largest size of the ledger, from 16M to 16G; the oldest days go first.", "size"),
    Setting("Ledger", "Peers", "250", "Peers kept by address per service and day; the rest is added up.", "peers"),
    Setting("FirstSeen", "Log", "no", "Log peers and destinations that the ledger has never seen.", "boolean"),
    Setting("FirstSeen", "Learning", "7d", "Time that the ledger observes before it logs them, up to 1y.", "learning"),
    Setting("FirstSeen", "EventLimit", "50", "Events per update of the ledger. 0: no limit.", "limit"),
)
SECTIONS = tuple(dict.fromkeys(setting.section for setting in SETTINGS))
# Old names of sections, and their new ones.
RENAMED_SECTIONS = {"Read": "Poll", "Scan": "PortScan"}


class Settings(NamedTuple):
    """The values in force."""

    interval: float  # seconds
    existing: bool
    listeners: bool
    closed: bool
    failed: bool
    command_line: bool
    ignore: Rules
    burst_limit: int  # 0: no limit
    total_limit: int  # 0: no limit
    ports: int  # 0: off
    within: float  # seconds
    trusted: Rules
    trace_accept: bool
    include: bool  # namespaces of containers, and others
    cpuquota: float  # of one CPU
    container_names: str | None  # path of a file
    keep: float  # seconds
    size: int  # bytes
    peers: int
    log: bool  # peers that are seen for the first time
    learning: float  # seconds
    event_limit: int  # 0: no limit


class Assignment(NamedTuple):
    """The assignment of one line to a setting."""

    file: str
    line: int
    values: tuple[Any, ...]


class Configuration(NamedTuple):
    """The configuration as read: its files, later ones overriding, and for each setting the assignments in force."""

    files: tuple[str, ...]
    assigned: Mapping[str, tuple[Assignment, ...]]

    @property
    def settings(self) -> Settings:
        values: dict[str, Any] = {}
        for setting in SETTINGS:
            kind = KINDS[setting.kind]
            found = [value for assignment in self.assigned.get(setting.attribute, ()) for value in assignment.values]
            if not found:
                found = [kind.parse(part) for part in setting.parts(setting.default)]
            values[setting.attribute] = Rules(tuple(found)) if kind.is_list else found[-1]
        return Settings(**values)

    def text(self) -> str:
        """The settings in force, each below a comment that says where it comes from: a configuration file in itself."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        for section in SECTIONS:
            if section != SECTIONS[0]:
                yield ""
            yield f"[{section}]"
            for setting in SETTINGS:
                if setting.section == section:
                    yield from self._setting_lines(setting)

    def _setting_lines(self, setting: Setting) -> Iterator[str]:
        kind = KINDS[setting.kind]
        assignments = self.assigned.get(setting.attribute, ())
        if not assignments:
            yield "# default"
            yield f"{setting.name}={setting.default}"
        for assignment in assignments if kind.is_list else assignments[-1:]:
            yield f"# {printable(assignment.file)}:{assignment.line}"
            yield f"{setting.name}={' '.join(map(kind.format, assignment.values))}"


def load(main: str | None = None, root: str = "/") -> Settings:
    """The settings in force; see read()."""
    return read(main, root).settings


def read(main: str | None = None, root: str = "/") -> Configuration:
    """Read the configuration. Raises ConfigError, with every error.

    Without `main`: the configuration file and its drop-ins, see files.find(); `root` is the directory that holds etc, run
    and usr. With `main`: that file alone, as systemd-sysusers(8) and systemd-tmpfiles(8) take a file they are given.
    """
    problems: list[Problem] = []
    files = tuple(find(root, problems)) if main is None else (main,)
    assigned: dict[str, list[Assignment]] = {}
    for file in files:
        _read(file, assigned, problems)
    if problems:
        raise ConfigError(problems)
    return Configuration(files, {attribute: tuple(each) for attribute, each in assigned.items()})


def _read(file: str, assigned: dict[str, list[Assignment]], problems: list[Problem]) -> None:
    """Add the assignments of a file, and its errors."""
    section: str | None = ""
    for number, line in lines(file, problems):
        if line.startswith("["):
            section, text = _section(line)
            if text:
                problems.append(Problem(file, number, line, text))
            continue
        if section is None:
            # The section is an error already.
            continue
        name, equals, value = (part.strip(BLANKS) for part in line.partition("="))
        if not equals or not name:
            problems.append(Problem(file, number, line, "not an assignment; use for example Interval=10s"))
            continue
        setting = _setting(section, name)
        if isinstance(setting, str):
            given = f"[{section}] {name}={value}" if section else f"{name}={value}"
            problems.append(Problem(file, number, given, setting))
        elif not value:
            # As in systemd, earlier assignments are reset.
            assigned.pop(setting.attribute, None)
        else:
            values = tuple(_values(file, number, setting, value, problems))
            assigned.setdefault(setting.attribute, []).append(Assignment(file, number, values))


def _section(line: str) -> tuple[str | None, str]:
    """The section that a line begins (None if it is unknown), and the error in the line."""
    name = line[1:-1]
    if not line.endswith("]"):
        return None, "a section ends with ]; use for example [Poll]"
    if name in RENAMED_SECTIONS:
        return RENAMED_SECTIONS[name], f"renamed; use [{RENAMED_SECTIONS[name]}]"
    if name in SECTIONS:
        return name, ""
    return None, f"unknown section; {_suggestion(name, SECTIONS, '[{}]', RENAMED_SECTIONS)}"


def _setting(section: str, name: str) -> Setting | str:
    """The setting of this name, or the error."""
    for setting in SETTINGS:
        if setting.section == section and setting.name == name:
            return setting
    homes = [f"[{setting.section}]" for setting in SETTINGS if setting.name == name]
    if not section:
        return f"outside of a section; put it below {homes[0] if homes else 'a section such as [Poll]'}"
    if homes:
        return f"in the wrong section; put it below {homes[0]}"
    names = tuple(setting.name for setting in SETTINGS if setting.section == section)
    return f"unknown setting; {_suggestion(name, names, '{}=')}"


def _values(file: str, number: int, setting: Setting, value: str, problems: list[Problem]) -> Iterator[Any]:
    for part in setting.parts(value) or [value]:
        try:
            yield KINDS[setting.kind].parse(part)
        except ValueError as error:
            comment = re.search(r"(^|[ \t])[#;]", part)
            hint = "; a comment needs a line of its own" if comment else ""
            problems.append(Problem(file, number, f"[{setting.section}] {setting.name}={part}", f"{error}{hint}"))
            if comment:
                # Each word of the comment would be one more error.
                return


def _suggestion(given: str, names: tuple[str, ...], form: str, renamed: Mapping[str, str] | None = None) -> str:
    renamed = renamed or {}
    near = nearest(given, (*names, *renamed))
    if near is not None:
        return f"did you mean {form.format(renamed.get(near, near))}?"
    return "use " + " or ".join(form.format(name) for name in names)
