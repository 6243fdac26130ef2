"""The command line: what each command does, and the exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tcpnewconn.arguments import EXIT_UNKNOWN, parsed
from tcpnewconn.settings.config import ConfigError, Settings, load
from tcpnewconn.settings.ignore import Rules
from tcpnewconn.text import printable

EXIT_CANNOT_RUN = 1
# EX_CONFIG of sysexits.h: systemd does not start the unit again then (RestartPreventExitStatus=).
EXIT_CONFIG = 78


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit status."""
    options = None
    try:
        options = parsed(sys.argv[1:] if arguments is None else arguments)
        return _done(options)
    except ConfigError as error:
        _complain(str(error))
        return EXIT_CONFIG
    except BrokenPipeError:
        # The reader of our output has exited.
        _discard_output()
        return 0
    except OSError as error:
        _complain(f"standard output: {error.strerror}")
        _discard_output()
        return EXIT_UNKNOWN if options is not None and options.command == "status" else EXIT_CANNOT_RUN
    except KeyboardInterrupt:
        return 0


def _done(options: argparse.Namespace) -> int:
    if options.command == "status":
        return _status(options)
    if options.command == "check-config":
        return _check_config(options)
    if options.command == "show-config":
        return _show_config(options)
    if options.command == "metrics-http":
        return _metrics_http(options)
    if options.command == "ledger":
        return _ledger(options)
    if options.command == "report":
        return _report(options)
    return _run(options)


def _discard_output() -> None:
    """Python would report the same error again when it closes stdout."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- commands --------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from tcpnewconn.app import CannotRun, run

    try:
        run(options, _settings(options), lambda: _settings(options))
    except CannotRun as error:
        _complain(str(error))
        return EXIT_CANNOT_RUN
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    """Those of the configuration, and of the command line."""
    settings = load(options.config)
    if options.interval is not None:
        settings = settings._replace(interval=options.interval)
    if options.ignore:
        settings = settings._replace(ignore=Rules((*settings.ignore.given, *options.ignore)))
    return settings


def _status(options: argparse.Namespace) -> int:
    from tcpnewconn.health import metrics, status

    text, exit_status = status.report(options.metrics or metrics.PATH, options.json)
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _discard_output()
    return exit_status


def _check_config(options: argparse.Namespace) -> int:
    from tcpnewconn.settings.config import read

    try:
        files = read(options.config).files
    except ConfigError as error:
        for problem in error.problems:
            _complain(str(problem))
        return EXIT_CONFIG
    read_from = ", ".join(map(printable, files)) or "no configuration file, so all settings have their defaults"
    print(f"OK: {read_from}", flush=True)
    return 0


def _show_config(options: argparse.Namespace) -> int:
    from tcpnewconn.settings.config import read

    print(read(options.config).text(), end="", flush=True)
    return 0


def _metrics_http(options: argparse.Namespace) -> int:
    from tcpnewconn.health import exporter, metrics

    try:
        listening = exporter.passed_socket()
    except exporter.NoSocket as error:
        _complain(str(error))
        return EXIT_CANNOT_RUN
    exporter.Exporter(listening, options.metrics or metrics.PATH).run()
    return 0


def _ledger(options: argparse.Namespace) -> int:
    from tcpnewconn.ledger import command

    return command.run(options)


def _report(options: argparse.Namespace) -> int:
    from tcpnewconn.report import command

    return command.run(options)


def _complain(message: str) -> None:
    from tcpnewconn.reporting.sinks import say

    say(message, 3)
