"""The command line: arguments, sub-commands, exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from tcpnewconn import __version__
from tcpnewconn.settings.config import ConfigError, Settings, load
from tcpnewconn.settings.values import parse_interval

EXIT_CANNOT_RUN = 1
# What status ends with when something is not as it should be.
EXIT_DEGRADED = 1
# As sysexits.h and systemd know it: the unit is not started again then.
EXIT_CONFIG = 78

# With arguments of their own, see tcpnewconn/ledger/.
LEDGER_COMMANDS = ("ledger", "report")
COMMANDS = ("run", "check-config", "status", "metrics-http")

_EPILOG = """\
examples:
  tcpnewconn                                what is connected now, then each new connection as it comes
  tcpnewconn --once --output json | jq .    the same for programs, once
  tcpnewconn check-config                   say what is wrong with the configuration, if anything
  tcpnewconn status                         how the service fares, and what it has counted

The service is read with journalctl -u tcpnewconn. See tcpnewconn(8), tcpnewconn.conf(5) and tcpnewconn.fields(7).
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as every message here."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """All there is to say on the command line."""
    top = _Parser(
        prog="tcpnewconn",
        description="Reports every new TCP connection of this host, once.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("command", nargs="?", choices=COMMANDS, default="run", help="default: run")
    top.add_argument("--once", action="store_true", help="read once, report, exit")
    top.add_argument("--interval", metavar="SPAN", type=_interval, help="time between two reads, such as 10s or 500ms")
    top.add_argument(
        "--output",
        choices=("auto", "journal", "text", "json"),
        default="auto",
        help="where to report; auto is the journal under systemd, else text",
    )
    top.add_argument(
        "--config", metavar="FILE", help="configuration file, in place of /etc/tcpnewconn.conf and its drop-ins"
    )
    top.add_argument(
        "--procfs", metavar="DIR", default="/proc", help="where /proc is mounted, or a folder of captured files"
    )
    top.add_argument("--state", metavar="FILE", help="keep there what was reported; default: under systemd only")
    top.add_argument(
        "--metrics",
        metavar="FILE",
        help="write figures there for Prometheus, under systemd only by default; or read them",
    )
    top.add_argument("--json", action="store_true", help="with status: for programs")
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return top


def _interval(text: str) -> float:
    try:
        return parse_interval(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit code."""
    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
        if given and given[0] in LEDGER_COMMANDS:
            return _ledger(given)
        options = _parsed(arguments)
        if options.command == "status":
            return _status(options)
        if options.command == "metrics-http":
            return _metrics_http(options)
        settings = _settings(options)
        if options.command == "check-config":
            return 0
        return _run(options, settings)
    except ConfigError as error:
        _complain(str(error))
        return EXIT_CONFIG
    except BrokenPipeError:
        # Whoever read our output has gone.
        _discard_output()
        return 0
    except OSError as error:
        _complain(f"standard output: {error.strerror}")
        _discard_output()
        return EXIT_CANNOT_RUN
    except KeyboardInterrupt:
        return 0


def _ledger(given: list[str]) -> int:
    from tcpnewconn.ledger import command, report_command

    own = _Parser(prog=f"tcpnewconn {given[0]}", allow_abbrev=False)
    try:
        if given[0] == "ledger":
            command.add_arguments(own)
            return command.run(own.parse_args(given[1:]))
        report_command.add_arguments(own)
        return report_command.run(own.parse_args(given[1:]))
    except SystemExit:
        if sys.stdout is not None:
            sys.stdout.flush()
        raise


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    try:
        top = parser()
        options = top.parse_args(arguments)
        if options.json and options.command != "status":
            top.error("--json is for status; there is --output json")
        return options
    except SystemExit:
        # What --help and --version print goes out here, or fails here.
        if sys.stdout is not None:
            sys.stdout.flush()
        raise


def _discard_output() -> None:
    """Python would complain of what it could not write once more, when it closes stdout."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _settings(options: argparse.Namespace) -> Settings:
    import dataclasses

    settings = load(options.config)
    return settings if options.interval is None else dataclasses.replace(settings, interval=options.interval)


def _status(options: argparse.Namespace) -> int:
    from tcpnewconn.health import metrics, status

    text, well = status.told(options.metrics or metrics.PATH, options.json)
    print(text, flush=True)
    return 0 if well else EXIT_DEGRADED


def _metrics_http(options: argparse.Namespace) -> int:
    from tcpnewconn.health import exporter, metrics

    try:
        listening = exporter.passed_socket()
    except exporter.NoSocket as error:
        _complain(str(error))
        return EXIT_CANNOT_RUN
    exporter.Exporter(listening, options.metrics or metrics.PATH).run()
    return 0


def _run(options: argparse.Namespace, settings: Settings) -> int:
    from tcpnewconn.app import CannotRun, run

    try:
        run(options, settings, lambda: _settings(options))
    except CannotRun as error:
        _complain(str(error))
        return EXIT_CANNOT_RUN
    return 0


def _complain(message: str) -> None:
    from tcpnewconn.reporting.sinks import say

    say(message, 3)
