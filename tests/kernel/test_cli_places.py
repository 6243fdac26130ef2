"""The command line with its usual files: in mount namespaces, each with a host's directories of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.terminal import TREE, environment


def run(mounts: Sequence[str], *words: str) -> subprocess.CompletedProcess[str]:
    """The program, after these mounts."""
    script = " && ".join([*mounts, f"exec {sys.executable} -S -m tcpnewconn {' '.join(words)}"])
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], cwd=TREE, env=environment(), capture_output=True, text=True
    )


def test_without_a_configuration_file_the_defaults_are_ok(tmp_path: Path) -> None:
    done = run([f"mount --bind {tmp_path} /etc"], "check-config")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "OK: no configuration file, so all settings have their defaults\n"


def test_it_says_which_files_it_read_and_what_each_setting_comes_from(tmp_path: Path) -> None:
    (tmp_path / "tcpnewconn.conf").touch()
    (tmp_path / "tcpnewconn.conf.d").mkdir()
    (tmp_path / "tcpnewconn.conf.d/10-local.conf").write_text("[Poll]\nInterval=1s\n")
    mounts = [f"mount --bind {tmp_path} /etc"]
    done = run(mounts, "check-config")
    read = "OK: /etc/tcpnewconn.conf, /etc/tcpnewconn.conf.d/10-local.conf\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, read, "")
    shown = run(mounts, "show-config")
    assert (shown.returncode, shown.stderr) == (0, "")
    begin = "[Poll]\n# /etc/tcpnewconn.conf.d/10-local.conf:2\nInterval=1s\n\n[Report]\n# default\n"
    assert shown.stdout.startswith(begin)


def test_where_no_service_is_installed_the_status_says_so() -> None:
    done = run(["mount -t tmpfs none /run"], "status")
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout == (
        "tcpnewconn is not running\n"
        "  ! no service is installed here: there is no /run/tcpnewconn/tcpnewconn.prom, which comes with the package\n"
    )


def test_where_the_service_has_run_its_file_is_read() -> None:
    file = "/run/tcpnewconn/tcpnewconn.prom"
    mounts = ["mount -t tmpfs none /run", "mkdir /run/tcpnewconn", f"echo nonsense >{file}"]
    done = run(mounts, "status")
    assert (done.returncode, done.stderr) == (3, "")
    assert f"  ! {file}: " in done.stdout
