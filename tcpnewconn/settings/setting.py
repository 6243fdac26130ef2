"""The settings that there are: section, name, default and meaning of each, and how its value is written."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from tcpnewconn.settings.ignore import Rules
from tcpnewconn.settings.rule import parse_network, parse_rule, split_list
from tcpnewconn.settings.values import (
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
