"""The socket of a journal of the test's own, and its native protocol (systemd, JOURNAL_NATIVE_PROTOCOL.md).

It is read only when the test wants to: until then it is a journald that hangs.
"""

from __future__ import annotations

import array
import socket
import tempfile
from pathlib import Path
from types import TracebackType

Entry = dict[str, bytes]

# Room for the largest datagram that is sent, and for the file descriptor of one that was too large.
_DATAGRAM, _DESCRIPTOR = 1 << 20, 4


def parse(datagram: bytes) -> Entry:
    """The fields of an entry; each may stand in it once."""
    entry: Entry = {}
    while datagram:
        name, newline, rest = datagram.partition(b"\n")
        assert newline, f"a field without its end: {name!r}"
        if b"=" in name:
            name, _, value = name.partition(b"=")
        else:
            size = int.from_bytes(rest[:8], "little")
            value, end, rest = rest[8 : 8 + size], rest[8 + size : 9 + size], rest[9 + size :]
            assert end == b"\n", f"{name!r} is not as long as it says"
        assert name.decode() not in entry, f"{name!r} stands there twice"
        entry[name.decode()] = value
        datagram = rest
    return entry


class Journal:
    """`directory` is what a program must see as /run/systemd/journal."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="tcpnewconn-journal-")
        self.directory = Path(self._temporary.name)
        self._socket: socket.socket | None = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is not None:
            self.close()
        self._temporary.cleanup()

    def open(self) -> None:
        """Listen. So many entries wait for a journald that hangs as net.unix.max_dgram_qlen says, and one more."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind(str(self.directory / "socket"))

    def close(self, leave: bool = False) -> None:
        """End listening; with `leave`, the socket's name stays, as when journald crashes."""
        assert self._socket is not None
        self._socket.close()
        self._socket = None
        if not leave:
            (self.directory / "socket").unlink()

    def fill(self) -> int:
        """As other programs would while journald hangs: send until there is no more room; how many entries that took."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            count = 0
            while True:
                try:
                    other.sendto(b"MESSAGE=of another program\n", str(self.directory / "socket"))
                except BlockingIOError:
                    return count
                count += 1

    def receive(self, seconds: float = 30.0) -> Entry:
        """The next entry; raises TimeoutError."""
        assert self._socket is not None
        self._socket.settimeout(seconds)
        datagram, ancillary, flags, _ = self._socket.recvmsg(_DATAGRAM, socket.CMSG_SPACE(_DESCRIPTOR))
        assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        for _, _, packed in ancillary:
            (descriptor,) = array.array("i", packed)
            with open(descriptor, "rb") as file:
                file.seek(0)
                datagram = file.read()
        return parse(datagram)

    def entries(self, count: int) -> list[Entry]:
        """The next so many entries."""
        return [self.receive() for _ in range(count)]

    def empty(self) -> bool:
        """Whether no entry waits."""
        try:
            self.receive(0.001)
        except (TimeoutError, BlockingIOError):
            return True
        return False


# Run before a program that is to write there, in a mount namespace of its own.
MOUNT = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && mount --bind {directory} /run/systemd/journal"
