"""Adds up the service's entries: which field counts for what. Entries come as the journal gives them, values in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from tcpnewconn.ledger.coverage import Coverage
from tcpnewconn.ledger.peers import UNNAMED
from tcpnewconn.ledger.repeats import Repeats
from tcpnewconn.ledger.schema import HOUR
from tcpnewconn.ledger.store import Service, Store, Sums

Raw = dict[str, Any]

# docs/events.md
CONNECTION, LISTENER, SUMMARY, SCAN, LOSS, DEGRADED, RECOVERED, CLOSED, FAILED, STARTED, STOPPED = ACTIONS = (
    "connection-opened",
    "listener-opened",
    "connections-summarized",
    "port-scan-detected",
    "events-lost",
    "source-degraded",
    "source-recovered",
    "connection-closed",
    "connection-failed",
    "observation-started",
    "observation-stopped",
)
KINDS = {
    b"74ba465b9f4e456585146b89bb95f0dc": CONNECTION,
    b"2226628da8304e6994685e028202cfd5": LISTENER,
    b"c4029bcd2a5841e3bdea3ca9ce1e0d47": SUMMARY,
    b"576316a0dc7b480ea3df1498dddde400": SCAN,
    b"81f4c1b5bfab4e52a63aae3dec8b0438": LOSS,
    b"ac71ee2a2e8443a59039d1319c802aa2": DEGRADED,
    b"9bd8673752994bd08028b0299ca2c261": RECOVERED,
    b"be0228f916da4937bc9055c5c372b3cd": CLOSED,
    b"f2a2bc9384a24a388b7c94454c74adf4": FAILED,
    b"a3486de517524ebf8716f2504cc51e12": STARTED,
    b"72bd65ca73e74e238df0f70dcbacb033": STOPPED,
}
# From an entry's raw fields to what it counts for; the same for the many connections of one edge and hour.
_Key = tuple[Any, ...]
_COUNT, _SUMMARIZED, _FAILED, _SOURCE_BYTES, _DESTINATION_BYTES, _FIRST, _LAST = range(7)


class Tally:
    """Sums that are not in the ledger yet. Its memory follows the number of edges, and `entries` says when to save."""

    def __init__(self, coverage: Coverage, repeats: Repeats) -> None:
        self.coverage = coverage
        self.repeats = repeats
        self.entries = 0
        self._sums: dict[_Key, list[int]] = {}
        self._addresses: dict[bytes, int] = {}
        self._rare: list[tuple[str, int, Raw]] = []

    def add(self, entry: Raw, microseconds: int) -> None:
        """One entry, stamped by the journal then."""
        self.entries += 1
        when = microseconds / 1e6
        get = entry.get
        message_id = get("MESSAGE_ID")
        kind = KINDS.get(message_id) if type(message_id) is bytes else None
        # Of a process that was killed right after it the journal does not know the run: it is the one before, or begins.
        run = get("_SYSTEMD_INVOCATION_ID") or (b"%d" % microseconds if kind is STARTED else self.repeats.run)
        if kind is STARTED or kind is STOPPED:
            self._observation(kind, entry, when, run)
            return
        coverage, span = self.coverage, self.coverage.observed
        if span is not None and run == self.repeats.run and when >= span.stop:
            span.stop = coverage.last = when
        else:
            self._run(run, when)
        if kind is CONNECTION:
            identity = get("TCPNEWCONN_CONNECTION_ID")
            if identity is not None and self.repeats.repeated(identity, when):
                return
            self._count(entry, int(when), _COUNT, 1)
        elif kind is not None:
            self._other(kind, entry, when)

    def _run(self, run: bytes, when: float) -> None:
        if run != self.repeats.run:
            self.repeats.started(run, when)
        self.coverage.entry(when, _text(run))

    def _observation(self, kind: str, entry: Raw, when: float, run: bytes) -> None:
        if kind is STOPPED:
            self.coverage.stopped(when)
            return
        self.repeats.started(run, when)
        self.coverage.started(
            when,
            _text(run),
            moment(_text(entry.get("TCPNEWCONN_OBSERVED_UNTIL"))),
            " ".join(_list(entry.get("TCPNEWCONN_IGNORE"))),
        )

    def _count(self, entry: Raw, when: int, column: int, count: int) -> None:
        get = entry.get
        direction = get("NETWORK_DIRECTION")
        key: _Key = (
            when - when % HOUR,
            direction,
            # Of the two addresses the local one does not count.
            get("SOURCE_ADDRESS") if direction == b"ingress" else get("DESTINATION_ADDRESS"),
            get("DESTINATION_PORT"),
            get("OBJECT_SYSTEMD_UNIT"),
            get("OBJECT_SYSTEMD_USER_UNIT"),
            get("PROCESS_NAME"),
            get("USER_NAME"),
            get("USER_ID"),
            get("CONTAINER_NAME"),
            get("CONTAINER_ID"),
            get("TCPNEWCONN_ACCEPTED_BY_UNIT"),
            get("SOURCE_PORT") if direction == b"unknown" else None,
        )
        try:
            sums = self._sums.get(key)
        except TypeError:
            # A field that stands twice comes as a list. The service writes none.
            once = {name: value[0] if isinstance(value, list) else value for name, value in entry.items()}
            self._count(once, when, column, count)
            return
        if sums is None:
            self._sums[key] = sums = [0, 0, 0, 0, 0, when, when]
            local = get("DESTINATION_ADDRESS") if direction == b"ingress" else get("SOURCE_ADDRESS")
            if local is not None and direction != b"internal":
                self._addresses[local] = when
        elif when > sums[_LAST]:
            sums[_LAST] = when
        elif when < sums[_FIRST]:
            sums[_FIRST] = when
        sums[column] += count

    def _other(self, kind: str, entry: Raw, when: float) -> None:
        second = int(when)
        if kind is CLOSED or kind is FAILED:
            identity = entry.get("TCPNEWCONN_CONNECTION_ID")
            if identity is not None and self.repeats.repeated(kind.encode() + identity, when):
                return
            if kind is FAILED:
                self._count(entry, second, _FAILED, _number(entry.get("TCPNEWCONN_COUNT", b"1")))
            else:
                self._count(entry, second, _SOURCE_BYTES, _number(entry.get("SOURCE_BYTES")))
                self._count(entry, second, _DESTINATION_BYTES, _number(entry.get("DESTINATION_BYTES")))
        elif kind is SUMMARY:
            self._summary(entry, second)
        elif kind is DEGRADED:
            self.coverage.source_degraded(_text(entry.get("TCPNEWCONN_REASON")), when)
        elif kind is RECOVERED:
            self.coverage.source_recovered(_text(entry.get("TCPNEWCONN_REASON")), when)
        else:
            self._rare.append((kind, second, entry))

    def _summary(self, entry: Raw, when: int) -> None:
        """The sources that a summary names count for themselves; the rest of its connections are of unnamed peers."""
        count = _number(entry.get("TCPNEWCONN_COUNT"))
        ingress = entry.get("NETWORK_DIRECTION") == b"ingress"
        peer = "SOURCE_ADDRESS" if ingress else "DESTINATION_ADDRESS"
        if peer not in entry:
            named = _list(entry.get("TCPNEWCONN_TOP_SOURCES")) if ingress else []
            for source in named:
                address, _, its = source.rpartition("=")
                share = min(_number(its.encode()), count)
                if address and share:
                    self._count({**entry, peer: address.encode()}, when, _SUMMARIZED, share)
                    count -= share
            entry = {**entry, peer: UNNAMED.encode()}
        if count:
            self._count(entry, when, _SUMMARIZED, count)

    def _named(self) -> Iterator[tuple[Service, str, int, Sums]]:
        services: dict[_Key, Service] = {}
        for key, sums in self._sums.items():
            fields = key[3:]
            service = services.get((key[1], fields))
            if service is None:
                service = services[key[1], fields] = _service(key[1], fields)
            yield service, _text(key[2]) or UNNAMED, key[0], Sums(*sums)

    def save(self, store: Store) -> None:
        """Give all of it to the ledger, in the caller's transaction."""
        store.add(self._named())
        store.add_addresses({_text(address): when for address, when in self._addresses.items()})
        for kind, when, entry in self._rare:
            _save_rare(store, kind, when, entry)
        store.set_fact("entries", store.fact("entries", 0) + self.entries)
        store.set_recent_ids(self.repeats.kept())
        store.set_fact("repeats.run", self.repeats.run)
        store.set_fact("repeats.until", self.repeats.until)
        self.entries = 0
        self._sums.clear()
        self._addresses.clear()
        self._rare.clear()


