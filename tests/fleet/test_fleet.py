"""Six hosts and a centre: rolled out, upgraded, rolled back, and every event in one place, whatever fails in between."""

import itertools
import json
import os
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
from tests.support.booted_events import CONNECTION
from tests.support.booted_package import HIGHER_VERSION
from tests.support.certificates import Authority
from tests.support.fleet import ANSIBLE, CENTRE, HOSTS, REPOSITORY_URL, Fleet, Host, fleet
from tests.support.signed_repository import published

pytestmark = pytest.mark.xdist_group("fleet")

FIRST, HIGHER, BROKEN = f"{tcpnewconn.__version__}-1", f"{HIGHER_VERSION}-1", f"{HIGHER_VERSION}-2"
PLAY = """\
- hosts: tcpnewconn
  gather_facts: false
  roles: [tcpnewconn]
"""
ROLLOUT = ANSIBLE / "playbooks/rollout.yml"
# The uploader is not looked at: the test takes long enough.
ONLY_THE_PACKAGE = "--tags=tcpnewconn_install"
REMOTE = "/var/log/journal/remote"
UPLOADER, RECEIVER = "systemd-journal-upload.service", "systemd-journal-remote.service"
PORT = 19532
DOWN = 60  # seconds that the centre is down


@pytest.fixture(scope="module")
def hosts() -> Iterator[Fleet]:
    # Debian 12 can be asked for; what the program does there, other tests tell each time.
    with fleet(os.environ.get("TCPNEWCONN_FLEET", "trixie")) as made:
        authority = Authority(made.place / "ca")
        for host in (made.centre, *made.all):
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
                "tcpnewconn_upload_url": f"https://{made.centre.address}:{PORT}",
                "tcpnewconn_upload_ca": f"{ca}/ca.pem",
                "tcpnewconn_upload_certificate": f"{ca}/{{{{ inventory_hostname }}}}.pem",
                "tcpnewconn_upload_key": f"{ca}/{{{{ inventory_hostname }}}}-key.pem",
            },
        )
        made.variables(
            "tcpnewconn_centre",
            {
                "tcpnewconn_centre_certificate": f"{ca}/{CENTRE}.pem",
                "tcpnewconn_centre_key": f"{ca}/{CENTRE}-key.pem",
                "tcpnewconn_centre_client_ca": f"{ca}/ca.pem",
            },
        )
        (made.place / "play.yml").write_text(PLAY)
        yield made


@pytest.fixture(scope="module")
def play(hosts: Fleet) -> Path:
    return hosts.place / "play.yml"


def settings(interval: str = "2s") -> dict[str, Any]:
    # Every connection by itself: the tests count them.
    report = {"Existing": True, "Ignore": [":8080"], "BurstLimit": 0, "TotalLimit": 0}
    return {"Read": {"Interval": interval}, "Report": report, "Scan": {"Ports": "off"}}


def given(**variables: Any) -> list[str]:
    return ["--extra-vars", json.dumps(variables)]


def version(host: Host) -> str:
    return host.run("dpkg-query", "--show", "--showformat=${Version}", "tcpnewconn", check=False).strip()


def written(host: Host) -> dict[str, str]:
    """The files that the roles may write, and what is in there."""
    folders = ["/etc/tcpnewconn.conf.d", "/etc/apt", "/etc/systemd/system", "/etc/tcpnewconn-upload", "/etc/nginx"]
    sums = host.run("sh", "-c", f"find {' '.join(folders)} -type f -exec sha256sum {{}} + 2>/dev/null", check=False)
    return {path: checksum for checksum, path in (line.split(maxsplit=1) for line in sums.splitlines())}


def starts(host: Host) -> int:
    """How often the service has been started since the host booted."""
    return len(host.journal("--unit=tcpnewconn.service", "MESSAGE_ID=39f53479d3a045ac8e11786248231fbf"))


def by_systemd(host: Host) -> str:
    """What systemd says of the service, for a failure: who started it, and why."""
    return host.run("journalctl", "--quiet", "--output=short-precise", "_PID=1", "UNIT=tcpnewconn.service")


