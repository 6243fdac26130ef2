"""The steps about the kernel's own event of connect(): as on a kernel without type information, whose threads are looked up."""

import os
from collections import Counter

from tests.support.machine_guest import SHORT, active, run, say, wait_for, wait_for_connections, write_unit
from tests.support.machine_load import PROGRAM
from tests.support.machine_owners import attributed_again
from tests.support.machine_trace import OURS, read, state

SHIPPED = "/usr/share/tcpnewconn/plain-event.conf"
# The first as its head says; the second hides the types of this kernel; the third has the service see user ids (systemd 257).
DROP_INS = {
    "tcpnewconn-trace.service.d/plain-event.conf": "",
    "tcpnewconn-trace.service.d/no-types.conf": "[Service]\nInaccessiblePaths=/sys/kernel/btf/vmlinux\n",
    "tcpnewconn.service.d/users.conf": "[Service]\nPrivateUsers=identity\n",
}
EVENT = "sock/inet_sock_set_state"
# Server, how many, user, command, and the name of the thread that connects.
WAYS = {
    "curl": ("127.0.4.1", 10, "www-data", f"{SHORT} http://127.0.4.1/", "curl"),
    "shell": ("127.0.4.2", 20, "daemon", "(exec 3<>/dev/tcp/127.0.4.2/80)", "bash"),
    "once": ("127.0.4.3", 20, "games", f"{PROGRAM} once 127.0.4.3 80", "connections"),
}


def prepare() -> None:
    """Before the package is installed: its installation has systemd load the units."""
    for name, (_, count, user, command, _) in WAYS.items():
        repeated = f"bash -c 'for n in $$(seq {count}); do {command}; done'"
        write_unit(f"plain-{name}.service", f"[Service]\nType=oneshot\nUser={user}\nExecStart={repeated}\n")


def steps() -> None:
    """The service with the drop-in, and as it was again."""
    for name, text in DROP_INS.items():
        os.makedirs(os.path.dirname(f"/etc/systemd/system/{name}"), exist_ok=True)
        write_unit(name, text or read(SHIPPED))
    _restart()
    recorded = {
        "plain": read(f"{OURS}/events/{EVENT}/enable").strip(),
        "ours": state()["defined"],
        "said": run("journalctl --boot --unit=tcpnewconn-trace --output=cat --lines=20"),
    }
    attributed_again("127.0.4.9")
    for name in WAYS:
        run(f"systemctl start plain-{name}")
    say("plain event", {"recorded": recorded, **{name: _found(name) for name in WAYS}})
    for name in DROP_INS:
        os.unlink(f"/etc/systemd/system/{name}")
    _restart()
    attributed_again("127.0.4.10")
    say("trace after the plain event", state())


def _restart() -> None:
    run("systemctl daemon-reload && systemctl restart tcpnewconn-trace && systemctl restart tcpnewconn")
    wait_for(lambda: active("tcpnewconn.service"), "the service")


def _found(name: str) -> dict[str, object]:
    """How many were logged; what is known of them, where it is right; and the entries that have something wrong."""
    server, count, user, _, thread = WAYS[name]
    entries = wait_for_connections(server, count)
    expected = {"USER_NAME": user, "OBJECT_SYSTEMD_UNIT": f"plain-{name}.service", "PROCESS_THREAD_NAME": thread}
    known = Counter(field for entry in entries for field, value in expected.items() if entry.get(field) == value)
    return {
        "made": count,
        "logged": len({entry["TCPNEWCONN_CONNECTION_ID"] for entry in entries}),
        "known": {**known, "PROCESS_THREAD_ID": sum("PROCESS_THREAD_ID" in entry for entry in entries)},
        "wrong": [
            entry for entry in entries if any(entry.get(field, value) != value for field, value in expected.items())
        ],
    }
