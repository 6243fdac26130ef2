"""tcpnewconn in a terminal: real pseudo-terminals, in which a person would see all of this."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tcpnewconn.reporting.terminal import extended, farewell, greeting
from tests.support.screen import Screen
from tests.support.table import Tables, line, listener

CTRL_C = b"\x03"
ROWS = [listener("0.0.0.0:22", inode=1), line("10.0.0.5:22", "203.0.113.9:51544", inode=7, uid=65534)]
LISTENER = "New listener: 0.0.0.0:22"
CONNECTION = "New connection: 203.0.113.9:51544 -> 10.0.0.5:22"
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00"
# 27 characters of time before it.
WIDTH = 27 + len(CONNECTION)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    made = Tables(tmp_path)
    made.write(ROWS)
    return made


def lines(text: str) -> list[str]:
    """The lines without their times, each of which must be one in UTC."""
    for each in text.splitlines():
        assert re.match(f"{TIME}: ", each), text
    return [each.split(": ", 1)[1] for each in text.splitlines()]


def test_it_says_what_it_does_and_at_the_end_what_it_did(tables: Tables) -> None:
    with Screen("--procfs", str(tables.directory), "--interval", "90s") as screen:
        screen.wait(lambda: CONNECTION in screen.output and "\n" in screen.said, "the connection and the first line")
        assert screen.said == (
            "\rPolling every 1min 30s without destroy notifications: connections that open and close between two polls "
            "are not seen; Ctrl+C stops.\n"
        )
        screen.press(CTRL_C)
        assert screen.ended() == 0
        _, end, rest = screen.said.split("\n")
        assert re.fullmatch(r"\r1 connection in (less than 1s|\d+s)\.", end)
        assert rest == ""
        assert lines(screen.output.replace("^C", "")) == [f"{LISTENER}  root", f"{CONNECTION}  ingress nobody"]


def test_ctrl_c_may_be_pressed_until_it_has_ended(tables: Tables) -> None:
    with Screen("--procfs", str(tables.directory), "--interval", "90s") as screen:
        screen.wait(lambda: CONNECTION in screen.output and "\n" in screen.said, "the connection and the first line")
        while screen.process.poll() is None:
            screen.press(CTRL_C)
        screen.ended()
        assert screen.said.count("\n") == 2, screen.said


def test_on_this_host_destroy_notifications_arrive() -> None:
    with Screen() as screen:
        screen.wait(lambda: "\n" in screen.said, "the first line")
        assert screen.said == "\rPolling every 10s and receiving destroy notifications; Ctrl+C stops.\n"


@pytest.mark.parametrize("option", ["json", "text"])
def test_it_says_so_whatever_it_prints(tables: Tables, option: str) -> None:
    with Screen("--procfs", str(tables.directory), "--output", option) as screen:
        screen.wait(lambda: "203.0.113.9" in screen.output and "\n" in screen.said, "the connection and the first line")
        assert screen.said.startswith("\rPolling every 10s ")


def test_a_single_poll_needs_no_such_lines(tables: Tables) -> None:
    with Screen("--once", "--procfs", str(tables.directory)) as screen:
        assert screen.ended() == 0
        assert screen.said == ""
        assert lines(screen.output) == [f"{LISTENER}  root", f"{CONNECTION}  ingress nobody"]


def test_where_the_output_is_no_terminal_it_is_the_original_s_format_and_nothing_else_is_said(tables: Tables) -> None:
    with Screen("--procfs", str(tables.directory), output=False) as screen:
        screen.wait(lambda: CONNECTION in screen.output, "the connection")
        screen.press(CTRL_C)
        assert screen.ended() == 0
        assert re.fullmatch(rf"{TIME}: {re.escape(LISTENER)}\n{TIME}: {re.escape(CONNECTION)}\n", screen.output)
        assert screen.said == ""


def test_parts_that_do_not_fit_the_terminal_are_left_out(tables: Tables) -> None:
    behind = {WIDTH: "", WIDTH + 8: "", WIDTH + 9: "  ingress", WIDTH + 15: "  ingress", WIDTH + 16: "  ingress nobody"}
    for columns, expected in behind.items():
        with Screen("--once", "--procfs", str(tables.directory), columns=columns) as screen:
            assert screen.ended() == 0
            assert lines(screen.output)[1] == CONNECTION + expected, columns


def test_a_terminal_may_change_its_width(tables: Tables) -> None:
    with Screen("--procfs", str(tables.directory), "--interval", "100ms", columns=40) as screen:
        screen.wait(lambda: CONNECTION in screen.output, "the connection")
        screen.resize(200)
        tables.write([*ROWS, line("10.0.0.5:22", "203.0.113.9:51545", inode=8)])
        screen.wait(lambda: screen.output.count("New connection") == 2, "a second one")
        assert [each.endswith("  ingress root") for each in screen.output.splitlines()] == [False, False, True]


def test_rules_on_the_command_line_are_added_to_those_of_the_configuration(tables: Tables, tmp_path: Path) -> None:
    more = [line("10.0.0.5:22", f"203.0.113.{number}:40000", inode=10 + number) for number in range(4)]
    tables.write([*ROWS, *more])
    file = tmp_path / "tcpnewconn.conf"
    file.write_text("[Report]\nIgnore=203.0.113.0\nListeners=no\n")
    rules = ("--ignore", "203.0.113.1, 203.0.113.2", "--ignore", "egress::22")
    with Screen("--once", "--procfs", str(tables.directory), "--config", str(file), *rules, columns=40) as screen:
        assert screen.ended() == 0
        assert lines(screen.output) == [CONNECTION, "New connection: 203.0.113.3:40000 -> 10.0.0.5:22"]


def test_direction_unit_and_user_stand_behind_a_line() -> None:
    entry = {"NETWORK_DIRECTION": "egress", "OBJECT_SYSTEMD_UNIT": "cron.service", "USER_NAME": "root", "USER_ID": "0"}
    assert extended("line", entry, 200) == "line  egress cron.service root"
    assert extended("line", entry, 24) == "line  egress"
    assert extended("line", entry, 25) == "line  egress cron.service"
    assert extended("line", {"USER_ID": "1000"}, 200) == "line  uid 1000"
    assert extended("line", {"OBJECT_SYSTEMD_UNIT": "a\x1b.service"}, 200) == r"line  a\x1b.service"
    assert extended("line", {}, 200) == "line"


def test_the_lines_at_the_start_and_at_the_end_are_for_people() -> None:
    assert greeting(0.5, True) == "Polling every 500ms and receiving destroy notifications; Ctrl+C stops."
    assert [farewell(count, seconds) for count, seconds in ((0, 0.2), (1, 1.4), (12345, 303.7), (2, 90000))] == [
        "0 connections in less than 1s.",
        "1 connection in 1s.",
        "12,345 connections in 5min 4s.",
        "2 connections in 1d 1h.",
    ]
