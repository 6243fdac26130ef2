"""Files of /proc, in full, with as few system calls as that takes."""

from __future__ import annotations

import errno
import io
import os

# More than most of them are long.
_PAGE = 65_536


def content(path: str, most: int | None = None) -> bytes:
    """Raises OSError, also for one that is larger than `most`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts, length = [], 0
        while part := os.read(descriptor, _PAGE):
            parts.append(part)
            length += len(part)
            if most is not None and length > most:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        return b"".join(parts)
    finally:
        os.close(descriptor)


class Held:
    """Files that are read again and again: each is opened once, which for /proc/self/net takes longer than to read it.

    They must be such as one read shows in full (single_open(), fs/seq_file.c); and a file there holds its network namespace.
    """

    def __init__(self) -> None:
        self._files: dict[str, io.FileIO] = {}

    def content(self, path: str) -> bytes:
        """Raises OSError; then it is opened again the next time."""
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = io.FileIO(path)
        try:
            return os.pread(file.fileno(), _PAGE, 0)
        except OSError:
            del self._files[path]
            raise
