"""The step of very many connections of many users and units. The service writes to a file, which is faster than a journal."""

import json
import os
from collections import Counter

from tests.support.machine_guest import CLOSED, CONNECTION, FAILED, Entry, active, run, wait_for, write_unit
from tests.support.machine_load import SERVER, in_rounds, say_mixed

DROP_IN = "tcpnewconn.service.d/file.conf"
FILE = "/var/log/tcpnewconn.json"
# The fields that are judged, by their names in JSON.
NAMES = {
    "tcpnewconn.connection_id": "TCPNEWCONN_CONNECTION_ID",
    "source.port": "SOURCE_PORT",
    "source.bytes": "SOURCE_BYTES",
    "user.id": "USER_ID",
    "object.systemd_unit": "OBJECT_SYSTEMD_UNIT",
    "process.name": "PROCESS_NAME",
    "process.thread.id": "PROCESS_THREAD_ID",
    "process.thread.name": "PROCESS_THREAD_NAME",
    "tcpnewconn.accepted_by_unit": "TCPNEWCONN_ACCEPTED_BY_UNIT",
}


class Written:
    """What the service has written about connections to the server; each line is read once."""

    def __init__(self) -> None:
        self.number = Counter[str]()
        self.closed: list[Entry] = []
        self._file = open(FILE, "rb")  # noqa: SIM115
        self._begun = b""

    def read(self) -> int:
        """How many closed connections there are until now."""
        server = f'"destination.address":"{SERVER}"'.encode()
        for line in self._file:
            self._begun += line
            if not line.endswith(b"\n"):
                break
            whole, self._begun = self._begun, b""
            if server not in whole:
                continue
            for kind in (CONNECTION, CLOSED, FAILED):
                self.number[kind] += kind.encode() in whole
            if CLOSED.encode() in whole:
                document = json.loads(whole)
                self.closed.append({name: str(document[key]) for key, name in NAMES.items() if key in document})
        return len(self.closed)


def mixed() -> None:
    """As machine_load.mixed()."""
    os.makedirs(os.path.dirname(f"/etc/systemd/system/{DROP_IN}"), exist_ok=True)
    write_unit(
        DROP_IN, f"[Service]\nExecStart=\nExecStart=/usr/bin/tcpnewconn --output json\nStandardOutput=append:{FILE}\n"
    )
    _restart()
    written = Written()
    in_rounds(written.read)
    say_mixed(written.number[CONNECTION], written.number[FAILED], written.closed)
    os.unlink(f"/etc/systemd/system/{DROP_IN}")
    _restart()


def _restart() -> None:
    run("systemctl daemon-reload && systemctl restart tcpnewconn")
    wait_for(lambda: active("tcpnewconn.service"), "the service")
