"""Words that this project no longer uses, kept out of every file that people read: code, comments, tests, docs, units."""

from __future__ import annotations

import functools
import re
import subprocess
from collections import defaultdict
from fnmatch import fnmatch
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]

# Each process that searches reads all files.
pytestmark = pytest.mark.xdist_group("words")

# Each with what is written instead. Found in prose and in names: NoFigures, lost_announcements and last-read are three hits.
WORDS = {
    "told untold aloud": "reported, logged, counted; unreported",
    "figure figures": "metrics (of a process); measurements, results (of a benchmark)",
    "announce announces announced announcing announcement announcements unannounced": (
        "destroy notification; notify, notified"
    ),
    "alike": "similar",
    "fold folds folded folding unfolded unfoldable": "summarize, summarized, summary; in code: aggregation",
    "rooms house houses": "modules, packages",
    "folder folders": "directory",
    "centre centres": "log server",
    "mend mends mended anew": "fix, fixed; rebuilt, again",
    "remnant remnants": "timewait",
    "owed": "expected; expected peer",
    "wiped wipe wipes": "unaddressed; cleared",
    "sameness": "matching",
    "patience": "correlation window; deadline",
    "fare fares fared": "state, metrics, status (of the service)",
    "bereft": "has lost its peer",
}
# Phrases and names, as regular expressions.
PHRASES = {
    r"\bout loud\b": "reported, logged",
    # Not the room in a buffer or on a disk.
    r"\b(this|that|which|each|every) room\b|\broom of its own\b|_room\b": "module, package",
    r"\bother hal(f|ves)\b": "expected peer",
    r"\bforth\b(?!,)": "source bytes",
    r"(?<!of )\bcourse\b|(?<!Of )\bCourse\b": "service statistics",
    r"\blives\(": "is a full socket",
    r"\bIdentity\b": "SocketInfo",
    r"\b(Claims|claims\.py)\b": "what had ended before the first start",
    r"\b(last|next|two) reads?\b(?!\()": "poll, polls",
    r"\breads? of (the (TCP )?tables?|_?/proc)": "poll of",
    # Names that were changed before the first release.
    r"\bTCPNEWCONN_SEEN\b|\btcpnewconn\.seen\b": "TCPNEWCONN_DETECTED_BY",
    r"\bTCP_STATE\b|\btcp\.state\b": "NETWORK_CONNECTION_STATE",
    r"\btcpnewconn_connections_seen_total\b": "tcpnewconn_connections_detected_total",
    r"\btcpnewconn_reads_total\b": "tcpnewconn_polls_total",
    r"\btcpnewconn_read_\w+": "tcpnewconn_poll_duration_seconds, tcpnewconn_polls_skipped_total, ...",
    r"\btcpnewconn_last_read_\w+": "tcpnewconn_last_poll_timestamp_seconds",
    r"\btcpnewconn_journal_waiting\b": "tcpnewconn_journal_entries_waiting",
    r"\bTcpnewconnLosing\b": "TcpnewconnEventsLost",
    r"\bTcpnewconnReadOverrun\b": "TcpnewconnPollsSkipped",
    r"\bTcpnewconnPortScanSeen\b": "TcpnewconnPortScan",
    r"\btcp-ends\b": "destroy-notifications",
}
# Files in which a word or phrase is right, by a pattern of their names; * stands for all words.
ALLOWED = {
    "tests/project/test_words.py": {"*"},
    # That the JSON Schema refuses the old name.
    "tests/project/test_event_contract.py": {r"\bTCP_STATE\b|\btcp\.state\b"},
}
# Names of other programs that contain one of the words; they are removed before the search.
OTHER_PROGRAMS = re.compile(r"</?fig(ure|caption)\b|\bfoldersFromFilesStructure\b|\bClickHouse\b")


@functools.cache
def files() -> dict[str, str]:
    """Every file of the tree that is text, by its name."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    listed = subprocess.run(command, cwd=TREE, check=True, capture_output=True).stdout.decode()
    found = {}
    for name in filter(None, listed.split("\0")):
        if (TREE / name).is_file() and not (TREE / name).is_symlink():
            content = (TREE / name).read_bytes()
            if b"\0" not in content:
                found[name] = content.decode(errors="replace")
    return found


def words(text: str) -> set[str]:
    """The words of a text in lower case; those of a name, such as lastRead, LAST_READ or last-read, are two."""
    return {word.lower() for word in set(re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text))}


@functools.cache
def index() -> dict[str, list[str]]:
    """Where each of the words and phrases stands: in a file's name, or in one of its lines."""
    unwanted = {word for group in WORDS for word in group.split()}
    phrases = {phrase: re.compile(phrase) for phrase in PHRASES}
    # Without where a word begins and ends they match in more places, and are searched for in a seventh of the time (measured).
    wider = {phrase: re.compile(phrase.replace(r"\b", "")) for phrase in PHRASES}
    found = defaultdict(list)
    for name, text in files().items():
        whole = f"{name}\n{OTHER_PROGRAMS.sub('', text)}"
        # Nearly all files have none of them.
        inside = {phrase: phrases[phrase] for phrase, pattern in wider.items() if pattern.search(whole)}
        if not inside and unwanted.isdisjoint(words(whole)):
            continue
        for number, line in enumerate(whole.splitlines()):
            hits = unwanted.intersection(words(line))
            hits.update(phrase for phrase, pattern in inside.items() if pattern.search(line))
            for hit in hits:
                found[hit].append(f"{name}:{number}: {line.strip()[:140]}" if number else f"{name}: its name")
    return found


def is_allowed(place: str, word: str) -> bool:
    name = place.partition(":")[0]
    return any(fnmatch(name, pattern) and allowed & {"*", word} for pattern, allowed in ALLOWED.items())


def places(*unwanted: str) -> list[str]:
    return [place for word in unwanted for place in index()[word] if not is_allowed(place, word)]


@pytest.mark.parametrize("group", WORDS)
def test_these_words_are_not_used(group: str) -> None:
    found = places(*group.split())
    assert not found, "\n".join([f"instead: {WORDS[group]}", *found])


@pytest.mark.parametrize("phrase", PHRASES)
def test_this_phrase_is_not_used(phrase: str) -> None:
    found = places(phrase)
    assert not found, "\n".join([f"instead: {PHRASES[phrase]}", *found])


@pytest.mark.parametrize("pattern", ALLOWED)
def test_every_exception_is_needed(pattern: str) -> None:
    for allowed in ALLOWED[pattern]:
        found = [place for word in index() if allowed in ("*", word) for place in index()[word]]
        assert any(fnmatch(place.partition(":")[0], pattern) for place in found), allowed


def test_a_word_is_found_in_prose_and_in_every_kind_of_name() -> None:
    for text in (
        "What is told.",
        "NoFigures",
        "lost_announcements",
        "last-folded",
        "TOLD",
        "_MOST_FOLDED",
        "toldAgain",
    ):
        assert any(word in group.split() for word in words(text) for group in WORDS), text
    for text in ("toldo", "amend", "recommend", "config", "scaffolding", "centred", "threefold"):
        assert not any(word in group.split() for word in words(text) for group in WORDS), text
