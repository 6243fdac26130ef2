"""The metrics through node_exporter, from a link in its directory: its scrape is complete whatever the service does."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import built, exposition, message_ids
from tests.support.booted import Booted, booted
from tests.support.booted_package import METRICS, add_repository, install, is_active, main_pid, on_each_distribution

SERVICE = "tcpnewconn.service"
DIRECTORY = "/var/lib/prometheus/node-exporter"
LINK = f"{DIRECTORY}/tcpnewconn.prom"
HTTP_UNITS = ("tcpnewconn-metrics.socket", "tcpnewconn-metrics.service")
ADDRESS = "http://127.0.0.1:19117/metrics"
LAST_POLL = "tcpnewconn_last_poll_timestamp_seconds"


@pytest.fixture(scope="module", params=on_each_distribution("metrics"))
def container(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    with booted(request.param) as container:
        add_repository(container, built.deb())
        container.run("systemctl", "start", "prometheus-node-exporter.service")
        container.wait_for(lambda: container.status_of("curl", "-sf", "http://127.0.0.1:9100/") == 0, "node_exporter")
        yield container


def scraped(container: Booted) -> dict[str, float]:
    """Our series, as a scrape of node_exporter has them, which must be whole."""
    text = container.run("curl", "--silent", "--show-error", "--fail", "http://127.0.0.1:9100/metrics")
    assert exposition.series(text, "node_textfile_scrape_error") == {"node_textfile_scrape_error": 0}, text
    # The other series: its own process series, and the host's.
    assert exposition.series(text, "process_start_time_seconds")
    assert "node_load1 " in text
    return exposition.series(text)


def content(container: Booted) -> str:
    return container.run("cat", METRICS)


def test_before_it_is_installed_there_is_nothing(container: Booted) -> None:
    # A directory that a service without privileges could not write to.
    assert container.run("stat", "--format=%U %a", DIRECTORY) == "root 755\n"
    assert scraped(container) == {}


def test_linked_before_its_first_start_it_is_valid_and_old(container: Booted) -> None:
    container.run("systemctl", "mask", SERVICE)
    container.run("apt-get", "install", "--yes", "--quiet=2", "--no-install-recommends", "tcpnewconn")
    assert not is_active(container)
    container.run("ln", "--symbolic", METRICS, LINK)
    assert scraped(container) == {LAST_POLL: 0}
    exposition.check(content(container))


def test_running_it_has_every_series(container: Booted) -> None:
    container.run("systemctl", "unmask", SERVICE)
    container.run("systemctl", "enable", "--now", SERVICE)
    found = scraped(container)
    text = content(container)
    exposition.check(text)
    assert set(found) == set(exposition.series(text))
    assert len(found) > 40
    assert found['tcpnewconn_polls_total{result="ok"}'] >= 1
    assert found['tcpnewconn_source_degraded{source="notifications"}'] == 0
    assert found['tcpnewconn_sockets{state="listen"}'] >= 2
    assert found["tcpnewconn_listeners_total"] >= 2
    assert abs(found[LAST_POLL] - float(container.run("date", "+%s"))) < 60
    assert container.run("stat", "--format=%U:%G %a", "/run/tcpnewconn", METRICS) == (
        "_tcpnewconn:_tcpnewconn 755\n_tcpnewconn:_tcpnewconn 644\n"
    )


def test_a_connection_is_counted(container: Booted) -> None:
    def count() -> float:
        return scraped(container)['tcpnewconn_connections_total{direction="internal",family="ipv4"}']

    before = count()
    for _ in range(23):
        container.run("curl", "--silent", "--output", "/dev/null", "http://127.0.0.1:80/")
    # With those of the scrapes themselves.
    container.wait_for(lambda: count() >= before + 23, "23 connections in a scrape")


def test_for_the_metrics_nothing_is_written_to_the_journal(container: Booted) -> None:
    entries = container.journal(f"_SYSTEMD_UNIT={SERVICE}")
    ours = {*message_ids.ALL}
    said = [entry["MESSAGE"] for entry in entries if entry.get("MESSAGE_ID") not in ours]
    # A container has no tracefs of its own.
    assert [message for message in said if not message.startswith("no trace: tracefs is not mounted")] == []


def test_stopped_it_stays_as_it_was(container: Booted) -> None:
    container.run("systemctl", "stop", SERVICE)
    found = scraped(container)
    assert found[LAST_POLL] == exposition.series(content(container))[LAST_POLL] > 0
    assert len(found) > 40


def test_after_a_reboot_without_it_the_link_does_not_dangle(container: Booted) -> None:
    container.run("systemctl", "disable", "--quiet", SERVICE)
    container.run("systemctl", "enable", "--quiet", "prometheus-node-exporter.service")
    container.reboot()
    assert not is_active(container)
    container.wait_for(lambda: container.status_of("curl", "-sf", "http://127.0.0.1:9100/") == 0, "node_exporter")
    assert scraped(container) == {LAST_POLL: 0}


def test_killed_it_stays_as_it_was_and_no_half_is_seen(container: Booted) -> None:
    container.run("systemctl", "enable", "--now", "--quiet", SERVICE)
    before = main_pid(container)
    container.run("systemctl", "kill", "--signal=KILL", SERVICE)
    assert len(scraped(container)) > 40
    container.wait_for(
        lambda: main_pid(container) not in (0, before) and is_active(container), "the service to be back"
    )


def test_with_its_directory_gone_the_service_goes_on_and_the_next_start_makes_it_again(container: Booted) -> None:
    def warnings() -> list[str]:
        entries = container.journal("--boot", f"_SYSTEMD_UNIT={SERVICE}", "PRIORITY=4")
        return [entry["MESSAGE"] for entry in entries if "there are no metrics" in entry["MESSAGE"]]

    pid = container.property(SERVICE, "MainPID")
    container.run("rm", "--recursive", "/run/tcpnewconn")
    container.wait_for(warnings, "a warning")
    assert METRICS in warnings()[0]
    assert container.property(SERVICE, "MainPID") == pid
    container.run("systemctl", "restart", SERVICE)
    assert len(scraped(container)) > 40
    assert len(warnings()) == 1


# --- by HTTP ---------------------------------------------------------------------------------------------------------


def test_without_being_asked_for_there_is_no_http(container: Booted) -> None:
    for unit in HTTP_UNITS:
        assert container.property(unit, "ActiveState") == "inactive"
    assert container.property(HTTP_UNITS[0], "UnitFileState") == "disabled"
    assert container.status_of("curl", "--silent", ADDRESS) == 7, "refused"
    assert container.run("systemd-analyze", "verify", *HTTP_UNITS) == ""
    judged = container.run("systemd-analyze", "security", "--no-pager", HTTP_UNITS[1])
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", judged)
    assert exposure is not None
    assert float(exposure[1]) <= 0.7, judged


def test_asked_for_it_answers_on_this_host_alone(container: Booted) -> None:
    container.run("systemctl", "enable", "--now", "--quiet", "tcpnewconn-metrics.socket")
    assert container.property(HTTP_UNITS[1], "ActiveState") == "inactive"
    text = container.run("curl", "--silent", "--show-error", "--fail", "--include", ADDRESS).replace("\r\n", "\n")
    head, _, body = text.partition("\n\n")
    assert "\nContent-Type: text/plain; version=0.0.4; charset=utf-8\n" in head
    exposition.check(body)
    assert set(exposition.series(body)) == set(exposition.series(content(container)))
    assert container.run("ss", "-Hltn", "sport = :19117").split()[3] == "127.0.0.1:19117"
    pid = container.property(HTTP_UNITS[1], "MainPID")
    uid = re.search(r"(?m)^Uid:\t(\d+)", container.run("cat", f"/proc/{pid}/status"))
    assert uid is not None
    assert int(uid[1]) > 60000, "a dynamic user"


def test_prometheus_scrapes_it(container: Booted, tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text(
        f"""
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: tcpnewconn
    static_configs: [{{targets: ['{ADDRESS.split("/")[2]}']}}]
