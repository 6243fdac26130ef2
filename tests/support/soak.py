"""Two million destroyed connections through the program's own modules, as fast as they go; prints its memory on the way.

Run as a program, so that the memory is that of the modules and not of a test runner.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from tcpnewconn.attribution.units import Units
from tcpnewconn.attribution.users import Users
from tcpnewconn.kernel.host import Host
from tcpnewconn.kernel.procnet import ProcNet
from tcpnewconn.model import DestroyedSocket, Traffic, four_tuple_of, mirrored
from tcpnewconn.observing.observer import Observer
from tcpnewconn.reporting.entries import MESSAGE_IDS, Renderer
from tcpnewconn.reporting.fields import Entry
from tcpnewconn.reporting.outbox import Outbox
from tcpnewconn.settings.config import load
from tcpnewconn.state.log import StateLog
from tcpnewconn.tracking.run import Notifications

# A server on port 80 of every address.
TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0
"""
HERE = bytes([10, 0, 0, 5])
LOOPBACK = bytes([127, 0, 0, 1])
TRAFFIC = Traffic(1000, 1002, 501, 40, 0)
# As many as an interval of 10 s has at 2,000 a second.
PER_INTERVAL = 20_000


class Count:
    """A sink that counts."""

    pipe: int | None = None

    def __init__(self) -> None:
        self.connections = 0

    def write(self, entry: Entry) -> None:
        if entry["MESSAGE_ID"] == MESSAGE_IDS["connection-opened"]:
            self.connections += 1
        elif entry["MESSAGE_ID"] == MESSAGE_IDS["connections-summarized"]:
            self.connections += int(entry["TCPNEWCONN_COUNT"])


def resident() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def main(directory: Path, total: int) -> None:
    (directory / "net").mkdir()
    (directory / "net/tcp").write_text(TABLE)
    host = Host("boot", "1", (32768, 60999), live=False, users=True)
    log = StateLog(str(directory / "snapshot"), host.place)
    sink = Count()
    outbox = Outbox(sink, log, Renderer(Units(), Users()), load("/dev/null")._replace(total_limit=0))
    observer = Observer(ProcNet(str(directory)), host, None, outbox.take, Notifications.KEPT, log, 1)
    generator = random.Random(20210809)
    now, cookie, done = time.monotonic(), 0, 0
    while done < total:
        observer.poll(now)
        outbox.deliver()
        outbox.interval_over()
        log.save()
        for _ in range(PER_INTERVAL):
            now += 10.0 / PER_INTERVAL
            cookie += 1
            done += 1
            client = generator.randrange(1024, 65536)
            if done % 4:
                four_tuple = four_tuple_of(HERE, 80, bytes([203, *generator.randbytes(3)]), client)
                destroyed = [DestroyedSocket(four_tuple, cookie, True, False, TRAFFIC)]
            else:
                four_tuple = four_tuple_of(LOOPBACK, client, LOOPBACK, 80)
                cookie += 1
                destroyed = [
                    DestroyedSocket(four_tuple, cookie - 1, True, False, TRAFFIC),
                    DestroyedSocket(mirrored(four_tuple), cookie, True, False, TRAFFIC),
                ]
            for socket in destroyed:
                observer.destroyed(socket, now)
                outbox.deliver(redeliverable=True)
                observer.tracker.cursor.handled(socket.cookie)
                log.flush()
        if done in (100_000, total):
            print(done, resident(), flush=True)
    outbox.interval_over()
    print(sink.connections, (directory / "snapshot").stat().st_size)


main(Path(sys.argv[1]), int(sys.argv[2]))
