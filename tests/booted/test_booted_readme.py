"""A new administrator's way from installation to removal, with the commands of README.md as they stand there."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tcpnewconn
from tests.support import booted_events, built, message_ids, readme
from tests.support.booted import CONTAINER_ADDRESS, PEER_ADDRESS, Booted, booted
from tests.support.booted_package import HIGHER_VERSION, is_active, main_pid, on_each_distribution
from tests.support.readme import Step

# The directory of an administrator on a server, with the package that was built.
CHECKOUT = "/root/tcpnewconn"
# Waits until a port can be connected to, and holds the connection.
CLIENT = """
import socket, sys, time
while True:
    try:
        connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
time.sleep(600)
"""
SERVER = f"import socket; c = socket.create_server(('{PEER_ADDRESS}', 80)).accept()[0]; c.recv(1)"


@pytest.fixture(scope="module", params=on_each_distribution("readme"))
def container(request: pytest.FixtureRequest) -> Iterator[Booted]:
    with booted(request.param) as container:
        deliver(container, built.package())
        yield container


def deliver(container: Booted, package: Path) -> None:
    """Copies the .deb to the server, in place of an older one."""
    dist = container.path(f"{CHECKOUT}/dist")
    dist.mkdir(parents=True, exist_ok=True)
    for old in dist.glob("*.deb"):
        old.unlink()
    deb = built.deb_in(package)
    (dist / deb.name).write_bytes(deb.read_bytes())


def type_in(container: Booted, step: Step, *, check: bool = True) -> str:
    """Runs a command as it would be typed in, answers its questions with yes, and returns its output."""
    command = step.command
    if re.search(r" -f\b", command):
        # It would run until somebody presses Ctrl-C.
        command = f"timeout --signal=INT 10 {command} || test $? = 124"
    script = ["bash", "-c", f"cd {CHECKOUT}\n{command}"]
    return container.run(*script, check=check, stdin="y\n")


def type_in_all(container: Booted, steps: list[Step]) -> str:
    return "".join(type_in(container, step) for step in steps)


def assert_shown(step: Step, printed: str) -> None:
    """The lines that the README shows below a command are in its output, except for numbers."""
    shapes = {readme.shape(line) for line in printed.splitlines()}
    assert [line for line in step.shown if readme.shape(line) not in shapes] == [], printed


@pytest.fixture(scope="module")
def held_ssh(container: Booted) -> Iterator[None]:
    """A connection from another host to sshd, that stays open, and one from here to another host's port 80."""
    server = container.start_from_peer(sys.executable, "-c", SERVER)
    to_sshd = container.start_from_peer(sys.executable, "-c", CLIENT, CONTAINER_ADDRESS, "22")
    to_peer = container.start("/usr/bin/python3", "-c", CLIENT, PEER_ADDRESS, "80")
    try:
        for port in (22, 80):
            container.wait_for(
                lambda port=port: booted_events.events(  # type: ignore[misc]
                    container, message_ids.CONNECTION, f"DESTINATION_PORT={port}"
                ),
                f"a connection to port {port} to be logged",
            )
        yield
    finally:
        for process in (server, to_sshd, to_peer):
            process.kill()
            process.wait()


def test_the_package_is_built_with_the_command_of_the_readme() -> None:
    (build, _) = readme.commands("Install")
    (step,) = build
    # built.package() runs the same.
    planned = subprocess.run(
        [*step.command.split(), "--dry-run", "--no-print-directory"],
        cwd=built.TREE,
        capture_output=True,
        text=True,
        check=True,
    )
    assert planned.stdout.splitlines()[-1] == "packaging/make-deb"


def test_it_is_installed_and_runs(container: Booted) -> None:
    (_, install) = readme.commands("Install")
    printed = type_in_all(container, install)
    assert "Active: active (running)" in printed
    assert container.run("systemctl", "is-enabled", "tcpnewconn.service").strip() == "enabled"


@pytest.mark.usefixtures("held_ssh")
def test_its_first_screen_is_what_the_journal_has(container: Booted) -> None:
    ((step,),) = readme.sessions(readme.TOP)
    assert len(step.shown) >= 3
    assert_shown(step, type_in(container, step))


@pytest.mark.usefixtures("held_ssh")
def test_every_question_has_a_command_that_works(container: Booted) -> None:
    container.run("systemctl", "start", "tcpnewconn-ledger.service")
    answers = re.findall(r"`((?:journalctl|tcpnewconn) [^`]+)`", readme.sections()["Who it is for"])
    assert len(answers) >= 6
    printed = {answer: type_in(container, Step(answer)) for answer in answers}
    (today,) = (answer for answer in answers if "--since today" in answer)
    assert f"-> {CONTAINER_ADDRESS}:22" in printed[today]