def _service(direction: bytes | None, fields: _Key) -> Service:
    port, unit, user_unit, process, user, uid, name, container, accepted_by, local_port = fields
    # A unit of a user's own systemd says more than the unit of that systemd.
    return Service(
        _text(direction) or "unknown",
        _number(port),
        _number(local_port),
        _text(user_unit) or _text(unit),
        _text(process),
        _text(user) or _text(uid),
        _text(name) or _text(container),
        _text(accepted_by),
    )


def _save_rare(store: Store, kind: str, when: int, entry: Raw) -> None:
    def text(name: str) -> str:
        return _text(entry.get(name))

    if kind is LOSS:
        store.add_loss(text("TCPNEWCONN_REASON"), _number(entry.get("TCPNEWCONN_COUNT")), when)
    elif kind is SCAN:
        store.add_scan(text("SOURCE_ADDRESS"), text("TCPNEWCONN_PORTS"), when)
    elif kind is LISTENER:
        unit = text("OBJECT_SYSTEMD_USER_UNIT") or text("OBJECT_SYSTEMD_UNIT")
        user = text("USER_NAME") or text("USER_ID")
        container = text("CONTAINER_NAME") or text("CONTAINER_ID")
        port = _number(entry.get("DESTINATION_PORT"))
        store.add_listener((text("DESTINATION_ADDRESS"), port, unit, text("PROCESS_NAME"), user, container), when)


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = value[0]
    return "" if value is None else value.decode("utf-8", "replace")


def _list(value: Any) -> list[str]:
    return [part for part in _text(value).split(",") if part]


def _number(value: Any) -> int:
    text = _text(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


def moment(text: str) -> float | None:
    """The Unix time of a time as in ISO 8601, UTC where it does not say."""
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return (found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)).timestamp()
