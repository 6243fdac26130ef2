"""The command line: its output, its messages, its exit statuses. An error is one line, never a traceback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tcpnewconn import __version__, arguments
from tcpnewconn.eventtypes import Event, Loss
from tcpnewconn.kernel.host import Host
from tcpnewconn.kernel.procnet import ProcNet
from tcpnewconn.observing.observer import Observer
from tcpnewconn.settings import config
from tcpnewconn.tracking.run import Notifications
from tests.support.events import parsed
from tests.support.supervised import Supervised
from tests.support.table import Tables, line, listener
from tests.support.terminal import SAMPLE_EXPECTED, TREE, command, environment, messages, run, sample

WITHOUT_SITE = (sys.executable, "-S")
OUTPUTS = ("text", "json")


@pytest.fixture
def procfs(tmp_path: Path) -> str:
    return str(sample(tmp_path / "proc"))


def complaint(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The one line that it said, ending with this status and without output."""
    assert done.returncode == status, done.stderr
    assert not done.stdout
    (said,) = done.stderr.splitlines()
    assert said.startswith("tcpnewconn: ")
    return said.removeprefix("tcpnewconn: ")


# --- what it prints --------------------------------------------------------------------------------------------------


def help_of(*words: str) -> str:
    done = run(*words, "--help", python=WITHOUT_SITE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run(*words, "-h", python=WITHOUT_SITE).stdout
    # The lines of a usage are wrapped for a terminal of 80 columns, as is everything but examples.
    assert all(len(line) <= 80 for line in done.stdout.partition("example")[0].splitlines())
    return done.stdout


def test_help_has_every_command_and_option_and_an_example() -> None:
    text = help_of()
    for option in ("--once", "--interval", "--output", "--config", "--procfs", "--state", "--version", "check-config"):
        assert option in text
    assert "tcpnewconn --once --output json | jq ." in text
    listed = text.partition("commands:\n")[2].partition("\n\n")[0]
    assert re.findall(r"(?m)^  ([a-z-]+)  +\w", listed) == list(arguments.COMMANDS)
    assert text.startswith("usage: tcpnewconn [run] [OPTION...]\n       tcpnewconn COMMAND [OPTION...]\n")


RUN_OPTIONS = {"--once", "--interval", "--ignore", "--output", "--config", "--procfs", "--state", "--metrics"}
OPTIONS = {
    "run": RUN_OPTIONS,
    "status": {"--metrics", "--json"},
    "check-config": {"--config"},
    "show-config": {"--config"},
    "metrics-http": {"--metrics"},
    "ledger": {"--config", "--directory", "--ledger", "--namespace"},
    "report": {
        "--all",
        "--container",
        "--days",
        "--direction",
        "--ledger",
        "--authority",
        "--clickhouse",
        "--host",
        "--login",
        "--mmdb",
        "--network",
        "--output",
        "--port",
        "--process",
        "--resolve",
        "--since",
        "--unit",
        "--until",
        "--user",
    },
}


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?m)^  (?:-\w, )?(--[a-z-]+)", text))


def test_each_command_has_its_own_help_and_options() -> None:
    assert list(arguments.COMMANDS) == list(OPTIONS)
    for command_name, options in OPTIONS.items():
        text = help_of(command_name)
        assert text.startswith(f"usage: tcpnewconn {command_name} [-h] ")
        assert options_in(text) == {*options, "--help"}
        assert arguments.COMMANDS[command_name] in text
    assert options_in(help_of()) == {*RUN_OPTIONS, "--help", "--version"}


def test_the_version_is_printed() -> None:
    done = run("--version", python=WITHOUT_SITE)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"tcpnewconn {__version__}\n", "")


def test_the_word_run_may_be_there_or_not(procfs: str) -> None:
    assert messages(run("run", "--once", "--procfs", procfs).stdout) == SAMPLE_EXPECTED


def test_outside_the_journal_auto_is_text(procfs: str) -> None:
    assert messages(run("--once", "--procfs", procfs, "--output", "auto").stdout) == SAMPLE_EXPECTED


def test_json_says_the_same_in_the_same_order(procfs: str) -> None:
    lines = run("--once", "--procfs", procfs, "--output", "json").stdout.splitlines()
    assert [parsed(line)["message"] for line in lines] == SAMPLE_EXPECTED


