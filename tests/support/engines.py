"""A booted Debian that has the engines of containers: podman, LXC, systemd-nspawn, and docker on Debian 13; and containers in it.

Each container runs one program (talker.c), which makes connections when it is asked to. Nothing is pulled: images are made here.
"""

import itertools
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import root_image
from tests.support.booted import PEER_ADDRESS, Booted, booted

HERE = Path(__file__).parent
USER, USER_NUMBER = "alice", 1000
# Ports of the tests' own connections.
FIRST_PORT, LAST_PORT = 41_001, 41_999
PACKAGES = (
    "catatonit",
    "crun",
    "dbus-user-session",
    "iptables",
    "libpam-systemd",
    "lxc",
    "netavark",
    "nftables",
    "podman",
    "systemd-container",
    "uidmap",
)
ONLY = {"trixie": ("docker-cli", "docker.io", "passt"), "bookworm": ("runc", "slirp4netns")}
# crun of Debian 12 raises the limit of locked memory, or ends; not everywhere may root do that.
RUNTIME = {"trixie": "crun", "bookworm": "runc"}
# The tests start what they need.
NOT_ENABLED = (
    *(
        "containerd.service",
        "docker.service",
        "docker.socket",
        "lxc.service",
        "lxc-net.service",
        "lxc-monitord.service",
    ),
    *("podman.service", "podman.socket", "podman-auto-update.service", "podman-auto-update.timer"),
    *("podman-clean-transient.service", "podman-restart.service", "machines.target", "netavark-dhcp-proxy.socket"),
)
HOOKS = (
    f'for unit in {" ".join(NOT_ENABLED)}; do rm -f "$1"/etc/systemd/system/*.wants/$unit; done',
    f'chroot "$1" useradd --create-home --shell /bin/bash {USER}',
    f'echo {USER}:100000:65536 | tee "$1/etc/subuid" >"$1/etc/subgid"',
    # Her manager runs without a session.
    f'mkdir -p "$1/var/lib/systemd/linger" && touch "$1/var/lib/systemd/linger/{USER}"',
)
# Containers in a container: programs in the kernel decide about devices, and each has its keys.
FREEDOMS = ("--system-call-filter=@keyring bpf",)
# No overlay is on another one; and no controllers are here for limits of resources.
SETTINGS = {
    "/etc/containers/storage.conf": (
        '[storage]\ndriver = "vfs"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n'
    ),
    "/etc/docker/daemon.json": '{"storage-driver": "vfs"}\n',
}
FROM_PIPE = "read=/commands"
IMAGE, PIPES = "/srv/image", "/srv/pipes"
# The bridge of LXC, and the devices of systemd-nspawn.
BRIDGE = "lxcbr0"
_numbers = itertools.count(1)
_ID = re.compile(r"\b[0-9a-f]{64}\b")


def tar(distribution: str) -> Path:
    return root_image.container_tar_with(distribution, "engines", (*PACKAGES, *ONLY[distribution]), HOOKS)


@contextmanager
def booted_with_engines(distribution: str) -> Iterator[Booted]:
    with booted(distribution, tar(distribution), FREEDOMS) as host:
        for path, text in SETTINGS.items():
            host.write(path, text)
        host.write(
            "/etc/containers/containers.conf",
            f'[containers]\npids_limit = 0\n[engine]\nruntime = "{RUNTIME[distribution]}"\n',
        )
        _make_image(host)
        # Of the user's containers: nothing hides parts of these two.
        host.run(
            "sh", "-ec", "mkdir -p /run/proc /run/sys; mount -t proc proc /run/proc; mount -t sysfs sysfs /run/sys"
        )
        host.run("chmod", "0666", "/dev/net/tun")
        # pasta takes the addresses of the device that the default route has.
        host.run("ip", "route", "add", "default", "via", PEER_ADDRESS)
        host.run("sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1")
        # The kernel gives these to no connection of docker-proxy, pasta or slirp4netns: each names one connection of a test.
        host.run("sysctl", "--quiet", "--write", f"net.ipv4.ip_local_reserved_ports={FIRST_PORT}-{LAST_PORT}")
        yield host


