"""The attribution in events: from the socket itself, from recorded calls, from the listener."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tcpnewconn.attribution import callers
from tcpnewconn.attribution.calls import Calls
from tcpnewconn.attribution.found import NOT_RECORDED
from tcpnewconn.attribution.units import Units
from tcpnewconn.attribution.users import Users
from tcpnewconn.attribution.waiting import Waiting
from tcpnewconn.eventtypes import Closed, Connection, Degraded, Event, Failed, Loss, Recovered
from tcpnewconn.health.notify import Notifier
from tcpnewconn.health.observation import Observation
from tcpnewconn.kernel.host import Host
from tcpnewconn.kernel.instance import Position, TraceMissing
from tcpnewconn.kernel.procnet import ProcNet
from tcpnewconn.model import Call, Caller, DestroyedSocket, FailedAttempt, FourTuple, Row, Traffic, endpoints
from tcpnewconn.observing.connections import attributed
from tcpnewconn.observing.observer import Observer
from tcpnewconn.observing.recorder import Recorder
from tcpnewconn.reporting.entries import Renderer
from tcpnewconn.reporting.outbox import Outbox
from tcpnewconn.reporting.sinks import Text
from tcpnewconn.service import Service
from tcpnewconn.settings.config import load
from tcpnewconn.state.log import StateLog
from tcpnewconn.tracking.listeners import Listeners
from tcpnewconn.tracking.outcomes import NewConnection
from tcpnewconn.tracking.run import Notifications
from tests.support.calls import ACCEPTOR, IN, NETNS, OPENER, OUT, accept, connect, failed, four_tuple
from tests.support.table import Line, Tables, line, listener

# Of an orderly close by the acceptor; of one that says nothing of who opened it.
NOTHING = Traffic(0, 1, 1, 10, 0)


class Recorded:
    """A trace that has these records, and as many that were overwritten; `events` as of kernel.trace.Trace."""

    events = frozenset({"connect", "accept", "failed"})

    def __init__(self) -> None:
        self.records: list[Call | FailedAttempt] = []
        self.rings = self
        self.descriptors: tuple[int, ...] = ()
        self.overwritten = self.malformed = 0
        self.lost_until = float("-inf")
        self.gone = False
        self.position = Position(1, 0)

    def read(self) -> list[Call | FailedAttempt]:
        records, self.records = self.records, []
        return records

    def stale(self) -> bool:
        return self.gone


class World:
    """An observer of a table in a directory, with a trace; the time is said with each step."""

    def __init__(self, directory: Path) -> None:
        self.trace = Recorded()
        self.tables = Tables(directory)
        self.events: list[Event] = []
        self.repairs = 0
        self.now = 0.0
        host = Host("boot", str(NETNS), (32768, 60999), live=False, users=True)
        proc = ProcNet(str(directory))
        self.observer = Observer(proc, host, None, self.events.append, Notifications.OWN)
        self.names: dict[int, tuple[str, ...]] = {}
        self.observer.recorder = Recorder(
            Calls(NETNS, 0.0),
            lambda: self.trace,
            lambda cgroup, names: self.names.update({cgroup: tuple(names)}),
            self._repair,
            lambda: self.now,
        )
        self._cookie = 0
        for now in (980.0, 990.0):
            self.poll(now)

    def _repair(self) -> None:
        self.repairs += 1

    def poll(self, now: float, *rows: Line) -> None:
        self.tables.write([listener("0.0.0.0:22"), listener("127.0.0.1:8080", uid=33), *rows])
        self.now = now + 0.1
        self.observer.poll(now)

    def destroyed(self, at: FourTuple, now: float, unaddressed: bool = False, traffic: Traffic = NOTHING) -> None:
        self._cookie += 1
        self.now = now
        self.observer.read_calls()
        self.observer.destroyed(DestroyedSocket(at, self._cookie, True, unaddressed, traffic), now)

    @property
    def connection(self) -> Connection:
        (found,) = [event for event in self.events if isinstance(event, Connection)]
        return found

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_short_connection_has_user_cgroup_and_thread_of_who_opened_it(world: World) -> None:
    world.trace.records = [connect(1000.0, 7)]
    world.destroyed(OUT, 1000.5)
    found = world.connection
    assert (found.uid, found.cgroup, found.by, found.missing) == (1007, 107, ("connect",), None)
    assert found.caller == Caller("connect", 1007, 107, 7, "thread-7", 1000.0)
    assert found.direction == "egress"


def test_a_short_connection_has_who_accepted_it(world: World) -> None:
    world.trace.records = [accept(1000.0, 7)]
    world.destroyed(IN, 1000.5)
    assert (world.connection.uid, world.connection.by, world.connection.direction) == (1007, ("accept",), "ingress")


@pytest.mark.parametrize(("detected_by", "cgroup"), [("poll", 22), ("startup", 0)])
def test_one_that_was_gone_when_it_was_looked_up_has_the_unit_of_its_listener(detected_by: str, cgroup: int) -> None:
    # One that was there before the program can be of a listener that was before.
    listeners = Listeners()
    at = four_tuple("0.0.0.0:22", "0.0.0.0:0")
    listeners.add(Row(at, 10, 0, 1), 22)
    new = NewConnection(IN, 1, detected_by, 1, None, 0, internal=False)
    found = attributed(*endpoints(IN)[::-1], "ingress", new, "id", (None, 0), NOT_RECORDED, listeners)
    assert (found.uid, found.cgroup, found.by) == (None, cgroup, ("listener",) if cgroup else ())


def test_the_direction_is_that_of_the_call_whatever_ports_and_listeners_say(world: World) -> None:
    # From the port that a service listens on.
    at = four_tuple("10.0.0.5:22", "192.0.2.7:50000")
    world.trace.records = [connect(1000.0, 7, at)]
    world.destroyed(at, 1000.5)
    assert world.connection.direction == "egress"
    assert str(world.connection.source) == "10.0.0.5:22"


def test_the_socket_s_own_user_counts_more_than_that_of_the_call(world: World) -> None:
    # It was passed on: its owner is another by now, and the thread is that of who called.
    world.trace.records = [connect(1000.0, 7)]
    world.poll(1010.0, line("10.0.0.5:41906", "192.0.2.7:443", uid=4242, inode=99))
    found = world.connection
    assert (found.uid, found.cgroup, found.by) == (4242, 107, ("socket", "connect"))
    assert found.caller is not None
    assert (found.caller.uid, found.caller.thread_id) == (1007, 7)


def test_what_was_never_accepted_has_neither_user_nor_thread(world: World) -> None:
    world.destroyed(IN, 1000.5)
    found = world.connection
    assert (found.uid, found.by, found.caller, found.missing) == (None, (), None, "not-recorded")


def test_within_this_host_it_is_the_opener_s_and_says_who_accepted_it(world: World) -> None:
    for first in (OPENER, ACCEPTOR):
        world.events.clear()
        world.trace.records = [connect(1000.0, 7, OPENER), accept(1000.1, 8, ACCEPTOR)]
        world.destroyed(first, 1000.5)
        # That of the other socket.
        world.destroyed(ACCEPTOR if first == OPENER else OPENER, 1000.6)
        found = world.connection
        assert (found.uid, found.by, str(found.source)) == (1007, ("connect",), "127.0.0.1:50000")
        assert found.accepted is not None
        assert found.accepted.thread_id == 8


def test_within_this_host_nothing_is_waited_for_where_the_call_decides(world: World) -> None:
    at = four_tuple("127.0.0.1:700", "127.0.0.1:701")
    world.destroyed(at, 1000.4, traffic=Traffic(0, 1, 1, 10, 0))
    assert not world.of(Connection)
    assert world.observer.waiting
    at = four_tuple("127.0.0.1:702", "127.0.0.1:703")
    world.trace.records = [connect(1000.0, 7, at)]
    world.destroyed(at, 1000.5)
    assert str(world.connection.source) == "127.0.0.1:702"


def test_a_cleared_socket_has_its_addresses_from_the_call(world: World) -> None:
    world.trace.records = [connect(1000.0, 7)]
    world.destroyed(four_tuple("0.0.0.0:41906", "192.0.2.7:0"), 1000.5, unaddressed=True)
    world.observer.tick(1010.0)
    found = world.connection
    assert (str(found.source), str(found.destination), found.direction) == (
        "10.0.0.5:41906",
        "192.0.2.7:443",
        "egress",
    )
    assert found.caller is not None


def test_without_a_call_a_cleared_socket_has_what_is_left(world: World) -> None:
    world.destroyed(four_tuple("0.0.0.0:41906", "192.0.2.7:0"), 1000.5, unaddressed=True)
    world.observer.tick(1010.0)
    assert (str(world.connection.source), str(world.connection.destination)) == ("*:41906", "192.0.2.7:*")


def test_a_closed_event_repeats_who_opened_it_and_how_long_ago(world: World) -> None:
    world.observer.events.closed = True
    world.trace.records = [connect(1000.0, 7)]
    world.destroyed(OUT, 1000.5)
    (closed,) = world.of(Closed)
    assert isinstance(closed, Closed)
    assert (closed.caller, closed.by, closed.seconds) == (world.connection.caller, ("connect",), 0.5)
    # And so does that of one that a poll has shown.
    world.events.clear()
    world.trace.records = [connect(1001.0, 8)]
    world.poll(1010.0, line("10.0.0.5:41906", "192.0.2.7:443", uid=1008, inode=99))
    world.destroyed(OUT, 1011.0)
    (closed,) = world.of(Closed)
    assert isinstance(closed, Closed)
    assert (closed.caller, closed.by) == (world.connection.caller, ("socket", "connect"))


def test_names_of_cgroups_are_learned_from_the_records(world: World) -> None:
    call = connect(1000.0, 7)
    names = ("curl.service", "system.slice", "")
    world.trace.records = [call._replace(origin=call.origin._replace(cgroup_names=names))]
    world.destroyed(OUT, 1000.5)
    assert world.names[world.connection.cgroup] == ("curl.service", "system.slice", "")


def test_failed_attempts_are_events_only_where_they_are_wanted(world: World) -> None:
    for wanted in (False, True):
        world.observer.failed = wanted
        world.trace.records = [connect(1000.0, 7), failed(1000.1)]
        world.observer.read_calls()
    (event,) = world.of(Failed)
    assert isinstance(event, Failed)
    assert (str(event.source), str(event.destination), event.direction) == ("10.0.0.5:41906", "192.0.2.7:443", "egress")
    assert (event.error, event.uid, event.by) == (111, 1007, ("connect",))
    assert event.caller is not None
    assert event.caller.thread_name == "thread-7"


def test_an_attempt_that_failed_before_it_had_a_port_has_none(world: World) -> None:
    world.observer.failed = True
    world.trace.records = [failed(1000.1, four_tuple("0.0.0.0:0", "192.0.2.7:443"), 0)]
    world.observer.read_calls()
    (event,) = world.of(Failed)
    assert isinstance(event, Failed)
    assert (str(event.source), event.error, event.caller) == ("*:*", 0, None)


# --- what is missing -------------------------------------------------------------------------------------------------


def test_overwritten_records_are_counted_exactly_and_no_connection_is_lost(world: World) -> None:
    world.trace.records, world.trace.overwritten, world.trace.lost_until = [connect(1000.0, 7)], 41, 1000.2
    world.destroyed(OUT, 1000.5)
    world.trace.overwritten = 43
    world.poll(1010.0)
    assert (world.connection.caller, world.connection.missing) == (None, "overwritten")
    (loss,) = world.of(Loss)
    assert isinstance(loss, Loss)
    assert (loss.count, loss.reason) == (43, "attribution")
    # And at most once a minute.
    for now, overwritten, losses in ((1020.0, 44, 1), (1060.0, 45, 1), (1071.0, 50, 2)):
        world.trace.overwritten = overwritten
        world.poll(now)
        assert len(world.of(Loss)) == losses
    # But at the end.
    world.trace.overwritten = 52
    world.poll(1072.0)
    world.observer.tick(1073.0, last=True)
    assert sum(event.count for event in world.of(Loss) if isinstance(event, Loss)) == 52


def test_after_notifications_were_lost_nothing_is_guessed(world: World) -> None:
    world.trace.records = [connect(1000.0, 7)]
    world.observer.lost_notifications(1000.2)
    world.destroyed(OUT, 1000.5)
    assert (world.connection.caller, world.connection.missing) == (None, "overwritten")


def test_a_trace_whose_events_are_deleted_is_degraded_and_asked_for_again_until_it_is_back(world: World) -> None:
    world.trace.gone = True
    for now, repairs in ((1010.0, 1), (1020.0, 1), (1069.0, 1), (1071.0, 2)):
        world.poll(now)
        assert world.repairs == repairs
        assert [event.source for event in world.of(Degraded) if isinstance(event, Degraded)] == ["trace"]
    world.trace.gone = False
    for now in (1080.0, 1090.0):
        world.poll(now)
        assert [event.source for event in world.of(Recovered) if isinstance(event, Recovered)] == ["trace"]


def test_a_file_that_cannot_be_written_stops_nothing(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    def repair() -> None:
        raise PermissionError(13, "Permission denied", "/run/tcpnewconn/trace.repair")

    assert isinstance(world.observer.recorder, Recorder)
    world.observer.recorder._repair = repair
    world.trace.gone = True
    world.poll(1010.0)
    assert capfd.readouterr().err == (
        "tcpnewconn: cannot ask for the trace again: /run/tcpnewconn/trace.repair: Permission denied\n"
    )


def test_a_trace_that_is_not_there_is_said_once_with_its_reason_and_used_once_it_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path)
    missing = True

    def opened() -> Recorded:
        if missing:
            raise TraceMissing("no tracefs here")
        return world.trace

    recorder = world.observer.recorder = Recorder(
        Calls(NETNS, 0.0), opened, lambda cgroup, names: None, clock=lambda: world.now
    )
    recorder.say_missing()
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("tcpnewconn: no trace: no tracefs here; short outgoing connections have no user and no unit")
    world.poll(1010.0)
    world.destroyed(OUT, 1010.5)
    assert world.connection.missing == "no-trace"
    assert capfd.readouterr().err == ""
    assert not world.of(Degraded)
    missing = False
    world.poll(1020.0)
    world.poll(1030.0)
    assert capfd.readouterr().err == (
        "tcpnewconn: the trace is there: short outgoing connections have a user and a unit\n"
    )
    world.events.clear()
    # It can be of a connection that was opened before, whose notification is late.
    world.trace.records = [connect(1031.1, 7)]
    world.destroyed(OUT, 1031.9)
    assert world.connection.caller is None
    world.events.clear()
    world.trace.records = [connect(1032.1, 7)]
    world.destroyed(OUT, 1032.2)
    assert world.connection.caller is not None


def test_a_trace_that_records_again_is_noticed_between_two_polls_and_used_after_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.trace.gone = True
    world.poll(1010.0)
    service = served(world, Arriving(world, 0))
    now = 1010.5
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert service._turn(1020.0) == 1020.0
    assert not world.observer.wants_poll
    world.trace.gone = False
    now = world.now = 1012.0
    due = service._turn(1020.0)
    assert len(world.of(Recovered)) == 1
    # The poll was made at once.
    assert due > 1020.0
    assert not world.observer.wants_poll
    for after, known in ((1013.9, False), (1014.1, True)):
        world.events.clear()
        world.trace.records = [connect(after - 0.1, 7)]
        world.destroyed(OUT, after)
        assert (world.connection.caller is not None) == known
        assert world.connection.missing == (None if known else "overwritten")


def test_a_kill_while_nothing_is_recorded_is_made_good_by_the_first_poll(tmp_path: Path) -> None:
    log = StateLog(str(tmp_path / "state"), "here", small=0)
    calls = Calls(NETNS, 0.0, log)
    log.save()
    calls.lost(float("inf"))
    log.flush()
    log.close()
    log = StateLog(str(tmp_path / "state"), "here")
    world = World(tmp_path)
    again = Calls(NETNS, 1000.0, log)
    assert log.load() is None
    again.resume()
    assert again.losing
    world.observer.recorder = Recorder(again, lambda: world.trace, lambda cgroup, names: None, clock=lambda: world.now)
    world.poll(1000.0)
    assert world.observer.wants_poll
    world.poll(1002.0)
    world.trace.records = [connect(1004.1, 7)]
    world.destroyed(OUT, 1004.2)
    assert world.connection.caller is not None


def test_the_names_of_units_that_are_gone_outlive_a_restart_with_the_calls(tmp_path: Path) -> None:
    log = StateLog(str(tmp_path / "state"), "here", small=0)
    calls, waiting = Calls(NETNS, 0.0, log), Waiting(log)
    log.save()
    calls.add([connect(1000.0, 7)])
    waiting.add(NETNS + 1, [connect(1000.0, 8)])
    calls.settle()
    log.flush()
    log.close()
    log = StateLog(str(tmp_path / "state"), "here")
    names: dict[int, tuple[str, ...]] = {}
    again, waiting = Calls(NETNS, 1000.0, log), Waiting(log)
    assert log.load() is None
    recorder = Recorder(again, Recorded, lambda cgroup, of: names.update({cgroup: tuple(of)}), waiting=waiting)
    recorder.resume()
    assert names == {107: ("", ""), 108: ("", "")}


@pytest.mark.parametrize(("born_after", "thread"), [(float("-inf"), None), (999.0, None), (1000.0, 7)])
def test_what_was_lost_before_a_namespace_was_there_was_not_its_own(
    world: World, born_after: float, thread: int | None
) -> None:
    recorder = world.observer.recorder
    assert isinstance(recorder, Recorder)
    recorder.elsewhere.take(True)
    world.trace.overwritten, world.trace.lost_until, world.now = 3, 1000.0, 1001.0
    recorder.read()
    other = recorder.elsewhere.of(NETNS + 1, None, born_after)
    other.calls.add([connect(2000.0, 7, netns=NETNS + 1)])
    # The host is polled: nothing more was lost.
    recorder.polled(2000.5, lambda event: None)
    found = callers.destroyed(other.calls, OUT, False, 2001.0, 0.0)
    assert (found.opened.thread_id if found.opened is not None else None) == thread


@pytest.mark.parametrize(("resumed", "thread"), [(False, None), (True, 7)])
def test_after_a_restart_a_namespace_that_is_found_later_goes_on_where_the_run_before_ended(
    world: World, resumed: bool, thread: int | None
) -> None:
    recorder = world.observer.recorder
    assert isinstance(recorder, Recorder)
    world.now = 1000.0
    if resumed:
        recorder.elsewhere.resume()
    recorder.elsewhere.take(True)
    other = recorder.elsewhere.of(NETNS + 1, None)
    other.calls.add([connect(1000.5, 7, netns=NETNS + 1)])
    found = callers.destroyed(other.calls, OUT, False, 1001.0, 0.0)
    assert (found.opened.thread_id if found.opened is not None else None) == thread
    # Wanted again later, it is not known what came meanwhile.
    recorder.elsewhere.take(False)
    recorder.elsewhere.take(True)
    other = recorder.elsewhere.of(NETNS + 1, None)
    other.calls.add([connect(1000.5, 7, netns=NETNS + 1)])
    assert callers.destroyed(other.calls, OUT, False, 1001.0, 0.0).opened is None


@pytest.mark.parametrize(("events", "logged"), [({"connect", "accept", "failed"}, 1), ({"connect", "accept"}, 0)])
def test_a_call_alone_is_a_connection_only_where_attempts_that_fail_are_recorded(
    world: World, events: set[str], logged: int
) -> None:
    assert world.observer.recorder is not None
    world.trace.events = frozenset(events)
    world.observer.recorder.calls.notified = False
    world.trace.records = [connect(1000.0, 7)]
    for now in (1001.0, 1002.0):
        world.poll(now)
    assert world.observer.report_left(1002.0) == logged
    found = [event for event in world.of(Connection) if isinstance(event, Connection)]
    assert [event.detected_by for event in found] == ["trace"] * logged


# --- when the trace is read ------------------------------------------------------------------------------------------


class Arriving:
    """Notifications that come while those before are dealt with: the next, once one was taken. Each after its own connect()."""

    capacity = 20_000

    def __init__(self, world: World, count: int) -> None:
        self._world = world
        self._left = count
        self._queue: list[DestroyedSocket] = []
        self._arrive(3)

    def _arrive(self, count: int) -> None:
        for _ in range(min(count, self._left)):
            self._left -= 1
            at = four_tuple(f"10.0.0.5:{41000 + self._left}", "192.0.2.7:443")
            self._world.trace.records.append(connect(1000.0, self._left + 1, at))
            self._queue.append(DestroyedSocket(at, self._left + 1, True, False, NOTHING))

    def peek(self) -> DestroyedSocket | None:
        return self._queue[0] if self._queue else None

    def consume(self) -> None:
        self._queue.pop(0)
        self._arrive(1)

    def queued(self) -> int:
        return len(self._queue) // 2

    def queued_at_most(self) -> int:
        return len(self._queue)

    def dropped(self) -> int:
        return 0


def served(world: World, notifications: Arriving) -> Service:
    settings = load("/dev/null")._replace(burst_limit=0, total_limit=0)
    outbox = Outbox(Text(), None, Renderer(Units("/nowhere"), Users()), settings)
    return Service(
        settings,
        world.observer,
        outbox,
        Observation(None),
        None,
        notifications,  # type: ignore[arg-type]
        Notifier(),
        lambda: settings,
    )


def test_the_trace_is_read_after_each_notification_came_and_before_it_is_applied(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.5)
    service = served(world, Arriving(world, 50))
    service.intake.take(1000)
    threads = [event.caller.thread_id for event in world.events if isinstance(event, Connection) and event.caller]
    assert sorted(threads) == list(range(1, 51))  # type: ignore[type-var]


def test_the_loop_rests_only_where_it_is_woken_again_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now, rests = 1000.0, []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", lambda seconds: rests.append(now))
    service = served(world, Arriving(world, 0))
    for now in (1000.0, 1000.5, 1000.5005, 1000.501, 1000.6):
        world.trace.records = [connect(now, 7)]
        service._take_calls()
        assert world.trace.records == []
    assert rests == [1000.5005, 1000.501]


@pytest.mark.parametrize(
    ("count", "capacity", "rest"), [(0, 20_000, 0), (49, 20_000, 5), (50, 20_000, 20), (50, 300, 5), (500, 20_000, 0)]
)
def test_the_loop_rests_longer_in_a_burst_where_the_buffer_holds_what_comes(
    count: int, capacity: int, rest: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.5)
    arriving = Arriving(world, count)
    arriving.capacity = capacity
    service = served(world, arriving)
    service._turn(2000.0)
    assert service._rests == rest


def test_what_was_read_is_on_record_before_more_is_read(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.5)
    log = StateLog(str(tmp_path / "state"), "here")
    calls = Calls(NETNS, 0.0, log)
    log.save()
    on_record: list[bool] = []

    def read() -> list[Call | FailedAttempt]:
        log.flush()
        on_record.append(OUT.hex() in (tmp_path / "state").read_text())
        return Recorded.read(world.trace)

    monkeypatch.setattr(world.trace, "read", read)
    world.observer.recorder = Recorder(calls, lambda: world.trace, lambda cgroup, names: None)
    # Its connection stays open.
    world.trace.records = [connect(1000.0, 7)]
    served(world, Arriving(world, 20)).intake.take(1000)
    assert len(on_record) > 3
    assert on_record == [False] + [True] * (len(on_record) - 1)


def test_the_trace_is_read_whenever_the_loop_wakes_but_not_more_than_once_a_second(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    service = served(world, Arriving(world, 0))
    for now, left in ((1000.0, 0), (1000.9, 1), (1001.0, 0)):
        world.trace.records = [connect(now, 7)]
        service._turn(5000.0)
        assert len(world.trace.records) == left