def failures(host: Host) -> set[str]:
    """How the service has ended by itself: UNIT_RESULT where systemd says that it failed."""
    failed = host.journal("_PID=1", "UNIT=tcpnewconn.service", "MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c")
    return {entry["UNIT_RESULT"] for entry in failed}


def main_pids(hosts: Fleet) -> dict[str, str]:
    return {host.hostname: host.property("tcpnewconn.service", "MainPID") for host in hosts.all}


def ids(host: Host, *where: str) -> set[tuple[str, str]]:
    fields = ("--output-fields=_MACHINE_ID,TCPNEWCONN_CONNECTION_ID",)
    events = host.journal(*where, f"MESSAGE_ID={CONNECTION}", *fields)
    return {(event["_MACHINE_ID"], event["TCPNEWCONN_CONNECTION_ID"]) for event in events}


# --- 1: first run, second run, check mode --------------------------------------------------------------------------------


def test_check_mode_works_on_fresh_hosts_and_touches_nothing(hosts: Fleet, play: Path) -> None:
    before = [written(host) for host in hosts.all]
    checked = hosts.play(play, "--check", "--diff", "--limit=host1,host2")
    assert set(checked.recap) == {"host1", "host2"}
    assert min(checked.each("changed").values()) > 0
    assert "+URIs: " + REPOSITORY_URL in checked.said
    assert "Interval=2s" in checked.said
    assert [written(host) for host in hosts.all] == before
    assert all("no packages found" in version(host) for host in hosts.all)


def test_the_first_run_installs_all_and_the_second_changes_nothing(hosts: Fleet, play: Path) -> None:
    hosts.play(ANSIBLE / "playbooks/centre.yml")
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


def test_the_centre_is_set_up_once(hosts: Fleet) -> None:
    assert hosts.play(ANSIBLE / "playbooks/centre.yml").each("changed") == {CENTRE: 0}


# --- 2: one connection, three journals -----------------------------------------------------------------------------------


def test_a_connection_between_two_hosts_is_in_both_journals_and_twice_at_the_centre(hosts: Fleet) -> None:
    source, destination = hosts.hosts["host3"], hosts.hosts["host5"]
    source.run("curl", "--silent", "--output", "/dev/null", f"http://{destination.address}/")
    of_it = (f"SOURCE_ADDRESS={source.address}", f"DESTINATION_ADDRESS={destination.address}", "DESTINATION_PORT=80")

    def seen(host: Host, *where: str) -> list[dict[str, Any]]:
        return host.journal(*where, f"MESSAGE_ID={CONNECTION}", *of_it)

    (egress,) = source.wait_for(lambda: seen(source), "the connection in the journal of host3")
    (ingress,) = destination.wait_for(lambda: seen(destination), "the connection in the journal of host5")
    assert (egress["NETWORK_DIRECTION"], ingress["NETWORK_DIRECTION"]) == ("egress", "ingress")
    assert egress["NETWORK_COMMUNITY_ID"] == ingress["NETWORK_COMMUNITY_ID"]

    hosts.centre.wait_for(lambda: len(seen(hosts.centre, f"--directory={REMOTE}")) >= 2, "both at the centre")
    told = {event["_HOSTNAME"]: event for event in seen(hosts.centre, f"--directory={REMOTE}")}
    assert set(told) == {"host3", "host5"}
    for name, event in (("host3", egress), ("host5", ingress)):
        for field in (
            "NETWORK_DIRECTION",
            "NETWORK_COMMUNITY_ID",
            "TCPNEWCONN_CONNECTION_ID",
            "MESSAGE",
            "_MACHINE_ID",
        ):
            assert told[name][field] == event[field]


# --- 5, first half: the centre goes down ----------------------------------------------------------------------------------