@pytest.mark.usefixtures("held_ssh")
def test_the_journal_is_read_as_shown(container: Booted) -> None:
    (queries,) = readme.commands("Read")
    for step in queries:
        assert type_in(container, step), step.command
    ((verbose,),) = readme.sessions("Read")
    assert len(verbose.shown) >= 10
    assert_shown(verbose, type_in(container, verbose))


def test_it_is_configured_by_a_drop_in(container: Booted) -> None:
    configure = readme.commands("Configure")[0]
    before = main_pid(container)
    printed = type_in_all(container, configure)
    for value in ("127.0.0.0/8", "::1", "ingress::9100", "/etc/tcpnewconn.conf.d/10-local.conf"):
        assert value in printed
    assert main_pid(container) == before

    def connect(host: str) -> None:
        container.run("curl", "--silent", "--output", "/dev/null", f"http://{host}/")

    connect("127.0.0.1")
    connect(CONTAINER_ADDRESS)
    matches = (f"DESTINATION_ADDRESS={CONTAINER_ADDRESS}", "DESTINATION_PORT=80")
    container.wait_for(lambda: booted_events.events(container, message_ids.CONNECTION, *matches), "the second one")
    assert booted_events.events(container, message_ids.CONNECTION, "DESTINATION_ADDRESS=127.0.0.1") == []


def test_a_mistake_makes_the_reload_fail_with_the_reason_and_the_settings_stay(container: Booted) -> None:
    (session,) = readme.sessions("Configure")
    before = main_pid(container), container.run("tcpnewconn", "show-config")
    make, reload, check, undo = session
    type_in(container, make)
    printed = type_in(container, reload, check=False)
    assert "failed" in printed
    assert_shown(reload, printed)
    assert_shown(check, type_in(container, check, check=False))
    assert any("20-mistake.conf:2" in line for line in check.shown)
    assert is_active(container)
    type_in(container, undo)
    assert (main_pid(container), container.run("tcpnewconn", "show-config")) == before


def test_it_gets_a_journal_of_its_own(container: Booted) -> None:
    namespace = readme.commands("Configure")[1]
    type_in_all(container, namespace)
    container.from_peer("curl", "--silent", "--output", "/dev/null", f"http://{CONTAINER_ADDRESS}/")
    read = "journalctl --namespace=tcpnewconn"
    assert f"`{read}`" in readme.sections()["Configure"]
    container.wait_for(
        lambda: f"New connection: {PEER_ADDRESS}" in type_in(container, Step(f"{read} --quiet")),
        "a connection in the journal of its own",
    )


def test_it_is_watched(container: Booted) -> None:
    status, metrics = readme.commands("Watch")
    container.wait_for(lambda: container.status_of("tcpnewconn", "status") == 0, "the service to have polled")
    assert "tcpnewconn is ok" in type_in_all(container, status)
    printed = type_in_all(container, metrics)
    assert f'tcpnewconn_build_info{{version="{tcpnewconn.__version__}"}} 1' in printed
    container.run("systemctl", "start", "prometheus-node-exporter.service")
    scrape = ("curl", "--silent", "http://localhost:9100/metrics")
    container.wait_for(lambda: "tcpnewconn_build_info" in container.run(*scrape, check=False), "node_exporter")


def test_it_is_upgraded(container: Booted) -> None:
    deliver(container, built.package(version=HIGHER_VERSION))
    ((upgrade,), _) = readme.commands("Upgrade and remove")
    before = main_pid(container)
    type_in(container, upgrade)
    container.wait_for(
        lambda: is_active(container) and main_pid(container) not in (0, before), "the new version to run"
    )
    assert HIGHER_VERSION in container.run("tcpnewconn", "--version")
    assert type_in(container, Step("grep -c Ignore=127 /etc/tcpnewconn.conf.d/10-local.conf")).strip() == "1"


def test_it_is_removed(container: Booted) -> None:
    (_, (remove, purge)) = readme.commands("Upgrade and remove")
    state = container.path("/var/lib/tcpnewconn/snapshot")
    type_in(container, remove)
    assert not container.path("/usr/bin/tcpnewconn").exists()
    assert state.exists()
    assert container.path("/etc/tcpnewconn.conf").exists()
    type_in(container, purge)
    assert not state.parent.exists()
    assert not container.path("/etc/tcpnewconn.conf").exists()
    assert not container.path("/etc/tcpnewconn.conf.d").exists()
    assert container.status_of("systemctl", "is-active", "--quiet", "tcpnewconn.service") != 0
    assert container.status_of("getent", "passwd", "_tcpnewconn") == 0, "the README says that the system user stays"
