"""Six hosts and a log server: rollout, upgrade, downgrade, and every event on the log server, whatever fails in between."""

import itertools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tcpnewconn
from tests.support import booted_traffic, built, root_image
from tests.support.booted_package import HIGHER_VERSION
from tests.support.certificates import Authority
from tests.support.clickhouse import Engine, statements
from tests.support.fleet import ANSIBLE, BRIDGE_ADDRESS, HOSTS, LOG_SERVER, REPOSITORY_URL, Fleet, Host, Played, fleet
from tests.support.message_ids import CONNECTION
from tests.support.signed_repository import published

pytestmark = pytest.mark.xdist_group("fleet")

FIRST, HIGHER, BROKEN = f"{tcpnewconn.__version__}-1", f"{HIGHER_VERSION}-1", f"{HIGHER_VERSION}-2"
PLAY = """\
- hosts: tcpnewconn
  gather_facts: false
  roles: [tcpnewconn]
"""
ROLLOUT = ANSIBLE / "playbooks/rollout.yml"
# Without the journal upload: the test takes long enough.
ONLY_THE_PACKAGE = "--tags=tcpnewconn_install"
REMOTE = "/var/log/journal/remote"
UPLOADER, RECEIVER = "systemd-journal-upload.service", "systemd-journal-remote.service"
PORT = 19532
DOWN = 60  # seconds that the log server is down


@pytest.fixture(scope="module")
def hosts() -> Iterator[Fleet]:
    # Debian 12 on request; the program itself is tested on both each time.
    with fleet(os.environ.get("TCPNEWCONN_FLEET", "trixie")) as made:
        authority = Authority(made.place / "ca")
        for host in (made.log_server, *made.all):
            authority.give(host.hostname, host.address)
        ca = made.place / "ca"
        made.variables(
            "tcpnewconn",
            {
                "tcpnewconn_repository_url": REPOSITORY_URL,
                "tcpnewconn_repository_key": str(made.repository / "key.asc"),
                "tcpnewconn_version": FIRST,
                "tcpnewconn_settings": settings(),
                "tcpnewconn_textfile": True,
                "tcpnewconn_journal_upload_url": f"https://{made.log_server.address}:{PORT}",
                "tcpnewconn_journal_upload_ca": f"{ca}/ca.pem",
                "tcpnewconn_journal_upload_certificate": f"{ca}/{{{{ inventory_hostname }}}}.pem",
                "tcpnewconn_journal_upload_key": f"{ca}/{{{{ inventory_hostname }}}}-key.pem",
            },
        )
        made.variables(
            "tcpnewconn_log_server",
            {
                "tcpnewconn_log_server_certificate": f"{ca}/{LOG_SERVER}.pem",
                "tcpnewconn_log_server_key": f"{ca}/{LOG_SERVER}-key.pem",
                "tcpnewconn_log_server_client_ca": f"{ca}/ca.pem",
            },
        )
        (made.place / "play.yml").write_text(PLAY)
        yield made


@pytest.fixture(scope="module")
def play(hosts: Fleet) -> Path:
    return hosts.place / "play.yml"


def settings(interval: str = "2s") -> dict[str, Any]:
    # Every connection in an entry of its own: the tests count them.
    report = {"Existing": True, "Ignore": [":8080"], "BurstLimit": 0, "TotalLimit": 0}
    return {"Poll": {"Interval": interval}, "Report": report, "PortScan": {"Ports": "off"}}


def given(**variables: Any) -> list[str]:
    return ["--extra-vars", json.dumps(variables)]


def version(host: Host) -> str:
    return host.run("dpkg-query", "--show", "--showformat=${Version}", "tcpnewconn", check=False).strip()


def written(host: Host) -> dict[str, str]:
    """The files that the roles may write, with their checksums."""
    directories = [
        "/etc/tcpnewconn.conf.d",
        "/etc/apt",
        "/etc/systemd",
        "/etc/tcpnewconn-journal-upload",
        "/etc/nginx",
    ]
    sums = host.run("sh", "-c", f"find {' '.join(directories)} -type f -exec sha256sum {{}} + 2>/dev/null", check=False)
    return {path: checksum for checksum, path in (line.split(maxsplit=1) for line in sums.splitlines())}


def starts(host: Host) -> int:
    """How often the service has been started since the host booted."""
    return len(host.journal("--unit=tcpnewconn.service", "MESSAGE_ID=39f53479d3a045ac8e11786248231fbf"))


def by_systemd(host: Host) -> str:
    """The entries of systemd about the service, for a failure: by whom it was started, and why."""
    return host.run("journalctl", "--quiet", "--output=short-precise", "_PID=1", "UNIT=tcpnewconn.service")


def failures(host: Host) -> set[str]:
    """How the service has failed: UNIT_RESULT in the entries of systemd."""
    failed = host.journal("_PID=1", "UNIT=tcpnewconn.service", "MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c")
    return {entry["UNIT_RESULT"] for entry in failed}


