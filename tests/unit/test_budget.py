"""Other namespaces are polled when they have changed, in turns, and within their share of the CPU's time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tcpnewconn.attribution.units import Units
from tcpnewconn.eventtypes import Connection, Event, Listener
from tcpnewconn.kernel.host import Host
from tcpnewconn.kernel.procnet import ProcNet
from tcpnewconn.namespaces import known
from tcpnewconn.namespaces.others import Others
from tcpnewconn.observing.observer import Observer
from tcpnewconn.observing.recorded import Elsewhere
from tcpnewconn.tracking.run import Notifications
from tests.support.clock import Clock

CAPTURED = sorted(Path(__file__).parents[1].glob("fixtures/linux-*"))[0]


class SlowUnits(Units):
    """Takes two seconds of CPU time for one of the cgroups."""

    def __init__(self, cpu: Clock, root: str) -> None:
        super().__init__(root)
        self._cpu = cpu

    def id(self, names: Sequence[str]) -> int:
        if list(names) == ["slow.service"]:
            self._cpu.now += 2.0
        return super().id(names)


class Machine:
    """A directory that looks like /proc, of a host and some other namespaces; and who observes them."""

    def __init__(self, root: Path, count: int, cost: float = 0.0, elsewhere: Elsewhere | None = None) -> None:
        """Polling one takes so many seconds of CPU time, and looking at its counters as many. `elsewhere` as in Others."""
        self.root = root
        self.events: list[Event] = []
        self.now = 1000.0
        self.cpu = Clock(cost)
        for pid, name in ((1, "host"), *((100 + number, f"other{number}") for number in range(count))):
            net = root / f"{name}.net"
            net.mkdir()
            for file in (*(CAPTURED / "counters").iterdir(), *(CAPTURED / "loopback/net").iterdir()):
                shutil.copy(file, net)
            (root / str(pid)).mkdir()
            (root / str(pid) / "net").symlink_to(net)
            (root / str(pid) / "cgroup").write_text("0::/\n")
        (root / "self").mkdir()
        (root / "self/net").symlink_to(root / "host.net")
        here = Host("0" * 32, "1", (32768, 60999), True, True)
        observer = Observer(ProcNet(str(root)), here, None, self.events.append, Notifications.NONE)
        units = SlowUnits(self.cpu, str(root / "cgroups"))
        self.others = Others(here, observer, self.events.append, units, None, str(root), self.cpu, elsewhere)
        self.others.include(True, 0.01)

    def change(self, number: int) -> None:
        """Its counters are others than before."""
        file = self.root / f"other{number}.net" / "snmp"
        names, values = [line for line in file.read_text().split("\n") if line.startswith("Tcp:")]
        wanted = values.split()
        wanted[5] = str(int(wanted[5]) + 1)
        file.write_text(file.read_text().replace(values, " ".join(wanted)))

    def interval(self) -> dict[str, int]:
        """What was done in an interval of ten seconds."""
        before = dict(self.others.schedule.results)
        self.now += 10
        self.others.look(self.now)
        self.others.poll()
        return {result: count - before[result] for result, count in self.others.schedule.results.items()}


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[int, float], Machine]:
    return lambda count, cost: Machine(tmp_path, count, cost)


def test_all_are_polled_at_first_whatever_it_takes(machine: Callable[[int, float], Machine]) -> None:
    made = machine(20, 1.0)
    assert made.interval() == {"polled": 20, "unchanged": 0, "late": 0}
    assert len({event.netns for event in made.events if isinstance(event, Connection)}) == 20
    assert all(event.startup for event in made.events if isinstance(event, Listener))


def test_one_that_has_not_changed_is_polled_once_more_and_then_now_and_then(
    machine: Callable[[int, float], Machine],
) -> None:
    made = machine(20, 0.0)
    made.interval()
    assert made.interval() == {"polled": 20, "unchanged": 0, "late": 0}
    polled = [made.interval()["polled"] for _ in range(60)]
    assert sum(polled) == 20
    # Not all at the same time.
    assert max(polled) < 10


def test_one_that_has_changed_is_polled_twice(machine: Callable[[int, float], Machine]) -> None:
    made = machine(3, 0.0)
    made.interval()
    made.interval()
    made.change(1)
    polled = [made.interval()["polled"] for _ in range(3)]
    assert polled[:2] >= [1, 1]
    assert sum(polled) <= 5


def test_they_take_no_more_than_their_share_and_each_has_its_turn(machine: Callable[[int, float], Machine]) -> None:
    made = machine(50, 0.005)
    made.interval()
    spent, began = made.others.schedule.budget.seconds, made.now
    changed = 0
    for _ in range(40):
        for number in range(50):
            made.change(number)
        result = made.interval()
        assert result["late"] > 0
        changed += result["polled"]
    assert made.others.schedule.budget.seconds - spent <= 0.01 * (made.now - began) + 0.02
    assert changed >= 40 * 15
    assert made.others.schedule.late > 0
    made.others.include(False, 0.01)
    assert made.others.schedule.late == 0


def test_one_that_takes_long_does_not_keep_the_others_waiting(machine: Callable[[int, float], Machine]) -> None:
    made = machine(5, 0.0)
    made.interval()
    made.interval()
    (made.root / "100/cgroup").write_text("0::/slow.service\n")
    spent, began = made.others.schedule.budget.seconds, made.now
    polled = 0
    for _ in range(60):
        for number in range(5):
            made.change(number)
        polled += made.interval()["polled"]
    # The four others nearly each time. This one takes two seconds, the share of 200.
    assert polled >= 60 * 4 * 0.8
    assert 2.0 <= made.others.schedule.budget.seconds - spent <= 2.0 * (1 + (made.now - began) / 200)


def test_where_looking_takes_longer_than_the_share_each_has_its_turn_all_the_same(
    machine: Callable[[int, float], Machine],
) -> None:
    made = machine(5, 0.2)
    made.interval()
    spent, began = made.others.schedule.budget.seconds, made.now
    polled = 0
    for _ in range(400):
        for number in range(5):
            made.change(number)
        polled += made.interval()["polled"]
    assert made.others.schedule.budget.seconds - spent <= 0.01 * (made.now - began) + 0.5
    assert polled >= 50


def test_no_more_namespaces_that_have_gone_are_remembered_than_are_observed(
    machine: Callable[[int, float], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "MOST", 3)
    made = machine(10, 0.0)
    made.interval()
    for number in range(2, 10):
        shutil.rmtree(made.root / str(100 + number))
    made.interval()
    assert len(made.others.known.by_key) == 2 + 3
    for _ in range(12):
        made.interval()
    assert len(made.others.known.by_key) == made.others.known.count == 2


@pytest.mark.parametrize(("first", "why"), [(None, "processes of other users are hidden"), ("other0", "process 1")])
def test_where_they_cannot_be_observed_the_reason_is_said_once_and_the_host_is_observed(
    machine: Callable[[int, float], Machine], capfd: pytest.CaptureFixture[str], first: str | None, why: str
) -> None:
    made = machine(2, 0.0)
    made.others.include(False, 0.01)
    shutil.rmtree(made.root / "1")
    if first is not None:
        (made.root / "1").mkdir()
        (made.root / "1/net").symlink_to(made.root / f"{first}.net")
    for _ in range(2):
        made.others.include(True, 0.01)
    assert made.interval() == {"polled": 0, "unchanged": 0, "late": 0}
    [said] = capfd.readouterr().err.splitlines()
    assert why in said
