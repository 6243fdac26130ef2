"""The code blocks of README.md, by the heading that they stand under."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"
TOP = "tcpnewconn"


@dataclass(frozen=True)
class Step:
    """One command, and the lines that the README shows below it."""

    command: str
    shown: tuple[str, ...] = ()


@functools.cache
def sections() -> dict[str, str]:
    """The text below each heading, in order."""
    found: dict[str, str] = {}
    in_block = False
    for line in README.read_text().splitlines(keepends=True):
        in_block ^= line.startswith("```")
        if not in_block and (heading := re.match(r"#{1,2} (.+)", line)):
            found[heading[1]] = ""
        else:
            found[list(found)[-1]] += line
    return found


def commands(heading: str) -> list[list[Step]]:
    """The commands of each block that is marked `sh`."""
    return [[Step(command) for command in _split(block)] for block in _blocks(heading, "sh")]


def sessions(heading: str) -> list[list[Step]]:
    """The commands of each block that is marked `console`, behind a prompt, with what they print."""
    return [
        [
            Step(lines[0], tuple(lines[1:]))
            for lines in (part.strip("\n").split("\n") for part in re.split(r"(?m)^[$#] ", block) if part)
        ]
        for block in _blocks(heading, "console")
    ]


def shape(line: str) -> str:
    """A line without what differs from one run to the next: numbers, ids, and hashes."""
    line = re.sub(r"\b1:[\w+/]{27}=", "#", line.strip())
    line = re.sub(r"\b[0-9a-f-]{12,}\b", "#", line)
    return re.sub(r"\d+", "#", line)


def _blocks(heading: str, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", sections()[heading])


def _split(block: str) -> list[str]:
    """The commands of a block: lines, with those that continue them and the text that they read."""
    found: list[str] = []
    until = None
    continued = False
    for line in block.splitlines():
        if until or continued:
            found[-1] += f"\n{line}"
        else:
            found.append(line)
        continued = line.endswith("\\")
        if until is None and (begins := re.search(r"<<(\w+)$", line)):
            until = begins[1]
        elif line == until:
            until = None
    return found
