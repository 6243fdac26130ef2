"""Unexpected numbers, clocks that jump, forged names, huge tables: it keeps counting, within its bounds."""

from __future__ import annotations

import ast
import json
import shlex
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, count, islice
from pathlib import Path
from types import TracebackType

import pytest

from tcpnewconn.attribution.units import Units
from tcpnewconn.attribution.users import Users
from tcpnewconn.eventtypes import Closed, Connection, Event, Listener
from tcpnewconn.kernel.sockdiag import Notifications, open_notifications
from tcpnewconn.model import (
    ESTABLISHED,
    LISTEN,
    TIME_WAIT,
    DestroyedSocket,
    Endpoint,
    Row,
    SocketInfo,
    Traffic,
    four_tuple_of,
)
from tcpnewconn.reporting import outbox as outbox_module
from tcpnewconn.reporting.entries import Renderer
from tcpnewconn.reporting.outbox import Outbox
from tcpnewconn.settings.config import load
from tcpnewconn.state.log import StateLog
from tcpnewconn.tracking.cursor import Cursor
from tcpnewconn.tracking.outcomes import ClosedSocket
from tcpnewconn.tracking.run import Notifications as Where
from tcpnewconn.tracking.socket import Phase
from tcpnewconn.tracking.tracker import Tracker
from tests.support.events import parsed
from tests.support.journal import Journal, nothing_else
from tests.support.large import Numbers, Outcome, write
from tests.support.message_ids import CLOSED, CONNECTION
from tests.support.namespace import Namespace, namespace
from tests.support.program import of_kind, running
from tests.support.sink import Kept
from tests.support.supervised import Supervised
from tests.support.table import Tables, line, listener
from tests.support.terminal import TREE, command, environment

# The unit's MemoryMax=1G, in KiB.
UNIT_MEMORY = 1 << 20
HERE = bytes([10, 0, 0, 5])
# 10.0.0.5 as /proc/net/tcp has it here.
HERE_NUMBER = int.from_bytes(HERE, sys.byteorder)


@pytest.fixture
def here() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


# --- counters that wrap ----------------------------------------------------------------------------------------------


class Shifted(socket.socket):
    """The kernel's socket, whose counter of lost notifications (sk_drops) stands `by` higher than it does."""

    by = 0

    def getsockopt(self, level: int, option: int, size: int = 0) -> int | bytes:  # type: ignore[override]
        found = super().getsockopt(level, option, size) if size else super().getsockopt(level, option)
        if option != 55:  # SO_MEMINFO
            return found
        assert isinstance(found, bytes)
        drops = struct.unpack_from("=I", found, 32)[0]
        return found[:32] + struct.pack("=I", (drops + self.by) & 0xFFFFFFFF)


def lose_some(where: Namespace) -> int:
    """Connections whose notifications do not all fit into the smallest buffer; how many there were, the listener's among them."""
    with where.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        for _ in range(101):
            with where.socket() as client:
                client.connect(listening.getsockname())
                listening.accept()[0].close()
    return 203


@pytest.mark.parametrize("before", [5, 100, 0xFFFFFFFF])
def test_the_counter_of_lost_notifications_may_wrap(here: Namespace, before: int) -> None:
    """It has 32 bits; at `before` drops more it is 0 again."""
    with here.entered():
        source = Shifted(fileno=open_notifications().detach())
    source.by = -before & 0xFFFFFFFF
    source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    notifications, cursor = Notifications(source), Cursor(None, 77)
    # As when systemd kept the socket while the program was down, and all that was lost before is reported.
    cursor.load(["b", 77])
    cursor.load(["x", 0, source.by])
    assert cursor.resume(notifications.dropped())
    made, got = lose_some(here), 0
    deadline = time.monotonic() + 30
    while got + cursor.lost < made and time.monotonic() < deadline:
        cursor.count(notifications.dropped(), 0.0)
        if notifications.peek() is not None:
            notifications.consume()
            got += 1
    assert got + cursor.lost == made
    assert cursor.lost > 100


@pytest.mark.parametrize(
    ("socket_before", "counted", "lost"), [(77, 0xFFFFFFFB, 11), (77, 1000, 6), (78, 5, 6), (77, 6, 0)]
)
def test_losses_while_it_was_down_count_though_the_counter_wrapped_meanwhile(
    socket_before: int, counted: int, lost: int
) -> None:
    """The counter is at 6 now. Reported up to 5 below its end, 11 were lost since; another socket has lost 6 so far."""
    cursor = Cursor(None, 77)
    cursor.load(["b", socket_before])
    cursor.load(["x", 4711, counted])
    assert cursor.resume(6) == (socket_before == 77)
    cursor.count(6, 0.0)
    assert cursor.lost == lost


