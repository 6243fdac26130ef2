"""Debian roots for containers and virtual machines: made once with mmdebstrap, kept in the cache.

Everything the tests use inside is in the root already, and its apt knows no source at all: a test that would download
fails, whatever network this machine has.
"""

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

DISTRIBUTIONS = ("trixie", "bookworm")

IN_EVERY_ROOT = (
    "ca-certificates",
    "curl",
    "dbus",
    "iproute2",
    "libnss-systemd",  # names dynamic users, so that a test can see them come and go
    "man-db",
    "nginx-light",
    "procps",
    "python3",
    "python3-systemd",
    "systemd",
    "systemd-sysv",
)
IN_A_CONTAINER = ("openssh-client", "openssh-server", "prometheus-node-exporter", "wrk")
IN_A_MACHINE = (
    "libpam-systemd",  # users' sessions
    "openssh-client",
    "openssh-server",
    "trace-cmd",
)

# Maintenance that Debian starts by itself some time after boot would only add noise: the tests start what they need.
NOT_BY_ITSELF = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "man-db.timer",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-timesyncd.service",
)

# Services that listen and would disturb other tests; the tests that need one start it.
NOT_ENABLED = ("prometheus-node-exporter.service",)

HOOKS = (
    'printf "127.0.0.1 localhost\\n::1 localhost\\n" >"$1/etc/hosts"',
    'echo debian >"$1/etc/hostname"',
    # The tests' own files of apt's sources are the only ones.
    'rm -f "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/*',
    # Persistent, as on a real host: what was logged before a reboot can be read after it.
    'mkdir -p "$1/var/log/journal"',
    *(f'ln -s /dev/null "$1/etc/systemd/system/{unit}"' for unit in NOT_BY_ITSELF),
    *(f'rm -f "$1/etc/systemd/system/multi-user.target.wants/{unit}"' for unit in NOT_ENABLED),
)

# Run by the tests where they are: nothing of them is installed, so that no service of theirs is started on this machine.
MONITORING = ("prometheus", "prometheus-alertmanager", "promtool")

