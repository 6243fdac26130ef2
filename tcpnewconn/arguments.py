"""The arguments of the command line: commands, their options and help; and why an argument is not taken."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from tcpnewconn import __version__
from tcpnewconn.settings.rule import Rule, parse_rule, split_list
from tcpnewconn.settings.values import parse_interval
from tcpnewconn.text import nearest, printable

EXIT_USAGE = 2
# UNKNOWN of monitoring plugins: status cannot judge the service. Also for its wrong usage, because there 2 is "not running".
EXIT_UNKNOWN = 3

NAME = "tcpnewconn"
COMMANDS = {
    "run": "Log every new TCP connection until stopped.",
    "status": "Show whether the service works, and what it has counted.",
    "check-config": "Check the configuration.",
    "show-config": "Print the settings in force, and where each comes from.",
    "metrics-http": "Serve the metrics over HTTP, on a socket that systemd passes.",
    "ledger": "Keep the ledger: what the journal's entries add up to.",
    "report": "Answer from the ledger: who talks to whom.",
}
_RUN = "run"

_COMMANDS_HELP = "\n".join(f"  {name:<14}{text[0].lower()}{text[1:-1]}" for name, text in COMMANDS.items())
_DESCRIPTION = f"""\
Log every new TCP connection of this host, once.

commands:
{_COMMANDS_HELP}

Without a command: run. The options of a command: {NAME} COMMAND --help
"""
_EPILOGS = {
    "": f"""\
examples:
  {NAME}                              what is open now, then each new connection
  {NAME} --ignore 127.0.0.0/8,:9100   the same, without some of it
  {NAME} --once --output json | jq .  what is open now, for programs
  {NAME} check-config                 every error of the configuration
  {NAME} status                       whether the service works

The service logs to the journal: journalctl -u {NAME}. See {NAME}(8), {NAME}.conf(5) and {NAME}.fields(7).
""",
    "run": f"""\
examples:
  {NAME} run --interval 1s
  {NAME} run --ignore "127.0.0.0/8 ::1 unit:cron.service"
  {NAME} run --once --output json | jq .
""",
    "status": f"""\
exit status:
  0 ok, 1 degraded, 2 stale or not running, 3 unknown

examples:
  {NAME} status
  {NAME} status --json | jq .metrics.lost_total
""",
    "check-config": f"""\
exit status:
  0 no error, 78 errors

example:
  {NAME} check-config && systemctl reload {NAME}
""",
    "show-config": f"""\
The output is a configuration file in itself.

example:
  {NAME} show-config | grep -B1 Ignore=
""",
    "metrics-http": f"""\
{NAME}-metrics.service runs it:
  systemctl enable --now {NAME}-metrics.socket
  curl http://127.0.0.1:19117/metrics
