"""Country and network owner of an address, from a local database, in every form of output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import ledgers, mmdb
from tests.support.reports import report


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of countries and one of owners are usually two files; a database may have both."""
    networks: dict[str, dict[str, Any]] = {
        "203.0.113.0/24": {"country": {"iso_code": "NL"}, "autonomous_system_organization": "Example & Sons"},
        "198.51.100.0/25": {"country": "SE", "as_name": "<b>Owner</b>"},
    }
    return mmdb.write(tmp_path_factory.mktemp("mmdb") / "owners.mmdb", networks)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    edges: list[ledgers.Edge] = [
        ("ingress", 443, "nginx.service", "nginx", "203.0.113.9", 7),
        ("ingress", 443, "nginx.service", "nginx", "203.0.113.0/24", 3),
        ("ingress", 443, "nginx.service", "nginx", "198.51.100.20", 2),
        ("ingress", 443, "nginx.service", "nginx", "2001:db8::9", 1),
        ("ingress", 443, "nginx.service", "nginx", "others", 1),
    ]
    return ledgers.write(tmp_path_factory.mktemp("owners") / "ledger.db", "web1", edges, ["10.0.0.5"])


def test_an_address_and_a_network_have_country_and_owner_and_others_none(database: Path, ledger: Path) -> None:
    done = report("who", "443", "--ledger", ledger, "--mmdb", database, "--output", "json")

    assert (done.returncode, done.stderr) == (0, "")
    found = {row["client"]: (row["country"], row["owner"]) for row in json.loads(done.stdout)["clients"]}
    assert found == {
        "203.0.113.9": ("NL", "Example & Sons"),
        "203.0.113.0/24": ("NL", "Example & Sons"),
        "198.51.100.20": ("SE", "<b>Owner</b>"),
        "2001:db8::9": ("", ""),
        "others": ("", ""),
    }


def test_they_are_in_text_and_csv_and_escaped_on_the_page(database: Path, ledger: Path) -> None:
    text = report("who", "443", "--ledger", ledger, "--mmdb", database).stdout
    rows = report("who", "443", "--ledger", ledger, "--mmdb", database, "--output", "csv").stdout
    page = report("--ledger", ledger, "--mmdb", database, "--output", "html").stdout

    assert "COUNTRY  OWNER" in text
    assert "198.51.100.20,SE,<b>Owner</b>" in rows
    assert "&lt;b&gt;Owner&lt;/b&gt;" in page
    assert "<b>Owner" not in page


def test_a_file_that_is_no_database_is_one_line(ledger: Path, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("no database")
    done = report("--ledger", ledger, "--mmdb", tmp_path / "letter")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"tcpnewconn: {tmp_path}/letter: not a MaxMind database: ")
    assert len(done.stderr.splitlines()) == 1
