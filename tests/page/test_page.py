"""The report's page in a real Chromium: it runs nothing of what names say, asks nothing of any place, and all can use it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import ledgers, npm
from tests.support.reports import report, reported
from tests.support.terminal import TESTS

FIXTURES = TESTS / "fixtures" / "page"
# A screenshot of each page, to be looked at.
SCREENSHOTS = os.environ.get("TCPNEWCONN_SCREENSHOTS")


def page_of(*paths: Path) -> str:
    return reported("--output", "html", "--ledger", *paths)


def opened(html: str, directory: Path, name: str, scheme: str = "light", axe: bool = False) -> dict[str, Any]:
    """Chromium's report on it."""
    file = directory / f"{name}.html"
    file.write_text(html)
    shot = str(Path(SCREENSHOTS) / f"{name}-{scheme}.png") if SCREENSHOTS else ""
    # Packages find each other only in a directory of this name.
    modules = directory / "node_modules"
    if not modules.exists():
        modules.symlink_to(npm.modules(FIXTURES))
    done = subprocess.run(
        ["node", "--preserve-symlinks", FIXTURES / "check.mjs", file, directory, shot, scheme, "yes" if axe else "no"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    # One file, and nothing else.
    assert set(found["requests"]) == {f"file://{file}"}
    assert found["errors"] == []
    return found


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.mark.parametrize(("services", "largest"), [(5, 100_000), (200, 1 << 20), (5_000, 6 << 20)])
def test_it_can_be_read_with_few_and_many_services(services: int, largest: int, directory: Path) -> None:
    html = page_of(ledgers.many_services(directory / f"{services}.db", services))
    assert len(html.encode()) < largest

    found = opened(html, directory, f"services-{services}")

    assert found["labels_over_labels"] == 0
    assert not found["wider_than_the_window"]
    assert found["tables"]["t-services"]["rows"] == services
    assert "observed 100 % of that time, 0 lost" in found["text"].lower()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(scheme: str, directory: Path) -> None:
    path = directory / "axe.db"
    path.unlink(missing_ok=True)
    found = opened(page_of(ledgers.many_services(path, 40)), directory, f"axe-{scheme}", scheme, axe=True)

    assert found["violations"] == []


def test_tables_are_sorted_and_searched_with_the_keyboard_alone(directory: Path) -> None:
    found = opened(page_of(ledgers.many_services(directory / "keys.db", 30)), directory, "keys")

    ports = [int(port) for port in found["by_port_again"]]
    assert found["reached"]
    assert found["sorted"] in ("ascending", "descending")
    assert sorted(ports) in (ports, ports[::-1])
    assert [int(port) for port in found["by_port"]] == ports[::-1]
    assert found["searched"] == ["service-0001.service"]
    assert found["status"] == "1 of 30 rows"


def test_it_prints_without_what_only_a_screen_has_use_for(directory: Path) -> None:
    found = opened(page_of(ledgers.many_services(directory / "print.db", 10)), directory, "print", axe=True)

    assert found["printed"] > 10_000
    assert found["shown_in_print"] == 0


MARKUP = (
    "<script>window.ran=1</script>",
    '"><img src=x onerror="window.ran=1">',
    "</svg><script>window.ran=1;alert(1)</script>",
    "</title></style></script><script>window.ran=1</script><b>",
    "{{ 7 * 7 }}{% set x = 1 %}",
    "' onmouseover='window.ran=1",
)


def test_names_made_of_markup_stay_text(directory: Path) -> None:
    """Units, processes, peers and the host are named by whoever can start a program there."""
    edges: list[ledgers.Edge] = []
    for number, name in enumerate(MARKUP):
        edges.append(("ingress", 1000 + number, f"{name}.service", name, name, 10 + number))
        edges.append(("egress", 443, f"{name}.service", name, name, 5))
    path = ledgers.write(directory / "markup.db", MARKUP[3], edges, ["10.0.0.5"])

    found = opened(page_of(path), directory, "markup", axe=True)

    assert (found["ran"], found["dialogs"], found["foreign"], found["scripts"]) == (None, [], 0, 1)
    for name in MARKUP:
        assert name in found["text"]
    assert found["violations"] == []


def test_names_made_of_markup_stay_text_on_the_fleet_s_page(directory: Path) -> None:
    edges: list[ledgers.Edge] = [("ingress", 443, f"{name}.service", name, name, 10) for name in MARKUP]
    paths = [
        ledgers.write(directory / f"markup-{number}.db", MARKUP[number], edges, [f"10.0.0.{number}"])
        for number in (0, 2)
    ]

    found = opened(page_of(*paths), directory, "markup-fleet")

    assert (found["ran"], found["dialogs"], found["foreign"], found["scripts"]) == (None, [], 0, 1)
    assert MARKUP[0] in found["text"]


def test_a_terminal_is_not_steered_by_names(directory: Path) -> None:
    name = "\x1b[2J\x1b]0;x\x07evil"
    path = ledgers.write(directory / "escape.db", name, [("ingress", 22, name, name, "10.0.0.1", 3)], [])
    done = report("--ledger", path)

    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "\\x1b[2J" in done.stdout


def test_the_fleet_s_page_joins_what_both_ends_have_seen(directory: Path) -> None:
    paths = ledgers.fleet(directory / "fleet", hosts=6, edges=60)
    found = opened(page_of(*paths), directory, "fleet", axe=True)

    assert found["tables"]["t-hosts"]["rows"] == 6
    assert "both ends" in found["text"]
    assert found["violations"] == []
    assert found["labels_over_labels"] == 0