"""
    )
    prometheus = subprocess.Popen(
        [
            *("nsenter", f"--target={container.leader}", "--net", "--", "setpriv", "--pdeathsig", "TERM", "prometheus"),
            *(f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"),
            *("--web.listen-address=127.0.0.1:19090", "--log.level=error"),
        ],
        stdin=subprocess.DEVNULL,
    )
    try:
        query = "http://127.0.0.1:19090/api/v1/query?query=count({__name__=~%22tcpnewconn_.*%22})%20and%20on()%20up==1"

        def series() -> int:
            answer = container.run("curl", "--silent", "--globoff", query, check=False)
            value = re.search(r'"value":\[[\d.]+,"(\d+)"\]', answer)
            return int(value[1]) if value else 0

        found = container.wait_for(series, "Prometheus to have scraped")
        assert found == len(exposition.series(content(container)))
    finally:
        prometheus.terminate()
        prometheus.wait(60)


def test_when_nobody_asks_it_ends_and_says_nothing(container: Booted) -> None:
    container.wait_for(lambda: container.property(HTTP_UNITS[1], "ActiveState") == "inactive", "it to end by itself")
    assert container.property(HTTP_UNITS[1], "Result") == "success"
    assert container.property(HTTP_UNITS[0], "ActiveState") == "active"
    assert container.journal(f"_SYSTEMD_UNIT={HTTP_UNITS[1]}") == []
    container.run("curl", "--silent", "--show-error", "--fail", "--head", ADDRESS)


# --- its end ---------------------------------------------------------------------------------------------------------


def test_removed_it_takes_the_link_with_it(container: Booted) -> None:
    container.run("apt-get", "remove", "--yes", "--quiet=2", "tcpnewconn")
    assert container.run("ls", "-A", DIRECTORY) == ""
    assert scraped(container) == {}
    for unit in HTTP_UNITS:
        assert container.property(unit, "ActiveState") == "inactive"


def test_a_file_that_is_no_link_to_it_stays(container: Booted) -> None:
    install(container)
    container.run("sh", "-c", f"echo 'tcpnewconn_mine 1' >{LINK}")
    container.run("apt-get", "purge", "--yes", "--quiet=2", "tcpnewconn")
    assert scraped(container) == {"tcpnewconn_mine": 1}
    container.run("rm", LINK)
    assert container.run("find", "/etc/systemd", "/run/systemd", "-name", "*tcpnewconn*") == ""