def main_pids(hosts: Fleet) -> dict[str, str]:
    return {host.hostname: host.property("tcpnewconn.service", "MainPID") for host in hosts.all}


def ids(host: Host, *where: str) -> set[tuple[str, str]]:
    fields = ("--output-fields=_MACHINE_ID,TCPNEWCONN_CONNECTION_ID",)
    events = host.journal(*where, f"MESSAGE_ID={CONNECTION}", *fields)
    return {(event["_MACHINE_ID"], event["TCPNEWCONN_CONNECTION_ID"]) for event in events}


# --- 1: first run, second run, check mode -----------------------------------------------------------------------------


def test_check_mode_works_on_fresh_hosts_and_changes_nothing(hosts: Fleet, play: Path) -> None:
    before = [written(host) for host in hosts.all]
    checked = hosts.play(play, "--check", "--diff", "--limit=host1,host2")
    assert set(checked.recap) == {"host1", "host2"}
    assert min(checked.each("changed").values()) > 0
    assert "+URIs: " + REPOSITORY_URL in checked.said
    assert "Interval=2s" in checked.said
    assert [written(host) for host in hosts.all] == before
    assert all("no packages found" in version(host) for host in hosts.all)


def test_the_first_run_installs_all_and_the_second_changes_nothing(hosts: Fleet, play: Path) -> None:
    hosts.play(ANSIBLE / "playbooks/log_server.yml")
    first = hosts.play(play)
    assert set(first.recap) == set(HOSTS)
    for host in hosts.all:
        assert version(host) == FIRST
        assert host.property("tcpnewconn.service", "ActiveState") == "active"
        assert host.property("tcpnewconn.service", "UnitFileState") == "enabled"
        # Started once, with its settings in place.
        assert starts(host) == 1, by_systemd(host)
    before = [written(host) for host in hosts.all]
    pids = main_pids(hosts)

    second = hosts.play(play)
    assert set(second.each("changed").values()) == {0}, second.said
    checked = hosts.play(play, "--check", "--diff", "--limit=host1")
    assert checked.each("changed") == {"host1": 0}, checked.said
    assert [written(host) for host in hosts.all] == before
    assert main_pids(hosts) == pids
    print(f"first run {first.seconds:.1f} s, second {second.seconds:.1f} s")


def test_the_log_server_is_set_up_once(hosts: Fleet) -> None:
    assert hosts.play(ANSIBLE / "playbooks/log_server.yml").each("changed") == {LOG_SERVER: 0}


# --- 2: one connection, three journals --------------------------------------------------------------------------------


def test_a_connection_between_two_hosts_is_in_both_journals_and_twice_at_the_log_server(hosts: Fleet) -> None:
    source, destination = hosts.hosts["host3"], hosts.hosts["host5"]
    source.run("curl", "--silent", "--output", "/dev/null", f"http://{destination.address}/")
    of_it = (f"SOURCE_ADDRESS={source.address}", f"DESTINATION_ADDRESS={destination.address}", "DESTINATION_PORT=80")

    def seen(host: Host, *where: str) -> list[dict[str, Any]]:
        return host.journal(*where, f"MESSAGE_ID={CONNECTION}", *of_it)

    (egress,) = source.wait_for(lambda: seen(source), "the connection in the journal of host3")
    (ingress,) = destination.wait_for(lambda: seen(destination), "the connection in the journal of host5")
    assert (egress["NETWORK_DIRECTION"], ingress["NETWORK_DIRECTION"]) == ("egress", "ingress")
    assert egress["NETWORK_COMMUNITY_ID"] == ingress["NETWORK_COMMUNITY_ID"]

    hosts.log_server.wait_for(
        lambda: len(seen(hosts.log_server, f"--directory={REMOTE}")) >= 2, "both at the log server"
    )
    received = {event["_HOSTNAME"]: event for event in seen(hosts.log_server, f"--directory={REMOTE}")}
    assert set(received) == {"host3", "host5"}
    for name, event in (("host3", egress), ("host5", ingress)):
        for field in (
            "NETWORK_DIRECTION",
            "NETWORK_COMMUNITY_ID",
            "TCPNEWCONN_CONNECTION_ID",
            "MESSAGE",
            "_MACHINE_ID",
        ):
            assert received[name][field] == event[field]