# --- clocks that jump ------------------------------------------------------------------------------------------------

# Those that say what time it is, and those that say how much has passed.
WALL = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime", "ctime"}
STEADY = {"monotonic", "monotonic_ns", "perf_counter", "process_time", "sleep", "clock_gettime_ns", "CLOCK_MONOTONIC"}
# By the second /proc counts when a process was started.
STEADY |= {"clock_gettime", "CLOCK_BOOTTIME"}
# CPU time, of which other namespaces get a share.
STEADY |= {"thread_time"}


def test_no_module_decides_by_the_time_of_day() -> None:
    """NTP may step that, and an administrator: it is written into lines for people and metrics for Prometheus.

    Only a reader of those metrics compares it: its own clock cannot show whether the service still polls. The ledger and the
    report, of which the service loads nothing, have the days of the journal's clock (tests/unit/test_ledger.py sets it back).
    """
    found = set()
    package = TREE / "tcpnewconn"
    days = {package / "ledger", package / "report"}
    for path in sorted(path for path in package.rglob("*.py") if days.isdisjoint(path.parents)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id in ("time", "datetime", "date") and node.attr in WALL:
                    found.add((path.name, f"{node.value.id}.{node.attr}"))
                assert node.value.id != "time" or node.attr in WALL | STEADY, (path, node.attr)
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("time.clock_gettime"):
                assert ast.unparse(node.args[0]) in ("time.CLOCK_MONOTONIC", "time.CLOCK_BOOTTIME"), path
            assert not (isinstance(node, ast.ImportFrom) and node.module == "time"), path
    written = {
        ("attribution.py", "time.time"),
        ("sinks.py", "datetime.now"),
        ("counters.py", "time.time"),
        ("polls.py", "time.time"),
        ("service.py", "time.time"),
    }
    assert found == {*written, ("status.py", "time.time")}


def later(seconds: int) -> list[str]:
    """A prefix that runs a command in a time namespace whose monotonic clock is so far ahead."""
    return ["unshare", "--time", "--monotonic", str(seconds), "--boottime", str(seconds), "--fork", "--"]


def test_a_clock_that_stands_earlier_than_in_the_run_before_does_no_harm(here: Namespace, tmp_path: Path) -> None:
    """As after a machine was restored from an image of its memory, or a container moved."""
    state = str(tmp_path / "state")
    config = tmp_path / "conf"
    config.write_text("[Report]\nBurstLimit=0\nTotalLimit=0\nClosed=yes\n")
    options = ("--state", state, "--config", str(config))
    with here.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        first, second = here.socket(), here.socket()
        for ahead, client in ((50_000_000, first), (100_000_000, second)):
            client.connect(listening.getsockname())
            done = subprocess.run(
                here.command(*later(ahead), *command("--output", "json", "--once", *options)),
                cwd=TREE,
                capture_output=True,
                text=True,
            )
            assert (done.returncode, done.stderr) == (0, "")
            assert len(of_kind(map(parsed, done.stdout.splitlines()), CONNECTION)) == 1
        with running(here, *options) as program:
            # Nothing is reported again, and what comes is.
            third = here.socket()
            third.connect(listening.getsockname())
            program.wait_for_connections(1)
            second_port, third_port = second.getsockname()[1], third.getsockname()[1]
            for client in (second, third, first):
                client.close()
            for _ in range(3):
                listening.accept()[0].close()
            program.wait(lambda: len(of_kind(program.events, CLOSED)) == 3, "three closed events")
            assert [event["source.port"] for event in program.connections] == [third_port]
            durations = {event["source.port"]: event.get("event.duration") for event in of_kind(program.events, CLOSED)}
            assert durations[second_port] is None, "it cannot be known"
            assert 0 < (durations[third_port] or 0) < 60e9


# --- a boot id that changes ------------------------------------------------------------------------------------------


def test_a_boot_id_that_changes_under_it_is_another_boot_at_the_next_start_and_not_before(tmp_path: Path) -> None:
    tables = Tables(tmp_path / "proc")
    tables.write([listener("0.0.0.0:22", inode=9), line("10.0.0.5:22", "203.0.113.9:1001", inode=11)])
    boot = tables.directory / "sys/kernel/random/boot_id"
    boot.parent.mkdir(parents=True)
    boot.write_text("01234567-89ab-cdef-0123-456789abcdef\n")
    options = ("--procfs", str(tables.directory), "--state", str(tmp_path / "state"), "--output", "json")
    ids = []
    with Supervised(*options, "--interval", "100ms") as service:
        service.ready()
        boot.write_text("fedcba98-7654-3210-fedc-ba9876543210\n")
        tables.write(
            [
                listener("0.0.0.0:22", inode=9),
                *(line("10.0.0.5:22", f"203.0.113.9:{1000 + n}", inode=10 + n) for n in (1, 2)),
            ]
        )
        service.wait(lambda: len(service.lines) >= 3, "the new one")
        service.polls(2)
        assert service.stop() == 0
        ids.append(reported(service.lines))
    with Supervised(*options, "--interval", "100ms") as service:
        service.ready()
        assert service.stop() == 0
        ids.append(reported(service.lines))
    # The old state is not believed: an id of the boot before says nothing of these connections.
    assert [sorted(of) for of in ids] == [["203.0.113.9:1001", "203.0.113.9:1002"]] * 2
    assert len({*ids[0].values(), *ids[1].values()}) == 4
    assert all(id.startswith("fedcba9876543210") for id in ids[1].values())


def reported(lines: list[str]) -> dict[str, str]:
    """The ids of the connections that were reported, each once, by their source."""
    events = of_kind(map(parsed, lines), CONNECTION)
    ids = {f"{event['source.address']}:{event['source.port']}": event["tcpnewconn.connection_id"] for event in events}
    assert len(ids) == len(events)
    return ids


# --- names that lie --------------------------------------------------------------------------------------------------

USER = b'root\x1b[2J\xff\xc2\x85","x"="\xe2\x80\xa8'


def test_a_user_may_have_any_name_and_forges_nothing(tmp_path: Path) -> None:
    """Exact in the journal, escaped in JSON, in neither a second line or a second field."""
    passwd = tmp_path / "passwd"
    passwd.write_bytes(b"root:x:0:0::/:/bin/sh\n" + USER + b":x:4242:4242::/:/bin/sh\n")
    tables = Tables(tmp_path / "proc")
    tables.write([line("10.0.0.5:40000", "203.0.113.9:443", uid=4242, inode=11)])
    mount = f"mount --bind {shlex.quote(str(passwd))} /etc/passwd"
    options = ("--procfs", str(tables.directory), "--interval", "1h")
    with Supervised(*options, "--output", "json", mounts=[mount]) as service:
        service.ready()
        assert service.stop() == 0
        (text,) = [line for line in service.lines if "observation-" not in line]
        assert text.rstrip("\n").isascii()
        assert text.rstrip("\n").isprintable()
        assert parsed(text)["user.name"] == USER.decode(errors="surrogateescape")
    with Journal() as journal:
        journal.open()
        with Supervised(*options, "--output", "journal", mounts=[mount], journal=journal) as service:
            entry = journal.receive()
            assert entry["USER_NAME"] == USER
            assert entry["MESSAGE"] == b"New connection: 10.0.0.5:40000 -> 203.0.113.9:443"
            service.ready()
            assert service.stop() == 0
        assert nothing_else(journal)


@pytest.mark.parametrize(
    "name",
    [
        b"nginx.service\nPRIORITY=0",
        b"a\nOBJECT_SYSTEMD_UNIT=ssh.service",
        b"ssh.service\x1b[2J",
        b"ssh\xff.service",
        b"ssh.service ",
        b"\xe2\x80\xaessh.service",
    ],
)
def test_a_cgroup_may_have_any_name_and_is_no_unit_then(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "cgroup.controllers").touch()
    evil = Path(f"{tmp_path}/system.slice/{name.decode(errors='surrogateescape')}")
    evil.mkdir(parents=True)
    (evil / "below.service").mkdir()
    units = Units(str(tmp_path))
    for directory in (evil, evil / "below.service"):
        assert units.unit(directory.stat().st_ino) is None


# --- tables without end ----------------------------------------------------------------------------------------------


class Reading:
    """The program's modules in a process of their own, with the default settings and with destroy notifications."""

    def __init__(self, directory: Path) -> None:
        self._program = subprocess.Popen(
            # A network namespace of its own: what is looked up is not there, and nobody listens.
            ["unshare", "--net", sys.executable, "-m", "tests.support.large", str(directory)],
            cwd=TREE,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Reading:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # It polls no more when its standard input ends.
        self._program.communicate(timeout=60)

    def read(self) -> Outcome:
        """Let it poll once."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        print(file=self._program.stdin, flush=True)
        return Outcome(**json.loads(self._program.stdout.readline()))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "net").mkdir()
    return tmp_path


def incoming(count: int, state: int = ESTABLISHED) -> Iterator[Numbers]:
    """Rows of connections to port 80, each from an address of its own; and who listens there."""
    yield HERE_NUMBER, 80, 0, 0, LISTEN, 1
    for number in range(count):
        source = int.from_bytes((0xAC100000 + number).to_bytes(4, "big"), sys.byteorder)
        yield HERE_NUMBER, 80, source, 1024 + number % 60_000, state, 0 if state == TIME_WAIT else 2 + number


def test_400_000_connections_at_the_first_start_are_all_counted_and_a_quiet_table_of_them_costs_the_read(
    directory: Path,
) -> None:
    write(directory / "net/tcp", incoming(400_000))
    with Reading(directory) as reading:
        first = reading.read()
        assert (first.rows, first.open) == (400_001, 400_000)
        assert first.entries + first.counted == 400_000
        # They are reported within some seconds, 1,000 in each at most; the rest in one entry.
        assert first.summaries == 1
        assert first.entries < 100_000
        assert first.lookups == 400_000
        print(f"400,000 connections at the first start: {first.peak / 1024:.0f} MiB at most")
        assert first.peak < UNIT_MEMORY / 3
        content = (directory / "snapshot").stat()
        for _ in range(3):
            quiet = reading.read()
            assert replace(quiet, peak=0, resident=0) == replace(first, peak=0, resident=0)
            # Some pages may come and go; anything per row would be megabytes.
            assert quiet.peak < first.peak + 1024
        after = (directory / "snapshot").stat()
        assert (after.st_ino, after.st_mtime_ns) == (content.st_ino, content.st_mtime_ns)


def test_after_a_restart_known_connections_are_not_logged_and_a_poll_takes_no_memory_for_each(directory: Path) -> None:
    write(directory / "net/tcp", incoming(100_000))
    with Reading(directory) as reading:
        before = reading.read()
    with Reading(directory) as reading:
        first, *later = (reading.read() for _ in range(3))
    assert first.peak < before.peak
    # The second poll compares all of them with the state.
    for poll in later:
        assert (poll.open, poll.entries, poll.counted) == (100_000, 0, 0)
        assert poll.peak < first.peak + 4096


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_65_000_ports_and_one_peer_are_a_summary(directory: Path, direction: str) -> None:
    peer = 0x097100CB
    listening = (HERE_NUMBER, 22, 0, 0, LISTEN, 1)
    if direction == "ingress":
        rows = ((HERE_NUMBER, 22, peer, port, ESTABLISHED, 1 + port) for port in range(500, 65_500))
    else:
        rows = ((HERE_NUMBER, port, peer, 443, ESTABLISHED, 1 + port) for port in range(500, 65_500))
    write(directory / "net/tcp", [listening, *rows])
    with Reading(directory) as reading:
        first = reading.read()
    assert (first.open, first.entries, first.summaries, first.counted) == (65_000, 100, 1, 64_900)


def test_a_million_rows_in_time_wait_are_passed_over_and_take_no_memory(directory: Path) -> None:
    """While destroyed sockets are notified: each of them was reported when it ended."""
    write(directory / "net/tcp", incoming(1000))
    with Reading(directory) as reading:
        before = [reading.read() for _ in range(2)][-1]
        write(directory / "net/tcp", chain(incoming(1000), islice(incoming(1_001_000, TIME_WAIT), 1001, None)))
        for _ in range(2):
            after = reading.read()
            assert after.rows == 1_001_001
            assert replace(after, rows=before.rows, peak=0, resident=0) == replace(before, peak=0, resident=0)
            assert after.resident < before.resident + 2048
            assert after.peak < before.peak + 4096


def test_rows_in_time_wait_at_the_first_start_are_counted_and_forgotten(directory: Path) -> None:
    """A million of them would fit into the unit's memory."""
    count = 60_000
    write(directory / "net/tcp", incoming(count, TIME_WAIT))
    with Reading(directory) as reading:
        first = reading.read()
        assert first.entries + first.counted == count
        print(f"{count} rows in TIME_WAIT at the first start: {first.peak / 1024:.0f} MiB at most")
        assert (first.peak - first.empty) * 1_000_000 / count < 0.75 * UNIT_MEMORY
        (directory / "net/tcp").write_bytes(b"no rows\n")
        for _ in range(3):
            last = reading.read()
        assert (last.open, last.entries + last.counted) == (0, count)


def test_real_rows_in_time_wait_are_passed_over(here: Namespace) -> None:
    """The kernel keeps tcp_max_tw_buckets of them, each for a minute."""
    here.sysctl("net.ipv4.tcp_max_tw_buckets", "5000")
    here.sysctl("net.ipv4.ip_local_port_range", "1024 65000")
    with running(here) as program:
        with here.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            for _ in range(6000):
                with here.socket() as client:
                    client.connect(listening.getsockname())
                    listening.accept()[0].close()
        program.wait_for_connections(6000)
        program.poll_again(2)
        assert here.table().count(b" 06 ") >= 4000
        assert len(program.connections) == 6000
        assert program.status.startswith("0 connections open, 0 new")


def test_sockets_that_programs_never_let_go_are_forgotten_at_last() -> None:
    """Those that were reset longest ago, where there are very many; of the others it is known that they were reported."""
    cookies = count(1)
    reported: list[object] = []
    tracker = Tracker(
        lambda _: SocketInfo(next(cookies), 0, 1000, 7, ESTABLISHED, False),
        lambda _: False,
        lambda outcome, _: reported.append(outcome),
        Where.KEPT,
    )
    four_tuples = [four_tuple_of(HERE, 80, bytes([203, 0, *divmod(number, 256)]), 40000) for number in range(50_000)]
    for number, four_tuple in enumerate(four_tuples):
        tracker._rows.row(Row(four_tuple, ESTABLISHED, 1000, 7), 1.0)
        assert len(reported) == number + 1
        tracker._rows.absent(four_tuple, 2.0)
    # The kernel has others there by now, so that they are gone.
    tracker.tick(3.0)
    kept = {socket.four_tuple: socket.cookie for socket in tracker.sockets.all_in(Phase.DYING)}
    assert 30_000 < len(kept) < 35_000
    assert set(kept) == set(four_tuples[-len(kept) :])
    reported.clear()
    for four_tuple, cookie in kept.items():
        tracker.destroyed(DestroyedSocket(four_tuple, cookie, True, False, Traffic(0, 0, 0, 0, 0), 100.0), 200.0)
    assert len(reported) == len(kept)
    assert all(isinstance(outcome, ClosedSocket) for outcome in reported)


# --- a journal that does not read ------------------------------------------------------------------------------------


def flood(count: int) -> Iterator[Event]:
    """Of everything that a remote peer or a local user can make many of."""
    for number in range(count):
        source = Endpoint((0xC0000000 + number // 5).to_bytes(4, "big"), 50_000)
        destination = Endpoint(HERE, 1000 + number % 5)
        yield Connection(source, destination, "ingress", "notification", f"id-{number}", ESTABLISHED)
        yield Closed(source, destination, "ingress", f"id-{number}", 1, 1, 1, 0, 1.0)
        yield Listener(Endpoint(HERE, number % 65536), False)


@pytest.mark.parametrize("limit", [0, 1000])
def test_waiting_state_is_bounded_whatever_comes_and_every_bound_is_reported(tmp_path: Path, limit: int) -> None:
    """With `limit`, the journal reads: then it is that which bounds it."""
    count, sink = 30_000, Kept(blocked=not limit)
    settings = load("/dev/null")._replace(burst_limit=0, total_limit=limit, closed=True)
    log = StateLog(str(tmp_path / "snapshot"), "here")
    outbox = Outbox(sink, log, Renderer(Units(), Users()), settings)
    most = 0
    for event in flood(count):
        outbox.take(event)
        outbox.deliver(redeliverable=True)
        most = max(most, outbox.waiting)
    outbox.interval_over()
    assert most <= (outbox_module._MOST_WAITING if not limit else 0)
    sink.blocked = False
    outbox.send()
    outbox.interval_over()
    assert outbox.waiting == 0
    summaries = [entry for entry in sink.entries if " new connection" in entry["MESSAGE"]]
    losses = {
        entry["TCPNEWCONN_REASON"]: int(entry["TCPNEWCONN_COUNT"])
        for entry in sink.entries
        if "TCPNEWCONN_REASON" in entry
    }
    single = sum(entry["MESSAGE"].startswith("New connection") for entry in sink.entries)
    assert single + sum(int(entry["TCPNEWCONN_COUNT"]) for entry in summaries) == count
    # Port scans: the fourth port of each source.
    one_by_one = sum(
        entry["MESSAGE"].startswith(("Connection closed", "New listener", "Port scan")) for entry in sink.entries
    )
    assert losses["journal"] > 0
    assert one_by_one + losses["journal"] == 2 * count + count // 5
    assert len(sink.entries) < outbox_module._MOST_WAITING + 20 if not limit else len(sink.entries) < 60_000