""",
}


# Every option is formatted when it is added. The width of the terminal is for help alone: it imports shutil, half a MiB.
_OF_ANY_TERMINAL = partial(argparse.RawDescriptionHelpFormatter, width=80)


class _Parser(argparse.ArgumentParser):
    """The options of one command; those of run with the command left out have the name "" here."""

    def __init__(self, command: str) -> None:
        super().__init__(
            prog=f"{NAME} {command}".rstrip(),
            usage=None if command else f"{NAME} [run] [OPTION...]\n       {NAME} COMMAND [OPTION...]",
            description=COMMANDS.get(command, _DESCRIPTION),
            epilog=_EPILOGS.get(command),
            formatter_class=_OF_ANY_TERMINAL,
            allow_abbrev=False,
        )
        self.command = command

    def error(self, message: str) -> NoReturn:
        """Exit with one line, like every message here."""
        status = EXIT_UNKNOWN if self.command == "status" else EXIT_USAGE
        see = " See" if message.endswith("?") else "; see"
        self.exit(status, f"{NAME}: {printable(message)}{see} {self.prog} --help\n")

    def format_help(self) -> str:
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        return super().format_help()

    def options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings if option.startswith("--")]


def parser(command: str = "") -> _Parser:
    """The options of a command, and their help; without one, those of run and the list of commands."""
    made = _Parser(command)
    if not command:
        made.add_argument(
            "--version", action="version", version=f"{NAME} {__version__}", help="show the version and exit"
        )
        _add_run_options(made.add_argument_group("options of run"))
    elif command == "run":
        _add_run_options(made)
    if command in ("check-config", "show-config"):
        _add_config(made)
    if command in ("status", "metrics-http"):
        made.add_argument("--metrics", metavar="FILE", help="read this file, in place of the service's")
    if command == "ledger":
        _add_options_of_ledger(made)
    if command == "report":
        _add_options_of_report(made)
    if command == "status":
        made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def _add_options_of_ledger(made: _Parser) -> None:
    from tcpnewconn.ledger import options

    made.epilog = options.EXAMPLES
    options.add_options(made)
    _add_config(made)


def _add_options_of_report(made: _Parser) -> None:
    from tcpnewconn.report import options

    made.epilog = options.EXAMPLES
    options.add_options(made)


def _add_run_options(to: argparse._ActionsContainer) -> None:
    to.add_argument("--once", action="store_true", help="poll once, log what is open, exit")
    to.add_argument("--interval", metavar="SPAN", type=_interval, help="time between two polls, such as 10s or 500ms")
    to.add_argument(
        "--ignore",
        metavar="RULES",
        type=_rules,
        action="extend",
        default=[],
        help="do not log these connections: rules of Ignore= in tcpnewconn.conf(5), in addition to those there",
    )
    to.add_argument(
        "--output",
        choices=("auto", "journal", "text", "json"),
        default="auto",
        help="where to log; auto is the journal under systemd, else text",
    )
    _add_config(to)
    to.add_argument(
        "--procfs", metavar="DIR", default="/proc", help="where /proc is mounted, or a directory of captured files"
    )
    to.add_argument("--state", metavar="FILE", help="keep in this file what was logged; by default only under systemd")
    to.add_argument(
        "--metrics",
        metavar="FILE",
        help="write metrics for Prometheus to this file after every poll; by default only under systemd",
    )


def _add_config(to: argparse._ActionsContainer) -> None:
    to.add_argument(
        "--config", metavar="FILE", help="read this file, in place of /etc/tcpnewconn.conf and its drop-ins"
    )


def _interval(text: str) -> float:
    try:
        return parse_interval(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def _rules(text: str) -> list[Rule]:
    rules = []
    for part in split_list(text) or [text]:
        try:
            rules.append(parse_rule(part))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{part!r}: {error}") from None
    return rules


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with the command. Exits, with one line, where they are wrong; and after --help and --version."""
    try:
        if not arguments or arguments[0].startswith("-"):
            command, made, rest = _RUN, parser(), arguments
        else:
            command, *rest = arguments
            if command not in COMMANDS:
                near = nearest(command, COMMANDS)
                hint = f"did you mean {near}?" if near else f"use {', '.join(COMMANDS)}"
                parser().error(f"unknown command {command!r}; {hint}")
            made = parser(command)
        options, unknown = made.parse_known_args(rest)
        if unknown:
            made.error(_refusal(made, unknown[0]))
        options.command = command
        return options
    except SystemExit:
        # The output of --help and --version is written here, or fails here.
        if sys.stdout is not None:
            sys.stdout.flush()
        raise


def _refusal(made: _Parser, argument: str) -> str:
    """Why a command does not take an argument."""
    option = argument.partition("=")[0]
    if not option.strip("-") or not argument.startswith("-"):
        if argument in COMMANDS and not made.command:
            return f"{argument!r} is a command; it comes first: {NAME} {argument}"
        return f"unexpected argument {argument!r}"
    if option.strip("-") in COMMANDS:
        command = option.strip("-")
        return f"unknown option {option}; {command} is a command: {NAME} {command}"
    if option == "--version":
        return f"{option} stands alone: {NAME} {option}"
    elsewhere = [name for name in COMMANDS if option in parser(name).options()]
    if elsewhere:
        return f"{option} is an option of {' and '.join(elsewhere)}, not of {made.command or _RUN}"
    # Without the dashes, which all have in common.
    near = nearest(option.strip("-"), (each.strip("-") for each in made.options()))
    return f"unknown option {option}" + (f"; did you mean --{near}?" if near else "")
