"""tcpnewconn status: the metrics for a person on one screen, its verdict, and the exit status that monitoring plugins have."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tcpnewconn import __version__
from tcpnewconn.eventtypes import Connection, Degraded, Failed, Loss
from tcpnewconn.health.counters import Counters, ServiceStatistics
from tcpnewconn.health.metrics import exposition
from tcpnewconn.model import Endpoint
from tests.support.supervised import Supervised
from tests.support.table import Tables, line, listener
from tests.support.terminal import TREE, command, environment, run

EXIT_STATUSES = {"ok": 0, "degraded": 1, "stale": 2, "not running": 2, "unknown": 3}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tcpnewconn.prom"


def write(
    file: Path,
    *,
    age: float = 1.0,
    interval: float = 10.0,
    waiting: int = 0,
    running: bool = True,
    counters: Counters | None = None,
) -> None:
    last = time.time() - age
    statistics = ServiceStatistics(interval)
    statistics.polls, statistics.seconds, statistics.last_poll = 7, 0.07, last
    statistics.waiting, statistics.states, statistics.running = waiting, {1: 1234}, running
    file.write_text(exposition(counters or Counters(), statistics))


def status(file: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run("status", "--metrics", str(file), *more)


def verdict(file: Path) -> tuple[int, str, list[str]]:
    """Exit status, verdict and problems, which are the same in both forms."""
    page, for_programs = status(file), status(file, "--json")
    assert (page.stderr, for_programs.stderr) == ("", "")
    assert page.returncode == for_programs.returncode
    found = json.loads(for_programs.stdout)
    lines = page.stdout.splitlines()
    of = "the status of tcpnewconn" if found["status"] == "unknown" else "tcpnewconn"
    assert lines[0] == f"{of} is {found['status']}"
    assert [re.sub(r"\d+ (s|min)", "", line) for line in lines if "!" in line] == [
        re.sub(r"\d+ (s|min)", "", f"  ! {problem}") for problem in found["problems"]
    ]
    assert page.returncode == EXIT_STATUSES[found["status"]]
    return page.returncode, found["status"], found["problems"]


def test_a_service_that_runs_is_ok_and_fits_on_a_screen_and_one_that_was_stopped_is_not_running(
    tmp_path: Path, file: Path
) -> None:
    tables = Tables(tmp_path / "proc")
    tables.write([listener("0.0.0.0:22", inode=10), line("10.0.0.5:22", "203.0.113.9:50000", inode=100)])
    # Nobody to be notified: that would need python3-systemd.
    options = ("--procfs", str(tables.directory), "--interval", "1min", "--metrics", str(file))
    with Supervised(*options, more={"NOTIFY_SOCKET": ""}) as service:
        service.wait(file.exists, "the first metrics")
        assert verdict(file) == (0, "ok", [])
        lines = status(file).stdout.splitlines()
        found = json.loads(status(file, "--json").stdout)
        assert service.stop() == 0
    assert len(lines) <= 24
    assert all(len(line) <= 100 for line in lines)
    assert "    direction    1 ingress, 0 egress, 0 internal, 0 unknown" in lines
    assert "    detected by  1 startup, 0 poll, 0 notification, 0 trace" in lines
    assert "  sockets        1 established, 1 listen" in lines
    assert "  lost           nothing" in lines
    assert 0 <= found["last_poll_age_seconds"] < 60
    assert found["metrics"]["connections_total"]["ingress"] == {"ipv4": 1, "ipv6": 0}
    assert found["metrics"]["build_info"] == {__version__: 1}
    assert found["metrics"]["listeners_total"] == 1
    # At once, and with what it counted.
    stopped = (2, "not running", ["the service was stopped; start it with systemctl start tcpnewconn"])
    assert verdict(file) == stopped
    assert "    direction    1 ingress, 0 egress, 0 internal, 0 unknown" in status(file).stdout.splitlines()


# With seconds of margin, for a busy machine.
@pytest.mark.parametrize(
    ("age", "interval", "word"), [(15, 10, "ok"), (45, 10, "stale"), (0.5, 0.1, "ok"), (30, 0.1, "stale")]
)
def test_the_last_poll_may_be_three_intervals_ago_and_no_more(
    file: Path, age: float, interval: float, word: str
) -> None:
    write(file, age=age, interval=interval)
    code, found, problems = verdict(file)
    assert (code, found) == (EXIT_STATUSES[word], word)
    assert not problems or re.fullmatch(r"the last poll was \d+ s ago: the service hangs or was killed", problems[0])


def test_a_clean_stop_is_seen_at_once(file: Path) -> None:
    write(file, age=0, running=False)
    assert verdict(file)[:2] == (2, "not running")
    write(file, age=0)
    assert verdict(file)[:2] == (0, "ok")


def test_a_problem_that_hides_connections_is_named(file: Path) -> None:
    counters = Counters()
    counters.event(Degraded("notifications", "missing"))
    counters.event(Degraded("proc", "missing"))
    write(file, counters=counters, waiting=1500)
    assert verdict(file) == (
        1,
        "degraded",
        [
            "/proc/net/tcp cannot be read, so open connections are not seen: journalctl -u tcpnewconn -p warning says why",
            "no destroy notifications, so connections that open and close between two polls are not seen: "
            "journalctl -u tcpnewconn -p warning says why",
            "the journal accepts no entries: 1,500 are waiting; see systemctl status systemd-journald",
        ],
    )


def test_lost_events_are_listed_and_no_fault_of_now(file: Path) -> None:
    counters = Counters()
    counters.event(Loss(1234, "notifications", "lost"))
    counters.connection(
        Connection(Endpoint(bytes(16), 1), Endpoint(bytes(16), 2), "egress", "notification", "id", 7), True
    )
    write(file, counters=counters)
    assert verdict(file)[:2] == (0, "ok")
    page = status(file).stdout
    assert "  lost           1,234 notifications\n" in page
    assert "  connections    1, 1 of them in summaries\n" in page
    assert "0 ipv4, 1 ipv6\n" in page


def test_it_says_of_how_many_connections_the_owner_is_known_and_why_not_of_the_rest(file: Path) -> None:
    counters = Counters()
    ends = (Endpoint(bytes(4), 1), Endpoint(bytes(4), 2), "egress", "notification", "id", 7)
    for by in (("socket", "connect"), ("connect",)):
        counters.connection(Connection(*ends, by=by), False)
    counters.connection(Connection(*ends, missing="overwritten"), False)
    counters.event(Failed(*ends[:3], 111, count=41))
    counters.event(Failed(*ends[:3], 111))
    counters.event(Degraded("trace", "missing"))
    write(file, counters=counters)
    page = status(file).stdout
    assert "    attributed   1 socket, 2 connect\n" in page
    assert "    no thread    1 overwritten\n" in page
    assert "  failed         42 attempts to connect\n" in page
    assert verdict(file)[2] == [
        "the kernel's trace records nothing, so connections can lack user, unit and process: "
        "journalctl -u tcpnewconn -p warning says why"
    ]


@pytest.mark.parametrize(
    "content", [b"", b"nonsense\n", b"tcpnewconn_sockets 1\n", b"\xff\n", b"tcpnewconn_sockets nan\n", b"a\x1b[31m 1\n"]
)
def test_of_another_file_the_status_is_unknown(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    code, word, (problem,) = verdict(file)
    assert (code, word) == (3, "unknown")
    assert problem.startswith(f"{file}: not the metrics of tcpnewconn")


def test_no_file_is_no_service(file: Path) -> None:
    assert verdict(file) == (2, "not running", [f"{file}: No such file or directory"])
    os.mkfifo(file)
    assert verdict(file)[:2] == (3, "unknown")


def test_of_a_file_that_may_not_be_read_the_status_is_unknown(file: Path) -> None:
    assert verdict(file.parent) == (3, "unknown", [f"{file.parent}: Is a directory"])
    write(file)
    file.chmod(0)
    # Root may read everything, unless it has no capabilities.
    unprivileged = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.getuid() == 0 else []
    done = run("status", "--metrics", str(file), python=[*unprivileged, sys.executable])
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == f"the status of tcpnewconn is unknown\n  ! {file}: Permission denied\n"


def test_the_file_that_is_there_from_boot_on_says_that_it_never_ran(file: Path) -> None:
    (content,) = re.findall(r"(?m)^f (?:\S+ ){5}(.*)$", (TREE / "systemd" / "tcpnewconn.tmpfiles").read_text())
    file.write_text(content.replace("\\n", "\n"))
    assert verdict(file) == (
        2,
        "not running",
        ["the service has not run since boot; start it with systemctl start tcpnewconn"],
    )


def in_terminal(file: Path, more: dict[str, str]) -> str:
    """Its output in a terminal."""
    leader, follower = pty.openpty()
    with open(leader, "rb", buffering=0) as terminal:
        done = subprocess.run(
            command("status", "--metrics", str(file)),
            cwd=TREE,
            env=environment({"TERM": "xterm"} | more),
            stdin=subprocess.DEVNULL,
            stdout=follower,
            timeout=60,
        )
        os.close(follower)
        assert done.returncode == 2
        text = b""
        try:
            while block := terminal.read(65536):
                text += block
        except OSError:
            # Nobody writes to it any more.
            pass
        return text.decode().replace("\r\n", "\n")


def test_colors_are_for_terminals_that_want_them(file: Path) -> None:
    write(file, age=1000)
    plain = status(file).stdout
    assert "\x1b" not in plain
    assert in_terminal(file, {}).startswith("tcpnewconn is \x1b[1;31mstale\x1b[0m\n")
    for without in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert in_terminal(file, without).splitlines()[0] == "tcpnewconn is stale"


def test_output_that_nobody_reads_changes_no_verdict(file: Path) -> None:
    write(file, running=False)
    reading, writing = os.pipe()
    os.close(reading)
    done = run("status", "--metrics", str(file), stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (2, "")
    with open("/dev/full", "w") as full:
        done = run("status", "--metrics", str(file), stdout=full.fileno())
    assert (done.returncode, done.stderr) == (3, "tcpnewconn: standard output: No space left on device\n")


@pytest.mark.parametrize("options", [["--json"], ["run", "--json"], ["state"]])
def test_wrong_usage_of_other_commands_is_another_exit_status(options: list[str]) -> None:
    done = run(*options)
    assert (done.returncode, done.stdout) == (2, "")
    (said,) = done.stderr.splitlines()
    assert said.startswith("tcpnewconn: ")