def test_a_table_of_ipv6_need_not_be_there(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    tables.write([line("10.0.0.5:22", "203.0.113.9:51544")])
    tables.tcp6.unlink()
    done = run("--once", "--procfs", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert messages(done.stdout) == ["New connection: 203.0.113.9:51544 -> 10.0.0.5:22"]


# --- wrong usage and wrong settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--bogus"], "--bogus"),
        (["bogus"], "'bogus'"),
        (["bogus", "--help"], "use run, status, check-config, show-config, metrics-http, ledger, report"),
        (["stats"], "unknown command 'stats'; did you mean status?"),
        (["run", "twice"], "unexpected argument 'twice'"),
        (["run", "status"], "unexpected argument 'status'"),
        (["--once", "status"], "'status' is a command; it comes first: tcpnewconn status"),
        (["-"], "unexpected argument '-'"),
        (["--bogus\x1b"], r"unknown option --bogus\x1b"),
        (["--intervall", "5s"], "unknown option --intervall; did you mean --interval?"),
        (["--intervall=5s"], "unknown option --intervall; did you mean --interval?"),
        (["-once"], "unknown option -once; did you mean --once?"),
        (["--check-config"], "unknown option --check-config; check-config is a command: tcpnewconn check-config"),
        (["run", "--jsn"], "unknown option --jsn"),
        (["check-config", "--conf", "file"], "unknown option --conf; did you mean --config?"),
        (["check-config", "--once"], "--once is an option of run, not of check-config"),
        (
            ["show-config", "--metrics=file"],
            "--metrics is an option of run and status and metrics-http, not of show-config",
        ),
        (["metrics-http", "--procfs", "/proc"], "--procfs is an option of run, not of metrics-http"),
        (["--json"], "--json is an option of status, not of run"),
        (["run", "--json"], "--json is an option of status, not of run"),
        (["run", "--version"], "--version stands alone: tcpnewconn --version"),
        (["--ignore", ":0"], "argument --ignore: ':0': a port is a number from 1 to 65535"),
        (["--ignore", ":80, unit:cron"], "argument --ignore: 'unit:cron': a unit that has connections ends in"),
        (["--ignore", " "], "use a network, port or both"),
        (["--interval"], "--interval"),
        (["--interval", "1ms"], "at least 100ms"),
        (["--interval", "soon"], "use for example 10s, 500ms or 1min"),
        (["--interval", "2d"], "at most 1d"),
        (["--output", "xml"], "json"),
        # Not taken for --output: what an abbreviation means may change with every new option.
        (["--out", "json"], "unknown option --out; did you mean --output?"),
    ],
)
def test_a_usage_error_is_one_line_that_says_where_help_is(options: list[str], expected: str) -> None:
    said = complaint(run(*options), 2)
    assert expected in said
    command_name = f"{options[0]} " if options[0] in OPTIONS else ""
    assert re.search(rf"(; see|\? See) tcpnewconn {command_name}--help$", said)


@pytest.mark.parametrize("options", [["--jsn"], ["--config", "file"], ["twice"], ["--metrics"]])
def test_of_status_a_usage_error_is_what_monitoring_plugins_call_unknown(options: list[str]) -> None:
    said = complaint(run("status", *options), 3)
    assert said.endswith("ee tcpnewconn status --help")


@pytest.mark.parametrize("options", [[], ["--output", "json"], ["--once"]])
def test_without_tables_it_cannot_run_and_says_what_to_do(tmp_path: Path, options: list[str]) -> None:
    said = complaint(run("--procfs", str(tmp_path), *options), 1)
    assert said == (
        f"{tmp_path}/net/tcp: No such file or directory: is /proc mounted there? say where with --procfs DIR"
    )


def test_a_file_in_place_of_the_directory_of_tables_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "proc").touch()
    assert "--procfs DIR" in complaint(run("--procfs", str(tmp_path / "proc")), 1)


