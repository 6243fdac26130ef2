"""Six booted hosts and a log server that share one read-only root, on a bridge of their own, and Ansible to reach them by ssh."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import booted, built, root_image
from tests.support.booted import BOOTS_WITHIN, Booted
from tests.support.signed_repository import Signer, published, signer

HOSTS = ("host1", "host2", "host3", "host4", "host5", "host6")
LOG_SERVER = "logs"
BRIDGE_ADDRESS = "10.78.0.1"
SERVER = f"http://{BRIDGE_ADDRESS}:8080"
REPOSITORY_URL = f"{SERVER}/repository/"
ANSIBLE = built.TREE / "ansible"
# The Python that Ansible uses on a host: the host's own, which keeps what it compiles (ansible_site.py).
PYTHON = "/usr/local/bin/python3-for-ansible"
SITE = "/usr/local/lib/ansible"
# The only source that a host has at first; it stands for Debian's mirror.
MIRROR = f"""\
Types: deb
URIs: {SERVER}/mirror/
Suites: ./
Signed-By: /etc/apt/keyrings/mirror.asc
"""

# Packages that the roles install besides tcpnewconn: no host has them at first, all find them in the mirror.
INSTALLED_LATER = ("systemd-journal-remote", "rsyslog", "rsyslog-relp", "rsyslog-clickhouse")
PACKAGES = "/srv/packages"
HOOK = (
    'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get install --quiet=2 --yes --no-install-recommends --download-only '
    f'{" ".join(INSTALLED_LATER)} && mkdir -p "$1{PACKAGES}" && mv "$1"/var/cache/apt/archives/*.deb "$1{PACKAGES}/"'
)


def root_tar(distribution: str) -> Path:
    return root_image.container_tar_with(distribution, "fleet", ("python3-apt",), (HOOK,))


class Host(Booted):
    """One of the fleet. Its root is an overlay in memory over the shared one, which nothing writes to."""

    def __init__(
        self, name: str, address: str, distribution: str, place: Path, bridge: "subprocess.Popen[bytes]"
    ) -> None:
        self.distribution = distribution
        self.root = place / "root"
        self.name = f"tcpnewconn-{name}-{os.getpid()}"
        self.hostname = name
        self.address = address
        # A machine of this run, not one that an earlier run has left.
        self.machine_id = uuid.uuid4().hex
        self._console = place / f"console-{name}"
        self._cgroup = booted.cgroup_of_its_own(self.name)
        self._peer = bridge
        self._nspawn = None
        self._cursor = ""

    def start_booting(self) -> None:
        command = ["setpriv", "--pdeathsig", "TERM", "systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}"]
        command += [f"--machine={self.name}", f"--hostname={self.hostname}", f"--uuid={self.machine_id}"]
        command += ["--volatile=overlay", "--private-network", "--register=no", "--console=passive"]
        if self._cgroup:
            command = ["sh", "-c", 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"', "-", str(self._cgroup), *command]
            command += ["--keep-unit"]
        environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "SYSTEMD_NSPAWN_LOCK": "0"}
        with self._console.open("ab") as console:
            self._nspawn = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT, env=environment
            )

    def wait_until_up(self) -> None:
        self.wait_for(self._up, f"{self.hostname} to boot", within=BOOTS_WITHIN, journal=False)
        assert self.path("/etc/machine-id").read_text().strip() == self.machine_id
        self._connect_to_peer()

    def begin_to_stop(self) -> None:
        if self._nspawn and self._nspawn.poll() is None:
            self._nspawn.terminate()

    def stop(self) -> None:
        if self._nspawn:
            try:
                self._nspawn.wait(60)
            except subprocess.TimeoutExpired:
                # A second SIGTERM makes systemd-nspawn kill it at once.
                self._nspawn.terminate()
                self._nspawn.wait(60)
        if self._cgroup:
            booted.remove_cgroup(self._cgroup)

    def path(self, inside: str) -> Path:
        return Path(f"/proc/{self.leader}/root") / inside.lstrip("/")

    def _connect_to_peer(self) -> None:
        link = ["type", "veth", "peer", "name", "host0", "netns", str(self.leader)]
        self.from_peer("ip", "link", "add", self.hostname, *link)
        self.from_peer("ip", "link", "set", self.hostname, "master", "bridge", "up")
        self.run("ip", "address", "add", f"{self.address}/24", "dev", "host0")
        self.run("ip", "link", "set", "host0", "up")


@dataclass(frozen=True)
class Played:
    """The output and the results of ansible-playbook."""

    status: int
    said: str
    seconds: float

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        lines = re.findall(r"(?m)^(\S+) +: (ok=.*)$", self.said)
        return {host: {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", counts)} for host, counts in lines}

    def each(self, what: str) -> dict[str, int]:
        return {host: counts[what] for host, counts in self.recap.items()}


class Fleet:
    def __init__(
        self, place: Path, bridge: "subprocess.Popen[bytes]", key: Signer, hosts: dict[str, Host], log_server: Host
    ) -> None:
        self.place = place
        self.hosts = hosts
        self.log_server = log_server
        self.key = key
        self.repository = place / "served/repository"
        self._bridge = bridge

    @property
    def all(self) -> list[Host]:
        return list(self.hosts.values())

    @property
    def bridge(self) -> tuple[str, ...]:
        """What a command begins with that runs where all hosts can be reached, and it from them at BRIDGE_ADDRESS."""
        return ("nsenter", f"--target={self._bridge.pid}", "--net", "--")

    def variables(self, group: str, values: dict[str, Any]) -> None:
        """Writes group_vars, as an administrator would. JSON is YAML too."""
        (self.place / "group_vars").mkdir(exist_ok=True)
        (self.place / f"group_vars/{group}.yml").write_text(json.dumps(values))

    def play(self, playbook: Path, *options: str, check: bool = True, within: float = 900) -> Played:
        command = [*self.bridge, "/usr/bin/ansible-playbook"]
        command += ["--inventory", str(self.place / "inventory"), *options, str(playbook)]
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(self.place / "home"),
            "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
            "ANSIBLE_HOME": str(self.place / "home" / ".ansible"),
            "ANSIBLE_LOCAL_TEMP": str(self.place / "home"),
            "ANSIBLE_FORKS": "6",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_RETRY_FILES_ENABLED": "0",
            # Six hosts and more boot and work on one machine.
            "ANSIBLE_TIMEOUT": "60",
            "ANSIBLE_SSH_RETRIES": "2",
        }
        began = time.monotonic()
        done = subprocess.run(
            command,
            cwd=ANSIBLE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within,
            check=False,
        )
        played = Played(done.returncode, done.stdout, time.monotonic() - began)
        if check and played.status != 0:
            raise AssertionError(f"{shlex.join(command)} ended with {played.status}:\n{played.said}")
        return played


def _write_inventory(place: Path, hosts: dict[str, Host], log_server: Host) -> None:
    key = (place / "root/etc/ssh/ssh_host_ed25519_key.pub").read_text().rsplit(" ", 1)[0]
    known = "".join(f"{host.address} {key}\n" for host in (*hosts.values(), log_server))
    (place / "known_hosts").write_text(known)
    lines = ["[tcpnewconn]", *(f"{name} ansible_host={host.address}" for name, host in hosts.items())]
    lines += ["[tcpnewconn_log_server]", f"{LOG_SERVER} ansible_host={log_server.address}"]
    lines += ["[tcpnewconn_clickhouse_front]", LOG_SERVER, "[tcpnewconn_prometheus]", LOG_SERVER, "[all:vars]"]
    lines += [
        "ansible_user=root",
        f"ansible_python_interpreter={PYTHON}",
        f"ansible_ssh_private_key_file={place}/ssh",
        f"ansible_ssh_common_args=-o UserKnownHostsFile={place}/known_hosts -o StrictHostKeyChecking=yes",
    ]
    (place / "inventory").write_text("\n".join(lines) + "\n")


def _add_python(root: Path) -> None:
    (root / SITE[1:]).mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("ansible_site.py"), root / SITE[1:] / "sitecustomize.py")
    program = root / PYTHON[1:]
    program.write_text(f'#!/bin/sh\nPYTHONPATH={SITE} exec /usr/bin/python3 "$@"\n')
    program.chmod(0o755)


@contextmanager
def fleet(distribution: str = "trixie") -> Iterator[Fleet]:
    with booted.place_of_its_own() as place, signer() as key, ExitStack() as stack:
        booted.make_root(root_tar(distribution), place)
        (place / "home").mkdir()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / "ssh"], check=True)
        # Else it would be the name of all of them.
        (place / "root/etc/hostname").unlink()
        (place / "root/root/.ssh").mkdir(mode=0o700, exist_ok=True)
        (place / "root/root/.ssh/authorized_keys").write_text((place / "ssh.pub").read_text())
        _add_python(place / "root")
        published(key, place / "served/mirror", *(place / f"root{PACKAGES}").glob("*.deb"))
        published(key, place / "served/repository", built.deb())
        (place / "root/etc/apt/sources.list.d/mirror.sources").write_text(MIRROR)
        shutil.copy(place / "served/mirror/key.asc", place / "root/etc/apt/keyrings/mirror.asc")

        bridge = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL
        )
        stack.callback(_end, bridge)
        hosts = {
            name: Host(name, f"10.78.0.{number}", distribution, place, bridge)
            for number, name in enumerate(HOSTS, start=11)
        }
        log_server = Host(LOG_SERVER, "10.78.0.10", distribution, place, bridge)
        # The namespace is there once unshare has become sleep.
        log_server.wait_for(
            lambda: Path(f"/proc/{bridge.pid}/comm").read_text() == "sleep\n", "the bridge", journal=False
        )
        for arguments in (
            ["link", "add", "bridge", "type", "bridge"],
            ["address", "add", f"{BRIDGE_ADDRESS}/24", "dev", "bridge"],
            ["link", "set", "bridge", "up"],
            ["link", "set", "lo", "up"],
        ):
            log_server.from_peer("ip", *arguments)
        server = log_server.start_from_peer(
            sys.executable, "-m", "http.server", "8080", f"--directory={place / 'served'}", f"--bind={BRIDGE_ADDRESS}"
        )
        stack.callback(_end, server)
        log_server.from_peer(
            "curl", "--silent", "--retry", "30", "--retry-connrefused", "--output", "/dev/null", SERVER
        )
        # As on a host that has been up for a while.
        log_server.from_peer("chroot", str(place / "root"), "/usr/bin/apt-get", "update", "--error-on=any")
        for host in (*hosts.values(), log_server):
            stack.callback(host.stop)
        for host in (*hosts.values(), log_server):
            host.start_booting()
            stack.callback(host.begin_to_stop)
        for host in (*hosts.values(), log_server):
            host.wait_until_up()
        _write_inventory(place, hosts, log_server)
        yield Fleet(place, bridge, key, hosts, log_server)


def _end(program: "subprocess.Popen[bytes]") -> None:
    program.terminate()
    with suppress(subprocess.TimeoutExpired):
        program.wait(30)
