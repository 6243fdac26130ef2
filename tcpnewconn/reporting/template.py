"""Makes entries of connections that differ in the opener's port and the id alone, from the entry of one of them."""

from __future__ import annotations

from tcpnewconn.eventtypes import Connection
from tcpnewconn.reporting.community import community_id
from tcpnewconn.reporting.entries import Renderer
from tcpnewconn.reporting.fields import Entry


class Template:
    """Of a connection both of whose endpoints are known."""

    def __init__(self, event: Connection, renderer: Renderer) -> None:
        self._event = event
        self._renderer = renderer
        # Made with the first that is like it: many have none.
        self._entry: Entry | None = None
        self._before = self._after = ""

    def entry(self, port: int, name: str) -> Entry:
        """That of the connection with this port and id."""
        source, destination = self._event.source, self._event.destination
        assert source.address is not None
        assert destination.address is not None
        assert destination.port is not None
        if self._entry is None:
            self._entry = self._renderer.entry(self._event)
            self._before, _, self._after = self._entry["MESSAGE"].partition(f":{source.port} -> ")
        entry = self._entry.copy()
        entry["MESSAGE"] = f"{self._before}:{port} -> {self._after}"
        entry["SOURCE_PORT"] = str(port)
        entry["NETWORK_COMMUNITY_ID"] = community_id(source.address, port, destination.address, destination.port)
        entry["TCPNEWCONN_CONNECTION_ID"] = name
        return entry
