"""The metrics for Prometheus: the counters, and their text."""

from __future__ import annotations

import os
import re
import stat
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tcpnewconn.eventtypes import Closed, Connection, Degraded, Listener, Loss, PortScan, Recovered
from tcpnewconn.health.counters import REASONS, SOURCES, Counters, ServiceStatistics
from tcpnewconn.health.metrics import METRICS, PREFIX, MetricsFile, exposition
from tcpnewconn.model import Endpoint
from tests.support import exposition as written
from tests.support.table import Tables, line
from tests.support.terminal import TREE, run

HERE, PEER = Endpoint(bytes([10, 0, 0, 5]), 22), Endpoint(bytes([203, 0, 113, 9]), 50000)
HERE6, PEER6 = Endpoint(bytes(15) + b"\1", 22), Endpoint(bytes(15) + b"\2", 50000)


def connection(
    source: Endpoint = PEER, destination: Endpoint = HERE, direction: str = "ingress", detected_by: str = "poll"
) -> Connection:
    return Connection(source, destination, direction, detected_by, "id", 1)


def written_out(counters: Counters) -> dict[str, float]:
    text = exposition(counters, ServiceStatistics(10.0))
    return written.series(text)


# --- the text --------------------------------------------------------------------------------------------------------


def test_every_series_is_there_from_the_start() -> None:
    text = exposition(Counters(), ServiceStatistics(10.0))
    assert text.endswith("\n")
    found = written.series(text)
    for metric in METRICS:
        assert f"# TYPE {PREFIX}{metric.name} {metric.kind}\n" in text
        assert any(re.split(r"\{|_sum$|_count$", name)[0] == PREFIX + metric.name for name in found)
    for directions in ("ingress", "egress", "internal", "unknown"):
        for family in ("ipv4", "ipv6"):
            assert found[f'tcpnewconn_connections_total{{direction="{directions}",family="{family}"}}'] == 0
    assert {name for name in found if "sockets" in name} == {
        f'tcpnewconn_sockets{{state="{state}"}}'
        for state in (
            *("established", "syn_sent", "syn_received", "fin_wait_1", "fin_wait_2", "time_wait", "closed"),
            *("close_wait", "last_ack", "listen", "closing"),
        )
    }
    # They stay the same whatever happens, so that no rate begins in the middle.
    counters = Counters()
    counters.connection(connection(), False)
    assert set(written_out(counters)) == set(found)


def test_connections_are_counted_by_direction_family_and_how_they_were_detected() -> None:
    counters = Counters()
    counters.connection(connection(), False)
    counters.connection(connection(), True)
    counters.connection(connection(PEER6, HERE6, "egress", "notification"), True)
    counters.connection(connection(Endpoint(None, 1), HERE6, "unknown", "startup"), False)
    counters.connection(connection(Endpoint(None, None), HERE, "unknown", "notification"), False)
    found = written_out(counters)
    assert {
        name: value for name, value in found.items() if "_summarized" not in name and "connections" in name and value
    } == {
        'tcpnewconn_connections_total{direction="ingress",family="ipv4"}': 2,
        'tcpnewconn_connections_total{direction="egress",family="ipv6"}': 1,
        'tcpnewconn_connections_total{direction="unknown",family="ipv6"}': 1,
        'tcpnewconn_connections_total{direction="unknown",family="ipv4"}': 1,
        'tcpnewconn_connections_detected_total{detected_by="poll"}': 2,
        'tcpnewconn_connections_detected_total{detected_by="notification"}': 2,
        'tcpnewconn_connections_detected_total{detected_by="startup"}': 1,
    }
    assert found["tcpnewconn_connections_summarized_total"] == 2


def test_other_events_are_counted_by_what_they_are() -> None:
    counters = Counters()
    for number, reason in enumerate(REASONS, 1):
        counters.event(Loss(number, reason, "lost"))
    counters.event(Loss(100, "malformed", "lost"))
    counters.event(Listener(HERE, False))
    counters.event(PortScan(bytes(4), None, (1, 2, 3, 4)))
    counters.event(Closed(PEER, HERE, "ingress", "id", 1, 1, 1, 1, None))
    found = written_out(counters)
    losses = {name: value for name, value in found.items() if "lost" in name}
    assert losses == {
        f'tcpnewconn_lost_total{{reason="{reason}"}}': number + 100 * (reason == "malformed")
        for number, reason in enumerate(REASONS, 1)
    }
    assert found["tcpnewconn_listeners_total"] == 1
    assert found["tcpnewconn_port_scans_total"] == 1


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_is_degraded_until_it_is_back(source: str) -> None:
    counters = Counters()
    name = f'tcpnewconn_source_degraded{{source="{source}"}}'
    counters.event(Degraded(source, "missing"))  # type: ignore[arg-type]
    assert {one: value for one, value in written_out(counters).items() if "degraded" in one and value} == {name: 1}
    counters.event(Recovered(source, "back"))  # type: ignore[arg-type]
    assert written_out(counters)[name] == 0