@pytest.mark.parametrize("words", [["check-config"], [], ["--once"]])
def test_a_configuration_that_is_wrong_is_one_line_and_status_78(tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "tcpnewconn.conf"
    file.write_text("# a comment\n[Poll]\nIntervall=5s\n")
    said = complaint(run(*words, "--config", str(file)), 78)
    assert said == f"{file}:3: [Poll] Intervall=5s: unknown setting; did you mean Interval=?"


def test_a_value_that_is_wrong_is_said_with_what_would_be_right(tmp_path: Path) -> None:
    file = tmp_path / "tcpnewconn.conf"
    file.write_text("[Report]\nClosed=perhaps\n")
    said = complaint(run("check-config", "--config", str(file)), 78)
    assert said == f"{file}:2: [Report] Closed=perhaps: not a boolean; use yes or no"


def test_a_configuration_that_is_right_is_ok(tmp_path: Path) -> None:
    file = tmp_path / "tcpnewconn.conf"
    file.write_text("[Poll]\nInterval=1min\n[Report]\nIgnore=127.0.0.0/8 ::1 :9100 egress:10.0.0.0/8:443\n")
    done = run("check-config", "--config", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"OK: {file}\n", "")


def test_every_error_is_said_when_checked_and_the_first_with_their_number_when_run(tmp_path: Path) -> None:
    file = tmp_path / "tcpnewconn.conf"
    file.write_text("[Read]\nInterval=fast\n[PortScan]\nTrusted=:80\n")
    done = run("check-config", "--config", str(file))
    assert (done.returncode, done.stdout) == (78, "")
    assert [line.partition(": ")[2].removeprefix(f"{file}:") for line in done.stderr.splitlines()] == [
        "1: [Read]: renamed; use [Poll]",
        "2: [Poll] Interval=fast: not a time span; use for example 10s, 500ms or 1min",
        "4: [PortScan] Trusted=:80: only the network has an effect here; use a network or an address, such as "
        "10.0.0.0/8 or ::1",
    ]
    for words in (["--once"], ["show-config"]):
        said = complaint(run(*words, "--config", str(file)), 78)
        assert said == f"{file}:1: [Read]: renamed; use [Poll] (and 2 more; see tcpnewconn check-config)"


def test_the_output_of_show_config_is_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "tcpnewconn.conf"
    file.write_text("[Report]\nIgnore=127.0.0.0/8, unit:cron.service\nIgnore=:8000-8099\n[PortScan]\nPorts=off\n")
    shown = run("show-config", "--config", str(file))
    assert (shown.returncode, shown.stderr) == (0, "")
    ignore = f"# {file}:2\nIgnore=127.0.0.0/8 unit:cron.service\n# {file}:3\nIgnore=:8000-8099\n"
    assert ignore in shown.stdout
    again = tmp_path / "again.conf"
    again.write_text(shown.stdout)
    assert run("check-config", "--config", str(again)).stdout == f"OK: {again}\n"
    assert config.load(str(again)) == config.load(str(file))


def test_a_configuration_that_is_not_there_is_said(tmp_path: Path) -> None:
    said = complaint(run("--config", str(tmp_path / "none")), 78)
    assert said == f"{tmp_path}/none: cannot be read: No such file or directory"


def test_a_configuration_that_may_not_be_read_is_said_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "tcpnewconn.conf"
    file.touch(mode=0)
    # Root may read everything, unless it has no capabilities.
    unprivileged = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.getuid() == 0 else []
    done = run("check-config", "--config", str(file), python=[*unprivileged, sys.executable])
    assert complaint(done, 78) == f"{file}: cannot be read: Permission denied; make it readable with chmod 644"


def test_an_interval_on_the_command_line_is_the_one_that_counts(tmp_path: Path, procfs: str) -> None:
    file = tmp_path / "tcpnewconn.conf"
    file.write_text("[Poll]\nInterval=1d\n")
    tables = Tables(tmp_path / "other")
    # Nobody to be notified: that would need python3-systemd.
    alone = {"NOTIFY_SOCKET": ""}
    with Supervised(
        "--config", str(file), "--procfs", str(tables.directory), "--interval", "100ms", more=alone
    ) as program:
        for number in range(1, 4):
            tables.write([listener(f"0.0.0.0:{port}") for port in range(number)])
            program.wait(lambda number=number: len(program.lines) >= number, "what the next poll finds")  # type: ignore[misc]


# --- what it needs ---------------------------------------------------------------------------------------------------


def imported(*arguments: str) -> set[str]:
    """The modules that a Python imports in a run."""
    done = subprocess.run(
        [*WITHOUT_SITE, "-X", "importtime", *arguments], cwd=TREE, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    return names - {"imported package"}


@pytest.mark.parametrize("output", OUTPUTS)
def test_in_a_terminal_it_needs_nothing_but_the_standard_library(procfs: str, output: str) -> None:
    names = imported(*command("--once", "--output", output, "--procfs", procfs)[1:])
    assert "tcpnewconn.reporting.sinks" in names
    outside = {name for name in names if name.partition(".")[0] not in {*sys.stdlib_module_names, "tcpnewconn"}}
    assert outside - imported("-c", "pass") == set()
    # Each of these would cost a service that runs everywhere a megabyte or more.
    assert names.isdisjoint(
        {"asyncio", "email", "hashlib", "http", "ipaddress", "logging", "sqlite3", "ssl", "subprocess"}
    )


def test_without_the_journal_s_module_it_says_what_to_install(procfs: str) -> None:
    done = run("--once", "--procfs", procfs, "--output", "journal", python=WITHOUT_SITE)
    said = complaint(done, 1)
    assert said.startswith("No module named 'systemd")
    assert said.endswith(": install python3-systemd, or use --output text")


def test_without_the_module_nobody_can_be_notified(procfs: str) -> None:
    done = run("--once", "--procfs", procfs, python=WITHOUT_SITE, more={"NOTIFY_SOCKET": "/nowhere"})
    said = complaint(done, 1)
    assert said.startswith("No module named 'systemd")
    assert said.endswith(": install python3-systemd, or unset NOTIFY_SOCKET")


# --- where its output goes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("once", [["--once"], []])
@pytest.mark.parametrize("rows", [1, 500])
def test_a_reader_that_takes_one_line_ends_it_quietly(tmp_path: Path, output: str, once: list[str], rows: int) -> None:
    # With one row and without --once nothing is ever written again: it must find out by itself that nobody reads.
    Tables(tmp_path).write([line("10.0.0.5:22", f"203.0.113.9:{40000 + number}", inode=1) for number in range(rows)])
    program = " ".join(command(*once, "--procfs", str(tmp_path), "--output", output))
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{program} | head -1"],
        cwd=TREE,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


def with_tables(options: list[str], procfs: str) -> list[str]:
    return options if options and options[0] in OPTIONS else [*options, "--procfs", procfs]


@pytest.mark.parametrize(
    "options",
    [["--help"], ["--version"], ["--once"], ["--once", "--output", "json"], ["check-config"], ["show-config"]],
)
def test_a_reader_that_is_gone_already_ends_it_quietly(procfs: str, options: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run(*with_tables(options, procfs), stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "options",
    [["--help"], ["--version"], ["--once"], ["--once", "--output", "json"], [], ["--output", "json"], ["show-config"]],
)
def test_output_that_cannot_be_written_is_said_in_one_line(procfs: str, options: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = run(*with_tables(options, procfs), stdout=full.fileno())
    assert complaint(done, 1) == "standard output: No space left on device"


def test_output_that_is_closed_is_said(procfs: str) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command("--once", "--procfs", procfs)],
        cwd=TREE,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert complaint(done, 1) == "standard output: Bad file descriptor"


@pytest.mark.parametrize("closing", ["2>&-", "2>/dev/full"])
def test_a_message_that_cannot_be_written_does_not_disturb_the_events(
    procfs: str, tmp_path: Path, closing: str
) -> None:
    (tmp_path / "state").write_text("damaged, of which it would warn")
    done = subprocess.run(
        [
            "sh",
            "-c",
            f'exec "$@" {closing}',
            "sh",
            *command("--once", "--procfs", procfs, "--state", str(tmp_path / "state")),
        ],
        cwd=TREE,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert messages(done.stdout) == SAMPLE_EXPECTED


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_without_a_word(procfs: str, number: signal.Signals) -> None:
    with Supervised("--procfs", procfs, more={"NOTIFY_SOCKET": ""}) as program:
        program.wait(lambda: len(program.lines) == len(SAMPLE_EXPECTED), "the sample")
        assert program.stop(number) == 0
        assert program.said == []
    assert messages("\n".join(program.lines)) == SAMPLE_EXPECTED


# --- rows that cannot be understood ----------------------------------------------------------------------------------


def test_malformed_rows_are_counted_and_reported_at_most_once_a_minute(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    tables.tcp.write_bytes(tables.tcp.read_bytes() + b"   0: what is this\n")
    host = Host("0", "0", (32768, 60999), live=False, users=True)
    reported: list[tuple[int, int]] = []
    now = 0

    def report(event: Event) -> None:
        if isinstance(event, Loss):
            reported.append((now, event.count))

    observer = Observer(ProcNet(str(tmp_path)), host, None, report, Notifications.NONE)
    for now in range(0, 130, 10):
        observer.poll(now)
    assert reported == [(0, 1), (60, 6), (120, 6)]
