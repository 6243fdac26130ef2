"""tcpnewconn in pseudo-terminals, as a person runs it: one for its output, one for its stderr."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType

from tests.support.terminal import TREE, command, environment

# As long as anything may take on a busy machine.
_LONGEST = 30.0


class _Terminal:
    """A pseudo-terminal; what was written into it, with line ends as they were written."""

    def __init__(self, columns: int) -> None:
        self.leader, self.follower = pty.openpty()
        self.text = ""
        self.resize(columns)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.leader, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


class Screen:
    """Running until the end of the `with` block. `output` False: what it prints goes nowhere near a terminal, but is kept."""

    def __init__(
        self, *options: str, columns: int = 200, output: bool = True, more: Mapping[str, str] | None = None
    ) -> None:
        self._out, self._err = _Terminal(columns), _Terminal(columns)
        self._changed = threading.Condition()
        reading, writing = (None, self._out.follower) if output else os.pipe()
        # The first terminal is the controlling one: Ctrl+C there is SIGINT.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command(*options)],
            cwd=TREE,
            env=environment({"TERM": "xterm"} | dict(more or {})),
            stdin=self._out.follower,
            stdout=writing,
            stderr=self._err.follower,
        )
        if not output:
            os.close(writing)
        for each in (self._out, self._err):
            os.close(each.follower)
        sources = [(self._out.leader if reading is None else reading, self._out), (self._err.leader, self._err)]
        self._threads = [threading.Thread(target=self._gather, args=source) for source in sources]
        for thread in self._threads:
            thread.start()
        self._descriptors = {self._out.leader, self._err.leader, *([] if reading is None else [reading])}

    def _gather(self, descriptor: int, terminal: _Terminal) -> None:
        while True:
            try:
                block = os.read(descriptor, 65536)
            except OSError:
                # The other side of the terminal is closed.
                block = b""
            with self._changed:
                terminal.text += block.decode()
                self._changed.notify_all()
            if not block:
                return

    @property
    def output(self) -> str:
        """Its output; of a terminal, as the program wrote it."""
        return self._out.text.replace("\r\n", "\n")

    @property
    def said(self) -> str:
        """Its stderr."""
        return self._err.text.replace("\r\n", "\n")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Until a condition holds; it is looked at with all that is written."""
        until = time.monotonic() + _LONGEST
        with self._changed:
            while not condition():
                assert time.monotonic() < until, f"no {what}: {self.output!r} {self.said!r}"
                self._changed.wait(0.5)

    def resize(self, columns: int) -> None:
        self._out.resize(columns)

    def press(self, keys: bytes) -> None:
        os.write(self._out.leader, keys)

    def ended(self) -> int:
        """Its exit status, when it has ended; everything that it wrote is there then."""
        self.process.wait(_LONGEST)
        for thread in self._threads:
            thread.join(_LONGEST)
        return self.process.returncode

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.ended()
        for descriptor in self._descriptors:
            os.close(descriptor)