def test_a_playbook_makes_one_page_of_every_host_s_ledger(hosts: Fleet) -> None:
    """Each host asks the next one's nginx, a number of times that tells them apart."""
    ring = list(zip(hosts.all, [*hosts.all[1:], hosts.all[0]], strict=True))
    for times, (source, destination) in enumerate(ring, start=2):
        for _ in range(times):
            source.run("curl", "--silent", "--output", "/dev/null", f"http://{destination.address}/")
    for times, (source, destination) in enumerate(ring, start=2):
        of_it = (
            f"SOURCE_ADDRESS={source.address}",
            f"DESTINATION_ADDRESS={destination.address}",
            "DESTINATION_PORT=80",
        )
        for end in (source, destination):
            end.wait_for(
                lambda end=end, of_it=of_it, times=times: len(end.journal(f"MESSAGE_ID={CONNECTION}", *of_it)) >= times,  # type: ignore[misc]
                "its connections",
            )
    place = hosts.place / "report"
    program = hosts.place / "tcpnewconn"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={built.TREE} exec /usr/bin/python3 -m tcpnewconn "$@"\n')
    program.chmod(0o755)

    played = hosts.play(
        ANSIBLE / "playbooks/report.yml",
        *given(tcpnewconn_report_directory=str(place), tcpnewconn_report_program=str(program)),
    )

    assert set(played.each("failed").values()) == {0}, played.said
    page = (place / "report.html").read_text()
    assert "<title>Who talks to whom: 6 hosts</title>" in page
    ledgers = sorted(str(path) for path in place.glob("*.db"))
    assert len(ledgers) == 6
    printed = subprocess.run(
        [program, "report", "--output", "json", "--ledger", *ledgers], capture_output=True, text=True, check=True
    )
    links = json.loads(printed.stdout)["links"]
    both = {
        (link["opener"], link["acceptor"], link["acceptor_unit"]): link["connections"]
        for link in links
        if link["port"] == 80 and link["seen_by"] == "both ends"
    }
    # host3 has asked host5 before.
    expected = {(a.hostname, b.hostname, "nginx.service"): times for times, (a, b) in enumerate(ring, start=2)}
    assert both == expected | {("host3", "host5", "nginx.service"): 1}
    # Ansible and the log server are no hosts of these.
    assert {link["seen_by"] for link in links if link["port"] == 22} == {"acceptor only"}
    assert {link["seen_by"] for link in links if link["port"] == PORT} == {"opener only"}
    for host in hosts.all:
        assert host.status_of("test", "-e", "/var/lib/tcpnewconn-ledger/ledger.db") == 0


# --- 5, first half: the log server goes down --------------------------------------------------------------------------


@dataclass
class Outage:
    """The log server is down, and every host makes connections."""

    since: float
    traffic: list["subprocess.Popen[str]"]

    def end_of_traffic(self) -> list[int]:
        """How many connections each host has made."""
        return [json.loads(program.communicate(timeout=120)[0])["made"] for program in self.traffic]


@pytest.fixture(scope="module")
def outage(hosts: Fleet) -> Iterator[Outage]:
    """Settings are changed and hosts upgraded meanwhile: the traffic goes on during that, and takes no time of its own."""
    source = Path(booted_traffic.__file__).read_text()
    running: list[subprocess.Popen[str]] = []
    try:
        for host in hosts.all:
            host.write("/opt/traffic.py", source)
            running.append(host.start("/usr/bin/python3", "/opt/traffic.py", "7001", "20"))
        for host in hosts.all:
            host.wait_for(lambda host=host: traffic_of(host) > 0, "traffic")  # type: ignore[misc]
        hosts.log_server.run("systemctl", "stop", "nginx.service", "systemd-journal-remote.socket", RECEIVER)
        yield Outage(time.monotonic(), running)
    finally:
        for program in running:
            program.kill()
            program.wait()


# --- 4: wrong settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"tcpnewconn_settings": {"Poll": {"Intervall": "2s"}}},
        {"tcpnewconn_settings": {"Report": {"Closed": "perhaps"}}},
        {"tcpnewconn_settings": {"Read": {"Interval": "2s"}}},
        {"tcpnewconn_settings": "Interval=2s"},
        {"tcpnewconn_state": "gone"},
        {"tcpnewconn_repository_key": ""},
    ],
    ids=["unknown setting", "wrong type", "old section", "text", "unknown state", "repository without a key"],
)
def test_wrong_variables_are_refused_before_a_host_is_reached(hosts: Fleet, play: Path, wrong: dict[str, Any]) -> None:
    # Nothing listens there: a task on the host would report it as unreachable.
    nowhere = given(**wrong, ansible_host=hosts.log_server.address, ansible_port=1)
    refused = hosts.play(play, *nowhere, "--limit=host1", check=False)
    assert refused.status != 0
    assert refused.each("failed") == {"host1": 1}, refused.said
    assert refused.each("unreachable") == {"host1": 0}, refused.said


@pytest.mark.usefixtures("outage")
def test_settings_that_only_the_host_can_refuse_leave_what_runs(hosts: Fleet, play: Path) -> None:
    before = [written(host) for host in hosts.all]
    pids = main_pids(hosts)
    for mode, hit in ((["--check", "--limit=host1"], HOSTS[:1]), (["--tags=tcpnewconn_configure"], HOSTS)):
        refused = hosts.play(play, *given(tcpnewconn_settings=settings("1fortnight")), *mode, check=False)
        assert refused.each("failed") == dict.fromkeys(hit, 1), refused.said
        assert "not a time span" in refused.said
    assert [written(host) for host in hosts.all] == before
    assert main_pids(hosts) == pids


