"""Which connections a question is about, of everything that the ledger has in the period."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tcpnewconn.model import UNKNOWN
from tcpnewconn.report.book import ACCEPTED, OPENED


class Service(Protocol):
    """The local side of connections, whatever else is known of them."""

    @property
    def direction(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def local_port(self) -> int: ...
    @property
    def unit(self) -> str: ...
    @property
    def accepted_by(self) -> str: ...


def about(question: str, subject: str) -> Callable[[Service], bool]:
    """`subject` is a port or a unit of this host; a question without one is about everything."""
    if question == "who":
        port = int(subject) if subject.isdecimal() else None
        return lambda one: (
            one.direction != "egress" and (at_port(one, port) if port is not None else accepting(one) == subject)
        )
    if question == "to":
        return lambda one: opened_by(one, subject)
    if question == "allow":
        return lambda one: opened_by(one, subject) or (one.direction in ACCEPTED and accepting(one) == subject)
    return lambda one: True


def accepting(one: Service) -> str:
    """The unit of this host that accepted."""
    return one.accepted_by if one.direction == "internal" else one.unit


def at_port(one: Service, port: int) -> bool:
    return one.port == port if one.direction != UNKNOWN else port in (one.port, one.local_port)


def opened_by(one: Service, unit: str) -> bool:
    """Whether the unit opened it, or may have."""
    return one.unit == unit and one.direction in (*OPENED, UNKNOWN)
