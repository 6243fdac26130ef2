"""100,000 connections of 50 users in 20 units, whose thread ids and ports are used again at once: none is another's."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass

import pytest

from tcpnewconn.attribution import callers
from tcpnewconn.attribution.calls import Calls
from tcpnewconn.attribution.found import Found
from tcpnewconn.model import Call, Caller, FailedAttempt, FourTuple, Origin, mirrored
from tests.support.calls import NETNS, four_tuple

pytestmark = pytest.mark.random

CONNECTIONS = 100_000
USERS, UNITS, THREADS, PORTS = 50, 20, 40, 300
# Seconds between two polls.
_INTERVAL = 1.0


@dataclass(eq=False)
class Opened:
    """A connection within this host, from its connect() on: what was called, and whether a poll has shown it."""

    at: FourTuple
    connect: Call
    accept: Call | None = None
    reported: bool = False


class Host:
    """Programs that open, accept and close connections; and the service, as far as attribution goes."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.calls = Calls(NETNS, 0.0)
        self.ring: list[Call | FailedAttempt] = []
        self.open: list[Opened] = []
        self.free = [four_tuple(f"127.0.0.1:{30_000 + port}", "127.0.0.1:8080") for port in range(PORTS)]
        # Notifications on their way: when they come, a number, whose, of which socket.
        self.coming: list[tuple[float, int, Opened, FourTuple]] = []
        self.count = 0
        self.found: Counter[str] = Counter()

    def call(self, by: str, at: FourTuple) -> Call:
        self.now += 1e-5
        who = self.random.randrange(USERS), self.random.randrange(UNITS), self.random.randrange(THREADS)
        call = Call(
            by, self.now, at, Origin(who[0], 100 + who[1], (), NETNS, who[2], f"program-{self.random.randrange(9)}")
        )
        self.ring.append(call)
        return call

    def step(self) -> None:
        self.now += self.random.expovariate(4000)
        chance = self.random.random()
        if self.free and (chance < 0.5 or not self.open):
            # Of ten, one takes the port that has become free last, and so before notifications of the one before have come.
            at = self.free.pop(-1 if self.random.random() < 0.1 else 0)
            opened = Opened(at, self.call("connect", at))
            if self.random.random() < 0.05:
                self.ring.append(FailedAttempt(self.now, at, NETNS, 111))
                self.free.append(at)
                return
            self.count += 1
            self.open.append(opened)
            if self.random.random() < 0.9:
                opened.accept = self.call("accept", mirrored(at))
        elif self.open:
            opened = self.open.pop(self.random.randrange(len(self.open)))
            if opened.accept is None and self.random.random() < 0.5:
                opened.accept = self.call("accept", mirrored(opened.at))
            sockets = [opened.at, mirrored(opened.at)]
            self.random.shuffle(sockets)
            for socket in sockets:
                heapq.heappush(
                    self.coming, (self.now + self.random.uniform(0, 0.005), len(self.coming), opened, socket)
                )
            self.free.append(opened.at)

    def read(self) -> None:
        self.calls.add(self.ring)
        self.ring = []

    def receive(self, until: float) -> None:
        while self.coming and self.coming[0][0] <= until:
            _, _, opened, socket = heapq.heappop(self.coming)
            self.read()
            if opened.reported:
                self.calls.closed(socket)
                continue
            opened.reported = True
            self.judge(opened, callers.destroyed(self.calls, socket, True, self.now, 0.0))

    def poll(self) -> None:
        self.receive(self.now)
        self.read()
        for opened in self.open:
            if not opened.reported:
                opened.reported = True
                accepted = opened.accept is not None
                socket = opened.at if self.random.random() < 0.5 else mirrored(opened.at)
                shown = callers.shown(
                    self.calls, socket, True, self.now, self.now, accepted or socket == opened.at, self.now
                )
                self.judge(opened, shown)
        self.calls.polled(self.now)

    def judge(self, opened: Opened, found: Found) -> None:
        for caller, call in ((found.opened, opened.connect), (found.accepted, opened.accept)):
            assert caller is None or (call is not None and fits(caller, call)), f"{found}: {opened}"
        self.found["known" if found.opened and found.opened.thread_id is not None else found.missing or "?"] += 1


def fits(caller: Caller, call: Call) -> bool:
    return (
        caller.uid in (None, call.origin.uid)
        and caller.cgroup in (0, call.origin.cgroup)
        and caller.thread_id in (None, call.origin.thread_id)
        and caller.thread_name in (None, call.origin.thread_name)
        and caller.time in (None, call.time)
    )


@pytest.mark.parametrize("seed", range(2))
def test_no_connection_of_a_hundred_thousand_is_attributed_to_another(seed: int) -> None:
    host = Host(seed)
    host.poll()
    due = host.now + _INTERVAL
    while host.count < CONNECTIONS:
        host.step()
        if host.now >= due:
            host.poll()
            due = host.now + _INTERVAL
        elif host.random.random() < 0.3:
            host.receive(host.now)
    host.now += 1.0
    host.receive(host.now)
    host.poll()
    assert host.found.total() == host.count
    # Of two connections on one port whose notifications were on their way together, neither has a thread; every other has.
    assert host.found["known"] + host.found["ambiguous"] == host.count
    assert host.found["known"] > 0.75 * host.count