@pytest.mark.usefixtures("outage")
def test_new_settings_reload_and_do_not_restart(hosts: Fleet, play: Path) -> None:
    host = hosts.hosts["host1"]
    pid = host.property("tcpnewconn.service", "MainPID")
    reload = "MESSAGE_ID=7b05ebc668384222baa8881179cfda54"
    before = len(host.journal("--unit=tcpnewconn.service", reload))
    only = ("--limit=host1", "--tags=tcpnewconn_configure")
    hosts.play(play, *given(tcpnewconn_settings=settings("3s")), *only)
    assert host.property("tcpnewconn.service", "MainPID") == pid
    assert len(host.journal("--unit=tcpnewconn.service", reload)) == before + 1
    assert "Interval=3s" in host.path("/etc/tcpnewconn.conf.d/50-ansible.conf").read_text()
    hosts.play(play, *only)


# --- 3: upgrade -------------------------------------------------------------------------------------------------------


def batches(rollout: Played) -> list[list[str]]:
    """The hosts of each batch, from the output of one task."""
    parts = rollout.said.split("TASK [tcpnewconn : Install the package")[1:]
    return [re.findall(r"(?m)^(?:changed|ok|skipping): \[(\w+)\]", part.split("\nTASK [")[0]) for part in parts]


@pytest.mark.usefixtures("outage")
def test_an_upgrade_goes_from_batch_to_batch(hosts: Fleet) -> None:
    published(hosts.key, hosts.repository, built.deb_of_version(HIGHER_VERSION))
    before = {host.hostname: starts(host) for host in hosts.all}
    upgraded = hosts.play(ROLLOUT, *given(tcpnewconn_version=HIGHER), ONLY_THE_PACKAGE)
    assert [version(host) for host in hosts.all] == [HIGHER] * 6
    # One, a tenth, half of them, the rest.
    assert [len(batch) for batch in batches(upgraded)] == [1, 1, 3, 1], upgraded.said
    # The new version runs.
    for host in hosts.all:
        assert host.property("tcpnewconn.service", "ActiveState") == "active"
        assert starts(host) == before[host.hostname] + 1, f"restarted, never twice\n{by_systemd(host)}"


# --- 5, second half: an upload is killed, the log server comes back ---------------------------------------------------


def test_every_event_arrives_though_the_log_server_was_down_and_an_upload_was_killed(
    hosts: Fleet, outage: Outage
) -> None:
    log_server, victim = hosts.log_server, hosts.hosts["host2"]
    while time.monotonic() < outage.since + DOWN:
        time.sleep(0.5)
    log_server.run("systemctl", "start", "systemd-journal-remote.socket", "nginx.service")
    # While it catches up.
    victim.wait_for(lambda: killed(victim, UPLOADER), "the upload to be killed")
    made = outage.end_of_traffic()
    assert min(made) > 10 * DOWN

    for host, count in zip(hosts.all, made, strict=True):
        host.wait_for(lambda host=host, count=count: traffic_of(host) >= count, "the host's own journal to have all")  # type: ignore[misc]
    there = set().union(*(ids(host) for host in hosts.all))
    assert len(there) > sum(made)
    began = time.monotonic()
    try:
        log_server.wait_for(
            lambda: there <= ids(log_server, f"--directory={REMOTE}"), "every event at the log server", within=300
        )
    except AssertionError as error:
        missing = there - ids(log_server, f"--directory={REMOTE}")
        raise AssertionError(f"{len(missing)} of {len(there)} are missing\n{error}") from None
    caught_up = time.monotonic() - began
    arrived = ids(log_server, f"--directory={REMOTE}")
    # The log server has nothing that no host has. The hosts are asked last, because they go on logging.
    assert arrived <= set().union(*(ids(host) for host in hosts.all))

    # The one-liner of docs/fleet.md.
    query = (
        f"journalctl --directory={REMOTE} MESSAGE_ID={CONNECTION} --output=cat --output-fields=TCPNEWCONN_CONNECTION_ID"
    )
    assert int(log_server.run("sh", "-c", f"{query} | sort --unique | wc --lines")) >= len(there)
    entries = int(log_server.run("sh", "-c", f"{query} | wc --lines"))
    # No service failed meanwhile. (If this machine stops for half a minute, the watchdog kills it.)
    for host in hosts.all:
        assert failures(host) <= {"watchdog"}, by_systemd(host)
    print(
        f"{len(there)} unique events, {entries} entries at the log server, all there {caught_up:.1f} s after the traffic"
    )


def killed(host: Host, unit: str) -> bool:
    pid = host.property(unit, "MainPID")
    return pid != "0" and host.status_of("kill", "-KILL", pid) == 0


def traffic_of(host: Host) -> int:
    fields = ("--output-fields=TCPNEWCONN_CONNECTION_ID",)
    events = host.journal(f"MESSAGE_ID={CONNECTION}", "DESTINATION_PORT=7001", *fields)
    return len({event["TCPNEWCONN_CONNECTION_ID"] for event in events})


# --- 6: hosts that may not upload -------------------------------------------------------------------------------------


