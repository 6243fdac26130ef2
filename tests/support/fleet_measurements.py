"""
The cost of one event for the log server and for the host that sends it, measured on two of the fleet's hosts:

    python3 -m tests.support.fleet_measurements          (the values in docs/fleet.md)
"""

import json
import time
from pathlib import Path

from tests.support import booted_traffic
from tests.support.certificates import Authority
from tests.support.fleet import ANSIBLE, LOG_SERVER, REPOSITORY_URL, Host, fleet
from tests.support.message_ids import CONNECTION

RATE, SECONDS = 1000, 60
REMOTE = "/var/log/journal/remote"
PLAY = "- {hosts: tcpnewconn, gather_facts: false, roles: [tcpnewconn]}\n"


def cpu(host: Host, unit: str) -> float:
    return int(host.property(unit, "CPUUsageNSec")) / 1e9


# In a journal file: the offset of its last object, and the size of that (systemd, JOURNAL_FILE_FORMAT.md). The files are larger:
# journald allocates in advance.
USED = f"""
import pathlib, struct
total = 0
for path in pathlib.Path("{REMOTE}").glob("*.journal"):
    with path.open("rb") as file:
        file.seek(136)
        (last,) = struct.unpack("<Q", file.read(8))
        file.seek(last + 8)
        total += last + struct.unpack("<Q", file.read(8))[0]
print(total)
"""


def used(host: Host) -> int:
    """Bytes of the log server's journal files that are in use."""
    return int(host.run("python3", "-c", USED))


def received(host: Host) -> int:
    return int(host.run("cat", "/sys/class/net/host0/statistics/rx_bytes"))


def main() -> None:
    with fleet() as hosts:
        sender, log_server = hosts.hosts["host1"], hosts.log_server
        authority = Authority(hosts.place / "ca")
        for host in (sender, log_server):
            authority.give(host.hostname, host.address)
        ca = hosts.place / "ca"
        hosts.variables(
            "tcpnewconn",
            {
                "tcpnewconn_repository_url": REPOSITORY_URL,
                "tcpnewconn_repository_key": str(hosts.repository / "key.asc"),
                "tcpnewconn_settings": {"Report": {"BurstLimit": 0, "TotalLimit": 0}},
                "tcpnewconn_journal_upload_url": f"https://{log_server.address}:19532",
                "tcpnewconn_journal_upload_ca": f"{ca}/ca.pem",
                "tcpnewconn_journal_upload_certificate": f"{ca}/host1.pem",
                "tcpnewconn_journal_upload_key": f"{ca}/host1-key.pem",
            },
        )
        hosts.variables(
            "tcpnewconn_log_server",
            {
                "tcpnewconn_log_server_certificate": f"{ca}/{LOG_SERVER}.pem",
                "tcpnewconn_log_server_key": f"{ca}/{LOG_SERVER}-key.pem",
                "tcpnewconn_log_server_client_ca": f"{ca}/ca.pem",
            },
        )
        play = hosts.place / "play.yml"
        play.write_text(PLAY)
        hosts.play(ANSIBLE / "playbooks/log_server.yml")
        hosts.play(play, "--limit=host1")

        def arrived() -> int:
            fields = ("DESTINATION_PORT=7001", "--output=cat", "--output-fields=TCPNEWCONN_CONNECTION_ID")
            return len(
                log_server.run("journalctl", f"--directory={REMOTE}", f"MESSAGE_ID={CONNECTION}", *fields).split()
            )

        units = {
            "systemd-journal-remote.service": log_server,
            "nginx.service": log_server,
            "systemd-journal-upload.service": sender,
        }
        sender.write("/opt/traffic.py", Path(booted_traffic.__file__).read_text())
        before = {unit: cpu(host, unit) for unit, host in units.items()}
        disk, wire = used(log_server), received(log_server)
        program = sender.start("/usr/bin/python3", "/opt/traffic.py", "7001", str(RATE))
        time.sleep(SECONDS)
        made = json.loads(program.communicate(timeout=60)[0])["made"]
        log_server.wait_for(lambda: arrived() >= made, "all events at the log server", within=120)
        print(f"events: {made}")
        for unit, host in units.items():
            print(f"{unit}: {(cpu(host, unit) - before[unit]) / made * 1e6:.0f} us of CPU per event")
        print(f"received: {(received(log_server) - wire) / made:.0f} bytes per event")
        print(f"in the journal files: {(used(log_server) - disk) / made:.0f} bytes per event")


if __name__ == "__main__":
    main()
