"""tcpnewconn status: the figures for a person on one screen, its verdict, and its exit code for who only wants that."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import time
from pathlib import Path

import pytest

from tcpnewconn import __version__
from tcpnewconn.health.counters import Counters, ServiceStatistics
from tcpnewconn.health.metrics import exposition
from tcpnewconn.model import Connection, Degraded, Endpoint, Loss
from tests.support.supervised import Supervised
from tests.support.table import Tables, line, listener
from tests.support.terminal import TREE, command, environment, run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tcpnewconn.prom"


def write(
    file: Path, *, age: float = 1.0, interval: float = 10.0, waiting: int = 0, counters: Counters | None = None
) -> None:
    course = ServiceStatistics(
        interval, polls=7, seconds=0.07, last_poll=time.time() - age, waiting=waiting, states={1: 1234}
    )
    file.write_text(exposition(counters or Counters(), course))


def status(file: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run("status", "--metrics", str(file), *more)


def verdict(file: Path) -> tuple[int, str, list[str]]:
    """Exit code, verdict and problems, which both forms say alike."""
    page, for_programs = status(file), status(file, "--json")
    assert (page.stderr, for_programs.stderr) == ("", "")
    assert page.returncode == for_programs.returncode
    told = json.loads(for_programs.stdout)
    lines = page.stdout.splitlines()
    assert lines[0] == f"tcpnewconn is {told['status']}"
    assert [re.sub(r"\d+ (s|min)", "", line) for line in lines if "!" in line] == [
        re.sub(r"\d+ (s|min)", "", f"  ! {problem}") for problem in told["problems"]
    ]
    return page.returncode, told["status"], told["problems"]


def test_a_service_that_runs_is_ok_and_fits_on_a_screen(tmp_path: Path, file: Path) -> None:
    tables = Tables(tmp_path / "proc")
    tables.write([listener("0.0.0.0:22", inode=10), line("10.0.0.5:22", "203.0.113.9:50000", inode=100)])
    # Nobody to be notified: that would need python3-systemd.
    options = ("--procfs", str(tables.folder), "--interval", "1min", "--metrics", str(file))
    with Supervised(*options, more={"NOTIFY_SOCKET": ""}) as service:
        service.wait(file.exists, "the first metrics")
        assert verdict(file) == (0, "ok", [])
        lines = status(file).stdout.splitlines()
        found = json.loads(status(file, "--json").stdout)["figures"]
    assert len(lines) <= 24
    assert all(len(line) <= 100 for line in lines)
    assert "    direction  1 ingress, 0 egress, 0 internal, 0 unknown" in lines
    assert "  sockets      1 established, 1 listen" in lines
    assert "  lost         nothing" in lines
    assert found["connections_total"]["ingress"] == {"ipv4": 1, "ipv6": 0}
    assert found["build_info"] == {__version__: 1}
    assert found["listeners_total"] == 1


# With seconds of margin, for a busy machine.
@pytest.mark.parametrize(
    ("age", "interval", "word"), [(15, 10, "ok"), (45, 10, "stale"), (0.5, 0.1, "ok"), (30, 0.1, "stale")]
)
def test_the_last_read_may_be_three_intervals_ago_and_no_more(
    file: Path, age: float, interval: float, word: str
) -> None:
    write(file, age=age, interval=interval)
    code, told, problems = verdict(file)
    assert (code, told) == (int(word != "ok"), word)
    assert not problems or "the last read was" in problems[0]


def test_what_keeps_it_from_seeing_everything_is_said(file: Path) -> None:
    counters = Counters()
    counters.event(Degraded("notifications", "missing"))
    write(file, counters=counters, waiting=1500)
    assert verdict(file) == (
        1,
        "degraded",
        [
            "notifications cannot be seen: journalctl -u tcpnewconn -p warning says why",
            "1,500 entries wait for the journal, which takes none",
        ],
    )


def test_what_is_lost_is_listed_and_no_fault_of_now(file: Path) -> None:
    counters = Counters()
    counters.event(Loss(1234, "notifications", "lost"))
    counters.connection(
        Connection(Endpoint(bytes(16), 1), Endpoint(bytes(16), 2), "egress", "notification", "id", 7), True
    )
    write(file, counters=counters)
    assert verdict(file)[:2] == (0, "ok")
    page = status(file).stdout
    assert "  lost         1,234 notifications\n" in page
    assert "  connections  1, 1 of them in summaries\n" in page
    assert "0 ipv4, 1 ipv6\n" in page


@pytest.mark.parametrize(
    "content", [b"", b"nonsense\n", b"tcpnewconn_sockets 1\n", b"\xff\n", b"tcpnewconn_sockets nan\n", b"a\x1b[31m 1\n"]
)
def test_another_file_is_none_of_the_service(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    code, word, (problem,) = verdict(file)
    assert (code, word) == (1, "not running")
    assert problem.startswith(f"{file}: holds no figures of tcpnewconn")


def test_no_file_is_no_service(file: Path) -> None:
    assert verdict(file) == (1, "not running", [f"{file}: No such file or directory"])
    os.mkfifo(file)
    assert verdict(file)[:2] == (1, "not running")


def test_the_file_that_is_there_from_boot_on_says_that_it_never_ran(file: Path) -> None:
    (content,) = re.findall(r"(?m)^f (?:\S+ ){5}(.*)$", (TREE / "systemd" / "tcpnewconn.tmpfiles").read_text())
    file.write_text(content.replace("\\n", "\n"))
    assert verdict(file) == (
        1,
        "not running",
        ["the service has not run since boot; start it with systemctl start tcpnewconn"],
    )


def test_without_a_name_it_is_the_file_of_the_service() -> None:
    done = run("status", "--json")
    assert done.returncode == 1
    assert "/run/tcpnewconn/tcpnewconn.prom" in done.stdout or "systemctl" in done.stdout


def in_terminal(file: Path, more: dict[str, str]) -> str:
    """What it writes into a terminal."""
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
        assert done.returncode == 1
        text = b""
        try:
            while block := terminal.read(65536):
                text += block
        except OSError:
            # Nobody writes to it any more.
            pass
        return text.decode().replace("\r\n", "\n")


def test_colours_are_for_terminals_that_want_them(file: Path) -> None:
    write(file, age=1000)
    plain = status(file).stdout
    assert "\x1b" not in plain
    assert in_terminal(file, {}).startswith("tcpnewconn is \x1b[1;31mstale\x1b[0m\n")
    for without in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert in_terminal(file, without).splitlines()[0] == "tcpnewconn is stale"


@pytest.mark.parametrize(
    "options", [["status", "--jsn"], ["status", "--metrics"], ["--json"], ["run", "--json"], ["state"]]
)
def test_what_it_is_told_wrongly_is_another_exit_code(options: list[str]) -> None:
    done = subprocess.run(
        command(*options),
        cwd=TREE,
        env=environment(),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert said.startswith("tcpnewconn: ")
