"""The names of containers from a file that the administrator maintains: for docker, which shows them to root alone.

A line has the ID of a container, blanks, and its name. Others are passed over.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable

_LINE = re.compile(r"([0-9a-f]{12,64})[ \t]+/?([A-Za-z0-9][A-Za-z0-9_.-]{0,254})[ \t]*")
# More than 10,000 containers.
_LARGEST = 4 << 20


class ContainerNames:
    """`name_container` takes the ID and the name of a container."""

    def __init__(self, name_container: Callable[[str, str], None]) -> None:
        # Of the file; None where there is to be none.
        self.path: str | None = None
        # Why it cannot be read.
        self.problem: str | None = None
        self._name_container = name_container
        self._read: tuple[str, int, int, int] | None = None

    def refresh(self) -> None:
        """Read the file where it has changed. One that cannot be read stops nothing."""
        self.problem = None
        if self.path is None:
            return
        try:
            # Not to wait for somebody to write into a named pipe.
            with open(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    self.problem = f"{self.path}: not a file"
                    return
                version = (self.path, found.st_ino, found.st_mtime_ns, found.st_size)
                if version == self._read:
                    return
                content = file.read(_LARGEST)
        except OSError as error:
            self.problem = f"{self.path}: {error.strerror}"
            return
        self._read = version
        for line in content.decode(errors="replace").split("\n"):
            if match := _LINE.fullmatch(line):
                self._name_container(match[1], match[2])