def test_the_statistics_of_the_service_are_in_base_units() -> None:
    text = exposition(Counters(), written.long_running())
    found = written.series(text)
    assert found['tcpnewconn_polls_total{result="ok"}'] == found["tcpnewconn_poll_duration_seconds_count"] == 7
    assert found['tcpnewconn_polls_total{result="failed"}'] == 2
    assert found["tcpnewconn_polls_skipped_total"] == 3
    assert found["tcpnewconn_poll_duration_seconds_sum"] == 0.012346
    assert found["tcpnewconn_last_poll_timestamp_seconds"] == 1.795e9
    assert found["tcpnewconn_poll_interval_seconds"] == 0.1
    assert found["tcpnewconn_journal_entries_waiting"] == 4
    assert found["tcpnewconn_running"] == 1
    # Two of the kernel's states have one name; unknown ones are left out.
    sockets = {name: value for name, value in found.items() if "sockets" in name and value}
    assert sockets == {
        f'tcpnewconn_sockets{{state="{s}"}}': n for s, n in (("established", 5), ("syn_received", 3), ("listen", 3))
    }
    assert found["tcpnewconn_process_cpu_seconds_total"] == 1.5
    assert found["tcpnewconn_process_resident_memory_bytes"] == 20480
    assert found["tcpnewconn_process_start_time_seconds"] == 1.7949e9


def test_each_number_stands_behind_its_own_labels() -> None:
    counters, statistics = Counters(), ServiceStatistics(10.0)
    by: dict[tuple[str, str], Any] = {
        ("namespaces", "kind"): statistics.namespaces,
        ("namespace_polls_total", "result"): statistics.namespace_results,
        ("connections_detected_total", "detected_by"): counters.detected_by,
        ("connections_attributed_total", "by"): counters.attributed_by,
        ("connections_not_attributed_total", "reason"): counters.not_attributed,
        ("lost_total", "reason"): counters.lost,
    }
    numbers = count(1)
    for counts in by.values():
        counts.update({name: next(numbers) for name in counts})
    found = written.series(exposition(counters, statistics))
    for (metric, label), counts in by.items():
        of_metric = {name: value for name, value in found.items() if name.startswith(f"tcpnewconn_{metric}{{")}
        assert of_metric == {f'tcpnewconn_{metric}{{{label}="{name}"}}': number for name, number in counts.items()}


def test_the_first_file_of_the_package_says_the_same_of_what_it_has() -> None:
    (content,) = re.findall(r"(?m)^f (?:\S+ ){5}(.*)$", (TREE / "systemd" / "tcpnewconn.tmpfiles").read_text())
    text = content.replace("\\n", "\n")
    assert text.endswith("_seconds 0\n")
    assert text in exposition(Counters(), ServiceStatistics(10.0)).replace(" 0.0\n", " 0\n")


# --- the file --------------------------------------------------------------------------------------------------------


def test_the_file_is_for_everybody_whatever_the_umask_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = MetricsFile(f"{tmp_path}/tcpnewconn.prom")
    before = os.umask(0o077)
    try:
        file.write("one 1\n")
        file.write("two 2\n")
    finally:
        os.umask(before)
    assert file.problem is None
    (path,) = tmp_path.iterdir()
    assert path.read_text() == "two 2\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_reader_that_has_the_file_open_reads_it_whole(tmp_path: Path) -> None:
    file = MetricsFile(f"{tmp_path}/tcpnewconn.prom")
    file.write("one 1\n" * 1000)
    with open(file.path) as reading:
        begin = reading.read(100)
        file.write("two 2\n")
        assert begin + reading.read() == "one 1\n" * 1000


def test_a_file_that_cannot_be_written_is_named_and_tried_again(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    file = MetricsFile(f"{directory}/tcpnewconn.prom")
    file.write("one 1\n")
    assert file.problem == f"{file.path}: No such file or directory"
    directory.mkdir()
    file.write("one 1\n")
    assert file.problem is None
    assert Path(file.path).read_text() == "one 1\n"


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("untouched")
    for name in ("tcpnewconn.prom", "tcpnewconn.prom.new"):
        (tmp_path / name).symlink_to(elsewhere)
    MetricsFile(f"{tmp_path}/tcpnewconn.prom").write("one 1\n")
    (tmp_path / "tcpnewconn.prom.new").unlink()
    MetricsFile(f"{tmp_path}/tcpnewconn.prom").write("one 1\n")
    assert elsewhere.read_text() == "untouched"
    assert not (tmp_path / "tcpnewconn.prom").is_symlink()


def test_in_a_terminal_nothing_is_written_unless_it_is_asked_for(tmp_path: Path) -> None:
    tables = Tables(tmp_path / "proc")
    tables.write([line("10.0.0.5:22", "203.0.113.9:50000", inode=100)])
    once = ["--procfs", str(tables.directory), "--once"]
    assert run(*once, more={"RUNTIME_DIRECTORY": str(tmp_path)}).returncode == 0
    assert set(tmp_path.iterdir()) == {tables.directory}
    assert run(*once, "--metrics", f"{tmp_path}/metrics.prom").returncode == 0
    found = written.series((tmp_path / "metrics.prom").read_text())
    assert found['tcpnewconn_connections_total{direction="ingress",family="ipv4"}'] == 1
    assert found["tcpnewconn_running"] == 0
    # What the process measured of itself.
    assert 0 < found["tcpnewconn_process_cpu_seconds_total"] < 60
    assert 1 << 20 < found["tcpnewconn_process_resident_memory_bytes"] < 1 << 32