def test_a_host_without_a_certificate_of_the_authority_is_refused(hosts: Fleet, tmp_path: Path) -> None:
    host = hosts.hosts["host1"]
    stranger, key = Authority(tmp_path / "other").give("host1", host.address)
    host.write("/opt/stranger.pem", stranger.read_text() + key.read_text())
    entry = "__REALTIME_TIMESTAMP=1\nMESSAGE=forged\n\n"
    url = f"https://{hosts.log_server.address}:{PORT}/upload"
    own = "/etc/tcpnewconn-journal-upload"

    def upload(*identity: str) -> str:
        kind = "Content-Type: application/vnd.fdo.journal"
        post = ["--request", "POST", "--header", kind, "--data-binary", entry, "--cacert", f"{own}/ca.pem"]
        return host.run(
            "curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", *post, *identity, url
        )

    assert upload() == "400"
    assert upload("--cert", "/opt/stranger.pem") == "400"
    assert hosts.log_server.journal(f"--directory={REMOTE}", "MESSAGE=forged") == []
    assert upload("--cert", f"{own}/certificate.pem", "--key", f"{own}/key.pem") in ("202", "200")


# --- 3, the rest: a bad version, rollback -----------------------------------------------------------------------------


def broken(deb: Path, directory: Path) -> Path:
    """The package of a program that exits as soon as it is started."""
    tree = directory / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace(f"Version: {HIGHER}", f"Version: {BROKEN}"))
    program = tree / "usr/bin/tcpnewconn"
    real = program.read_text()
    program.write_text(real.replace("\n", "\nimport sys\nif 'check-config' not in sys.argv: sys.exit('broken')\n", 1))
    made = directory / f"tcpnewconn_{BROKEN}_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, made], check=True, capture_output=True)
    return made


def test_a_version_that_does_not_start_stops_after_the_first_host(hosts: Fleet, tmp_path: Path) -> None:
    published(hosts.key, hosts.repository, broken(built.deb_of_version(HIGHER_VERSION), tmp_path))
    pids = main_pids(hosts)
    stopped = hosts.play(ROLLOUT, *given(tcpnewconn_version=BROKEN), ONLY_THE_PACKAGE, check=False)
    assert stopped.status != 0
    assert stopped.each("failed") == {"host1": 1}, stopped.said
    assert [version(host) for host in hosts.all] == [BROKEN] + [HIGHER] * 5
    after = main_pids(hosts)
    assert {name: after[name] for name in HOSTS[1:]} == {name: pids[name] for name in HOSTS[1:]}


def test_a_rollout_of_the_version_before_goes_back_in_the_batches_that_it_is_given(hosts: Fleet) -> None:
    own_batches = given(tcpnewconn_version=FIRST, tcpnewconn_batches=[2, "100%"])
    back = hosts.play(ROLLOUT, *own_batches, ONLY_THE_PACKAGE)
    assert [len(batch) for batch in batches(back)] == [2, 4], back.said
    for host in hosts.all:
        assert version(host) == FIRST
        assert host.property("tcpnewconn.service", "ActiveState") == "active"
        candidate = host.run("apt-cache", "policy", "tcpnewconn")
        assert f"Candidate: {FIRST}" in candidate, "an upgrade of the whole host would replace it"


def test_a_program_that_an_earlier_run_did_not_restart_is_restarted_by_the_next(hosts: Fleet, play: Path) -> None:
    host = hosts.hosts["host1"]
    pid = host.property("tcpnewconn.service", "MainPID")
    only = (ONLY_THE_PACKAGE, "--limit=host1")
    wrong = given(tcpnewconn_version=HIGHER, tcpnewconn_settings=settings("1fortnight"))
    assert hosts.play(play, *wrong, *only, check=False).each("failed") == {"host1": 1}
    assert version(host) == HIGHER
    assert host.property("tcpnewconn.service", "MainPID") == pid, "the old program goes on with its old settings"
    hosts.play(play, *given(tcpnewconn_version=HIGHER), *only)
    assert host.property("tcpnewconn.service", "MainPID") != pid


# --- Prometheus -------------------------------------------------------------------------------------------------------


def test_node_exporter_reads_the_metrics(hosts: Fleet) -> None:
    host = hosts.hosts["host2"]
    host.run("systemctl", "start", "prometheus-node-exporter.service")
    metrics = host.run("curl", "--silent", "--retry", "30", "--retry-connrefused", "http://localhost:9100/metrics")
    assert f'tcpnewconn_build_info{{version="{tcpnewconn.__version__}"}} 1' in metrics
    assert "node_textfile_scrape_error 0" in metrics


PROMETHEUS = """\
[Service]
ExecStart=/usr/local/bin/prometheus --config.file=/etc/prometheus/prometheus.yml --storage.tsdb.path=/run/prometheus
ExecReload=kill -HUP $MAINPID
"""


