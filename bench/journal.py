"""Receives from the journal's socket, in a mount namespace without journald: each entry, with the time it arrived."""

from __future__ import annotations

import array
import mmap
import os
import pickle
import socket
import struct
import subprocess
import time
from dataclasses import dataclass

_SOCKET = "/run/systemd/journal/socket"
_CONNECTION = b"MESSAGE_ID=74ba465b9f4e456585146b89bb95f0dc\n"
_SUMMARY = b"MESSAGE_ID=c4029bcd2a5841e3bdea3ca9ce1e0d47\n"
_END = b"END"
# Number of datagrams received, and the monotonic time of the last one.
_COUNT = struct.Struct("=Qd")
# Of one file.
_DESCRIPTOR = socket.CMSG_SPACE(array.array("i").itemsize)


@dataclass(frozen=True, slots=True)
class Entry:
    """A logged connection, or a summary with its `count`: when its datagram arrived (monotonic, s), and its fields."""

    received: float
    id: bytes
    detected_by: bytes
    source_port: int
    destination_port: int
    count: int = 0


class Journal:
    """Listens until `entries` is called. Only in a mount namespace and a network namespace of our own."""

    def __init__(self) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
        os.makedirs(os.path.dirname(_SOCKET))
        # As systemd sets it at boot; the kernel's default is 10.
        with open("/proc/sys/net/unix/max_dgram_qlen", "w") as file:
            file.write("512")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listening.bind(_SOCKET)
        self._count = mmap.mmap(-1, _COUNT.size)
        self._result, answer = os.pipe()
        self._process = os.fork()
        if self._process == 0:
            try:
                os.close(self._result)
                _drain(listening, answer, self._count)
            finally:
                os._exit(0)
        os.close(answer)
        listening.close()

    def quiet(self, seconds: float = 1.0) -> float:
        """Wait until nothing has arrived for `seconds`; returns when the last entry arrived (monotonic, s)."""
        while True:
            before = _COUNT.unpack_from(self._count)
            time.sleep(seconds)
            if _COUNT.unpack_from(self._count) == before:
                return float(before[1])

    def entries(self) -> list[Entry]:
        """The logged connections and the summaries, in order."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(_END, _SOCKET)
        with open(self._result, "rb") as result:
            entries: list[Entry] = pickle.load(result)
        os.waitpid(self._process, 0)
        os.unlink(_SOCKET)
        subprocess.run(["umount", "/run"], check=True)
        return entries


def _drain(listening: socket.socket, answer: int, count: mmap.mmap) -> None:
    received: list[tuple[float, bytes]] = []
    receive, now = listening.recvmsg, time.monotonic
    while True:
        datagram, ancillary, _, _ = receive(65536, _DESCRIPTOR)
        when = now()
        if ancillary:
            datagram = _content(ancillary[0][2])
        elif datagram == _END:
            break
        received.append((when, datagram))
        _COUNT.pack_into(count, 0, len(received), when)
    with open(answer, "wb") as result:
        pickle.dump([_entry(*each) for each in received if _CONNECTION in each[1] or _SUMMARY in each[1]], result)


def _content(packed: bytes) -> bytes:
    """The entry in a file: libsystemd passes one so that found the buffer full, and then not (sd-journal/journal-send.c)."""
    (descriptor,) = array.array("i", packed)
    with open(descriptor, "rb") as file:
        file.seek(0)
        return file.read()


def _entry(received: float, datagram: bytes) -> Entry:
    fields = dict(line.split(b"=", 1) for line in datagram.splitlines())
    return Entry(
        received,
        fields.get(b"TCPNEWCONN_CONNECTION_ID", b""),
        fields.get(b"TCPNEWCONN_DETECTED_BY", b""),
        int(fields.get(b"SOURCE_PORT", 0)),
        int(fields.get(b"DESTINATION_PORT", 0)),
        int(fields.get(b"TCPNEWCONN_COUNT", 0)),
    )