@dataclass
class Outage:
    """The centre is down, and every host makes connections."""

    since: float
    traffic: list["subprocess.Popen[str]"]

    def end_of_traffic(self) -> list[int]:
        """How many connections each host has made."""
        return [json.loads(program.communicate(timeout=120)[0])["made"] for program in self.traffic]


@pytest.fixture(scope="module")
def outage(hosts: Fleet) -> Iterator[Outage]:
    """While it lasts, settings are changed and hosts upgraded: the traffic goes through that, and it costs no time of its own."""
    source = Path(booted_traffic.__file__).read_text()
    running: list[subprocess.Popen[str]] = []
    try:
        for host in hosts.all:
            host.write("/opt/traffic.py", source)
            running.append(host.start("/usr/bin/python3", "/opt/traffic.py", "7001", "20"))
        for host in hosts.all:
            host.wait_for(lambda host=host: traffic_of(host) > 0, "traffic")  # type: ignore[misc]
        hosts.centre.run("systemctl", "stop", "nginx.service", "systemd-journal-remote.socket", RECEIVER)
        yield Outage(time.monotonic(), running)
    finally:
        for program in running:
            program.kill()
            program.wait()


# --- 4: wrong settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"tcpnewconn_settings": {"Read": {"Intervall": "2s"}}},
        {"tcpnewconn_settings": {"Report": {"Closed": "perhaps"}}},
        {"tcpnewconn_settings": {"Reed": {"Interval": "2s"}}},
        {"tcpnewconn_settings": "Interval=2s"},
        {"tcpnewconn_state": "gone"},
        {"tcpnewconn_repository_key": ""},
    ],
    ids=["unknown setting", "wrong type", "unknown section", "text", "unknown state", "repository without a key"],
)
def test_wrong_variables_are_refused_before_a_host_is_reached(hosts: Fleet, play: Path, wrong: dict[str, Any]) -> None:
    # Nobody listens there: a task that wanted the host would say unreachable.
    nowhere = given(**wrong, ansible_host=hosts.centre.address, ansible_port=1)
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


# --- 3: upgrade ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("outage")
def test_an_upgrade_goes_from_host_to_host(hosts: Fleet) -> None:
    published(hosts.key, hosts.repository, built.deb_of_version(HIGHER_VERSION))
    before = {host.hostname: starts(host) for host in hosts.all}
    upgraded = hosts.play(ROLLOUT, *given(tcpnewconn_version=HIGHER), ONLY_THE_PACKAGE)
    assert [version(host) for host in hosts.all] == [HIGHER] * 6
    batches = [part.split("]", 1)[0] for part in upgraded.said.split("TASK [tcpnewconn : Install the package")[1:]]
    assert len(batches) == 3, upgraded.said
    # What runs is what was installed, and a pin keeps it.
    for host in hosts.all:
        assert host.property("tcpnewconn.service", "ActiveState") == "active"
        assert starts(host) == before[host.hostname] + 1, f"restarted, never twice\n{by_systemd(host)}"


# --- 5, second half: an uploader is killed, the centre comes back ---------------------------------------------------------


