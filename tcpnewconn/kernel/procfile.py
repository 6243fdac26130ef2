"""A file of /proc, in full, with as few system calls as that takes."""

from __future__ import annotations

import errno
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
