"""Names of addresses: by the system's resolver, with a deadline, and country and network owner from a local file."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

_AT_ONCE = 32
_DEADLINE = 5.0


class NoDatabase(Exception):
    """The --mmdb file cannot be used."""


class Names:
    """Names of addresses; each is asked for once."""

    def __init__(self, resolve: bool = False, mmdb: str | None = None, deadline: float = _DEADLINE) -> None:
        self._resolve = resolve
        self._deadline = deadline
        self._names: dict[str, str] = {}
        self._unanswered = 0
        self._database = _database(mmdb) if mmdb else None
        self.columns: tuple[str, ...] = (*(("name",) if resolve else ()), *(("country", "owner") if mmdb else ()))

    @property
    def note(self) -> str:
        return f"{self._unanswered} addresses were not resolved within {self._deadline:g} s" if self._unanswered else ""

    def ask(self, addresses: Iterable[str]) -> None:
        """Resolve them, in parallel, within the deadline."""
        if not self._resolve:
            return
        wanted = sorted({address for address in addresses if _is_address(address)} - self._names.keys())
        asked: SimpleQueue[str] = SimpleQueue()
        answers: SimpleQueue[tuple[str, str]] = SimpleQueue()
        for address in wanted:
            asked.put(address)
        for _ in range(min(_AT_ONCE, len(wanted))):
            # Daemons: the resolver cannot be interrupted, and the report does not wait for it at its end.
            threading.Thread(target=_work, args=(asked, answers), daemon=True).start()
        end = time.monotonic() + self._deadline
        for _ in wanted:
            try:
                address, name = answers.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                self._unanswered = len(wanted) - sum(address in self._names for address in wanted)
                return
            self._names[address] = name

    def of(self, address: str) -> dict[str, Any]:
        """A value for each of the columns."""
        found: dict[str, Any] = {}
        if self._resolve:
            found["name"] = self._names.get(address, "")
        if self._database is not None:
            found |= _looked_up(self._database, address)
        return found


def resolvers(path: str = "/etc/resolv.conf") -> list[str]:
    """The name servers that this host asks; those on the host itself (systemd-resolved's stub) are localhost to a filter."""
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []
    words = [line.split() for line in lines if line.startswith("nameserver")]
    found = [parts[1].partition("%")[0] for parts in words if len(parts) > 1]
    return [one for one in found if _is_address(one) and not ipaddress.ip_address(one).is_loopback]


def _work(asked: SimpleQueue[str], answers: SimpleQueue[tuple[str, str]]) -> None:
    while True:
        try:
            address = asked.get_nowait()
        except Empty:
            return
        try:
            name, _ = socket.getnameinfo((address, 0), socket.NI_NAMEREQD)
        except OSError:
            name = ""
        answers.put((address, name))


def _is_address(text: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except OSError:
            continue
        return True
    return False


def _database(path: str) -> Any:
    try:
        import maxminddb
    except ImportError:
        raise NoDatabase("--mmdb needs Python's maxminddb; install python3-maxminddb") from None
    try:
        return maxminddb.open_database(path)
    except (OSError, maxminddb.InvalidDatabaseError) as error:
        raise NoDatabase(f"{path}: not a MaxMind database: {error}") from error


def _looked_up(database: Any, address: str) -> dict[str, str]:
    found: Any = {}
    if _is_address(address.partition("/")[0]):
        try:
            found = database.get(address.partition("/")[0]) or {}
        except ValueError:
            # An IPv6 address, and a database of IPv4 alone.
            found = {}
    country = found.get("country", "") if isinstance(found, dict) else ""
    if isinstance(country, dict):
        country = country.get("iso_code", "")
    owner = found.get("autonomous_system_organization") or found.get("as_name") or "" if isinstance(found, dict) else ""
    return {"country": str(country), "owner": str(owner)}