def test_every_event_arrives_though_the_centre_was_down_and_an_uploader_was_killed(
    hosts: Fleet, outage: Outage
) -> None:
    centre, victim = hosts.centre, hosts.hosts["host2"]
    while time.monotonic() < outage.since + DOWN:
        time.sleep(0.5)
    centre.run("systemctl", "start", "systemd-journal-remote.socket", "nginx.service")
    # While it catches up.
    victim.wait_for(lambda: killed(victim, UPLOADER), "the uploader to be killed")
    made = outage.end_of_traffic()
    assert min(made) > 10 * DOWN

    for host, count in zip(hosts.all, made, strict=True):
        host.wait_for(lambda host=host, count=count: traffic_of(host) >= count, "the host's own journal to have all")  # type: ignore[misc]
    there = set().union(*(ids(host) for host in hosts.all))
    assert len(there) > sum(made)
    began = time.monotonic()
    try:
        centre.wait_for(lambda: there <= ids(centre, f"--directory={REMOTE}"), "every event at the centre", within=120)
    except AssertionError as error:
        missing = there - ids(centre, f"--directory={REMOTE}")
        raise AssertionError(f"{len(missing)} of {len(there)} are missing\n{error}") from None
    caught_up = time.monotonic() - began
    arrived = ids(centre, f"--directory={REMOTE}")
    # Nothing is there that no host has: read after, because hosts go on reporting.
    assert arrived <= set().union(*(ids(host) for host in hosts.all))

    # The one-liner of docs/fleet.md.
    query = (
        f"journalctl --directory={REMOTE} MESSAGE_ID={CONNECTION} --output=cat --output-fields=TCPNEWCONN_CONNECTION_ID"
    )
    assert int(centre.run("sh", "-c", f"{query} | sort --unique | wc --lines")) >= len(there)
    entries = int(centre.run("sh", "-c", f"{query} | wc --lines"))
    # Nor did any of them fail over it. (A machine that stands still for half a minute is the watchdog's affair.)
    for host in hosts.all:
        assert failures(host) <= {"watchdog"}, by_systemd(host)
    print(f"{len(there)} unique events, {entries} entries at the centre, all there {caught_up:.1f} s after the traffic")


def killed(host: Host, unit: str) -> bool:
    pid = host.property(unit, "MainPID")
    return pid != "0" and host.status_of("kill", "-KILL", pid) == 0


def traffic_of(host: Host) -> int:
    fields = ("--output-fields=TCPNEWCONN_CONNECTION_ID",)
    events = host.journal(f"MESSAGE_ID={CONNECTION}", "DESTINATION_PORT=7001", *fields)
    return len({event["TCPNEWCONN_CONNECTION_ID"] for event in events})


# --- 6: who may upload ---------------------------------------------------------------------------------------------------


def test_a_host_without_a_certificate_of_the_authority_is_refused(hosts: Fleet, tmp_path: Path) -> None:
    host = hosts.hosts["host1"]
    stranger, key = Authority(tmp_path / "other").give("host1", host.address)
    host.write("/opt/stranger.pem", stranger.read_text() + key.read_text())
    entry = "__REALTIME_TIMESTAMP=1\nMESSAGE=forged\n\n"
    url = f"https://{hosts.centre.address}:{PORT}/upload"
    own = "/etc/tcpnewconn-upload"

    def upload(*identity: str) -> str:
        kind = "Content-Type: application/vnd.fdo.journal"
        post = ["--request", "POST", "--header", kind, "--data-binary", entry, "--cacert", f"{own}/ca.pem"]
        return host.run(
            "curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", *post, *identity, url
        )

    assert upload() == "400"
    assert upload("--cert", "/opt/stranger.pem") == "400"
    assert hosts.centre.journal(f"--directory={REMOTE}", "MESSAGE=forged") == []
    assert upload("--cert", f"{own}/certificate.pem", "--key", f"{own}/key.pem") in ("202", "200")


# --- 3, the rest: a bad version, rollback ----------------------------------------------------------------------------------


def broken(deb: Path, folder: Path) -> Path:
    """The package of a program that ends as soon as it is started."""
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace(f"Version: {HIGHER}", f"Version: {BROKEN}"))
    program = tree / "usr/bin/tcpnewconn"
    real = program.read_text()
    program.write_text(real.replace("\n", "\nimport sys\nif 'check-config' not in sys.argv: sys.exit('broken')\n", 1))
    made = folder / f"tcpnewconn_{BROKEN}_all.deb"
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


def test_naming_the_version_before_goes_back(hosts: Fleet, play: Path) -> None:
    hosts.play(play, *given(tcpnewconn_version=FIRST), ONLY_THE_PACKAGE)
    for host in hosts.all:
        assert version(host) == FIRST
        assert host.property("tcpnewconn.service", "ActiveState") == "active"
        candidate = host.run("apt-cache", "policy", "tcpnewconn")
        assert f"Candidate: {FIRST}" in candidate, "an upgrade of the whole host would take it away"