def test_prometheus_gets_the_rules_and_has_loaded_them(hosts: Fleet) -> None:
    log_server = hosts.log_server
    for program in ("prometheus", "promtool"):
        shutil.copy(root_image.monitoring_programs() / "bin" / program, log_server.path("/usr/local/bin"))
    log_server.write("/etc/systemd/system/prometheus.service", PROMETHEUS)
    config = "/etc/prometheus/prometheus.yml"
    log_server.write(config, "global: {}\n")
    log_server.run("systemctl", "start", "prometheus.service")
    playbook = ANSIBLE / "playbooks/prometheus.yml"
    assert hosts.play(playbook, "--check").each("failed") == {LOG_SERVER: 0}
    not_named = hosts.play(playbook, check=False)
    assert not_named.each("failed") == {LOG_SERVER: 1}, not_named.said

    log_server.write(config, 'rule_files: ["rules/tcpnewconn.*.yml"]\n')
    log_server.run("systemctl", "reload", "prometheus.service")
    hosts.play(playbook)
    assert hosts.play(playbook).each("changed") == {LOG_SERVER: 0}

    # By default there is no link to a Grafana, and an alert about port scans.
    rules = log_server.path("/etc/prometheus/rules/tcpnewconn.rules.yml")
    port_scan = log_server.path("/etc/prometheus/rules/tcpnewconn.port-scan.rules.yml")
    assert " dashboard_url: " not in rules.read_text()
    assert port_scan.exists()
    other = given(
        tcpnewconn_prometheus_grafana_url="https://grafana.test/", tcpnewconn_prometheus_port_scan_alert=False
    )
    hosts.play(playbook, *other)
    assert " dashboard_url: https://grafana.test/d/tcpnewconn?" in rules.read_text()
    assert not port_scan.exists()
    assert hosts.play(playbook, *other).each("changed") == {LOG_SERVER: 0}
    hosts.play(playbook)
    assert port_scan.exists()

    # A file that promtool refuses does not replace the old one.
    rules.write_text("groups: []\n")
    promtool = log_server.path("/usr/local/bin/promtool")
    promtool.unlink()
    promtool.symlink_to("/bin/false")
    assert hosts.play(playbook, check=False).each("failed") == {LOG_SERVER: 1}
    assert rules.read_text() == "groups: []\n"


# --- rsyslog ----------------------------------------------------------------------------------------------------------


def documented(file: str) -> str:
    """The configuration in docs/fleet.md for this file."""
    text = (built.TREE / "docs/fleet.md").read_text().split(f"`{file}`", 1)[1]
    lines = itertools.dropwhile(lambda line: not line.startswith("    "), text.splitlines())
    block = itertools.takewhile(lambda line: line.startswith("    "), lines)
    return "".join(f"{line[4:]}\n" for line in block)


