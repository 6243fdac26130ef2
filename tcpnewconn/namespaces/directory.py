"""What destroy notifications need to know of the other network namespaces: those that send them, and which there are."""

from __future__ import annotations

from typing import Protocol

from tcpnewconn.model import FourTuple
from tcpnewconn.observing.observer import Observer


class Notifying(Protocol):
    """A namespace, as far as it is needed here. It has no `nsid` where it sends no notifications."""

    @property
    def observer(self) -> Observer: ...

    @property
    def name(self) -> str:
        """Unique on this host, until it is booted again."""

    nsid: int | None

    def had(self, four_tuple: FourTuple) -> bool:
        """Whether it had a socket of this 4-tuple that is not known as destroyed: by the polls, or by the trace."""


class Directory(Protocol):
    """All other namespaces, as far as they are needed here."""

    def discover(self, now: float) -> None:
        """Look for new processes, and attach() the namespaces that they are in."""

    def of_last_run(self, four_tuple: FourTuple) -> Notifying | None:
        """The one namespace without an id that was notified in the run before and had this socket."""

    def process(self, one: Notifying) -> int | None:
        """A process that is in a namespace now."""

    def unknown(self) -> Notifying:
        """One of which nothing is known."""

    @property
    def shows_all(self) -> bool:
        """Whether the processes of all namespaces are in sight. If not, one without any can be another host's."""

    def ended(self, one: Notifying, now: float) -> None:
        """A namespace has ended, and everything of it was received."""

    def read_calls(self) -> None:
        """Take who opened and accepted connections until now."""

    def prepare(self, one: Notifying, four_tuple: FourTuple) -> None:
        """Poll a namespace that was not polled yet: what listens there shows who opened a connection.

        Of one that is not known, find out what was recorded of this socket.
        """