def test_a_program_that_an_earlier_run_left_behind_is_restarted_by_the_next(hosts: Fleet, play: Path) -> None:
    host = hosts.hosts["host1"]
    pid = host.property("tcpnewconn.service", "MainPID")
    only = (ONLY_THE_PACKAGE, "--limit=host1")
    wrong = given(tcpnewconn_version=HIGHER, tcpnewconn_settings=settings("1fortnight"))
    assert hosts.play(play, *wrong, *only, check=False).each("failed") == {"host1": 1}
    assert version(host) == HIGHER
    assert host.property("tcpnewconn.service", "MainPID") == pid, "the old program goes on with its old settings"
    hosts.play(play, *given(tcpnewconn_version=HIGHER), *only)
    assert host.property("tcpnewconn.service", "MainPID") != pid


# --- Prometheus ----------------------------------------------------------------------------------------------------------


def test_node_exporter_reads_the_figures(hosts: Fleet) -> None:
    host = hosts.hosts["host2"]
    host.run("systemctl", "start", "prometheus-node-exporter.service")
    figures = host.run("curl", "--silent", "--retry", "30", "--retry-connrefused", "http://localhost:9100/metrics")
    assert f'tcpnewconn_build_info{{version="{tcpnewconn.__version__}"}} 1' in figures
    assert "node_textfile_scrape_error 0" in figures


PROMETHEUS = """\
[Service]
ExecStart=/usr/local/bin/prometheus --config.file=/etc/prometheus/prometheus.yml --storage.tsdb.path=/run/prometheus
ExecReload=kill -HUP $MAINPID
"""


def test_prometheus_gets_the_rules_and_is_seen_to_load_them(hosts: Fleet) -> None:
    centre = hosts.centre
    for program in ("prometheus", "promtool"):
        shutil.copy(root_image.monitoring_programs() / "bin" / program, centre.path("/usr/local/bin"))
    centre.write("/etc/systemd/system/prometheus.service", PROMETHEUS)
    config = "/etc/prometheus/prometheus.yml"
    centre.write(config, "global: {}\n")
    centre.run("systemctl", "start", "prometheus.service")
    playbook = ANSIBLE / "playbooks/prometheus.yml"
    assert hosts.play(playbook, "--check").each("failed") == {CENTRE: 0}
    not_named = hosts.play(playbook, check=False)
    assert not_named.each("failed") == {CENTRE: 1}, not_named.said

    centre.write(config, 'rule_files: ["rules/tcpnewconn.*.yml"]\n')
    centre.run("systemctl", "reload", "prometheus.service")
    hosts.play(playbook)
    assert hosts.play(playbook).each("changed") == {CENTRE: 0}

    # What promtool refuses does not take the place of what is there.
    rules = centre.path("/etc/prometheus/rules/tcpnewconn.rules.yml")
    rules.write_text("groups: []\n")
    promtool = centre.path("/usr/local/bin/promtool")
    promtool.unlink()
    promtool.symlink_to("/bin/false")
    assert hosts.play(playbook, check=False).each("failed") == {CENTRE: 1}
    assert rules.read_text() == "groups: []\n"


# --- another engine ------------------------------------------------------------------------------------------------------


def documented(file: str) -> str:
    """The configuration that docs/fleet.md shows for this file."""
    text = (built.TREE / "docs/fleet.md").read_text().split(f"`{file}`", 1)[1]
    lines = itertools.dropwhile(lambda line: not line.startswith("    "), text.splitlines())
    block = itertools.takewhile(lambda line: line.startswith("    "), lines)
    return "".join(f"{line[4:]}\n" for line in block)


