"""Reports shown in documents: each `$ tcpnewconn report ...` is followed by what the program prints of the month in month.py.

python3 -m tests.support.report_document          rewrites them, each cut after as many lines as before
"""

from __future__ import annotations

import re
import shlex
import tempfile
from pathlib import Path

from tcpnewconn.ledger import update
from tests.support.month import month
from tests.support.recorded_journal import Recorded
from tests.support.reports import reported
from tests.support.terminal import TREE

# Document -> what its code blocks are indented by.
DOCUMENTS = {TREE / "docs" / "report.md": "    ", TREE / "README.md": ""}


def shown(document: Path) -> list[tuple[str, str]]:
    """(options, the report as it stands there) of each."""
    return [(found[1].strip(), found[2]) for found in _blocks(document).finditer(document.read_text())]


def _blocks(document: Path) -> re.Pattern[str]:
    if DOCUMENTS[document]:
        return re.compile(r"(?m)^    \$ tcpnewconn report(.*)\n((?:    .*\n|\n(?=    [^$]))+)")
    return re.compile(r"(?m)^\$ tcpnewconn report(.*)\n((?:(?!```|\$ ).*\n)+)")


def ledger(directory: Path) -> Path:
    path, made = directory / "ledger.db", month()
    update.update(str(path), lambda: Recorded(made), update.Limits(), "web1", lambda *_: None)
    return path


def printed(path: Path, options: str) -> str:
    return reported(*shlex.split(options), "--ledger", path)


def indented(lines: list[str], indent: str) -> str:
    return "".join(f"{indent}{line}".rstrip() + "\n" for line in lines)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = ledger(Path(scratch))
        for document, indent in DOCUMENTS.items():

            def again(found: re.Match[str], indent: str = indent) -> str:
                # All of what was whole, and of what was cut as many lines.
                lines, before = printed(path, found[1]).splitlines(), found[2].splitlines()
                kept = lines if before[-1].strip() == "" else lines[: len(before)]
                return found[0].splitlines()[0] + "\n" + indented(kept, indent)

            document.write_text(_blocks(document).sub(again, document.read_text()))


if __name__ == "__main__":
    main()
