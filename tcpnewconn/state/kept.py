"""What outlives a restart, and the lines that say it: a list in JSON each, whose first element is the kind."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from tcpnewconn.model import DestroyedSocket, FourTuple, Traffic
from tcpnewconn.reporting.aggregation import Key
from tcpnewconn.reporting.fields import Entry
from tcpnewconn.tracking.leaving import Gone
from tcpnewconn.tracking.sockets import Socket, Sockets
from tcpnewconn.tracking.tracker import Tracker

# json.dumps() would make an encoder for each line.
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(slots=True)
class Kept:
    """What a snapshot holds.

    `folded` are connections that were counted and not told yet, its `keys` by the number that the file has for them.
    `last_end` is the cookie of the last announced end that was dealt with, `drops` how many lost ones had been told of by then,
    `buffer` the inode of the socket on which they were announced (0 if that did not outlive the program). `beginning` and
    `doubtful` are as in Changes.knows(), `wiped` ends as Changes.wait() has them, by their cookie.
    """

    place: str
    sockets: Sockets = field(default_factory=Sockets)
    leaving: dict[FourTuple, list[Gone]] = field(default_factory=dict)
    owed: dict[FourTuple, list[int]] = field(default_factory=dict)
    closed: set[FourTuple] = field(default_factory=set)
    wiped: dict[int, tuple[DestroyedSocket, float, FourTuple | None]] = field(default_factory=dict)
    beginning: bool = False
    doubtful: bool = False
    listeners: set[str] = field(default_factory=set)
    folded: dict[Key, int] = field(default_factory=dict)
    keys: dict[int, Key] = field(default_factory=dict)
    serial: int = 0
    last_end: int = 0
    drops: int = 0
    buffer: int = 0
    undelivered: dict[int, Entry] = field(default_factory=dict)

    def restore(self, tracker: Tracker, unbroken: bool, now: float) -> None:
        """Let a tracker continue; `unbroken` where every announcement since has been waiting."""
        tracker.serial = self.serial
        tracker.restore(self.sockets, unbroken, self.beginning, self.doubtful)
        for several in self.leaving.values():
            for gone in several:
                tracker.restore_leaving(gone, now)
        for four_tuple, numbers in self.owed.items():
            for number in numbers:
                tracker.owed.restore(four_tuple, number, now)
        for four_tuple in self.closed:
            tracker.restore_closed(four_tuple, now)
        for wiped in self.wiped.values():
            tracker.wiped.restore(*wiped)


def socket_line(kind: str, four_tuple: FourTuple, socket: Socket, more: str = "") -> str:
    paired = "true" if socket.paired else "false"
    return (
        f'["{kind}","{four_tuple.hex()}",{socket.cookie},{socket.inode},{socket.state},{socket.number},{paired},'
        f"{socket.opened:.3f}{more}]"
    )


def gone_line(four_tuple: FourTuple, socket: Socket, doubtful: bool, lost: bool) -> str:
    """A socket that is in no row; with what is in doubt, as in leaving.Gone."""
    return socket_line("v", four_tuple, socket, f",{int(lost)}" if doubtful else "")


def wiped_line(end: DestroyedSocket, came: float, guess: FourTuple | None) -> str:
    taken = None if guess is None else guess.hex()
    return _ENCODE(["y", end.four_tuple.hex(), end.cookie, list(end.traffic), round(came, 3), taken])


def group_line(number: int, key: Key, count: int) -> str:
    direction, source, destination, port, cgroup = key
    ends = [None if address is None else address.hex() for address in (source, destination)]
    return _ENCODE(["g", number, direction, *ends, port, cgroup, count])


def apply(record: list, kept: Kept) -> None:  # type: ignore[type-arg]
    """Take one line into account. Whatever is wrong with it, one of the usual errors is raised."""
    kind = record[0]
    if kind in ("+", "v"):
        _, text, cookie, inode, state, number, paired, opened, *doubts = record
        four_tuple = bytes.fromhex(text)
        socket = Socket(int(cookie), int(inode), int(state), int(number), bool(paired), float(opened))
        kept.serial = max(kept.serial, -socket.number)
        if kind == "+":
            kept.sockets[four_tuple] = socket
        else:
            gone = Gone(socket, four_tuple, 0.0, doubtful=bool(doubts), lost=doubts == [1])
            kept.leaving.setdefault(four_tuple, []).append(gone)
    elif kind == "-":
        kept.sockets.pop(bytes.fromhex(record[1]))
    elif kind == "w":
        several = kept.leaving[bytes.fromhex(record[1])]
        del several[[gone.socket.cookie for gone in several].index(record[2])]
    elif kind == "o":
        kept.owed.setdefault(bytes.fromhex(record[1]), []).append(int(record[2]))
    elif kind == "s":
        numbers = kept.owed[bytes.fromhex(record[1])]
        # Which of them was not written down at first: it was the first then.
        numbers.remove(record[2] if len(record) > 2 else numbers[0])
    elif kind == "c":
        kept.closed.add(bytes.fromhex(record[1]))
    elif kind == "y":
        _, four_tuple, cookie, traffic, came, guess = record
        end = DestroyedSocket(bytes.fromhex(four_tuple), int(cookie), True, True, Traffic(*map(int, traffic)))
        kept.wiped.pop(end.cookie, None)
        kept.wiped[end.cookie] = (end, float(came), None if guess is None else bytes.fromhex(guess))
    elif kind == "z":
        kept.wiped.pop(record[1], None)
    elif kind == "i":
        kept.beginning, kept.doubtful = bool(record[1]), bool(record[2])
    elif kind == "l":
        kept.listeners.add(str(record[1]))
    elif kind == "k":
        kept.listeners.discard(str(record[1]))
    elif kind == "x":
        kept.last_end, kept.drops = int(record[1]), int(record[2])
    elif kind == "b":
        kept.buffer = int(record[1])
    elif kind == "n":
        kept.serial = max(kept.serial, int(record[1]))
    elif kind == "g":
        _, number, direction, source, destination, port, cgroup, count = record
        source, destination = (None if end is None else bytes.fromhex(end) for end in (source, destination))
        key = (str(direction), source, destination, None if port is None else int(port), int(cgroup))
        kept.keys[int(number)] = key
        kept.folded[key] = int(count)
    elif kind == "f":
        kept.folded[kept.keys[record[1]]] += 1
    elif kind == "h":
        kept.folded.clear()
        kept.keys.clear()
    elif kind == "e":
        kept.undelivered[int(record[1])] = {str(key): str(value) for key, value in record[2].items()}
    elif kind == "d":
        del kept.undelivered[int(record[1])]
    else:
        raise ValueError(f"unknown record {kind!r}")
