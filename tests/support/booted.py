"""A booted Debian in a container: made, started, spoken to, rebooted, stopped.

The container's only network is a veth to a network namespace of the tests (the peer); the host's own is not touched.
"""

import contextlib
import fcntl
import functools
import itertools
import json
import os
import shlex
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tests.support import root_image

T = TypeVar("T")

# Not /tmp, which is memory on many machines.
PLACES = Path("/var/tmp/tcpnewconn-booted")
CONTAINER_ADDRESS, PEER_ADDRESS = "10.77.0.2", "10.77.0.1"
CONTAINER_ADDRESS6, PEER_ADDRESS6 = "fd77::2", "fd77::1"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "SYSTEMD_PAGER": "",
    "SYSTEMD_COLORS": "0",
    "SYSTEMD_LOG_COLOR": "0",
    "COLUMNS": "200",
    "MANPAGER": "cat",
    "DEBIAN_FRONTEND": "noninteractive",
}
# A container that asks systemd-nspawn to be started again.
REBOOT_STATUS = 133
_numbers = itertools.count(1)


# For a slow machine on which others boot at the same time.
BOOTS_WITHIN = 300


class NotRunning(AssertionError):
    """There is no one process that is the container's first."""


class Booted:
    """A running container. Every command that fails raises, with the end of the container's journal."""

    def __init__(self, distribution: str, place: Path, freedoms: tuple[str, ...] = ()) -> None:
        """`freedoms` are more options of systemd-nspawn(1)."""
        self.distribution = distribution
        self._freedoms = freedoms
        self.root = place / "root"
        self.name = f"tcpnewconn-{distribution}-{os.getpid()}-{next(_numbers)}"
        self._console = place / "console"
        self._cgroup = cgroup_of_its_own(self.name)
        self._peer = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL
        )
        self._nspawn: subprocess.Popen[bytes] | None = None
        # Where what the journal holds of earlier tests ends.
        self._cursor = ""

    def boot(self) -> None:
        # The container ends with the test worker that started it, however that ends.
        command = ["setpriv", "--pdeathsig", "TERM", "systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}"]
        command += [f"--machine={self.name}", "--private-network", "--register=no", "--console=passive"]
        command += self._freedoms
        if self._cgroup:
            # There is no systemd here that would give each container a cgroup of its own.
            command = ["sh", "-c", 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"', "-", str(self._cgroup), *command]
            command += ["--keep-unit"]
        with self._console.open("ab") as console:
            self._nspawn = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        self.wait_for(self._up, "the container to boot", within=BOOTS_WITHIN, journal=False)
        self._connect_to_peer()

    def stop(self) -> None:
        """SIGTERM, an orderly shutdown; then what it leaves behind is removed."""
        if self._nspawn and self._nspawn.poll() is None:
            self._nspawn.terminate()
            try:
                self._nspawn.wait(60)
            except subprocess.TimeoutExpired:
                # A second SIGTERM makes systemd-nspawn kill it at once.
                self._nspawn.terminate()
                self._nspawn.wait(60)
                warnings.warn(f"{self.name} did not shut down within 60 s", stacklevel=2)
        self._peer.terminate()
        self._peer.wait(60)
        if self._cgroup:
            remove_cgroup(self._cgroup)

    def reboot(self) -> None:
        assert self._nspawn
        before = self.leader
        self.run("systemctl", "reboot", check=False)
        self.wait_for(
            lambda: not self._running() or self._children() not in ([], [before]),
            "the container to reboot",
            within=BOOTS_WITHIN,
            journal=False,
        )
        if self._nspawn.poll() is None:
            self.wait_for(self._up, "the container to boot again", within=BOOTS_WITHIN, journal=False)
            self._connect_to_peer()
        elif self._nspawn.returncode == REBOOT_STATUS:
            self.boot()
        else:
            raise AssertionError(f"systemd-nspawn ended with {self._nspawn.returncode}\n{self._end_of_console()}")

    @property
    def leader(self) -> int:
        """The container's systemd, as a process of this host."""
        children = self._children()
        if len(children) != 1:
            raise NotRunning(f"{self.name} is not running\n{self._end_of_console()}")
        return children[0]

    def run(self, *command: str, check: bool = True, stdin: str = "", within: float = 120, said: bool = True) -> str:
        """Runs a command inside the container. Returns its output; standard error included, if `said`."""
        done = self._execute(command, stdin, within, said)
        if check and done.returncode != 0:
            output = f"{done.stdout}\n{done.stderr or ''}"
            raise AssertionError(f"{shlex.join(command)} ended with {done.returncode}:\n{output}\n{self.report()}")
        return done.stdout

    def status_of(self, *command: str) -> int:
        return self._execute(command, "", 120).returncode

    def unit(self, name: str, *command: str, properties: tuple[str, ...] = (), within: float = 120) -> str:
        """Like run(), but as a unit: with a cgroup of the container's systemd, as every real program there has."""
        flags = ["--quiet", "--wait", "--pipe", "--collect", f"--unit={name}", *(f"--property={p}" for p in properties)]
        return self.run("systemd-run", *flags, *command, within=within)

    def start_unit(self, name: str, *command: str, properties: tuple[str, ...] = ()) -> None:
        self.run("systemd-run", "--quiet", f"--unit={name}", *(f"--property={p}" for p in properties), *command)

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._into(), *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        )

    def start_from_peer(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self._into_peer(), *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def from_peer(self, *command: str, within: float = 120) -> str:
        """Runs a program of this host in the network namespace at the other end of the container's veth."""
        done = subprocess.run(
            [*self._into_peer(), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within,
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}\n{self.report()}")
        return done.stdout

    def path(self, inside: str) -> Path:
        """A file of the container as this host sees it. Not for what lies on a mount of the container's own."""
        return self.root / inside.lstrip("/")

    def write(self, inside: str, text: str) -> None:
        self.path(inside).parent.mkdir(parents=True, exist_ok=True)
        self.path(inside).write_text(text)

    def property(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """The entries that match, of earlier boots too, oldest first; fields as `journalctl -o json` spells them.

        journalctl says where a file is deleted that it was about to read (a journal that is full): no entry is missing for that.
        """
        return [json.loads(line) for line in self.journalctl("--output=json", "--all", *matches).splitlines()]

    def journalctl(self, *arguments: str) -> str:
        """The output of journalctl about the time since the last forget_journal()."""
        # Not --after-cursor: where the entry of the cursor does not match, systemd 252 passes over the first one that does.
        since = [f"--cursor={self._cursor}"] if self._cursor else []
        return self.run("journalctl", "--quiet", *since, *arguments, within=300, said=False)

    def forget_journal(self) -> None:
        """For a system that is shared: what was logged before is no longer to be found."""
        # The entry of the cursor is found, too: it is one that nobody looks for.
        self.run("systemd-cat", "--identifier=next-test", "echo", "The next test begins")
        self.run("journalctl", "--sync")
        (last,) = self.run("journalctl", "--quiet", "--output=json", "--lines=1", "--identifier=next-test").splitlines()
        self._cursor = json.loads(last)["__CURSOR"]

    def wait_for(self, condition: Callable[[], T], what: str, *, within: float = 90, journal: bool = True) -> T:
        """The first value of the condition that is true. The deadline is for a slow machine, not for the program."""
        began = time.monotonic()
        while not (value := condition()):
            waited = time.monotonic() - began
            if waited > within:
                report = self.report() if journal else self._end_of_console()
                raise AssertionError(f"waited {within:.0f} s for {what}\n{report}")
            # To ask takes some processes, which the machine needs for what is waited for.
            time.sleep(min(1.0, max(0.1, waited / 10)))
        return value

    def report(self) -> str:
        """The status and the end of the journal, for the message of a failed test."""
        status = self._execute(("systemctl", "status", "--no-pager", "--lines=0", "tcpnewconn"), "", 60).stdout
        lines = self._execute(("journalctl", "--no-pager", "--quiet", "--lines=2000"), "", 60).stdout.splitlines()
        journal = "\n".join([line for line in lines if " -> 127.64." not in line][-60:])
        return f"--- {self.name}, systemctl status tcpnewconn\n{status}--- end of the journal\n{journal}"

    def _execute(
        self, command: tuple[str, ...], stdin: str, within: float, said: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._into(), *command],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if said else subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=within,
            env=ENVIRONMENT,
            check=False,
        )

    def _into(self) -> list[str]:
        return [_absolute("nsenter"), f"--target={self.leader}", "--all", "--"]

    def _into_peer(self) -> list[str]:
        return ["nsenter", f"--target={self._peer.pid}", "--net", "--"]

    def _running(self) -> bool:
        return self._nspawn is not None and self._nspawn.poll() is None

    def _children(self) -> list[int]:
        assert self._nspawn
        try:
            listed = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text()
        except FileNotFoundError:
            return []
        return [int(pid) for pid in listed.split()]

    def _up(self) -> bool:
        assert self._nspawn
        if self._nspawn.poll() is not None:
            raise AssertionError(f"systemd-nspawn ended with {self._nspawn.returncode}\n{self._end_of_console()}")
        try:
            state = self._execute(("systemctl", "is-system-running"), "", 60).stdout.strip()
        except NotRunning:
            # While systemd-nspawn starts it, the process that made its first one is there, too.
            return False
        if state == "degraded":
            failed = self._execute(("systemctl", "--failed", "--no-pager"), "", 60).stdout
            raise AssertionError(f"{self.name} booted, but not everything in it:\n{failed}\n{self.report()}")
        return state == "running"

    def _end_of_console(self) -> str:
        return f"--- console of {self.name}\n{self._console.read_text(errors='replace')[-4000:]}"

    def _connect_to_peer(self) -> None:
        # The kernel may still be removing that of the boot before.
        self.from_peer("sh", "-c", "ip link delete peer0 2>/dev/null || true")
        self.from_peer("ip", "link", "add", "peer0", "type", "veth", "peer", "name", "host0", "netns", str(self.leader))
        for address in (f"{PEER_ADDRESS}/24", f"{PEER_ADDRESS6}/64"):
            self.from_peer("ip", "address", "add", address, "dev", "peer0", *(["nodad"] if ":" in address else []))
        for address in (f"{CONTAINER_ADDRESS}/24", f"{CONTAINER_ADDRESS6}/64"):
            self.run("ip", "address", "add", address, "dev", "host0", *(["nodad"] if ":" in address else []))
        self.from_peer("ip", "link", "set", "peer0", "up")
        self.from_peer("ip", "link", "set", "lo", "up")
        self.run("ip", "link", "set", "host0", "up")
        # As Namespace does: a row in TIME_WAIT stays its 60 s.
        inside = ["nsenter", f"--target={self.leader}", "--net", "--"]
        subprocess.run([*inside, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/tcp_rfc1337"], check=True)


@contextlib.contextmanager
def booted(distribution: str, tar: Path | None = None, freedoms: tuple[str, ...] = ()) -> Iterator[Booted]:
    """From the usual root, or from another one of this distribution."""
    with place_of_its_own() as place:
        make_root(tar or root_image.container_tar(distribution), place)
        container = Booted(distribution, place, freedoms)
        try:
            container.boot()
            yield container
        finally:
            container.stop()


def make_root(tar: Path, place: Path) -> None:
    """The place's root: an overlay over what this tar holds, or where the file system can be no part of one, a copy."""
    root, layers = place / "root", [place / "upper", place / "work"]
    for directory in (root, *layers):
        directory.mkdir()
    options = f"lowerdir={root_image.unpacked(tar)},upperdir={layers[0]},workdir={layers[1]}"
    mount = ["mount", "--types=overlay", f"--options={options}", "overlay", str(root)]
    if subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode != 0:
        root.rmdir()
        root_image.unpack(tar, root)


@contextlib.contextmanager
def place_of_its_own() -> Iterator[Path]:
    """A directory for one container; it is locked while in use, so that what a killed run left is known as such."""
    PLACES.mkdir(mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as stack:
        # Another test worker must not find it before it is locked.
        with PLACES.with_suffix(".lock").open("w") as making:
            fcntl.flock(making, fcntl.LOCK_EX)
            _remove_leftovers()
            place = Path(tempfile.mkdtemp(dir=PLACES))
            lock = stack.enter_context((place / "in-use").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield place
        finally:
            _remove(place)


def _remove_leftovers() -> None:
    for place in PLACES.iterdir():
        # Else it is in use by another test worker, or just being made or removed by it.
        with contextlib.suppress(BlockingIOError, FileNotFoundError), (place / "in-use").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            warnings.warn(f"removing {place}, left over by a test run that was killed", stacklevel=2)
            _remove(place)


def _remove(place: Path) -> None:
    if (place / "root").is_mount():
        subprocess.run(["umount", str(place / "root")], check=True)
    # By device, so that nothing is removed through a mount that should not be there.
    subprocess.run(["rm", "--recursive", "--force", "--one-file-system", str(place)], check=True)


def cgroup_of_its_own(name: str) -> Path | None:
    """A cgroup for one container, on a host without systemd. Containers that share one end each other's units."""
    if Path("/run/systemd/system").is_dir():
        return None
    tree = _cgroups()
    for left in tree.glob("tcpnewconn-*"):
        if not Path(f"/proc/{left.name.split('-')[2]}").exists():
            warnings.warn(f"removing {left}, left over by a test run that was killed", stacklevel=2)
            remove_cgroup(left)
    cgroup = tree / name
    cgroup.mkdir()
    return cgroup


def _cgroups() -> Path:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount_point, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(mount_point)
    raise RuntimeError("no cgroup2 file system is mounted here: the containers' systemd needs one")


def remove_cgroup(cgroup: Path) -> None:
    # Else it is in use, or another test worker has just removed it.
    with contextlib.suppress(OSError):
        for directory, _, _ in os.walk(cgroup, topdown=False):
            os.rmdir(directory)


@functools.cache
def _absolute(program: str) -> str:
    found = subprocess.run(["sh", "-c", f"command -v {program}"], capture_output=True, text=True, check=True)
    return found.stdout.strip()
