"""Which namespace a destroy notification is of, while ids come, end and are used again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from tcpnewconn.kernel.nsids import Change
from tcpnewconn.model import DestroyedSocket, FourTuple, Traffic, four_tuple_of
from tcpnewconn.namespaces import notified
from tcpnewconn.namespaces.notified import Notified

HERE, THERE = bytes([10, 88, 0, 5]), bytes([10, 88, 0, 6])


class Tracker:
    def __init__(self, known: Iterable[FourTuple]) -> None:
        self.known = set(known)
        self.run = self
        self.notified = False

    def knows(self, four_tuple: FourTuple) -> bool:
        return four_tuple in self.known

    def notify(self, socket: int) -> None:
        self.notified = True

    def caught_up(self, now: float) -> None:
        pass


class Observer:
    waiting = False

    def __init__(self, known: Iterable[FourTuple]) -> None:
        self.tracker = Tracker(known)
        self.ports: list[int] = []

    def settle(self) -> None:
        pass

    def destroyed(self, destroyed: DestroyedSocket, now: float) -> None:
        self.ports.append(int.from_bytes(destroyed.four_tuple[4:6], "big"))


class Namespace:
    def __init__(self, *known: FourTuple, name: str = "1.2", recorded: Iterable[FourTuple] = ()) -> None:
        self.name = name
        self.observer: Any = Observer(known)
        self.nsid: int | None = None
        self.recorded = set(recorded)

    def had(self, four_tuple: FourTuple) -> bool:
        return self.observer.tracker.knows(four_tuple) or four_tuple in self.recorded


class Kernel:
    """The socket of notifications, the ids, and what /proc shows."""

    def __init__(self) -> None:
        self.waiting: list[tuple[DestroyedSocket, int | None]] = []
        self.changed: list[Change] = []
        # What changes while the kernel is asked for an id.
        self.change_meanwhile: list[Change] = []
        self.ids: dict[int, int] = {}
        self.found: list[tuple[Namespace, int]] = []
        self.not_known = Namespace()
        self.shows_all = True
        self.over: list[Namespace] = []
        self.last_run: Namespace | None = None
        self.tested: Notified | None = None

    # As AllNotifications.

    def peek(self) -> tuple[DestroyedSocket, int | None] | None:
        return self.waiting[0] if self.waiting else None

    def consume(self) -> None:
        del self.waiting[0]

    def queued(self) -> int:
        return len(self.waiting)

    def queued_at_most(self) -> int:
        return 2 * len(self.waiting)

    def dropped(self) -> int:
        return 0

    # As Nsids.

    def changes(self) -> list[Change]:
        changed, self.changed = self.changed, []
        return changed

    def of_process(self, pid: int) -> int | None:
        self.changed += self.change_meanwhile
        self.change_meanwhile = []
        return self.ids.get(pid)

    # As Directory.

    def discover(self, now: float) -> None:
        assert self.tested is not None
        for one, pid in self.found:
            if one.nsid is None:
                self.tested.attach(one, pid)

    def of_last_run(self, four_tuple: FourTuple) -> Namespace | None:
        return self.last_run if self.last_run is not None and self.last_run.observer.tracker.knows(four_tuple) else None

    def process(self, one: Namespace) -> int | None:
        return next((pid for each, pid in self.found if each is one), None)

    def unknown(self) -> Namespace:
        return self.not_known

    def read_calls(self) -> None:
        pass

    def prepare(self, one: Namespace, four_tuple: FourTuple) -> None:
        pass

    def ended(self, one: Namespace, now: float) -> None:
        self.over.append(one)

    # What happens.

    def notify(self, port: int, nsid: int | None) -> None:
        destroyed = DestroyedSocket(socket(port), 1000 + port, True, False, Traffic(0, 0, 0, 0, 0))
        self.waiting.append((destroyed, nsid))

    def run(self, one: Namespace, pid: int, nsid: int) -> None:
        self.found.append((one, pid))
        self.ids[pid] = nsid


def socket(port: int) -> FourTuple:
    return four_tuple_of(HERE, port, THERE, 80)


@pytest.fixture
def kernel() -> Kernel:
    made = Kernel()
    whole: Any = made
    made.tested = Notified(whole, whole, whole, 0)
    return made


def take(kernel: Kernel) -> int:
    assert kernel.tested is not None
    return kernel.tested.take(100, lambda: None, lambda: None)


def test_one_of_a_known_namespace_is_its_own_and_those_of_the_host_are_left_out(kernel: Kernel) -> None:
    one = Namespace()
    kernel.run(one, 42, 0)
    kernel.discover(0.0)
    kernel.notify(1, 0)
    kernel.notify(2, None)
    assert take(kernel) == 2
    assert one.observer.ports == [1]
    assert one.observer.tracker.notified


def test_it_waits_for_the_namespace_to_be_found(kernel: Kernel) -> None:
    kernel.changed = [Change(3, True)]
    kernel.notify(1, 3)
    assert take(kernel) == 0
    one = Namespace()
    kernel.run(one, 42, 3)
    kernel.discover(0.0)
    assert take(kernel) == 1
    assert one.observer.ports == [1]


def test_where_it_is_not_found_in_time_nothing_is_known_of_it(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notified, "_WAIT", 0.0)
    kernel.notify(1, 3)
    kernel.notify(2, 3)
    assert take(kernel) == 2
    assert kernel.not_known.observer.ports == [1, 2]


def test_where_it_can_be_of_another_host_it_is_left_out(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notified, "_WAIT", 0.0)
    kernel.shows_all = False
    kernel.notify(1, 3)
    assert take(kernel) == 1
    assert kernel.not_known.observer.ports == []


def test_after_the_end_of_an_id_what_has_waited_is_of_the_namespace_that_had_it(kernel: Kernel) -> None:
    one = Namespace()
    kernel.run(one, 42, 3)
    kernel.discover(0.0)
    kernel.notify(1, 3)
    kernel.found.clear()
    kernel.changed = [Change(3, False)]
    assert take(kernel) == 1
    assert one.observer.ports == [1]
    assert kernel.over == [one]


def test_an_id_that_was_used_again_meanwhile_is_of_neither_but_for_a_socket_that_was_known(kernel: Kernel) -> None:
    one, next_one = Namespace(socket(1)), Namespace()
    kernel.run(one, 42, 3)
    kernel.discover(0.0)
    kernel.notify(1, 3)
    kernel.notify(2, 3)
    kernel.changed = [Change(3, False), Change(3, True)]
    kernel.run(next_one, 43, 3)
    kernel.found.pop(0)
    assert take(kernel) == 2
    assert (one.observer.ports, next_one.observer.ports, kernel.not_known.observer.ports) == ([1], [], [2])
    kernel.discover(0.0)
    kernel.notify(4, 3)
    assert take(kernel) == 1
    assert next_one.observer.ports == [4]


def test_an_id_that_was_given_again_to_one_that_is_not_found_yet_is_of_neither(kernel: Kernel) -> None:
    one = Namespace()
    kernel.run(one, 42, 3)
    kernel.discover(0.0)
    kernel.found.clear()
    kernel.notify(1, 3)
    kernel.changed = [Change(3, False), Change(3, True)]
    assert take(kernel) == 1
    assert (one.observer.ports, kernel.not_known.observer.ports) == ([], [1])


def test_what_can_be_of_one_that_was_seen_or_of_one_that_was_not_is_not_left_out(kernel: Kernel) -> None:
    kernel.shows_all = False
    kernel.notify(1, 3)
    one = Namespace()
    kernel.changed = [Change(3, True), Change(3, False)]
    kernel.run(one, 42, 3)
    kernel.discover(0.0)
    kernel.found.clear()
    kernel.changed = [Change(3, False)]
    assert take(kernel) == 1
    assert (one.observer.ports, kernel.not_known.observer.ports) == ([], [1])


def test_an_id_that_is_given_again_while_it_is_asked_for_is_that_of_the_new_namespace(kernel: Kernel) -> None:
    one, next_one = Namespace(), Namespace()
    kernel.run(one, 42, 3)
    kernel.discover(0.0)
    kernel.found.clear()
    kernel.run(next_one, 43, 3)
    kernel.change_meanwhile = [Change(3, False), Change(3, True)]
    kernel.discover(0.0)
    take(kernel)
    assert (one.nsid, next_one.nsid, kernel.over) == (None, 3, [one])
    kernel.notify(1, 3)
    take(kernel)
    assert next_one.observer.ports == [1]


@pytest.mark.parametrize("known", [True, False])
def test_the_end_of_an_id_that_is_said_after_it_was_given_again_is_not_that_of_the_new_namespace(
    kernel: Kernel, known: bool
) -> None:
    one, next_one = Namespace(), Namespace()
    if known:
        kernel.run(one, 42, 3)
        kernel.discover(0.0)
        kernel.found.clear()
    kernel.changed = [Change(3, True)]
    kernel.run(next_one, 43, 3)
    kernel.discover(0.0)
    kernel.changed = [Change(3, False)]
    take(kernel)
    assert (one.nsid, next_one.nsid, kernel.over) == (None, 3, [one] if known else [])
    kernel.notify(1, 3)
    take(kernel)
    assert next_one.observer.ports == [1]
    # When it ends itself:
    kernel.found.clear()
    kernel.changed = [Change(3, False)]
    take(kernel)
    assert (next_one.nsid, kernel.over[-1]) == (None, next_one)


def test_of_those_that_had_an_id_the_trace_says_which_had_the_socket(kernel: Kernel) -> None:
    one, next_one = Namespace(recorded=[socket(1), socket(3)]), Namespace(recorded=[socket(2), socket(3)])
    kernel.run(one, 42, 3)
    kernel.discover(0.0)
    kernel.found.clear()
    for port in (1, 2, 3):
        kernel.notify(port, 3)
    kernel.changed = [Change(3, False), Change(3, True)]
    kernel.run(next_one, 43, 3)
    assert take(kernel) == 3
    assert (one.observer.ports, next_one.observer.ports, kernel.not_known.observer.ports) == ([1], [2], [3])


def test_after_a_restart_a_socket_that_was_known_is_of_its_namespace(kernel: Kernel) -> None:
    kernel.last_run = Namespace(socket(1))
    kernel.notify(1, 3)
    assert take(kernel) == 1
    assert kernel.last_run.observer.ports == [1]


def test_an_id_that_has_ended_several_times_is_of_that_namespace_which_had_the_socket(kernel: Kernel) -> None:
    first, second = Namespace(socket(1)), Namespace(socket(2))
    kernel.changed = [Change(7, True)]
    # What waits in front of all keeps the rest waiting.
    kernel.notify(9, 7)
    for one, pid in ((first, 42), (second, 43)):
        kernel.run(one, pid, 3)
        kernel.discover(0.0)
        kernel.found.clear()
        kernel.notify(pid - 41, 3)
        kernel.changed.append(Change(3, False))
        assert take(kernel) == 0
    kernel.notify(5, 3)
    kernel.changed = [Change(7, False)]
    assert take(kernel) == 4
    assert (first.observer.ports, second.observer.ports) == ([1], [2])
    assert sorted(kernel.not_known.observer.ports) == [5, 9]


class Log:
    """The state log of two runs."""

    def __init__(self, *records: str) -> None:
        self.lines = list(records)
        self.owners: dict[str, Any] = {}

    def register(self, kinds: str, owner: Any) -> None:
        self.owners |= dict.fromkeys(kinds, owner)

    def append(self, line: str) -> None:
        self.lines.append(line)

    def load(self) -> None:
        for line in self.lines:
            record = json.loads(line)
            self.owners[record[0]].load(record)


@pytest.mark.parametrize(("name", "own"), [("1.2", [7]), ("5.6", [])])
def test_what_has_waited_since_the_run_before_is_of_a_namespace_that_had_the_id_then(
    kernel: Kernel, name: str, own: list[int]
) -> None:
    kernel.notify(7, 3)
    resumed(kernel, '["q",3,"1.2"]')
    one = Namespace(name=name)
    kernel.run(one, 42, 3)
    kernel.discover(0.0)
    take(kernel)
    assert one.observer.ports == own
    assert own + kernel.not_known.observer.ports == [7]
    kernel.notify(8, 3)
    take(kernel)
    assert one.observer.ports == [*own, 8]


def resumed(kernel: Kernel, *records: str) -> None:
    """A run in whose socket notifications have waited since the run before."""
    log: Any = Log('["b",9]', *records)
    kernel.tested = Notified(kernel, kernel, kernel, 9)  # type: ignore[arg-type]
    kernel.tested.record(log)
    log.load()
    kernel.tested.resume()


@pytest.mark.parametrize("changed", [[], [Change(3, False)], [Change(3, False), Change(3, True)]])
def test_after_a_restart_the_socket_of_the_run_before_is_known_although_its_id_is_that_of_another_one_or_was(
    kernel: Kernel, changed: list[Change]
) -> None:
    kernel.notify(1, 3)
    resumed(kernel, '["q",3,"1.2"]')
    kernel.last_run = Namespace(socket(1))
    now = Namespace(name="5.6")
    kernel.run(now, 42, 3)
    kernel.discover(0.0)
    kernel.found.clear()
    kernel.changed = changed
    assert take(kernel) == 1
    assert kernel.last_run.observer.ports == [1]
    assert (now.observer.ports, kernel.not_known.observer.ports) == ([], [])


@pytest.mark.parametrize("shows_all", [True, False])
def test_what_has_waited_since_the_run_before_is_not_of_one_that_had_the_id_for_the_first_time_since(
    kernel: Kernel, shows_all: bool
) -> None:
    kernel.shows_all = shows_all
    kernel.notify(1, 3)
    resumed(kernel, '["q",3,"1.2"]')
    now = Namespace(name="5.6")
    kernel.run(now, 42, 3)
    kernel.discover(0.0)
    kernel.found.clear()
    kernel.changed = [Change(3, False)]
    assert take(kernel) == 1
    assert (now.observer.ports, kernel.not_known.observer.ports) == ([], [1])


def test_what_comes_after_a_restart_is_of_the_namespace_that_has_the_id_although_nothing_was_taken_before(
    kernel: Kernel,
) -> None:
    """Its connection was shown by the first poll: in another namespace it would be logged once more."""
    resumed(kernel)
    now = Namespace(socket(1), name="5.6")
    kernel.run(now, 42, 3)
    kernel.discover(0.0)
    kernel.notify(1, 3)
    assert take(kernel) == 1
    assert (now.observer.ports, kernel.not_known.observer.ports) == ([1], [])


def test_what_can_have_waited_is_of_the_namespace_that_has_the_id_now_if_that_has_the_socket(kernel: Kernel) -> None:
    """The first poll has shown it there; what waited before it in the queue can have kept it waiting since."""
    kernel.notify(2, 3)
    resumed(kernel, '["q",3,"1.2"]')
    now = Namespace(socket(1), name="5.6")
    kernel.run(now, 42, 3)
    kernel.discover(0.0)
    kernel.notify(1, 3)
    assert take(kernel) == 2
    assert (now.observer.ports, kernel.not_known.observer.ports) == ([1], [2])
