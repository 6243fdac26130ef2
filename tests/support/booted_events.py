"""tcpnewconn's entries in a container's journal, by the message ids of the contract; and what it says of a traffic."""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import booted_traffic
from tests.support.booted import Booted
from tests.support.message_ids import CONNECTION, LOSS


def events(container: Booted, message_id: str, *matches: str) -> list[dict[str, Any]]:
    # Not by the unit: journald may not know it of a process that was killed since.
    return container.journal("SYSLOG_IDENTIFIER=tcpnewconn", f"MESSAGE_ID={message_id}", *matches)


def messages(container: Booted) -> str:
    """Every line in the journal of the unit, systemd's about it included."""
    return container.journalctl("--output=cat", "--unit=tcpnewconn")


def lost(container: Booted) -> int:
    return sum(int(event["TCPNEWCONN_COUNT"]) for event in events(container, LOSS))


# Each traffic has a port of its own, by which the journal tells it from the ones before.
_ports = itertools.count(7001)


@dataclass
class Traffic:
    """Numbered connections, made in the container while the `with` block runs; `made` is known after it."""

    port: int
    lost_before: int
    made: int = 0
    seconds: float = 0.0
    ids: dict[int, Counter[str]] = field(default_factory=dict)

    def read(self, container: Booted) -> None:
        """Notes which numbers the journal has, and under which connection ids, how often."""
        self.ids = defaultdict(Counter)
        fields = "--output-fields=DESTINATION_ADDRESS,DESTINATION_PORT,TCPNEWCONN_CONNECTION_ID"
        for event in events(container, CONNECTION, f"DESTINATION_PORT={self.port}", fields):
            self.ids[booted_traffic.number_of(event["DESTINATION_ADDRESS"])][event["TCPNEWCONN_CONNECTION_ID"]] += 1

    def wait_for_some(self, container: Booted) -> None:
        """Until a poll has shown some that are still open."""
        polled = ("TCPNEWCONN_DETECTED_BY=poll", f"DESTINATION_PORT={self.port}")
        container.wait_for(lambda: events(container, CONNECTION, *polled), "an open connection to be reported")

    def of_process(self, container: Booted, pid: int) -> list[tuple[int, str]]:
        """The numbers of the connections that this process of the service has reported, and how it had detected them."""
        fields = "--output-fields=DESTINATION_ADDRESS,TCPNEWCONN_DETECTED_BY"
        return [
            (booted_traffic.number_of(event["DESTINATION_ADDRESS"]), event["TCPNEWCONN_DETECTED_BY"])
            for event in events(container, CONNECTION, f"_PID={pid}", f"DESTINATION_PORT={self.port}", fields)
        ]

    def missing(self) -> list[int]:
        return [number for number in range(self.made) if number not in self.ids]

    def never_made(self) -> list[int]:
        return [number for number in self.ids if not 0 <= number < self.made]

    def repeated(self) -> list[int]:
        return [number for number, ids in self.ids.items() if ids.total() > 1]

    def under_two_ids(self) -> list[int]:
        return [number for number, ids in self.ids.items() if len(ids) > 1]


@contextmanager
def traffic(container: Booted, rate: float) -> Iterator[Traffic]:
    here = Path(booted_traffic.__file__)
    container.write("/opt/traffic.py", here.read_text())
    made = Traffic(next(_ports), lost(container))
    running = container.start("/usr/bin/python3", "/opt/traffic.py", str(made.port), str(rate))
    try:
        yield made
        outcome = json.loads(running.communicate(timeout=60)[0])
    except BaseException:
        running.kill()
        running.wait()
        raise
    made.made, made.seconds = outcome["made"], outcome["seconds"]


def wait_for_all(container: Booted, made: Traffic) -> None:
    """Until everything that was made is in the journal, or is declared lost there."""

    def complete() -> bool:
        made.read(container)
        return len(made.missing()) <= lost(container) - made.lost_before

    try:
        container.wait_for(complete, "every connection to be reported or declared lost", within=60)
    except AssertionError as error:
        missing = made.missing()
        raise AssertionError(f"{len(missing)} of {made.made} are missing: {missing[:20]}\n{error}") from None
