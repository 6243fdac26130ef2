"""Configuration files: where they are, and their lines, written as systemd.syntax(7) says."""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tcpnewconn.settings.values import BLANKS
from tcpnewconn.text import printable

NAME = "tcpnewconn.conf"
# Highest precedence first: systemd-system.conf(5), systemd 257.
DIRECTORIES = ("etc", "run", "usr/local/lib", "usr/lib")

# No configuration is larger, and /dev/zero never ends.
_LARGEST_FILE = 1 << 20
# Characters of a name or a value that an error shows.
_MOST_SHOWN = 200


class Problem(NamedTuple):
    """One error: where it is, what was given, and what would be right. str() is one printable line."""

    file: str
    line: int | None
    given: str
    text: str

    def __str__(self) -> str:
        place = printable(self.file, _MOST_SHOWN) + ("" if self.line is None else f":{self.line}")
        rest = (printable(part, _MOST_SHOWN) for part in (self.given, self.text) if part)
        return ": ".join((place, *rest))


class ConfigError(Exception):
    """The configuration cannot be used. `problems` has every error; str() is one line, with the first of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        first, *others = problems
        more = f" (and {len(others)} more; see tcpnewconn check-config)" if others else ""
        super().__init__(f"{first}{more}")
        self.problems = tuple(problems)


def find(root: str, problems: list[Problem]) -> Iterator[str]:
    """The files that count, later ones overriding. Adds to `problems` the reason where some of them cannot be found.

    The first tcpnewconn.conf there is in /etc, /run, /usr/local/lib and /usr/lib, then the drop-ins
    tcpnewconn.conf.d/*.conf of all four in the order of their file names. Of those with the same name only the one in
    the directory named first counts: an empty file or a link to /dev/null hides the others.
    """
    for directory in DIRECTORIES:
        file = os.path.join(root, directory, NAME)
        # A dangling link is somebody's mistake, and reading it fails; no file at all is normal.
        if os.path.lexists(file):
            yield file
            break
    drop_ins: dict[str, str] = {}
    for directory in DIRECTORIES:
        drop_in_directory = os.path.join(root, directory, NAME + ".d")
        try:
            names = os.listdir(drop_in_directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(Problem(drop_in_directory, None, "", _unreadable(error, "755")))
            continue
        for name in names:
            if name.endswith(".conf") and not name.startswith("."):
                drop_ins.setdefault(name, os.path.join(drop_in_directory, name))
    for name in sorted(drop_ins, key=os.fsencode):
        yield drop_ins[name]


def lines(file: str, problems: list[Problem]) -> Iterator[tuple[int, str]]:
    """Number and text of each line but blank ones and comments; continued ones joined by a blank, as systemd does.

    Adds to `problems` why the file, or a line of it, cannot be read.
    """
    start, joined = 0, ""
    # Not splitlines(): it splits at form feeds and the like too, and would count other lines than an editor does.
    for number, raw in enumerate(_content(file, problems).split(b"\n"), start=1):
        try:
            line = raw.decode().lstrip(BLANKS).rstrip("\r")
        except UnicodeDecodeError as error:
            text = f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
            problems.append(Problem(file, number, "", text))
            continue
        if line.startswith(("#", ";")):
            continue  # also between continued lines
        start = start or number
        if (len(line) - len(line.rstrip("\\"))) % 2:
            joined += line[:-1] + " "
            continue
        line = (joined + line).strip(BLANKS)
        if line:
            yield start, line
        start, joined = 0, ""
    if joined.strip(BLANKS):
        yield start, joined.strip(BLANKS)


def _content(file: str, problems: list[Problem]) -> bytes:
    """All of the file; nothing where it cannot be read or is no text at all."""
    line: int | None = None
    try:
        # Without O_NONBLOCK, opening a named pipe that nobody writes to would wait for ever.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(descriptor, True)
        with open(descriptor, "rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
    except OSError as error:
        content, text = b"", _unreadable(error, "644")
    else:
        text = ""
        if len(content) > _LARGEST_FILE:
            text = "larger than 1 MiB; this is no configuration file"
        elif b"\0" in content:
            line = content.count(b"\n", 0, content.index(b"\0")) + 1
            text = "holds a NUL byte; save the file as plain text in UTF-8"
    if text:
        problems.append(Problem(file, line, "", text))
        return b""
    if content.startswith(b"\xef\xbb\xbf"):
        problems.append(Problem(file, 1, "", "starts with a byte order mark; save the file as UTF-8 without one"))
        return content[3:]
    return content


def _unreadable(error: OSError, mode: str) -> str:
    remedy = f"; make it readable with chmod {mode}" if isinstance(error, PermissionError) else ""
    return f"cannot be read: {error.strerror}{remedy}"
