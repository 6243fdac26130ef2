"""The destroy notifications of other network namespaces: which namespace each is of, and which could not be received.

A notification carries the id of its namespace (kernel/nsids.py). Ids are used again: where one has ended, notifications that have
waited since before are of the namespace that had it; if another one has it by then, they are of the one that had such a socket,
or of neither for sure. So are those that can have waited while this program did not run, where another namespace has their id
now.
Record q is its own: the id of each.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Literal

from tcpnewconn.kernel.allnamespaces import AllNotifications
from tcpnewconn.kernel.nsids import Nsids
from tcpnewconn.model import DestroyedSocket
from tcpnewconn.namespaces.directory import Directory, Notifying
from tcpnewconn.state.owner import Log, Record
from tcpnewconn.tracking.cursor import Cursor

# Seconds for which the notifications of a namespace wait until a process shows which one it is; and between two looks for one. A
# container has processes within half a second after its device has come (measured, podman 5.4).
_WAIT = 1.0
# For so many seconds after an id was given its namespace may still be found.
_EXPECTED = 60.0
_LOOK_EVERY = 0.05


class Notified:
    """`inode` is that of the socket in which notifications wait while the program does not run; 0 if they do not."""

    def __init__(self, source: AllNotifications, nsids: Nsids, directory: Directory, inode: int) -> None:
        self.source = source
        self.nsids = nsids
        self.inode = inode
        self._directory = directory
        self._cursor = Cursor(None, inode)
        self._log: Log | None = None
        # Those that the last run knew, by id; how many notifications can have waited since then, at most.
        self._before: dict[int, str] = {}
        self._backlog = 0
        self._by_nsid: dict[int, Notifying] = {}
        # Those that have ended, by the id that they had, until no notification of them can wait any more; None: not known.
        self._ended: dict[int, list[Notifying | None]] = {}
        # Since when another id is known.
        self._since: dict[int, float] = {}
        self._looked = float("-inf")
        self._unknown: dict[int, Notifying] = {}
        # The next notification is of a namespace that may be known later: there is nothing to do before it is looked for again.
        self._later = False
        # Those that tick() has something to report of.
        self._waiting: dict[int, Notifying] = {}

    # --- what outlives a restart -------------------------------------------------------------------------------------

    def record(self, log: Log) -> None:
        """How far notifications were processed is on record there."""
        self._cursor = Cursor(log, self.inode)
        self._log = log
        log.register("q", self)

    def resume(self) -> None:
        """The state of this boot was loaded."""
        unbroken = self._cursor.resume(self.source.dropped())
        self._backlog = self.source.queued_at_most() if unbroken else 0

    def clear(self) -> None:
        """Start without any state."""
        self._before.clear()

    def records(self) -> Iterator[str]:
        for nsid, one in self._by_nsid.items():
            yield json.dumps(["q", nsid, one.name])

    def load(self, record: Record) -> None:
        self._before[int(record[1])] = str(record[2])

    # --- which namespace has which id --------------------------------------------------------------------------------

    def attach(self, one: Notifying, process: int) -> None:
        """Find the id of a namespace, by one of its processes; it has none where it sends no notifications."""
        nsid = self.nsids.of_process(process)
        if nsid is None:
            return
        # An id that has ended by now was that of another one, unless this one has ended, too.
        self.take_changes(time.monotonic())
        if self.nsids.of_process(process) != nsid:
            return
        self._since.pop(nsid, None)
        self._unknown.pop(nsid, None)
        if nsid in self._by_nsid:
            self._ends(nsid)
        self._by_nsid[nsid] = one
        one.nsid = nsid
        if self._log is not None:
            self._log.append(json.dumps(["q", nsid, one.name]))
        if not one.observer.tracker.run.notified:
            one.observer.tracker.notify(self.inode)

    def detach(self, one: Notifying) -> None:
        """A namespace is not observed any more."""
        if one.nsid is not None and self._by_nsid.get(one.nsid) is one:
            del self._by_nsid[one.nsid]
        one.nsid = None
        self._waiting.pop(id(one), None)

    def _read_changes(self, now: float) -> None:
        """Know which ids were given and have ended until now; look for the namespaces of those whose is not known."""
        self.take_changes(now)
        if self._seeks(now) and now >= self._looked + _LOOK_EVERY:
            self._looked = now
            self._directory.discover(now)

    def _seeks(self, now: float) -> bool:
        """Whether there is an id whose namespace may be known soon."""
        return any(now < since + _WAIT for since in self._since.values())

    def expects(self, now: float) -> bool:
        """Whether there is an id whose namespace is not known, and may be one day; or has sent notifications."""
        return bool(self._unknown) or any(now < since + _EXPECTED for since in self._since.values())

    def take_changes(self, now: float) -> bool:
        """Know which ids were given and have ended until now; whether there were any changes."""
        changes = self.nsids.changes()
        if changes is None:
            # Some were lost: none is sure.
            for one in list(self._by_nsid.values()):
                self.detach(one)
            self._ended.clear()
            self._looked = float("-inf")
            changes = []
        for nsid, given in changes:
            if given:
                if nsid not in self._by_nsid:
                    self._since.setdefault(nsid, now)
                    # At once: a container can end within some milliseconds.
                    self._looked = float("-inf")
                continue
            if nsid in self._by_nsid and self._has_id(self._by_nsid[nsid], nsid):
                # The kernel takes an id back before it says so: another namespace can have got it in between.
                self._ended.setdefault(nsid, []).append(None)
                continue
            self._since.pop(nsid, None)
            self._unknown.pop(nsid, None)
            self._ends(nsid)
        return bool(changes)

    def _has_id(self, one: Notifying, nsid: int) -> bool:
        process = self._directory.process(one)
        return process is not None and self.nsids.of_process(process) == nsid

    def _ends(self, nsid: int) -> None:
        """A namespace has an id no longer."""
        ended = self._by_nsid.pop(nsid, None)
        if ended is not None:
            ended.nsid = None
        self._ended.setdefault(nsid, []).append(ended)

    def _of(self, nsid: int, destroyed: DestroyedSocket, now: float) -> Notifying | Literal["later"] | None:
        """The namespace of a notification, or that it may be known later; None where it is none of this host's."""
        current, ended = self._by_nsid.get(nsid), self._ended.get(nsid, [])
        before = self._directory.of_last_run(destroyed.four_tuple) if self._backlog or current is None else None
        if before is not None:
            return before
        # Those that had the id since it was sent, or before.
        had_id = ended if current is None else [*ended, current]
        if not had_id:
            if now < self._since.setdefault(nsid, now) + _WAIT:
                return "later"
            return self._not_known(nsid) if self._directory.shows_all else None
        first = had_id[0]
        alone = len(had_id) == 1 and (current is not None or nsid not in self._since)
        if alone and first is not None and not (self._backlog and self._before.get(nsid) != first.name):
            return first
        had_socket = [one for one in had_id if one is not None and one.had(destroyed.four_tuple)]
        if len(had_socket) == 1:
            return had_socket[0]
        # None where it can only be of one that no process was seen of.
        return self._not_known(nsid) if self._directory.shows_all or not alone or first is not None else None

    def _not_known(self, nsid: int) -> Notifying:
        """One of which nothing is known: the same until its id, or that of the next one, is of a known namespace."""
        if nsid not in self._unknown:
            self._unknown[nsid] = self._directory.unknown()
        return self._unknown[nsid]

    # --- notifications -----------------------------------------------------------------------------------------------

    def take(self, most: int, deliver: Callable[[], object], flush: Callable[[], object]) -> int:
        """Process so many at most of those that wait; returns how many there were.

        Of each, `deliver` delivers the events, and `flush` puts on record that it was processed.
        """
        source, cursor = self.source, self._cursor
        known = taken = 0
        touched: dict[int, Notifying] = {}
        self._later = False
        self._read_changes(time.monotonic())
        while taken < most:
            notification = source.peek()
            now = time.monotonic()
            if notification is None:
                ended, self._ended = self._ended, {}
                for over in (one for each in ended.values() for one in each if one is not None):
                    self._directory.ended(over, now)
                self._backlog = 0
                for one in self._waiting.values():
                    one.observer.tracker.caught_up(now)
                break
            destroyed, nsid = notification
            if nsid is not None and destroyed.cookie != cursor.last:
                if not known:
                    # Whatever was sent by now is of a namespace whose id was given before.
                    known = max(1, source.queued())
                    self._read_changes(now)
                    _settle(touched)
                    self._directory.read_calls()
                    now = time.monotonic()
                of = self._of(nsid, destroyed, now)
                if of == "later":
                    self._later = True
                    break
                if of is not None:
                    self._directory.prepare(of, destroyed.four_tuple)
                    of.observer.destroyed(destroyed, now)
                    self.watch(of)
                    touched[id(of)] = of
                deliver()
                cursor.handled(destroyed.cookie)
                flush()
            known = max(0, known - 1)
            self._backlog = max(0, self._backlog - 1)
            source.consume()
            taken += 1
        _settle(touched)
        return taken

    @property
    def descriptors(self) -> list[int]:
        """They become readable when take() has something to do at once."""
        changes = self.nsids.fileno()
        return [changes] if self._later else [self.source.fileno(), changes]

    def watch(self, one: Notifying) -> None:
        """Let tick() report what is due of a namespace."""
        if one.observer.waiting:
            self._waiting[id(one)] = one

    def tick(self, now: float) -> None:
        """Report what is due by now."""
        for key, one in list(self._waiting.items()):
            one.observer.tick(now)
            if not one.observer.waiting:
                del self._waiting[key]

    @property
    def waiting(self) -> bool:
        """Whether tick() or take() will soon have something to do."""
        return bool(self._waiting) or self._seeks(time.monotonic())

    # --- losses ------------------------------------------------------------------------------------------------------

    def lost(self, now: float) -> int:
        """How many notifications were lost that were not reported yet: they are now."""
        cursor = self._cursor
        if cursor.count(self.source.dropped(), now):
            for one in self._by_nsid.values():
                one.observer.tracker.run.gap = True
                one.observer.lost_notifications(now)
        cursor.settle(0)
        return cursor.take()


def _settle(touched: dict[int, Notifying]) -> None:
    """A batch of notifications of these namespaces has been applied."""
    for one in touched.values():
        one.observer.settle()
    touched.clear()