def test_rsyslog_as_documented_delivers_every_event_with_its_fields(hosts: Fleet) -> None:
    sender, centre = hosts.hosts["host4"], hosts.centre
    files = {sender: "/etc/rsyslog.d/tcpnewconn.conf", centre: "/etc/rsyslog.d/tcpnewconn-centre.conf"}
    for host in (centre, sender):
        for name, file in (("ca", "ca"), ("certificate", host.hostname), ("key", f"{host.hostname}-key")):
            host.write(f"/etc/rsyslog-tls/{name}.pem", (hosts.place / f"ca/{file}.pem").read_text())
        host.write(files[host], documented(files[host]).replace("centre.example.org", CENTRE))
        host.write("/etc/hosts", f"127.0.0.1 localhost\n{centre.address} {CENTRE}\n")
        host.run("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "rsyslog", "rsyslog-relp")
        host.run("rsyslogd", "-N1")
    sender.run("curl", "--silent", "--output", "/dev/null", f"http://{hosts.hosts['host5'].address}/")

    def delivered() -> dict[str, dict[str, Any]]:
        # The last line may be still in the writing.
        lines = centre.run("cat", "/var/log/tcpnewconn.json", check=False).rpartition("\n")[0].splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return {event["TCPNEWCONN_CONNECTION_ID"]: event for event in events if event.get("MESSAGE_ID") == CONNECTION}

    own = {event["TCPNEWCONN_CONNECTION_ID"]: event for event in sender.journal(f"MESSAGE_ID={CONNECTION}")}
    centre.wait_for(lambda: delivered().keys() >= own.keys(), "every event by way of rsyslog")
    told = delivered()
    for connection_id, event in own.items():
        for field in ("SOURCE_ADDRESS", "DESTINATION_PORT", "NETWORK_DIRECTION", "NETWORK_COMMUNITY_ID", "MESSAGE_ID"):
            assert str(told[connection_id][field]) == event[field]


# --- leaving -------------------------------------------------------------------------------------------------------------


def test_a_host_is_left_as_it_was_found(hosts: Fleet, play: Path) -> None:
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
        "/etc/tcpnewconn-upload",
    ):
        assert host.status_of("find", left, "-maxdepth", "0") != 0, left


def test_a_file_is_installed_without_a_repository(hosts: Fleet, play: Path) -> None:
    host = hosts.hosts["host6"]
    of_a_file = given(
        tcpnewconn_repository_url="", tcpnewconn_version="", tcpnewconn_upload_url="", tcpnewconn_deb=str(built.deb())
    )
    assert hosts.play(play, *of_a_file, "--check", "--limit=host6").each("failed") == {"host6": 0}
    hosts.play(play, *of_a_file, "--limit=host6")
    assert version(host) == FIRST
    assert host.property("tcpnewconn.service", "ActiveState") == "active"
    assert hosts.play(play, *of_a_file, "--limit=host6").each("changed") == {"host6": 0}


def test_a_host_with_a_degraded_source_fails_unless_that_is_allowed(hosts: Fleet, play: Path) -> None:
    host = hosts.hosts["host6"]
    # The socket by name too, or nobody waits for its stop.
    host.run("systemctl", "stop", "tcpnewconn.service", "tcpnewconn.socket")
    # A socket that announces other things, so that nobody announces ended connections.
    other = "[Socket]\nListenNetlink=\nListenNetlink=route 0\n"
    host.write("/etc/systemd/system/tcpnewconn.socket.d/test.conf", other)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", "tcpnewconn.service")
    only = ("--limit=host6", "--tags=tcpnewconn_verify")
    refused = hosts.play(play, *only, check=False)
    assert refused.each("failed") == {"host6": 1}, refused.said
    assert "does not announce ended connections" in refused.said
    assert hosts.play(play, *given(tcpnewconn_sources_required=False), *only).each("failed") == {"host6": 0}


def test_a_host_whose_service_does_not_run_fails(hosts: Fleet, play: Path) -> None:
    host = hosts.hosts["host6"]
    host.run("systemctl", "stop", "tcpnewconn.service")
    refused = hosts.play(play, "--limit=host6", "--tags=tcpnewconn_verify", check=False)
    assert refused.each("failed") == {"host6": 1}, refused.said
    assert "journalctl -u tcpnewconn says why" in refused.said
