"""Names of addresses by a resolver that never answers: the report says so, and ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.terminal import TREE, environment

ASK = """
import socket
from tcpnewconn.report.names import Names

silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.1", 53))
names = Names(resolve=True, deadline=1)
names.ask(["203.0.113.7", "203.0.113.8"])
silent.settimeout(20)
print(len(silent.recv(512)) > 0, names.note, names.of("203.0.113.7"), sep="|")
"""


def test_a_resolver_that_never_answers_holds_nothing_up(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:5\n")
    mount = f'ip link set lo up; mount --bind "{tmp_path}/resolv.conf" /etc/resolv.conf; exec "$@"'
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--propagation=private", "sh", "-euc", mount, "sh", sys.executable, "-c", ASK],
        cwd=TREE,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == "True|2 addresses were not resolved within 1 s|{'name': ''}\n"
