"""A virtual machine with Debian's own kernel, emulated (no KVM needed), without a network.

Its disk in the cache is never written to. A tar on a second disk brings the package and the steps to be done; what comes
of them is read from its second serial port.
"""

import io
import json
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support import machine_owners, machine_steps, machine_trace, root_image

# Emulation is slow, and the machine may be shared: a deadline for what hangs, not for what is slow.
WITHIN = 1800.0


def outcomes(distribution: str, repository: Path) -> dict[str, Any]:
    """Boots twice with an apt repository, and returns what each of the steps said, by its name."""
    disk, kernel, initrd = root_image.machine_disk(distribution)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        brought, said, console = Path(place) / "brought.tar", Path(place) / "said", Path(place) / "console"
        with tarfile.open(brought, "w") as tar:
            tar.add(repository, "repository")
            _add(tar, "steps.py", Path(machine_steps.__file__).read_text())
            for package in ("tests", "tests/support"):
                _add(tar, f"{package}/__init__.py", "")
            for module in (machine_trace, machine_owners):
                _add(tar, f"tests/support/{Path(str(module.__file__)).name}", Path(str(module.__file__)).read_text())
        _run_to_the_end(
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024", "-smp", "2"),
            *("-display", "none", "-nic", "none", "-no-user-config", "-monitor", "none"),
            *("-serial", f"file:{console}", "-serial", f"file:{said}"),
            *("-drive", f"file={disk},if=virtio,format=raw,snapshot=on"),
            *("-drive", f"file={brought},if=virtio,format=raw,readonly=on"),
            *("-kernel", str(kernel), "-initrd", str(initrd)),
            *("-append", "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=no"),
            log=console,
        )
        lines = [json.loads(line) for line in said.read_text().splitlines()]
        outcome = {line["name"]: line["outcome"] for line in lines}
        if "failed" in outcome or "end of boot 2" not in outcome:
            failure = outcome.get("failed", f"it ended early, after {list(outcome)}")
            raise AssertionError(f"{failure}\n--- console\n{console.read_text(errors='replace')[-4000:]}")
        return outcome


def _run_to_the_end(*command: str, log: Path) -> None:
    # It ends with the test worker, however that ends.
    qemu = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        complaint, _ = qemu.communicate(timeout=WITHIN)
    except subprocess.TimeoutExpired:
        qemu.kill()
        qemu.wait()
        console = log.read_text(errors="replace")[-4000:]
        raise AssertionError(f"the machine did not end within {WITHIN:.0f} s\n--- console\n{console}") from None
    if qemu.returncode != 0:
        raise AssertionError(f"qemu ended with {qemu.returncode}: {complaint}")


def _add(tar: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = len(text.encode()), int(time.time())
    tar.addfile(entry, io.BytesIO(text.encode()))
