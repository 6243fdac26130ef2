"""The program of tcpnewconn-trace.service where it cannot record. Where it can: tests/machine/test_vm.py."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from tcpnewconn import tracesetup
from tcpnewconn.kernel.traceevents import EVENTS
from tcpnewconn.kernel.tracefs import Tracefs
from tests.support.terminal import TESTS, TREE

BTF = TESTS / "fixtures/trace/linux-6.12-x86_64/btf"


def test_without_tracefs_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(tracesetup.Unavailable, match="tracefs is not mounted"):
        tracesetup.start(Tracefs(str(tmp_path / "tracing")), str(tmp_path), EVENTS, 0, str(BTF))
    assert tracesetup.stop(Tracefs(str(tmp_path / "tracing")), str(tmp_path)) == []


@pytest.fixture
def tracefs(tmp_path: Path) -> Tracefs:
    """A directory that takes definitions, as tracefs does, and has nothing else of it."""
    (tmp_path / "tracing" / "instances").mkdir(parents=True)
    (tmp_path / "tracing" / "dynamic_events").write_text("p:others/theirs tcp_close\n")
    return Tracefs(str(tmp_path / "tracing"))


def test_without_type_information_it_says_what_the_kernel_lacks(tracefs: Tracefs, tmp_path: Path) -> None:
    with pytest.raises(tracesetup.Unavailable, match=r"no type information \(CONFIG_DEBUG_INFO_BTF\).*No such file"):
        tracesetup.start(tracefs, str(tmp_path), EVENTS, 0, str(tmp_path / "btf"))
    (tmp_path / "btf").write_bytes(b"no BTF")
    with pytest.raises(tracesetup.Unavailable, match="it is too short to be BTF"):
        tracesetup.start(tracefs, str(tmp_path), EVENTS, 0, str(tmp_path / "btf"))


def test_types_without_a_member_that_it_needs_are_named(tracefs: Tracefs, tmp_path: Path) -> None:
    (tmp_path / "btf").write_bytes(BTF.read_bytes().replace(b"\0sk_uid\0", b"\0sk_own\0"))
    with pytest.raises(
        tracesetup.Unavailable, match=r"cannot record connect\(\): .*btf: the kernel has no struct sock.sk_uid"
    ):
        tracesetup.start(tracefs, str(tmp_path), EVENTS, 0, str(tmp_path / "btf"))


def test_definitions_are_appended_to_those_of_others(tracefs: Tracefs, tmp_path: Path) -> None:
    with pytest.raises(tracesetup.Unavailable):
        tracesetup.start(tracefs, str(tmp_path), EVENTS, 0, str(BTF))
    lines = (tmp_path / "tracing" / "dynamic_events").read_text().splitlines()
    assert lines[0] == "p:others/theirs tcp_close"
    assert lines[1].startswith("p:tcpnewconn/connect tcp_connect ")


def test_the_plain_event_of_an_earlier_start_is_open_to_no_group_any_more(tracefs: Tracefs, tmp_path: Path) -> None:
    """Of an instance that a stop could not remove, because the service reads it: nothing is enabled there."""
    event = tmp_path / "tracing/instances/tcpnewconn/events/sock/inet_sock_set_state"
    event.mkdir(parents=True)
    for name in ("enable", "format"):
        (event / name).write_text("0")
        (event / name).chmod(0o440)
    with pytest.raises(tracesetup.Unavailable):
        tracesetup.start(tracefs, str(tmp_path), EVENTS, 0, str(BTF))
    assert [stat.S_IMODE((event / name).stat().st_mode) for name in ("enable", "format")] == [0o600, 0o600]


def test_a_definition_that_is_not_taken_leaves_the_others_only_if_it_is_not_connect(
    tracefs: Tracefs, tmp_path: Path
) -> None:
    types = BTF.read_bytes().replace(b"\0sk_err\0", b"\0sk_eee\0")
    (tmp_path / "btf").write_bytes(types)
    notes: list[str] = []
    found = tracesetup._definitions(EVENTS, str(tmp_path / "btf"), notes)
    assert [definition.event for definition in found] == ["connect", "accept"]
    assert notes == [f"cannot record failed attempts: {tmp_path / 'btf'}: the kernel has no struct sock.sk_err"]


def test_a_stop_removes_what_a_start_wrote(tracefs: Tracefs, tmp_path: Path) -> None:
    for name in ("missing", "events", "definitions"):
        (tmp_path / name).write_text("x")
    (tmp_path / "other").write_text("x")
    tracesetup.stop(tracefs, str(tmp_path))
    shutil.rmtree(tmp_path / "tracing")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_the_drop_in_for_the_plain_event_changes_nothing_but_the_argument() -> None:
    lines = (TREE / "systemd/tcpnewconn-trace.service").read_text().splitlines()
    commands = dict(line.split("=", 1) for line in lines if line.startswith(("ExecStart=", "ExecReload=")))
    section = (TREE / "systemd/plain-event.conf").read_text().split("\n[Service]\n")[1]
    expected = [line for name, command in commands.items() for line in (f"{name}=", f"{name}={command} plain-event")]
    assert section.splitlines() == expected


def test_wrong_use_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert tracesetup.main(["restart"]) == 2
    assert capfd.readouterr().err == "<3>use: python3 -m tcpnewconn.tracesetup start [plain-event] | stop\n"