def test_rsyslog_as_documented_delivers_every_event_with_its_fields(hosts: Fleet) -> None:
    sender, log_server = hosts.hosts["host4"], hosts.log_server
    files = {sender: "/etc/rsyslog.d/tcpnewconn.conf", log_server: "/etc/rsyslog.d/tcpnewconn-log-server.conf"}
    for host in (log_server, sender):
        for name, file in (("ca", "ca"), ("certificate", host.hostname), ("key", f"{host.hostname}-key")):
            host.write(f"/etc/rsyslog-tls/{name}.pem", (hosts.place / f"ca/{file}.pem").read_text())
        host.write(files[host], documented(files[host]).replace("logs.example.org", LOG_SERVER))
        host.write("/etc/hosts", f"127.0.0.1 localhost\n{log_server.address} {LOG_SERVER}\n")
        host.run("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "rsyslog", "rsyslog-relp")
        host.run("rsyslogd", "-N1")
    sender.run("curl", "--silent", "--output", "/dev/null", f"http://{hosts.hosts['host5'].address}/")

    def delivered() -> dict[str, dict[str, Any]]:
        # The last line may be incomplete.
        lines = log_server.run("cat", "/var/log/tcpnewconn.json", check=False).rpartition("\n")[0].splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return {event["TCPNEWCONN_CONNECTION_ID"]: event for event in events if event.get("MESSAGE_ID") == CONNECTION}

    own = {event["TCPNEWCONN_CONNECTION_ID"]: event for event in sender.journal(f"MESSAGE_ID={CONNECTION}")}
    log_server.wait_for(lambda: delivered().keys() >= own.keys(), "every event by way of rsyslog")
    received = delivered()
    for connection_id, event in own.items():
        for field in ("SOURCE_ADDRESS", "DESTINATION_PORT", "NETWORK_DIRECTION", "NETWORK_COMMUNITY_ID", "MESSAGE_ID"):
            assert str(received[connection_id][field]) == event[field]


# --- ClickHouse -------------------------------------------------------------------------------------------------------


def test_the_roles_for_clickhouse_send_every_event_of_a_host(hosts: Fleet) -> None:
    """The engine runs outside of the containers, and no host can reach it but by way of the front."""
    host, ca = hosts.hosts["host5"], hosts.place / "ca"
    engine = Engine(hosts.place / "engine", "tcpnewconn_insert", "secret", BRIDGE_ADDRESS, hosts.bridge)
    engine.place.mkdir()
    engine.start()
    try:
        for one in statements("schema.sql"):
            host.from_peer(
                "curl", "--silent", "--fail", "--user", "tcpnewconn_insert:secret", "--data", one, engine.url
            )
        variables = {
            "tcpnewconn_clickhouse_server": hosts.log_server.address,
            "tcpnewconn_clickhouse_wait": 200,
            "tcpnewconn_clickhouse_ca": f"{ca}/ca.pem",
            "tcpnewconn_clickhouse_certificate": f"{ca}/{{{{ inventory_hostname }}}}.pem",
            "tcpnewconn_clickhouse_key": f"{ca}/{{{{ inventory_hostname }}}}-key.pem",
            "tcpnewconn_clickhouse_front_upstream": engine.url,
            "tcpnewconn_clickhouse_front_password": "secret",
            "tcpnewconn_clickhouse_front_certificate": f"{ca}/{LOG_SERVER}.pem",
            "tcpnewconn_clickhouse_front_key": f"{ca}/{LOG_SERVER}-key.pem",
            "tcpnewconn_clickhouse_front_client_ca": f"{ca}/ca.pem",
        }
        playbook = ANSIBLE / "playbooks/clickhouse.yml"
        options = ("--extra-vars", json.dumps(variables), f"--limit=host5,{LOG_SERVER}")
        checked = hosts.play(playbook, *options, "--check", "--diff")
        assert set(checked.each("failed").values()) == {0}, checked.said
        hosts.play(playbook, *options)

        def arrived() -> set[str]:
            statement = "SELECT place || lower(hex(number)) FROM tcpnewconn.events WHERE host = 'host5' FORMAT TSV"
            user = ("--user", "tcpnewconn_insert:secret")
            return set(host.from_peer("curl", "--silent", *user, "--data", statement, engine.url).splitlines())

        before = len({entry["TCPNEWCONN_CONNECTION_ID"] for entry in host.journal(f"MESSAGE_ID={CONNECTION}")})
        host.wait_for(lambda: len(arrived()) >= before > 0, "the events that the journal has")
        # Killed, it goes on.
        host.run("systemctl", "kill", "--signal=KILL", "tcpnewconn-clickhouse.service")
        connects(host, hosts.hosts["host4"])
        host.wait_for(lambda: len(arrived()) > before, "an event after the kill")
        assert host.property("rsyslog.service", "ActiveState") == "inactive"
        assert "secret" not in host.run("sh", "-c", "cat /etc/tcpnewconn-clickhouse/*")
        again = hosts.play(playbook, *options)
        assert set(again.each("changed").values()) == {0}, again.said
        # Without a certificate nobody gets further than the front.
        refused = host.run("curl", "--silent", "--insecure", f"https://{hosts.log_server.address}:8442/", check=False)
        assert "No required SSL certificate" in refused
    finally:
        host.run("systemctl", "disable", "--now", "tcpnewconn-clickhouse.service", check=False)
        engine.stop()


# --- a journal namespace ----------------------------------------------------------------------------------------------

NAMESPACE = "--namespace=tcpnewconn"
# journald at its start: "System Journal (...) is ..., max ...".
JOURNAL_USAGE = "MESSAGE_ID=ec387f577b844b8fa948f33cad9a75e6"


def connects(source: Host, destination: Host) -> tuple[str, ...]:
    """Makes a connection; returns the matches of its entry."""
    port = source.run(
        "curl", "--silent", "--output", "/dev/null", "--write-out", "%{local_port}", f"http://{destination.address}/"
    )
    return (f"SOURCE_ADDRESS={source.address}", f"SOURCE_PORT={port.strip()}", f"MESSAGE_ID={CONNECTION}")


def test_a_host_logs_to_a_journal_namespace_whose_entries_reach_the_log_server(hosts: Fleet, play: Path) -> None:
    host, log_server = hosts.hosts["host6"], hosts.log_server
    with_namespace = (*given(tcpnewconn_journal_namespace=True, tcpnewconn_journal_max_use="64M"), "--limit=host6")
    checked = hosts.play(play, *with_namespace, "--check", "--diff")
    assert checked.each("failed") == {"host6": 0}, checked.said
    hosts.play(play, *with_namespace)

    entry = connects(host, hosts.hosts["host5"])
    host.wait_for(lambda: host.journal(NAMESPACE, *entry), "the connection in the namespace")
    assert host.journal(*entry) == [], "not in the default journal"
    log_server.wait_for(
        lambda: log_server.journal(f"--directory={REMOTE}", "_HOSTNAME=host6", *entry), "it at the log server"
    )
    host.run("logger", "still sent")
    others = ("MESSAGE=still sent", "_HOSTNAME=host6")
    log_server.wait_for(lambda: log_server.journal(f"--directory={REMOTE}", *others), "the default journal, too")
    assert host.journal(NAMESPACE, JOURNAL_USAGE)[-1]["MAX_USE"] == str(64 * 2**20)

    pid = host.property("tcpnewconn.service", "MainPID")
    again = hosts.play(play, *with_namespace)
    assert again.each("changed") == {"host6": 0}, again.said
    smaller = given(tcpnewconn_journal_namespace=True, tcpnewconn_journal_max_use="32M")
    hosts.play(play, *smaller, "--limit=host6", "--tags=tcpnewconn_configure")
    assert host.journal(NAMESPACE, JOURNAL_USAGE)[-1]["MAX_USE"] == str(32 * 2**20)
    assert host.property("tcpnewconn.service", "MainPID") == pid, "only its journald is restarted"


def test_a_journal_namespace_can_be_given_up(hosts: Fleet, play: Path) -> None:
    host = hosts.hosts["host6"]
    before = host.journal(NAMESPACE, f"MESSAGE_ID={CONNECTION}")
    assert before
    hosts.play(play, "--limit=host6")
    entry = connects(host, hosts.hosts["host5"])
    host.wait_for(lambda: host.journal(*entry), "the connection in the default journal")
    assert host.journal(NAMESPACE, *entry) == []
    assert host.journal(NAMESPACE, f"MESSAGE_ID={CONNECTION}")[: len(before)] == before, "its entries stay"
    assert host.property("tcpnewconn-journal-upload.service", "LoadState") == "not-found"
    assert hosts.play(play, "--limit=host6").each("changed") == {"host6": 0}


# --- removal ----------------------------------------------------------------------------------------------------------


def test_nothing_is_left_after_a_removal_with_purge(hosts: Fleet, play: Path) -> None:
    host = hosts.hosts["host6"]
    only = "--limit=host6"
    hosts.play(play, *given(tcpnewconn_state="absent"), only)
    assert host.path("/etc/tcpnewconn.conf.d/50-ansible.conf").exists(), "settings stay unless purged"
    assert host.status_of("test", "-e", "/usr/bin/tcpnewconn") != 0
    assert not host.path("/etc/apt/sources.list.d/tcpnewconn.sources").exists()
    assert host.property("systemd-journal-upload.service", "ActiveState") == "inactive"
    purge = given(tcpnewconn_state="absent", tcpnewconn_purge=True)
    hosts.play(play, *purge, only)
    assert hosts.play(play, *purge, only).each("changed") == {"host6": 0}
    for left in (
        "/var/lib/prometheus/node-exporter/tcpnewconn.prom",
        "/var/lib/tcpnewconn",
        "/etc/tcpnewconn.conf",
        "/etc/tcpnewconn.conf.d",
        "/var/lib/private/tcpnewconn",
        "/etc/tcpnewconn-journal-upload",
        "/etc/systemd/system/tcpnewconn.service.d/journal-namespace.conf",
        "/etc/systemd/journald@tcpnewconn.conf.d",
    ):
        assert host.status_of("find", left, "-maxdepth", "0") != 0, left


def test_a_file_is_installed_without_a_repository(hosts: Fleet, play: Path) -> None:
    host = hosts.hosts["host6"]
    of_a_file = given(
        tcpnewconn_repository_url="",
        tcpnewconn_version="",
        tcpnewconn_journal_upload_url="",
        tcpnewconn_deb=str(built.deb()),
    )
    assert hosts.play(play, *of_a_file, "--check", "--limit=host6").each("failed") == {"host6": 0}
    hosts.play(play, *of_a_file, "--limit=host6")
    assert version(host) == FIRST
    assert host.property("tcpnewconn.service", "ActiveState") == "active"
    assert hosts.play(play, *of_a_file, "--limit=host6").each("changed") == {"host6": 0}


def test_a_host_on_which_a_source_is_missing_fails_unless_that_is_allowed(hosts: Fleet, play: Path) -> None:
    host = hosts.hosts["host6"]
    # With the socket: else the command does not wait until it has stopped.
    host.run("systemctl", "stop", "tcpnewconn.service", "tcpnewconn.socket")
    # A socket for other messages: no destroy notifications arrive.
    other = "[Socket]\nListenNetlink=\nListenNetlink=route 0\n"
    host.write("/etc/systemd/system/tcpnewconn.socket.d/test.conf", other)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", "tcpnewconn.service")
    only = ("--limit=host6", "--tags=tcpnewconn_verify")
    refused = hosts.play(play, *only, check=False)
    assert refused.each("failed") == {"host6": 1}, refused.said
    assert "notifications: " in refused.said
    assert hosts.play(play, *given(tcpnewconn_sources_required=False), *only).each("failed") == {"host6": 0}


def test_a_host_whose_service_does_not_run_fails(hosts: Fleet, play: Path) -> None:
    host = hosts.hosts["host6"]
    host.run("systemctl", "stop", "tcpnewconn.service")
    refused = hosts.play(play, "--limit=host6", "--tags=tcpnewconn_verify", check=False)
    assert refused.each("failed") == {"host6": 1}, refused.said
    assert "see journalctl -u tcpnewconn for the reason" in refused.said
