"""A virtual machine with Debian's own kernel, emulated (no KVM needed), without a network.

Its disk in the cache is never written to. A tar on a second disk brings the package and the steps to be done; what comes
of them is read from a serial port.

    python3 -m tests.support.machine DISTRIBUTION      runs the steps, and prints how long each took
"""

import argparse
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import built, root_image
from tests.support.booted_package import make_repository
from tests.support.terminal import TREE

# Emulation is slow, and the machine may be shared: a deadline for what hangs, not for what is slow.
WITHIN = 3600.0
HERE = Path(__file__).parent
STEPS = "machine_steps.py"
# Imported by the steps, inside.
MODULES = (
    "machine_guest",
    "machine_load",
    "machine_many",
    "machine_namespaces",
    "machine_owners",
    "machine_peers",
    "machine_plain",
    "machine_programs",
    "machine_trace",
)
# How many connections in each of the ways of machine_load; of many users and units, in how many rounds how many. The bench makes
# more.
LOAD = {"curl": 10, "shell": 20, "once": 20, "fork": 300}
ROUNDS, MIXED = 2, 300

# Workarounds for faults of real processors cost an emulated one dearly.
COMMAND_LINE = "root=/dev/nvme0n1 rw quiet systemd.show_status=no mitigations=off"


@dataclass(frozen=True)
class Emulator:
    """The program that emulates an architecture, and the kernel's names of two serial ports.

    `port` makes the second one, which writes to {said}.
    """

    command: tuple[str, ...]
    port: tuple[str, ...]
    console: str
    said: str


EMULATORS = {
    "amd64": Emulator(
        ("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "Nehalem"),
        ("-serial", "file:{said}"),
        "ttyS0",
        "/dev/ttyS1",
    ),
    "arm64": Emulator(
        ("qemu-system-aarch64", "-M", "virt", "-accel", "tcg,thread=multi", "-cpu", "cortex-a57"),
        ("-chardev", "file,id=said,path={said}", "-device", "pci-serial,chardev=said"),
        "ttyAMA0",
        "/dev/ttyS0",
    ),
}


@dataclass(frozen=True)
class Outcomes:
    """What each of the steps said, by its name; and the seconds since boot at which it did, in order."""

    said: dict[str, Any]
    at: list[tuple[str, float]]


def outcomes(
    distribution: str,
    repository: Path,
    steps: str = "all",
    load: dict[str, int] | None = None,
    mixed: tuple[int, int] = (ROUNDS, MIXED),
    architecture: str = "amd64",
    within: float = WITHIN,
    programs: Sequence[str] = (),
    peers: int = 0,
    files: Sequence[str] = (),
) -> Outcomes:
    """Boots with an apt repository, and does these steps (machine_steps.STEPS) within so many seconds.

    `programs` of this machine are brought, with what they need; `peers`: the connections of machine_peers. `files` of this
    tree are brought, too.
    """
    disk, kernel = root_image.machine_disk(distribution, architecture)
    emulator = EMULATORS[architecture]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        brought, said, console = Path(place) / "brought.tar", Path(place) / "said", Path(place) / "console"
        plan = {"steps": steps, "said": emulator.said, "load": load or LOAD, "rounds": mixed[0], "mixed": mixed[1]}
        plan["peers"] = peers
        _bring(brought, repository, plan, _compiled(Path(place)) if architecture == "amd64" else None, programs, files)
        _run_to_the_end(
            *(*emulator.command, "-m", "1024", "-smp", "2"),
            *("-display", "none", "-nodefaults", "-no-user-config"),
            *("-serial", f"file:{console}"),
            *(option.format(said=said) for option in emulator.port),
            *("-drive", f"if=none,id=disk,file={disk},format=raw,snapshot=on,cache=unsafe"),
            *("-drive", f"if=none,id=brought,file={brought},format=raw,readonly=on"),
            *("-device", "nvme,drive=disk,serial=disk", "-device", "virtio-blk-pci,drive=brought"),
            *("-kernel", str(kernel), "-append", f"{COMMAND_LINE} console={emulator.console}"),
            log=console,
            within=within,
        )
        lines = [json.loads(line) for line in said.read_text().splitlines()]
        outcome = {line["name"]: line["outcome"] for line in lines}
        if "failed" in outcome or "end" not in outcome:
            failure = outcome.get("failed", f"it ended early, after {list(outcome)}")
            raise AssertionError(f"{failure}\n--- console\n{console.read_text(errors='replace')[-4000:]}")
        return Outcomes(outcome, [(line["name"], line["at"]) for line in lines])


def _bring(
    target: Path,
    repository: Path,
    plan: dict[str, Any],
    program: Path | None,
    others: Sequence[str],
    files: Sequence[str],
) -> None:
    with tarfile.open(target, "w") as tar:
        tar.add(repository, "repository", filter=_readable)
        if program is not None:
            tar.add(program, "connections")
        for path in {path for name in others for path in _with_libraries(name)}:
            tar.add(path.resolve(), f"peers/{path.name}")
        _add(tar, "plan.json", json.dumps(plan))
        _add(tar, "steps.py", (HERE / STEPS).read_text())
        for package in ("tests", "tests/support"):
            _add(tar, f"{package}/__init__.py", "")
        for module in MODULES:
            _add(tar, f"tests/support/{module}.py", (HERE / f"{module}.py").read_text())
        for file in files:
            tar.add(TREE / file, file)


def _with_libraries(name: str) -> list[Path]:
    """A program of this machine and its libraries, but those of the C library: the machine has the same."""
    program = shutil.which(name)
    assert program is not None, name
    needed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    found = re.findall(r"^\t(\S+) => (/\S+)", needed, re.MULTILINE)
    return [Path(program), *(Path(path) for name, path in found if not re.match(r"lib(c|m|dl|pthread|rt)\.so", name))]


def _compiled(place: Path) -> Path:
    """The program that makes connections; static, so that it runs anywhere."""
    program = place / "connections"
    source = str(HERE / "connections.c")
    subprocess.run(["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(program), source], check=True)
    return program


def _run_to_the_end(*command: str, log: Path, within: float) -> None:
    # It ends with the test worker, however that ends.
    qemu = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        complaint, _ = qemu.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        qemu.kill()
        qemu.wait()
        console = log.read_text(errors="replace")[-4000:]
        raise AssertionError(f"the machine did not end within {within:.0f} s\n--- console\n{console}") from None
    if qemu.returncode != 0:
        raise AssertionError(f"qemu ended with {qemu.returncode}: {complaint}")


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """By everybody, as nginx and apt inside."""
    entry.mode = 0o755 if entry.isdir() else 0o644
    return entry


def _add(tar: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = len(text.encode()), int(time.time())
    tar.addfile(entry, io.BytesIO(text.encode()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.support.machine", description="Runs the steps in a virtual machine.")
    parser.add_argument("distribution", choices=root_image.DISTRIBUTIONS)
    parser.add_argument("steps", nargs="?", default="all")
    parser.add_argument("--architecture", default="amd64", choices=EMULATORS)
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        make_repository(Path(place), built.deb())
        result = outcomes(given.distribution, Path(place), given.steps, architecture=given.architecture)
    before = 0.0
    for name, at in result.at:
        # A later boot begins with 0 again.
        print(f"{at - before if at >= before else at:7.1f} s  {name}")
        before = at
    print(f"{time.monotonic() - began:7.1f} s  in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