# A machine's second disk is a tar that brings what is to be done in it; of another kind than the first, so that no order decides
# about their names.
STEPS = "modprobe -a virtio_pci virtio_blk && mkdir -p /srv && tar -C /srv -xf /dev/vda && exec /usr/bin/python3 /srv/steps.py"
STEPS_UNIT = rf"""
[Unit]
Description=What the tests do in this machine
After=nginx.service systemd-user-sessions.service
[Service]
Type=exec
ExecStart=/bin/sh -c "{STEPS}"
[Install]
WantedBy=multi-user.target
""".replace("\n", "\\n")
# An emulated machine boots in half the time without them: its kernel has all its drivers, and nobody sits before it.
NOT_IN_A_MACHINE = (
    *(
        "systemd-udevd.service",
        "systemd-udevd-control.socket",
        "systemd-udevd-kernel.socket",
        "systemd-udev-trigger.service",
    ),
    *(
        "getty@.service",
        "serial-getty@.service",
        "console-getty.service",
        "modprobe@.service",
        "kmod-static-nodes.service",
    ),
    *("systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "systemd-random-seed.service"),
    *(
        "systemd-pstore.service",
        "systemd-tpm2-setup.service",
        "systemd-tpm2-setup-early.service",
        "systemd-hwdb-update.service",
    ),
    *(
        "e2scrub_all.timer",
        "apt-daily.timer",
        "logrotate.timer",
        "dpkg-db-backup.timer",
        "systemd-tmpfiles-clean.timer",
    ),
    *(
        "sys-kernel-debug.mount",
        "sys-kernel-config.mount",
        "sys-fs-fuse-connections.mount",
        "dev-hugepages.mount",
        "dev-mqueue.mount",
    ),
)

# With a key of her own to log in with.
USER = "alice"
MACHINE_HOOKS = (
    *(f'ln -sf /dev/null "$1/etc/systemd/system/{unit}"' for unit in NOT_IN_A_MACHINE),
    # Not a boot after an installation.
    'touch "$1/etc/.updated" "$1/var/.updated"',
    # The index of man pages is not looked at, and takes seconds to make.
    'rm -f "$1/var/lib/man-db/auto-update"',
    f'chroot "$1" useradd --create-home --shell /bin/bash {USER}',
    f'chroot "$1" runuser --user {USER} -- ssh-keygen -q -t ed25519 -N "" -f /home/{USER}/.ssh/id_ed25519',
    f'cp -p "$1/home/{USER}/.ssh/id_ed25519.pub" "$1/home/{USER}/.ssh/authorized_keys"',
    'rm "$1/etc/systemd/system/multi-user.target.wants/ssh.service"',
    f"printf '{STEPS_UNIT}' >\"$1/etc/systemd/system/steps.service\"",
    'ln -s ../steps.service "$1/etc/systemd/system/multi-user.target.wants/steps.service"',
)

DISK_BYTES = 2 << 30


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "tcpnewconn-tests"


def container_tar(distribution: str) -> Path:
    return _root_tar(distribution, "container", IN_EVERY_ROOT + IN_A_CONTAINER, HOOKS)


def monitoring_programs() -> Path:
    """A directory with bin (prometheus, promtool, prometheus-alertmanager, amtool) and share, which Alertmanager looks into."""
    key = hashlib.sha256("\n".join((*MONITORING, "bin", "share")).encode()).hexdigest()[:12]

    def make(directory: Path) -> None:
        packages = ("--variant=extract", f"--include={','.join(MONITORING)}", "trixie", str(directory / "packages"))
        directory.mkdir(parents=True)
        _run("mmdebstrap", "--quiet", *packages)
        (directory / "packages" / "usr" / "share").rename(directory / "share")
        (directory / "bin").mkdir()
        for program in ("prometheus", "promtool", "prometheus-alertmanager", "amtool"):
            (directory / "packages" / "usr" / "bin" / program).rename(directory / "bin" / program)
        _run("rm", "-rf", str(directory / "packages"))

    return _made_once(cache_directory() / f"monitoring-{key}", make)


def machine_disk(distribution: str, architecture: str = "amd64") -> tuple[Path, Path]:
    """The disk (ext4) and the kernel of a virtual machine, as files in the cache.

    Debian's kernel for clouds needs no initrd for a disk of NVMe with ext4.
    """
    packages = (*IN_EVERY_ROOT, *IN_A_MACHINE, f"linux-image-cloud-{architecture}")
    tar = _root_tar(distribution, "machine", packages, HOOKS + MACHINE_HOOKS, architecture)

    def make(place: Path) -> None:
        root = place / "root"
        root.mkdir(parents=True)
        _run("tar", "-C", str(root), "-xf", str(tar))
        (newest,) = sorted((root / "boot").glob("vmlinuz-*"))[-1:]
        newest.rename(place / "vmlinuz")
        disk = place / "disk"
        with disk.open("wb") as file:
            file.truncate(DISK_BYTES)
        _run("mkfs.ext4", "-q", "-d", str(root), str(disk))
        _run("rm", "-rf", str(root))

    place = _made_once(tar.with_suffix(".disk"), make)
    return place / "disk", place / "vmlinuz"


def unpack(tar: Path, root: Path) -> None:
    root.mkdir(parents=True)
    _run("tar", "-C", str(root), "-xf", str(tar))


def unpacked(tar: Path) -> Path:
    """The root that a tar of the cache holds, unpacked beside it: to be read, or to be under an overlay."""
    return _made_once(tar.with_suffix(".root"), lambda root: unpack(tar, root))


def container_tar_with(distribution: str, kind: str, packages: tuple[str, ...], hooks: tuple[str, ...]) -> Path:
    """A container's root with more packages, for the tests of this kind; the hooks run while apt still has its sources."""
    return _root_tar(distribution, kind, (*IN_EVERY_ROOT, *IN_A_CONTAINER, *packages), (*hooks, *HOOKS))


def _root_tar(
    distribution: str, kind: str, packages: tuple[str, ...], hooks: tuple[str, ...], architecture: str = ""
) -> Path:
    """Of this machine's architecture, or of another one (tests/packages-arm64.txt)."""
    ingredients = "\n".join((distribution, *packages, *hooks, str(DISK_BYTES)))
    key = hashlib.sha256(ingredients.encode()).hexdigest()[:12]

    customized = [f"--customize-hook={hook}" for hook in hooks]
    of_architecture = [f"--architectures={architecture}"] if architecture else []
    if architecture == "arm64":
        _emulate_programs("qemu-aarch64")

    def make(tar: Path) -> None:
        # No kernel is given an initrd.
        _run(
            *("env", "INITRD=No", "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}"),
            *('--aptopt=APT::Install-Recommends "false"', *customized, *of_architecture),
            *("--format=tar", distribution, str(tar)),
        )

    return _made_once(cache_directory() / f"{kind}-{distribution}-{key}.tar", make)


def _emulate_programs(format_name: str) -> None:
    """Let this kernel run programs of another architecture; where systemd runs, the installation of the package did it."""
    formats = Path("/proc/sys/fs/binfmt_misc")
    if not (formats / "register").exists():
        _run("mount", "-t", "binfmt_misc", "none", str(formats))
    if not (formats / format_name).exists():
        (formats / "register").write_bytes(Path(f"/usr/lib/binfmt.d/{format_name}.conf").read_bytes())


def _made_once(target: Path, make: Callable[[Path], None]) -> Path:
    """The file that `make` creates gets its name only when it is complete, also if two test workers want it at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(target.suffix + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            unfinished = target.with_name(f"unfinished-{target.name}")
            _run("rm", "-rf", str(unfinished))
            make(unfinished)
            unfinished.rename(target)
    return target


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