def _make_image(host: Booted) -> None:
    program = host.path(f"{IMAGE}/talker")
    program.parent.mkdir()
    source = str(HERE / "talker.c")
    subprocess.run(["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(program), source], check=True)
    host.run("tar", "-C", IMAGE, "-cf", f"{IMAGE}.tar", "talker")
    host.run("mkdir", "--mode=0755", PIPES)


@dataclass(frozen=True)
class Talker:
    """A talker.c that runs; in a container, with runtime, ID and name as its entries are to have them, and its address."""

    host: Booted
    pipe: str
    runtime: str | None = None
    id: str | None = None
    name: str | None = None
    address: str = ""

    def do(self, *commands: str) -> None:
        """Commands of talker.c."""
        self.host.run(
            "sh", "-c", 'pipe=$1; shift; printf "%s\\n" "$@" >"$pipe"', "-", f"{PIPES}/{self.pipe}", *commands
        )


def _pipe(host: Booted, name: str) -> str:
    path = f"{PIPES}/{name}"
    host.run("mkfifo", "--mode=0666", path)
    return path


def _output(host: Booted, *command: str, user: str | None = None) -> str:
    """Of a command that runs as a unit, of root or of a user."""
    settings = (f"User={user}", f"Environment=XDG_RUNTIME_DIR=/run/user/{USER_NUMBER}") if user else ()
    # podman takes a service for one that keeps the container in its own cgroup.
    outside = ("env", "--unset=INVOCATION_ID")
    return host.unit(f"engine-{next(_numbers)}", *outside, *command, properties=settings, within=180)


def podman(host: Booted, *command: str, user: str | None = None) -> str:
    return _output(host, "podman", *command, user=user)


def prepare_podman(host: Booted, user: str | None = None) -> None:
    podman(host, "import", "--quiet", "--change", 'ENTRYPOINT ["/talker"]', f"{IMAGE}.tar", "talker", user=user)


def run_podman(host: Booted, name: str, *options: str, commands: tuple[str, ...], user: str | None = None) -> Talker:
    mount = f"--volume={_pipe(host, name)}:/commands"
    said = podman(host, "run", "--detach", f"--name={name}", mount, *options, "talker", FROM_PIPE, *commands, user=user)
    address = podman(host, "inspect", "--format={{.NetworkSettings.IPAddress}}", name, user=user).strip()
    return Talker(host, name, "podman", _only_id(said), name, address)


def run_quadlet(host: Booted, name: str, publish: str) -> Talker:
    """A service that is a container of podman."""
    host.write(
        f"/etc/containers/systemd/{name}.container",
        f"[Container]\nImage=localhost/talker\nContainerName={name}\nPublishPort={publish}\n"
        f"Volume={_pipe(host, name)}:/commands\nExec={FROM_PIPE}\n",
    )
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", f"{name}.service")
    shown = podman(host, "inspect", "--format={{.Id}} {{.NetworkSettings.IPAddress}}", name).split()
    return Talker(host, name, "podman", shown[0], name, shown[1])


def docker(host: Booted, *command: str) -> str:
    return _output(host, "docker", *command)


def prepare_docker(host: Booted) -> None:
    host.run("systemctl", "start", "docker")
    docker(host, "import", "--change", 'ENTRYPOINT ["/talker"]', f"{IMAGE}.tar", "talker")


def run_docker(host: Booted, name: str, *options: str, commands: tuple[str, ...]) -> Talker:
    mount = f"--volume={_pipe(host, name)}:/commands"
    said = docker(host, "run", "--detach", f"--name={name}", mount, *options, "talker", FROM_PIPE, *commands)
    address = docker(host, "inspect", "--format={{.NetworkSettings.IPAddress}}", name).strip()
    return Talker(host, name, "docker", _only_id(said), name, address)


def _only_id(said: str) -> str:
    found: set[str] = set(_ID.findall(said))
    assert len(found) == 1, said
    return found.pop()


def prepare_lxc(host: Booted) -> None:
    host.run("ip", "link", "add", BRIDGE, "type", "bridge")
    host.run("ip", "address", "add", "10.0.3.1/24", "dev", BRIDGE)
    host.run("ip", "link", "set", BRIDGE, "up")


def run_lxc(host: Booted, name: str, address: str) -> Talker:
    root = f"/var/lib/lxc/{name}/rootfs"
    settings = {
        "lxc.uts.name": name,
        "lxc.rootfs.path": f"dir:{root}",
        "lxc.init.cmd": f"/talker {FROM_PIPE}",
        "lxc.apparmor.profile": "unconfined",
        "lxc.mount.entry": f"{_pipe(host, name)} commands none bind,create=file 0 0",
        "lxc.net.0.type": "veth",
        "lxc.net.0.link": BRIDGE,
        "lxc.net.0.flags": "up",
        "lxc.net.0.ipv4.address": f"{address}/24",
        "lxc.net.0.ipv4.gateway": "10.0.3.1",
    }
    _unpack_image(host, root)
    host.write(f"/var/lib/lxc/{name}/config", "".join(f"{key} = {value}\n" for key, value in settings.items()))
    _output(host, "lxc-start", "--name", name, f"--logfile=/var/log/lxc-{name}")
    _output(host, "lxc-wait", "--name", name, "--state=RUNNING")
    return Talker(host, name, "lxc", None, name, address)


def run_nspawn(host: Booted, name: str, address: str, beside: str) -> Talker:
    """By the template unit of Debian; `beside` is the host's address."""
    root = f"/var/lib/machines/{name}"
    _unpack_image(host, root)
    host.write(
        f"/etc/systemd/nspawn/{name}.nspawn",
        f"[Exec]\nBoot=no\nParameters=/talker {FROM_PIPE}\nPrivateUsers=no\nKillSignal=SIGTERM\n"
        f"[Files]\nBind={_pipe(host, name)}:/commands\n[Network]\nVirtualEthernet=yes\n",
    )
    host.run("machinectl", "start", name)
    leader = host.run("machinectl", "show", "--property=Leader", "--value", name).strip()
    for where, device, own in (
        ((), f"ve-{name}", beside),
        (("nsenter", f"--target={leader}", "--net"), "host0", address),
    ):
        host.run(*where, "ip", "address", "add", f"{own}/30", "dev", device)
        host.run(*where, "ip", "link", "set", device, "up")
    host.run("nsenter", f"--target={leader}", "--net", "ip", "route", "add", "default", "via", beside)
    return Talker(host, name, "systemd-nspawn", None, name, address)


def run_nspawn_by_hand(host: Booted, name: str) -> Talker:
    """In a scope of its own, with a network that nothing leads to."""
    root = f"/srv/machines/{name}"
    _unpack_image(host, root)
    options = (f"--directory={root}", f"--machine={name}", f"--bind={_pipe(host, name)}:/commands", "--private-network")
    host.start_unit(f"by-hand-{name}", "systemd-nspawn", "--quiet", "--settings=no", *options, "/talker", FROM_PIPE)
    host.wait_for(lambda: host.status_of("machinectl", "show", name) == 0, f"{name} to run")
    return Talker(host, name, "systemd-nspawn", None, name)


def _unpack_image(host: Booted, root: str) -> None:
    for directory in ("dev", "etc", "proc", "run", "sys", "tmp", "usr"):
        host.path(f"{root}/{directory}").mkdir(parents=True)
    host.write(f"{root}/etc/os-release", "ID=talker\n")
    host.run("cp", f"{IMAGE}/talker", f"{root}/talker")


def run_here(host: Booted, name: str, *commands: str) -> Talker:
    """On the host, as a service of that name."""
    host.start_unit(name, f"{IMAGE}/talker", f"read={_pipe(host, name)}", *commands)
    return Talker(host, name)


@contextmanager
def run_outside(host: Booted, name: str, *commands: str) -> Iterator[Talker]:
    """At the other end of the host's only wire."""
    pipe = host.path(_pipe(host, name))
    process = host.start_from_peer(str(host.path(f"{IMAGE}/talker")), f"read={pipe}", *commands)
    try:
        yield Talker(host, name)
    finally:
        process.kill()
        process.wait(60)


def at_once(*tasks: Callable[[], None]) -> None:
    """Engines are slow to start, each for itself."""
    with ThreadPoolExecutor(len(tasks)) as pool:
        for done in [pool.submit(task) for task in tasks]:
            done.result()
