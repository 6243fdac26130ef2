"""Tables that a poll must wait for: pipes in place of /proc/net/tcp or tcp6."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path


class SlowTable:
    """A poll that opens it waits there until a test gives the content of the table."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = -1
        self._put_pipe()

    def _put_pipe(self) -> None:
        new = self._path.with_name(self._path.name + ".pipe")
        os.mkfifo(new)
        os.replace(new, self._path)

    def wait(self, seconds: float = 30) -> None:
        """Until a poll waits."""
        until = time.monotonic() + seconds
        while self._writing < 0:
            try:
                self._writing = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != errno.ENXIO or time.monotonic() > until:
                    raise
                time.sleep(0.005)

    def answer(self, table: bytes, further: bool = False) -> None:
        """Let the poll go on. With `further`, the next one waits too; else that finds a plain file."""
        if further:
            self._put_pipe()
        else:
            new = self._path.with_name(self._path.name + ".plain")
            new.write_bytes(table)
            os.replace(new, self._path)
        os.set_blocking(self._writing, True)
        with open(self._writing, "wb") as writing:
            writing.write(table)
        self._writing = -1
