"""The file of the metrics, as the service writes it while it runs."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support import exposition as written
from tests.support.slow_table import SlowTable
from tests.support.supervised import Supervised
from tests.support.table import Line, Tables, line, listener

SSH = listener("0.0.0.0:22", inode=10)


def incoming(number: int) -> Line:
    return line("10.0.0.5:22", f"203.0.113.{number % 200}:{50000 + number}", inode=100 + number)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    made = Tables(tmp_path / "proc")
    made.write([SSH, incoming(0)])
    return made


def options(tables: Tables, *more: str) -> list[str]:
    return ["--procfs", str(tables.directory), "--interval", "100ms", *more]


def test_the_service_writes_it_after_each_poll_and_leaves_it_when_it_stops(tables: Tables, tmp_path: Path) -> None:
    file = tmp_path / "metrics.prom"
    with Supervised(*options(tables, "--metrics", str(file))) as service:
        service.ready()
        # It is there when the service says that it is ready.
        first = written.series(file.read_text())
        assert first['tcpnewconn_connections_total{direction="ingress",family="ipv4"}'] == 1
        assert first['tcpnewconn_connections_detected_total{detected_by="startup"}'] == 1
        assert first["tcpnewconn_listeners_total"] == 1
        assert first['tcpnewconn_sockets{state="established"}'] == first['tcpnewconn_sockets{state="listen"}'] == 1
        tables.write([SSH, *map(incoming, range(3))])
        service.wait(lambda: len(service.lines) == 4, "the new ones")
        service.polls(2)
        second = written.series(file.read_text())
        assert second['tcpnewconn_connections_total{direction="ingress",family="ipv4"}'] == 3
        assert second['tcpnewconn_connections_detected_total{detected_by="poll"}'] == 2
        assert second['tcpnewconn_polls_total{result="ok"}'] > first['tcpnewconn_polls_total{result="ok"}']
        assert second["tcpnewconn_last_poll_timestamp_seconds"] > first["tcpnewconn_last_poll_timestamp_seconds"]
        assert second["tcpnewconn_process_start_time_seconds"] == first["tcpnewconn_process_start_time_seconds"]
        assert first["tcpnewconn_running"] == second["tcpnewconn_running"] == 1
        assert service.stop() == 0
        assert service.said == []
    written.check(file.read_text())
    assert written.series(file.read_text())["tcpnewconn_running"] == 0
    assert set(tmp_path.iterdir()) == {tables.directory, file}


def test_connections_in_summaries_count_by_their_number(tables: Tables, tmp_path: Path) -> None:
    file, settings = tmp_path / "metrics.prom", tmp_path / "summarized.conf"
    settings.write_text("[Report]\nBurstLimit=1\nTotalLimit=10\n")
    with Supervised(*options(tables, "--metrics", str(file), "--config", str(settings))) as service:
        service.ready()
        tables.write([SSH, *map(incoming, range(500))])
        service.wait(lambda: written.summed(file.read_text(), "tcpnewconn_connections_total") == 500, "all of them")
        summarized = written.series(file.read_text())["tcpnewconn_connections_summarized_total"]
        assert service.stop() == 0
        by_themselves = sum("New connection: " in line for line in service.lines)
    assert summarized == 500 - by_themselves > 400


def test_failed_polls_are_counted_too(tables: Tables, tmp_path: Path) -> None:
    file = tmp_path / "metrics.prom"
    with Supervised(*options(tables, "--metrics", str(file))) as service:
        service.ready()
        away = tables.tcp.with_name("away")
        tables.tcp.rename(away)
        service.wait(lambda: len(service.lines) == 3, "degraded event")
        service.polls(2)
        found = written.series(file.read_text())
        assert found['tcpnewconn_polls_total{result="failed"}'] > 1
        assert found['tcpnewconn_source_degraded{source="proc"}'] == 1
        away.rename(tables.tcp)
        service.wait(lambda: len(service.lines) == 4, "recovered event")
        tables.tcp.write_bytes(tables.tcp.read_bytes() + b"   9: nonsense\n")
        service.wait(lambda: len(service.lines) == 5, "loss event")
        service.polls(1)
        found = written.series(file.read_text())
        assert found['tcpnewconn_source_degraded{source="proc"}'] == 0
        assert found['tcpnewconn_lost_total{reason="malformed"}'] >= 1


def test_a_poll_that_takes_too_long_makes_the_service_skip_others(tables: Tables, tmp_path: Path) -> None:
    file = tmp_path / "metrics.prom"
    table = tables.tcp.read_bytes()
    with Supervised(*options(tables, "--metrics", str(file))) as service:
        service.ready()
        slow = SlowTable(tables.tcp)
        slow.wait()
        before = written.series(file.read_text())["tcpnewconn_polls_skipped_total"]
        # Ten intervals.
        signal.sigtimedwait([], 1.0)
        slow.answer(table)
        service.polls(2)
        assert written.series(file.read_text())["tcpnewconn_polls_skipped_total"] >= before + 9


def test_a_file_that_cannot_be_written_is_one_warning_and_no_more(tables: Tables, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    file = directory / "tcpnewconn.prom"
    with Supervised(*options(tables), more={"RUNTIME_DIRECTORY": f"{directory}:/elsewhere"}) as service:
        service.ready()
        service.polls(3)
        (said,) = service.said
        assert said.startswith(f"tcpnewconn: {file}: No such file or directory; ")
        directory.mkdir()
        service.wait(lambda: len(service.said) == 2, "the news that it is written again")
        assert service.said[1] == f"tcpnewconn: {file} is written again"
        assert service.stop() == 0
    written.check(file.read_text())
